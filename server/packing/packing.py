"""A data set on disk written as one pack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from server.packing.sources import Source, labels_of
from ugmcl.pack import PackedCase, PackHeader, write_pack


class PackOptions(NamedTuple):
    """How a data set is packed.

    Attributes:
        name: Of the data set; the source's if empty.
        classes: Names of the foreground classes; the source's if empty.
        merge: Whether all classes become one.
        bits: Of an intensity, 8 or 16.
        test_last: Cases at the end of the pool that become the test cases of a set that has none.
    """

    name: str = ""
    classes: Sequence[str] = ()
    merge: bool = False
    bits: int = 16
    test_last: int = 0


def pack_data_set(
    source: Source, path: Path, options: PackOptions, report: Callable[[str], None] = lambda _: None
) -> dict[str, bool]:
    """Write `source` to `path`.

    Returns:
        Id to whether its intensities were kept exactly.

    Raises:
        ValueError: If a case cannot be read, or options and data set do not fit.
    """
    pool, test = _split(source, options.test_last)
    every = [*pool, *test]
    if len(set(every)) < len(every):
        twice = sorted({name for name in every if every.count(name) > 1})
        raise ValueError(f"The split names {', '.join(twice[:5])} more than once.")
    classes = _classes(source, every, options)
    name = options.name or source.name
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise ValueError(f"The data set's name is {name!r}; give --name with letters, digits, _ and - only.")
    header = PackHeader(name, classes, pool, test, _digest(source, every))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pack(path, header, _cases(source, every, options.merge, report), options.bits)


def _split(source: Source, test_last: int) -> tuple[list[str], list[str]]:
    if not test_last:
        return source.pool, source.test
    if source.test:
        raise ValueError(f"{source.name} has {len(source.test)} test cases already; leave --test-last out.")
    if not 0 < test_last < len(source.pool):
        raise ValueError(
            f"--test-last is {test_last}; give 1 to {len(source.pool) - 1} of the pool's {len(source.pool)}."
        )
    return source.pool[:-test_last], source.pool[-test_last:]


def _classes(source: Source, cases: Sequence[str], options: PackOptions) -> list[str]:
    """Names of the foreground classes, numbered where nobody names them."""
    if options.merge:
        given = list(options.classes) or ["foreground"]
        if len(given) > 1:
            raise ValueError(f"--merge makes one class; --classes names {len(given)}: {', '.join(given)}.")
        return given
    if options.classes or source.classes:
        return list(options.classes or source.classes)
    highest = int(labels_of(source, cases).max(initial=1))
    return ["foreground"] if highest == 1 else [f"class{value}" for value in range(1, highest + 1)]


def _digest(source: Source, cases: Sequence[str]) -> str:
    """SHA-256 of all files in the order of the cases."""
    digest = hashlib.sha256()
    for case in cases:
        for path in source.files(case):
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({type(error).__name__}).") from error
    return digest.hexdigest()


def _cases(
    source: Source, cases: Sequence[str], merge: bool, report: Callable[[str], None]
) -> Iterator[PackedCase]:
    for number, name in enumerate(cases, start=1):
        case = source.read(name)
        if merge and case.label is not None:
            case = PackedCase(case.id, case.scan, (case.label > 0).astype("uint8"))
        report(f"{number}/{len(cases)} {name}")
        yield case
