"""Toy packs: balls in 24-voxel cubes, trained on by a network of two levels."""

from pathlib import Path

from tests.ugmcl.toy_scans import ball_case
from ugmcl.__main__ import main
from ugmcl.pack import PackedCase, PackHeader, write_pack

NAMES = [f"case{number}" for number in range(8)]
TINY = ["network.filters=[4,8]", "network.convolutions=[1,1]", "preprocess.patch=[16,16,16]",
        "train.skip_below=0", "infer.mc_samples=2"]  # fmt: skip


def write_balls(path: Path, test: int = 2, classes: int = 1) -> Path:
    """Eight balls, the last `test` of them as test cases."""
    cases = [PackedCase(name, *ball_case(name, classes)) for name in NAMES]
    split = NAMES[: len(NAMES) - test], NAMES[len(NAMES) - test :]
    header = PackHeader("balls", [f"organ{value + 1}" for value in range(classes)], *split, "of no file")
    write_pack(path, header, cases)
    return path


def experiment(pack: Path, work: Path, *more: str) -> int:
    """The command on a toy pack with a tiny network; 1 seed, 2 labels and 3 steps unless said otherwise."""
    words = [
        "--labels",
        "2",
        "--steps",
        "3",
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--ranking",
        "1",
        *more,
    ]
    changes = [word for setting in TINY for word in ("--set", setting)]
    return main(["experiment", "--pack", str(pack), "--work", str(work), *words, *changes])
