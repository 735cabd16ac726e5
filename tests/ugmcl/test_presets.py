"""Presets fit the project's own scans."""

import math

import pytest

from ugmcl import PRESETS, preset
from ugmcl.presets import CPU_PATCH_VOXELS, GPU_PATCH_VOXELS

HIPPOCAMPUS = ([(35, 51, 35), (36, 48, 40), (34, 50, 36)], [(1.0, 1.0, 1.0)] * 3)
LEFT_ATRIUM = ([(200, 150, 88)] * 3, [(0.625, 0.625, 0.625)] * 3)
THICK_SLICES = ([(256, 256, 14)] * 2, [(1.5, 1.5, 8.0)] * 2)


@pytest.mark.parametrize(
    "scans", [HIPPOCAMPUS, LEFT_ATRIUM, THICK_SLICES, ([(12, 10, 9)], [(1.0, 1.0, 1.0)])]
)
@pytest.mark.parametrize(("device", "limit"), [("cpu", CPU_PATCH_VOXELS), ("cuda", GPU_PATCH_VOXELS)])
def test_the_default_patch_fits_the_device_and_the_network(
    scans: tuple[list[tuple[int, int, int]], list[tuple[float, float, float]]], device: str, limit: int
) -> None:
    config = preset("default", ["a", "b"], *scans, device)
    patch, stride = config.preprocess.patch, config.network.stride
    assert math.prod(patch) <= limit
    assert all(edge % stride == 0 and edge >= 2 * stride for edge in patch)
    assert config.network.classes == 2
    assert config.labels == ("a", "b")


def test_small_scans_keep_their_spacing_and_the_patch_is_smaller_than_they_are() -> None:
    config = preset("default", ["a"], *HIPPOCAMPUS)
    assert config.preprocess.spacing_mm == (1.0, 1.0, 1.0)
    assert config.preprocess.patch == (32, 48, 32)


def test_large_scans_are_coarsened_evenly_on_a_cpu() -> None:
    config = preset("default", ["a"], *LEFT_ATRIUM)
    spacing = config.preprocess.spacing_mm
    assert spacing == (1.4771,) * 3  # 0.625 (200 x 150 x 88 / 200000) ** (1/3)
    assert config.preprocess.patch == (64, 56, 32)  # of 84.6 x 63.5 x 37.2
    assert preset("default", ["a"], *LEFT_ATRIUM, "cuda").preprocess.spacing_mm == (0.625, 0.625, 0.625)


def test_thick_slices_are_not_made_thicker() -> None:
    spacing = preset("default", ["a"], *THICK_SLICES).preprocess.spacing_mm
    assert spacing == (3.2128, 3.2128, 8.0)  # 384 mm / sqrt(200000 / 14)


@pytest.mark.parametrize(
    ("scan", "spacing"),
    [
        ((200, 60, 60), (2.4329, 2.4329, 2.4329)),  # (200 x 120 x 120 / 200000) ** (1/3)
        ((100, 50, 60), (1.5, 2.0, 2.0)),  # 100 x 50 x 60 / 200000
        ((60, 50, 60), (1.0, 2.0, 2.0)),  # 180000 voxels are few enough
    ],
)
def test_the_finest_axes_are_coarsened_first(scan: tuple[int, int, int], spacing: tuple[float, ...]) -> None:
    assert preset("default", ["a"], [scan], [(1.0, 2.0, 2.0)]).preprocess.spacing_mm == spacing


def test_small_structures_in_large_scans_keep_their_shape() -> None:
    head = preset("default", ["a"], [(200, 200, 100)], [(1.0, 1.0, 1.0)]).preprocess
    assert head.spacing_mm == (2.5, 2.5, 2.5)  # 2.71 for 200000 voxels; 250000 of them now
    torso = preset("default", ["a"], [(512, 512, 300)], [(0.8, 0.8, 1.5)]).preprocess.spacing_mm
    assert torso == (4.2265, 4.2265, 4.2265)  # (409.6 x 409.6 x 450 mm / 1000000) ** (1/3)


@pytest.mark.parametrize(
    ("scan", "spacing", "expected"),
    [
        ((512, 512, 30), (0.4, 0.4, 0.4), (1.0, 1.0, 0.75)),  # 12 mm / 16, the others 2.5 x 0.4
        ((400, 400, 5), (1.0, 1.0, 0.1), (1.0, 1.0, 0.1)),  # 5 slices stay 5
    ],
)
def test_thin_scans_are_not_made_thinner(
    scan: tuple[int, int, int], spacing: tuple[float, float, float], expected: tuple[float, ...]
) -> None:
    assert preset("default", ["a"], [scan], [spacing]).preprocess.spacing_mm == expected


def test_on_a_gpu_only_scans_of_over_eight_patches_are_coarsened() -> None:
    spacing = [(1.0, 1.0, 1.0)]
    assert preset("default", ["a"], [(256, 256, 120)], spacing, "cuda").preprocess.spacing_mm == spacing[0]
    coarse = preset("default", ["a"], [(512, 512, 120)], spacing, "cuda").preprocess.spacing_mm
    assert coarse == pytest.approx(((512 * 512 * 120 / (8 * GPU_PATCH_VOXELS)) ** (1 / 3),) * 3, abs=1e-4)


def test_one_odd_scan_does_not_decide_the_spacing() -> None:
    config = preset("default", ["a"], [(40, 40, 40)] * 5, [(1.0, 1.0, 1.0)] * 4 + [(9.0, 9.0, 9.0)])
    assert config.preprocess.spacing_mm == (1.0, 1.0, 1.0)


def test_the_paper_preset_has_the_papers_values() -> None:
    config = preset("paper-la", ["left atrium"], *LEFT_ATRIUM)
    assert config.preset == "paper-la"
    assert config.preprocess.patch == (112, 112, 80)
    assert config.preprocess.spacing_mm == (0.625, 0.625, 0.625)
    assert config.preprocess.clip_percentiles == (0.0, 100.0)
    assert (config.network.norm, config.network.dropout) == ("batch", 0.5)
    assert (config.loss.beta, config.loss.sdm_weight) == (0.75, 1.0)
    assert (config.loss.intra_task_weight, config.loss.cross_task_weight) == (0.1, 0.1)
    assert (config.loss.rampup_fraction, config.loss.threshold_start) == (1.0, 0.75)
    assert config.loss.supervised_fraction == 0.0
    assert (config.loss.sdm_convention, config.loss.sharpness) == ("published", 1500.0)
    assert (config.loss.dice, config.train.gradient_clip) == ("published", 0.0)
    train = config.train
    assert (train.steps, train.optimizer, train.learning_rate, train.weight_decay) == (
        6000,
        "sgd",
        0.01,
        1e-4,
    )
    assert (train.labeled_batch, train.unlabeled_batch, train.mc_samples) == (2, 2, 8)
    assert (train.ema_decay, train.mc_stream, train.perturbation) == (0.99, "all", "none")
    assert (train.augmentation, train.crop_offset) == ("published", "published")
    assert (train.foreground_crops, train.skip_below, train.copy_paste) == (0.0, 0.0, "off")


def test_the_left_atrium_preset_has_the_papers_sizes_and_the_defaults_conventions() -> None:
    config, paper = (preset(name, ["left atrium"], *LEFT_ATRIUM) for name in ("left-atrium", "paper-la"))
    assert config.preset == "left-atrium"
    assert (config.preprocess.patch, config.preprocess.spacing_mm) == ((112, 112, 80), (0.625,) * 3)
    for name in ("filters", "convolutions", "dropout"):
        assert getattr(config.network, name) == getattr(paper.network, name)
    for name in ("steps", "labeled_batch", "unlabeled_batch", "mc_samples", "ema_decay"):
        assert getattr(config.train, name) == getattr(paper.train, name)
    default = preset("default", ["left atrium"], *LEFT_ATRIUM)
    assert config.loss == default.loss
    assert config.network.norm == default.network.norm == "instance"
    for name in ("optimizer", "perturbation", "augmentation", "copy_paste", "teacher_buffers"):
        assert getattr(config.train, name) == getattr(default.train, name)


def test_an_unknown_preset_or_no_scan_is_refused() -> None:
    with pytest.raises(ValueError, match=f"'fast'; choose one of: {', '.join(PRESETS)}"):
        preset("fast", ["a"], *HIPPOCAMPUS)
    with pytest.raises(ValueError, match="at least 1 scan"):
        preset("default", ["a"], [], [])
