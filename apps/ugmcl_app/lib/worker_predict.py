"""worker_predict: segment a folder of scans with a model file, without a server or a project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor

from .volumes import read_volume, write_label, write_map

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")


def scans_in(folder: Path) -> dict[str, Path]:
    """Scans of a folder by id (file name without extension), sorted; hidden files and `._*` are left out."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        extension = next((ext for ext in EXTENSIONS if path.name.lower().endswith(ext)), None)
        if extension and path.is_file() and not path.name.startswith("."):
            found[path.name[: -len(extension)]] = path
    return found


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
    try:
        checkpoint = load_checkpoint(model)
        scans = scans_in(source)
    except (ValueError, OSError) as error:
        _say(str(error), sys.stderr)
        return 1
    if not scans:
        _say(f"There is no scan in {source}; expected files ending in {', '.join(EXTENSIONS)}.", sys.stderr)
        return 1
    target.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(checkpoint, device)
    left_out = 0
    for number, (scan_id, path) in enumerate(scans.items(), start=1):
        try:
            volume = read_volume(path)
        except (ValueError, OSError) as error:
            _say(f"{path.name} was left out: {error}", sys.stderr)
            left_out += 1
            continue
        prediction = predictor.predict(volume, uncertainty=True, mc_samples=mc_samples)
        assert prediction.uncertainty is not None
        assert prediction.summary is not None
        write_label(target / f"{scan_id}.nii.gz", np.asarray(prediction.labels), volume.affine)
        write_map(target / f"{scan_id}_uncertainty.nii.gz", prediction.uncertainty, volume.affine)
        _say(f"{number}/{len(scans)} {scan_id}: uncertainty {prediction.summary.score:.3f}", sys.stdout)
    return 1 if left_out else 0


def _say(sentence: str, stream: TextIO) -> None:
    stream.write(sentence + "\n")
    stream.flush()
