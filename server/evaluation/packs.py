"""What evaluation reads: a pack with scans and labels, and run folders with packed predictions."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ugmcl.experiment import read_record
from ugmcl.pack import Pack

PREDICTIONS_FORMAT = "ugmcl-predictions-1"
SETS = ("test", "ranking")
"""Reported cases; and pool cases nobody trained on with labels, for choosing a score and fitting a scale."""


class Archive:
    """A compressed numpy archive with JSON in `meta`; each array is read when asked for."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ValueError: If it is not there or cannot be read.
        """
        self.path = path
        # numpy leaves the file open when it is no archive, so that is asked first.
        if path.exists() and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is damaged or no .npz file; remove its folder and run again.")
        try:
            self._arrays = np.load(path, allow_pickle=False)
            self.meta: dict[str, Any] = json.loads(bytes(self._arrays["meta"]).decode("utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path} is not there. Name a file that `experiment` wrote.") from None
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}): give an .npz that `experiment` wrote whole."
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._arrays.files

    def __getitem__(self, key: str) -> NDArray[Any]:
        try:
            return np.asarray(self._arrays[key])
        except KeyError:
            raise ValueError(f"{self.path} holds no {key}; it was written by another version.") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.path}: {key} is damaged ({type(error).__name__}).") from error

    def names(self, prefix: str) -> list[str]:
        """What comes between `prefix/` and the next slash, or after it, each once, in order."""
        found = [key.split("/")[1] for key in self._arrays.files if key.startswith(f"{prefix}/")]
        return list(dict.fromkeys(found))


class LabeledSet:
    """Scans and labels of a pack by id; labels are kept, scans are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Open a pack.

        Raises:
            ValueError: If it is none.
        """
        self._pack = Pack(path)
        self.data_set = self._pack.data_set
        self.classes = list(self._pack.classes)
        self.digest = self._pack.digest
        self._kept: dict[str, tuple[NDArray[np.uint8], tuple[float, float, float]]] = {}

    def label(self, case: str) -> NDArray[np.uint8]:
        """The expert's class values `(X, Y, Z)`.

        Raises:
            ValueError: If the pack has no such case, or no label of it.
        """
        return self._case(case)[0]

    def spacing_mm(self, case: str) -> tuple[float, float, float]:
        """Voxel edge lengths."""
        return self._case(case)[1]

    def image(self, case: str) -> NDArray[np.float32]:
        """The scan `(X, Y, Z)`."""
        return np.asarray(self._pack.load(self._pack.unlabeled([case])[0])[0].array, dtype=np.float32)

    def _case(self, case: str) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
        if case not in self._kept:
            scan, label = self._pack.load(self._pack.cases([case])[0])
            assert label is not None  # `cases` refuses a case without one
            x, y, z = (round(float(edge), 6) for edge in scan.spacing_mm)
            self._kept[case] = label, (x, y, z)
        return self._kept[case]


class Run(NamedTuple):
    """A finished run: its folder and the content of run.json."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name, unique among the runs."""
        return self.folder.name

    @property
    def model(self) -> str:
        """Whose predictions are the method's: "student" or "teacher"."""
        return str(self.record["model"])

    def predictions(self) -> Predictions:
        """Open its predictions."""
        return Predictions(self.folder / "predictions.npz")


NEEDED = ("data_set", "labeled", "method", "seed", "model", "steps")


def finished_runs(work: Path, pack: LabeledSet) -> list[Run]:
    """Runs of one data set whose run.json, which is written last, is there; in order of name.

    A run that only trained has no predictions and is left out.

    Args:
        work: Folder of run folders.
        pack: The data set.

    Raises:
        ValueError: If there is no such folder, a run.json lacks a value, or a run was made from another pack.
    """
    if not work.is_dir():
        raise ValueError(f"{work} is not a folder. Give --work the folder that `experiment run` wrote.")
    runs = []
    for path in sorted(work.glob("*/run.json")):
        record = read_record(path)
        if record is None or record.get("data_set") != pack.data_set:
            continue
        if not (path.parent / "predictions.npz").exists():
            continue
        missing = [name for name in NEEDED if name not in record]
        if missing:
            raise ValueError(f"{path} does not say {', '.join(missing)}; remove the folder and run again.")
        if record.get("pack", pack.digest) != pack.digest:
            raise ValueError(
                f"{path.parent.name} was made from another pack of {pack.data_set}. Give --pack the one it "
                "was made from, or a --work folder with runs of this pack only."
            )
        runs.append(Run(path.parent, record))
    return runs


class Predictions:
    """predictions.npz of a run: label maps of both networks, and the model's uncertainty in 8 bits."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ValueError: If it is no such file.
        """
        self._archive = Archive(path)
        given = self._archive.meta.get("format", PREDICTIONS_FORMAT)
        if given != PREDICTIONS_FORMAT:
            raise ValueError(f"{path} says format {given!r}; this program reads {PREDICTIONS_FORMAT!r}.")
        self.measures = self._archive.names("map")
        """Names of the uncertainty maps there are."""

    def cases(self, which: str) -> list[str]:
        """Ids of the "test" or "ranking" cases."""
        return [str(case) for case in self._archive.meta.get(which, [])]

    def roles(self) -> Iterator[str]:
        """ "student", and "teacher" where there is one."""
        return (role for role in ("student", "teacher") if self._archive.names(role))

    def has(self, role: str, case: str) -> bool:
        """Whether the role predicted the case."""
        return f"{role}/{case}" in self._archive

    def labels(self, role: str, case: str, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predicted class values `(X, Y, Z)`.

        Raises:
            ValueError: If the shape is not that of the pack's label.
        """
        return np.asarray(self._shaped(f"{role}/{case}", like), dtype=np.uint8)

    def map(self, measure: str, case: str, like: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Uncertainty `(X, Y, Z)`, round(255 u) for u in [0, 1]; `None` where it was not kept."""
        return self._optional(f"map/{measure}/{case}", like)

    def foreground(self, case: str, like: NDArray[np.uint8], kind: str = "probs") -> NDArray[np.uint8] | None:
        """Probability `(X, Y, Z)` of any foreground class, round(255 p); `None` where it was not kept.

        Args:
            case: Its id.
            like: The pack's label.
            kind: "probs" of one pass without dropout, "mc_probs" the mean of the dropout passes.
        """
        return self._optional(f"{kind}/{case}", like)

    def scores(self, case: str) -> dict[str, float]:
        """The scores of the case that the run itself computed (`ugmcl.uncertainty.region_scores`)."""
        kept = self._archive.meta.get("score", {}).get(case, {})
        return {str(name): float(value) for name, value in kept.items()}

    def _optional(self, key: str, like: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        return np.asarray(self._shaped(key, like), dtype=np.uint8) if key in self._archive else None

    def _shaped(self, key: str, like: NDArray[np.uint8]) -> NDArray[Any]:
        values = self._archive[key]
        if values.shape != like.shape:
            raise ValueError(
                f"{self._archive.path}: {key} is {values.shape}, the pack's label {like.shape}: "
                "the run was made from another pack; evaluate it with that one."
            )
        return values
