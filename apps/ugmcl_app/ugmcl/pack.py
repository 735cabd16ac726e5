"""pack: a whole data set in one compressed file that needs nothing but numpy to be read.

A machine that can read scans writes it (`ugmcl-assist experiment pack`); a bare one with torch, monai and
numpy trains from it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .intensities import store_intensities
from .sampling import TrainingCase
from .volume import Volume

FORMAT = "ugmcl-pack-1"


@dataclass(frozen=True)
class PackedCase:
    """One case on its way into a pack.

    Attributes:
        id: Unique name, without a slash.
        scan: Intensities and place.
        label: Class values `(X, Y, Z)` uint8, or `None`.
    """

    id: str
    scan: Volume
    label: NDArray[np.uint8] | None


class PackHeader(NamedTuple):
    """What a pack says of the whole set.

    Attributes:
        data_set: Its name, part of the names of runs.
        classes: Names of the foreground classes; class i + 1 is `classes[i]`.
        pool: Ids to train on, in the order in which they are labeled.
        test: Ids to report on; may be empty.
        source: SHA-256 of the files the pack was made of.
    """

    data_set: str
    classes: Sequence[str]
    pool: Sequence[str]
    test: Sequence[str]
    source: str


def write_pack(
    path: Path, header: PackHeader, cases: Iterable[PackedCase], bits: int = 16
) -> dict[str, bool]:
    """Write a pack case by case, atomically; the same input gives the same bytes.

    Returns:
        Id to whether its intensities were kept exactly.

    Raises:
        ValueError: If a case does not fit the header or its label does not fit its scan.
    """
    about: dict[str, dict[str, Any]] = {"spacing_mm": {}, "affine": {}, "intensity": {}}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for case in cases:
                _check(case, header)
                try:
                    stored = store_intensities(case.scan.array, bits)
                except ValueError as error:
                    raise ValueError(f"{case.id} cannot be packed: {error}.") from error
                _add(archive, f"image/{case.id}", stored.voxels)
                if case.label is not None:
                    _add(archive, f"label/{case.id}", case.label)
                about["spacing_mm"][case.id] = list(case.scan.spacing_mm)
                about["affine"][case.id] = case.scan.affine.tolist()
                about["intensity"][case.id] = {
                    "scale": stored.scale, "offset": stored.offset, "exact": stored.exact,
                }  # fmt: skip
            missing = [name for name in [*header.pool, *header.test] if name not in about["affine"]]
            if missing:
                raise ValueError(f"The split names {', '.join(missing[:5])}, of which there is no scan.")
            split = {"pool": list(header.pool), "test": list(header.test)}
            meta = {"format": FORMAT, "data_set": header.data_set, "classes": list(header.classes)}
            text = json.dumps({**meta, "split": split, "source": header.source, **about})
            _add(archive, "meta", np.frombuffer(text.encode(), dtype=np.uint8))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return {name: bool(values["exact"]) for name, values in about["intensity"].items()}


def _check(case: PackedCase, header: PackHeader) -> None:
    if "/" in case.id:
        raise ValueError(f"The case {case.id!r} has a slash in its name; rename its file.")
    if case.label is None:
        return
    if case.label.shape != case.scan.array.shape:
        raise ValueError(
            f"{case.id}: the label's shape is {case.label.shape}, its scan's {case.scan.array.shape}."
        )
    if case.label.max(initial=0) > len(header.classes):
        raise ValueError(
            f"{case.id}: the label has the value {case.label.max()}, but {len(header.classes)} class(es) are "
            f"named ({', '.join(header.classes)}); name all of them, or merge them to one."
        )


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """An array as `numpy.load` finds it; no time of day, so that the bytes depend on the content alone."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


class Pack:
    """A pack, open for reading; scans stay in memory in their stored bits once they were read.

    Attributes:
        path: The file.
        data_set: Name of the set.
        classes: Names of the foreground classes.
        pool: Ids to train on, in the order in which they are labeled.
        test: Ids to report on.
        digest: SHA-256 of the file, in hexadecimal.
    """

    def __init__(self, path: Path) -> None:
        """Open a pack.

        Raises:
            ValueError: If it is none, or one of another format; says which file and why.
        """
        self.path = path
        try:
            with path.open("rb") as stream:
                self.digest = _digest(stream)
            if not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile
            self._arrays = np.load(path, allow_pickle=False)
            meta = json.loads(bytes(self._arrays["meta"]).decode())
        except FileNotFoundError:
            raise ValueError(f"There is no pack {path}; `ugmcl-assist experiment pack` writes one.") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is not a readable pack ({type(error).__name__}); write it again with "
                "`ugmcl-assist experiment pack`."
            ) from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            given = meta.get("format") if isinstance(meta, dict) else None
            raise ValueError(f"{path} says format {given!r}, not {FORMAT!r}; pack the set again.")
        missing = {"data_set", "classes", "split", "affine", "intensity"} - set(meta)
        if missing:
            raise ValueError(f"{path} does not say its {', '.join(sorted(missing))}; pack the set again.")
        self._meta = meta
        self.data_set = str(meta["data_set"])
        self.classes = tuple(str(name) for name in meta["classes"])
        self.pool = [str(name) for name in meta["split"]["pool"]]
        self.test = [str(name) for name in meta["split"]["test"]]
        self._read: dict[str, NDArray[Any]] = {}

    def cases(self, ids: Sequence[str]) -> list[TrainingCase]:
        """References to labeled cases.

        Raises:
            ValueError: If one of them is not there, or has no label.
        """
        self._known(ids)
        bare = [name for name in ids if f"label/{name}" not in self._arrays.files]
        if bare:
            raise ValueError(f"{self.path} has no label of {', '.join(bare[:5])}.")
        return [TrainingCase(name, f"image/{name}", f"label/{name}") for name in ids]

    def unlabeled(self, ids: Sequence[str]) -> list[TrainingCase]:
        """References to cases without their labels.

        Raises:
            ValueError: If one of them is not there.
        """
        self._known(ids)
        return [TrainingCase(name, f"image/{name}") for name in ids]

    def _known(self, ids: Sequence[str]) -> None:
        foreign = [name for name in ids if f"image/{name}" not in self._arrays.files]
        if foreign:
            raise ValueError(f"{self.path} has no case {', '.join(foreign[:5])}.")

    def load(self, case: TrainingCase) -> tuple[Volume, NDArray[np.uint8] | None]:
        """The scan in float32 and, for a labeled case, its label.

        Raises:
            ValueError: If the file is damaged.
        """
        kept = self._meta["intensity"][case.id]
        values = self._array(case.image).astype(np.float64) * kept["scale"] + kept["offset"]
        scan = Volume(values.astype(np.float32), np.array(self._meta["affine"][case.id], dtype=np.float64))
        return scan, None if case.label is None else self._array(case.label).astype(np.uint8)

    def _array(self, key: str) -> NDArray[Any]:
        if key not in self._read:
            try:
                self._read[key] = np.asarray(self._arrays[key])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{self.path}: {key} cannot be read ({type(error).__name__}).") from error
        return self._read[key]


def _digest(stream: IO[bytes]) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
