"""worker_predict: segment a folder of scans with a model file, without a server or a project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor

from .infer_options import MAX_MC_SAMPLES
from .volumes import read_volume, write_label, write_map

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
MAP_ENDING = "_uncertainty"


def scans_in(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The scans of a folder; hidden files and `._*` do not count.

    Returns:
        Scans by id (file name without extension), sorted; and the files left out, because their results would
        take the place of another scan's, with the reason.
    """
    found: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        extension = next((ext for ext in EXTENSIONS if path.name.lower().endswith(ext)), None)
        if extension and path.is_file() and not path.name.startswith("."):
            scan_id = path.name[: -len(extension)]
            if scan_id in found:
                left_out[path.name] = f"its results would replace those of {found[scan_id].name}; rename one."
            else:
                found[scan_id] = path
    for scan_id in [i for i in found if i.endswith(MAP_ENDING) and i.removesuffix(MAP_ENDING) in found]:
        scan = found[scan_id.removesuffix(MAP_ENDING)].name
        left_out[found.pop(scan_id).name] = f"it is named like the uncertainty map of {scan}; rename one."
    return found, left_out


def predict_folder(
    model: Path, source: Path, target: Path, device: str = "auto", mc_samples: int = 8, threads: int = 0
) -> int:
    """Write `<id>.nii.gz` and `<id>_uncertainty.nii.gz` for every scan of `source` into `target`.

    A scan that cannot be used is named on standard error and left out.

    Returns:
        The exit status: 0 when every scan was segmented, 1 when one was left out or there was none.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if not 1 <= mc_samples <= MAX_MC_SAMPLES:
        _say(f"--mc-samples is {mc_samples}; allowed: 1 to {MAX_MC_SAMPLES}.", sys.stderr)
        return 1
    try:
        predictor = Predictor(load_checkpoint(model), device)
        scans, left_out = scans_in(source)
    except (ValueError, OSError) as error:
        _say(str(error), sys.stderr)
        return 1
    if not scans:
        _say(f"There is no scan in {source}; expected files ending in {', '.join(EXTENSIONS)}.", sys.stderr)
        return 1
    target.mkdir(parents=True, exist_ok=True)
    for name, reason in left_out.items():
        _say(f"{name} was left out: {reason}", sys.stderr)
    for number, (scan_id, path) in enumerate(scans.items(), start=1):
        try:
            volume = read_volume(path)
        except (ValueError, OSError) as error:
            _say(f"{path.name} was left out: {error}", sys.stderr)
            left_out[path.name] = str(error)
            continue
        prediction = predictor.predict(volume, uncertainty=True, mc_samples=mc_samples)
        assert prediction.uncertainty is not None
        assert prediction.summary is not None
        write_label(target / f"{scan_id}.nii.gz", np.asarray(prediction.labels), volume.affine)
        write_map(target / f"{scan_id}{MAP_ENDING}.nii.gz", prediction.uncertainty, volume.affine)
        _say(f"{number}/{len(scans)} {scan_id}: uncertainty {prediction.summary.score:.3f}", sys.stdout)
    return 1 if left_out else 0


def _say(sentence: str, stream: TextIO) -> None:
    stream.write(sentence + "\n")
    stream.flush()
