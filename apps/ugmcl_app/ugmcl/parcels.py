"""parcels: data there and results back in parts, for a machine that is reached by calls with size limits.

`cut` makes parts of a file and `join` the file of its parts; each part's name says which file it is of, which
part it is, and the digest of the whole, so that a missing or damaged one is noticed. `wrap` makes parts of
what finished runs leave (record, predictions, weights in half precision), and `unwrap` puts that into a work
folder.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .experiment import read_record

MIB = 2**20
PART_NAME = re.compile(r"(?P<name>.+)\.(?P<number>\d+)of(?P<count>\d+)\.(?P<digest>[0-9a-f]{16})")
RESULTS = "results.zip"
KEPT = ("predictions.npz", "student-half.pt", "teacher-half.pt", "run.json")
"""Files of a run that travel, `run.json` last: it marks a folder as finished."""


def cut(path: Path, folder: Path, largest_mib: float) -> list[Path]:
    """Cut a file into equal parts of at most `largest_mib` MiB, in `folder`.

    Raises:
        ValueError: If the size is not above 0 or there is no such file.
    """
    if largest_mib <= 0:
        raise ValueError(f"A part of {largest_mib} MiB holds nothing; give a size above 0.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    size = path.stat().st_size
    count = max(1, math.ceil(size / (largest_mib * MIB)))
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        stream.seek(0)
        parts = []
        for number in range(1, count + 1):
            part = folder / f"{path.name}.{number}of{count}.{digest}"
            part.write_bytes(stream.read(math.ceil(size / count)))
            parts.append(part)
    return parts


def join(folder: Path, into: Path) -> list[Path]:
    """Put together every file of which `folder` holds parts, in the folder `into`.

    Raises:
        ValueError: If there are no parts, some are missing, or the file is not what was cut.
    """
    groups: dict[tuple[str, int, str], dict[int, Path]] = {}
    for path in sorted(folder.rglob("*")):
        found = PART_NAME.fullmatch(path.name)
        if found:
            key = (found["name"], int(found["count"]), found["digest"])
            groups.setdefault(key, {})[int(found["number"])] = path
    if not groups:
        raise ValueError(f"{folder} holds no parts of a file, such as pack.npz.1of2.0123456789abcdef.")
    into.mkdir(parents=True, exist_ok=True)
    return [_joined(key, parts, into) for key, parts in groups.items()]


def _joined(key: tuple[str, int, str], parts: dict[int, Path], into: Path) -> Path:
    name, count, digest = key
    missing = [str(number) for number in range(1, count + 1) if number not in parts]
    if missing:
        raise ValueError(f"{name} lacks the part(s) {', '.join(missing)} of {count}.")
    whole, seen = into / f".{name}.tmp", hashlib.sha256()
    with whole.open("wb") as stream:
        for number in range(1, count + 1):
            content = parts[number].read_bytes()
            seen.update(content)
            stream.write(content)
    if not seen.hexdigest().startswith(digest):
        whole.unlink()
        raise ValueError(f"The parts of {name} are damaged: their digest is another. Send them again.")
    return whole.replace(into / name)


def wrap(work: Path, folder: Path, largest_mib: float, most: int, roles: Sequence[str]) -> list[Path]:
    """Cut what the finished runs of a work folder leave into parts.

    Args:
        work: Folder of runs.
        folder: Takes the parts.
        largest_mib: Size of a part, MiB.
        most: Parts at most.
        roles: Whose weights travel: "student", "teacher", both or none.

    Raises:
        ValueError: If nothing is finished or there is too much.
    """
    runs = sorted(path.parent for path in work.glob("*/run.json"))
    if not runs:
        raise ValueError(f"{work} holds no finished run.")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / RESULTS
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:  # all of it is compressed already
            for run in runs:
                for role in roles:
                    if (run / f"{role}.pt").exists():
                        half = Path(scratch) / f"{role}-half.pt"
                        save_checkpoint(half, in_half_precision(load_checkpoint(run / f"{role}.pt")))
                        stream.write(half, f"{run.name}/{half.name}")
                for name in ("predictions.npz", "run.json"):
                    if (run / name).exists():
                        stream.write(run / name, f"{run.name}/{name}")
        parts = math.ceil(archive.stat().st_size / (largest_mib * MIB)) if largest_mib > 0 else 0
        if parts > most:
            raise ValueError(
                f"{len(runs)} runs fill {parts} parts of {largest_mib} MiB; allowed: {most}. Wrap fewer runs "
                "at a time, or leave weights out with --weights ''."
            )
        return cut(archive, folder, largest_mib)


def in_half_precision(checkpoint: Checkpoint) -> Checkpoint:
    """The same network with float16 weights; it is built in float32 again."""
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in checkpoint.state.items()
    }
    return Checkpoint(checkpoint.config, state, {**checkpoint.meta, "weights": "float16"})


def unwrap(folder: Path, work: Path) -> list[str]:
    """Put the wrapped runs in `folder` into a work folder; returns their names.

    Raises:
        ValueError: If parts are missing or damaged, or `work` has another run of that name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        joined = [path for path in join(folder, Path(scratch)) if path.name == RESULTS]
        if not joined:
            raise ValueError(f"{folder} holds no parts of {RESULTS}; `wrap` makes them.")
        with zipfile.ZipFile(joined[0]) as archive:
            files = [name for name in archive.namelist() if _is_kept(name)]
            runs = sorted({name.partition("/")[0] for name in files})
            for run in runs:
                (Path(scratch) / "run.json").write_bytes(archive.read(f"{run}/run.json"))
                ours, theirs = read_record(work / run / "run.json"), read_record(Path(scratch) / "run.json")
                if ours is not None and theirs is not None and ours["fingerprint"] != theirs["fingerprint"]:
                    raise ValueError(f"{work / run} holds another run of that name; give another folder.")
            for name in sorted(files, key=lambda name: KEPT.index(name.partition("/")[2])):
                target = work / name
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.tmp")
                temporary.write_bytes(archive.read(name))
                temporary.replace(target)
    return runs


def _is_kept(name: str) -> bool:
    """Whether an entry is a file of a run, and not a path to somewhere else."""
    run, _, file = name.partition("/")
    return file in KEPT and run not in ("", ".", "..")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when it cannot be done as asked."""
    parser = argparse.ArgumentParser("python -m ugmcl.parcels", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about, source, target in (
        ("cut", "a file into parts", "file", "folder for the parts"),
        ("join", "parts into the file", "folder of parts", "folder for the file"),
        ("wrap", "results of finished runs into parts", "folder of runs", "folder for the parts"),
        ("unwrap", "wrapped results into a folder of runs", "folder of parts", "folder of runs"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("source", type=Path, help=source)
        command.add_argument("target", type=Path, help=target)
        if name in ("cut", "wrap"):
            command.add_argument("--part-mib", type=float, default=15.0, help="size of a part (default: 15)")
        if name == "wrap":
            command.add_argument("--most", type=int, default=8, help="parts at most (default: 8)")
            command.add_argument(
                "--weights", default="student", help="student (default), teacher, both or ''"
            )
    given = parser.parse_args(arguments)
    try:
        done = _do(given)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write("\n".join(done) + "\n")
    return 0


def _do(given: argparse.Namespace) -> list[str]:
    if given.command == "unwrap":
        return unwrap(given.source, given.target)
    if given.command == "join":
        return [str(path) for path in join(given.source, given.target)]
    if given.command == "cut":
        return [str(path) for path in cut(given.source, given.target, given.part_mib)]
    roles = ("student", "teacher") if given.weights == "both" else tuple(filter(None, [given.weights]))
    return [str(path) for path in wrap(given.source, given.target, given.part_mib, given.most, roles)]


if __name__ == "__main__":
    sys.exit(main())
