"""Patches: which views occur, which crops occur, and that image, label and distance map stay together."""

import itertools

import numpy as np
import pytest
import torch

from ugmcl.augmentation import PreparedVolume, clamped_noise, cut_patch, strong_intensity
from ugmcl.config import TrainConfig
from ugmcl.distance import class_distance_maps

SIZE = (8, 8, 8)


def numbered(shape: tuple[int, int, int] = SIZE) -> PreparedVolume:
    """Every voxel has its own value, in the image and (modulo 256) in the label."""
    values = torch.arange(int(np.prod(shape))).reshape(shape)
    return PreparedVolume(values[None].float(), (values % 256).to(torch.uint8))


def axial_views(volume: PreparedVolume) -> dict[str, torch.Tensor]:
    image = volume.image[0]
    turns = {f"turn{quarter}": torch.rot90(image, quarter, (0, 1)) for quarter in range(4)}
    return turns | {f"{name} mirrored": view.flip(0) for name, view in turns.items()}


def seen_views(augmentation: str, draws: int = 160) -> set[str]:
    volume, rng = numbered(), np.random.default_rng(0)
    config = TrainConfig(augmentation=augmentation)
    views = axial_views(volume)
    seen = set()
    for _ in range(draws):
        patch = cut_patch(volume, SIZE, config, "minimum", rng)
        seen |= {name for name, view in views.items() if torch.equal(view, patch.image[0])}
        assert torch.equal(patch.label, patch.image[0].long() % 256)
    return seen


def test_flips_reach_all_eight_symmetries_of_the_axial_plane() -> None:
    assert len(seen_views("flips")) == 8


def test_the_published_augmentation_never_shows_the_original_or_a_pure_turn() -> None:
    assert seen_views("published") == {f"turn{quarter} mirrored" for quarter in range(4)}


def test_no_augmentation_shows_the_original_only() -> None:
    assert seen_views("none", 5) == {"turn0"}


@pytest.mark.parametrize("augmentation", ["flips", "published"])
def test_patches_that_are_not_square_keep_their_shape(augmentation: str) -> None:
    rng, volume = np.random.default_rng(0), numbered((8, 12, 16))
    for _ in range(10):
        patch = cut_patch(volume, (8, 12, 16), TrainConfig(augmentation=augmentation), "minimum", rng)
        assert patch.image.shape == (1, 8, 12, 16)


@pytest.mark.parametrize(("offset", "starts"), [("inclusive", {0, 1, 2}), ("published", {0, 1})])
def test_only_the_inclusive_offset_reaches_the_last_position(offset: str, starts: set[int]) -> None:
    rng, volume = np.random.default_rng(0), numbered((10, 10, 10))
    config = TrainConfig(augmentation="none", crop_offset=offset, foreground_crops=0.0)
    first = {int(cut_patch(volume, SIZE, config, "minimum", rng).image[0, 0, 0, 0]) for _ in range(400)}
    assert first == {100 * x + 10 * y + z for x, y, z in itertools.product(starts, repeat=3)}


@pytest.mark.parametrize("offset", ["inclusive", "published"])
def test_a_volume_of_the_patch_size_has_one_position(offset: str) -> None:
    config = TrainConfig(augmentation="none", crop_offset=offset)
    patch = cut_patch(numbered(), SIZE, config, "minimum", np.random.default_rng(0))
    assert torch.equal(patch.image, numbered().image)


@pytest.mark.parametrize(("padding", "fill"), [("minimum", -3.0), ("zero", 0.0)])
@pytest.mark.parametrize("augmentation", ["none", "full"])
def test_a_smaller_volume_is_surrounded_by_the_configured_value(
    padding: str, fill: float, augmentation: str
) -> None:
    image = torch.full((1, 4, 4, 4), 2.0)
    image[0, 1, 1, 1] = -3.0
    volume = PreparedVolume(image, torch.ones(4, 4, 4, dtype=torch.uint8), torch.full((1, 4, 4, 4), -0.5))
    config = TrainConfig(augmentation=augmentation, foreground_crops=0.0)
    patch = cut_patch(volume, (16, 16, 16), config, padding, np.random.default_rng(0))
    assert patch.image.shape == (1, 16, 16, 16)
    assert patch.image[0, 0, 0, 0] == pytest.approx(fill)
    assert patch.label[0, 0, 0] == 0
    assert patch.label[8, 8, 8] == 1


def ball_volume(edge: int = 28) -> PreparedVolume:
    x, y, z = np.indices((edge,) * 3)
    label = ((x - 15) ** 2 + (y - 13) ** 2 + (z - 14) ** 2 < 36).astype(np.uint8)
    maps = class_distance_maps(label, 1, "between_voxels", 8.0)
    foreground = torch.from_numpy(np.argwhere(label)).to(torch.int16)
    tensor = torch.from_numpy(label)
    return PreparedVolume(tensor[None].float(), tensor, torch.from_numpy(maps).half(), foreground)


@pytest.mark.parametrize("augmentation", ["full", "flips", "published", "none"])
def test_image_label_and_distance_map_stay_together(augmentation: str) -> None:
    rng, volume = np.random.default_rng(0), ball_volume()
    config = TrainConfig(augmentation=augmentation, flip_axes=(0, 1, 2))
    for _ in range(8):
        patch = cut_patch(volume, (16, 16, 16), config, "minimum", rng)
        inside = patch.label == 1
        assert (patch.image[0] > 0.5).eq(inside).float().mean() > 0.97
        assert (patch.sdm[0] < 0).eq(inside).float().mean() > 0.97
        assert patch.sdm.abs().max() <= 1
        assert patch.label.dtype == torch.int64


def test_zooming_in_keeps_distances_in_patch_voxels() -> None:
    # A flat surface: wherever it lies in the warped patch, the map must grow by one voxel per voxel.
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[:20] = 1
    maps = torch.from_numpy(class_distance_maps(mask, 1, "between_voxels", 8.0)).half()
    volume = PreparedVolume(torch.from_numpy(mask)[None].float(), torch.from_numpy(mask), maps)
    config = TrainConfig(augmentation="full", foreground_crops=0.0)
    for seed in range(6):
        sdm = cut_patch(volume, (16, 16, 16), config, "minimum", np.random.default_rng(seed)).sdm[0] * 8
        gradient = torch.stack(torch.gradient(sdm)).norm(dim=0)
        near = sdm.abs() < 3
        near[[0, -1]] = near[:, [0, -1]] = near[:, :, [0, -1]] = False
        if near.any():
            assert gradient[near].mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("augmentation", ["none", "full"])
def test_foreground_crops_always_hold_foreground(augmentation: str) -> None:
    volume, rng = ball_volume(60), np.random.default_rng(0)
    config = TrainConfig(augmentation=augmentation, foreground_crops=1.0)
    assert all(cut_patch(volume, SIZE, config, "minimum", rng).label.any() for _ in range(20))


def test_the_same_seed_cuts_the_same_patch() -> None:
    patches = [
        cut_patch(ball_volume(), SIZE, TrainConfig(), "minimum", np.random.default_rng(4)) for _ in range(2)
    ]
    assert torch.equal(patches[0].image, patches[1].image)


def test_full_augmentation_mirrors_only_the_configured_axes() -> None:
    # Far-off halves of one bright side: with no flips allowed the side must never change.
    image = torch.zeros(1, 24, 24, 24)
    image[:, :, 12:] = 1.0
    volume, rng = PreparedVolume(image), np.random.default_rng(0)
    none = TrainConfig(augmentation="full", flip_axes=())
    sides = {
        bool(cut_patch(volume, (24, 24, 24), none, "zero", rng).image[0, 12, 20, 12] > 0.5) for _ in range(20)
    }
    assert sides == {True}
    back = TrainConfig(augmentation="full", flip_axes=(1,))
    sides = {
        bool(cut_patch(volume, (24, 24, 24), back, "zero", rng).image[0, 12, 20, 12] > 0.5) for _ in range(20)
    }
    assert sides == {True, False}


def test_published_noise_is_clamped() -> None:
    noise = clamped_noise(torch.zeros(1, 1, 20, 20, 20), torch.Generator().manual_seed(0))
    assert noise.abs().max().item() == pytest.approx(0.2)
    assert noise.std().item() == pytest.approx(0.0966, abs=0.003)


def test_strong_intensity_changes_are_per_patch_and_bounded() -> None:
    flat = strong_intensity(torch.ones(64, 1, 8, 8, 8), torch.Generator().manual_seed(0))
    means = flat.mean(dim=(1, 2, 3, 4))
    assert means.min() > 0.58
    assert means.max() < 1.42
    assert means.std() > 0.05
    assert flat.std(dim=(1, 2, 3, 4)).mean().item() == pytest.approx(0.15, abs=0.01)
