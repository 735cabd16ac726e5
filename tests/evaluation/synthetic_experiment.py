"""Packs and run folders as `experiment` writes them, their errors drawn and not trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ugmcl.pack import PackedCase, PackHeader, write_pack
from ugmcl.volume import Volume

SHAPE = (24, 28, 20)
MEASURES = ("predictive_entropy", "mutual_information", "head_disagreement")


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], width: float) -> NDArray[np.float64]:
    """A random field with mean 0 and standard deviation 1 that changes over `width` voxels."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), width)
    return np.asarray((field - field.mean()) / field.std())


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Positive inside, in voxels."""
    return np.asarray(ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask))


def organ(case: int, shape: Sequence[int] = SHAPE) -> NDArray[np.bool_]:
    """An ellipsoid with bumps, another for each case."""
    rng = np.random.default_rng(case)
    grids = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radii = rng.uniform(0.5, 0.7, 3)
    level = 1 - sum((grid / radius) ** 2 for grid, radius in zip(grids, radii, strict=True))
    return np.asarray(level + 0.25 * smooth_noise(rng, shape, 2.5) > 0)


def write_synthetic_pack(
    path: Path,
    data_set: str = "hippocampus",
    pool: int = 8,
    test: int = 6,
    classes: Sequence[str] = ("foreground",),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    shape: Sequence[int] = SHAPE,
) -> tuple[list[str], list[str]]:
    """A pack of organs; returns the ids of pool and test."""
    ids = [f"case_{number:02d}" for number in range(pool + test)]
    cases = []
    for number, name in enumerate(ids):
        mask = organ(number, shape)
        label = mask.astype(np.uint8)
        if len(classes) > 1:
            label[mask & (np.arange(shape[0])[:, None, None] >= shape[0] // 2)] = 2
        rng = np.random.default_rng(1000 + number)
        image = np.rint(90 * mask + 60 + 12 * smooth_noise(rng, shape, 1.0)).astype(np.float32)
        cases.append(PackedCase(name, Volume(image, np.diag([*spacing, 1.0])), label))
    header = PackHeader(data_set, classes, ids[:pool], ids[pool:], "0" * 64)
    write_pack(path, header, cases)
    return ids[:pool], ids[pool:]


def predicted(
    case: str, skill: float, seed: int, shape: Sequence[int] = SHAPE
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A label map whose boundary is off by noise, more for a low skill, and the probability behind it."""
    number = int(case.rpartition("_")[2])
    rng = np.random.default_rng([number, seed, int(1000 * skill)])
    # Harder cases are harder for every method.
    hardness = 0.6 + 0.8 * np.random.default_rng(number).random()
    shift = smooth_noise(rng, shape, 2.0) * 1.6 * (1.0 - skill) * hardness
    logit = signed_distance(organ(number, shape)) + shift
    # The model is surer than it should be.
    probability = 1.0 / (1.0 + np.exp(-2.0 * logit / hardness))
    return (probability > 0.5).astype(np.uint8), probability


def write_run(
    work: Path,
    pack: tuple[list[str], list[str]],
    method: str,
    seed: int,
    *,
    data_set: str = "hippocampus",
    labels: int = 10,
    skill: float = 0.5,
    ranking: int = 4,
    teacher: bool = True,
    shape: Sequence[int] = SHAPE,
    **record: Any,
) -> Path:
    """A finished run folder of the contract; returns it."""
    folder = work / f"{data_set}_{labels}labels_{method}_seed{seed}"
    folder.mkdir(parents=True)
    pool, test = pack
    ranked = pool[len(pool) - ranking :] if ranking else []
    role = "teacher" if teacher else "student"
    arrays: dict[str, NDArray[Any]] = {}
    scores: dict[str, dict[str, float]] = {}
    for case in [*test, *ranked]:
        label, probability = predicted(case, skill, seed, shape)
        arrays[f"{role}/{case}"] = label
        if teacher:
            arrays[f"student/{case}"] = predicted(case, skill - 0.05, seed, shape)[0]
        p = np.clip(probability, 1e-6, 1 - 1e-6)
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)
        maps = dict(zip(MEASURES, (entropy, entropy**2 / 2, np.sqrt(entropy) / 2), strict=True))
        for measure, values in maps.items():
            arrays[f"map/{measure}/{case}"] = np.rint(255 * values).astype(np.uint8)
        arrays[f"probs/{case}"] = np.rint(255 * probability).astype(np.uint8)
        scores[case] = {"expected_dice_loss": float(entropy.mean())}
    meta = {"format": "ugmcl-predictions-1", "test": test, "ranking": ranked, "model": role, "score": scores}
    text = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    np.savez_compressed(folder / "predictions.npz", meta=text, **arrays)
    written = {
        "name": folder.name, "data_set": data_set, "labeled": labels, "unlabeled": 140, "method": method,
        "seed": seed, "steps": 1500, "seconds": 300.5, "cpu_seconds": 290.0, "model": role,
        "precision": {"name": "bf16"}, "fingerprint": "abc", "device": "a processor", "commit": "c0ffee" * 6,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**written, **record}), encoding="utf-8")
    return folder


SKILLS = {"supervised": 0.35, "mean_teacher": 0.4, "ua_mt": 0.42, "entropy_minimization": 0.38, "dtc": 0.43,
          "ug_mcl": 0.5, "ug_mcl_plus": 0.6}  # fmt: skip


def write_experiment(folder: Path, seeds: int = 2, **pack_options: Any) -> tuple[Path, Path]:
    """All methods at 10 labels, four at 5, supervised at 150; returns pack and work folder."""
    pack_path, work = folder / "hippocampus.npz", folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    shape = pack_options.get("shape", SHAPE)
    pack = write_synthetic_pack(pack_path, **pack_options)
    for seed in range(seeds):
        for method, skill in SKILLS.items():
            has_teacher = method not in ("supervised", "entropy_minimization", "dtc")
            shared = {"teacher": has_teacher, "shape": shape}
            write_run(work, pack, method, seed, skill=skill, **shared)
            if method in ("supervised", "ua_mt", "ug_mcl", "ug_mcl_plus"):
                write_run(work, pack, method, seed, labels=5, skill=skill - 0.12, **shared)
    write_run(work, pack, "supervised", 0, labels=150, skill=0.72, teacher=False, shape=shape)
    for method, skill in (("ablation_seg_dis", 0.37), ("ablation_seg_dis_itc", 0.45)):
        write_run(work, pack, method, 0, skill=skill, shape=shape)
    return pack_path, work
