"""Whole scans in, segmentation and uncertainty out, on the scan's own grid."""

import threading

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import FP32, ball_case, tiny_config
from ugmcl import inference
from ugmcl.checkpoint import Checkpoint
from ugmcl.config import Config
from ugmcl.inference import Prediction, Predictor, two_sided_channels, window_channels
from ugmcl.network import DualTaskVNet
from ugmcl.precision import Precision
from ugmcl.preprocessing import WorkingGrid
from ugmcl.volume import Volume


def untrained(config: Config) -> Predictor:
    torch.manual_seed(1)
    return Predictor(Checkpoint.of(DualTaskVNet(config.network), config), "cpu", FP32)


def turned(spacing: tuple[float, float, float], degrees: float = 25.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, [2, 0, 1]] @ np.diag(spacing) * np.array([1, -1, 1])
    return affine


VOLUMES = {
    "oblique": Volume(ball_case("a", edge=22)[0].array, turned((1.0, 1.0, 1.0))),
    "anisotropic": Volume(ball_case("a")[0].array[:, :, ::4].copy(), np.diag([1.0, 0.8, 4.0, 1.0])),
    "smaller than the patch": Volume(ball_case("a")[0].array[9:14, 10:13, 8:10].copy(), np.eye(4)),
    "larger than the patch": Volume(ball_case("a", edge=37)[0].array, np.eye(4)),
    "whole numbers": Volume((100 * ball_case("a")[0].array).astype(np.int16), np.eye(4)),
}


def check(prediction: Prediction, volume: Volume, classes: int) -> None:
    assert prediction.labels.shape == volume.array.shape
    assert prediction.labels.dtype == np.uint8
    assert prediction.labels.max() <= classes
    assert prediction.uncertainty is not None
    assert prediction.uncertainty.shape == volume.array.shape
    assert prediction.uncertainty.dtype == np.float32
    assert np.isfinite(prediction.uncertainty).all()
    assert 0 <= prediction.uncertainty.min() <= prediction.uncertainty.max() <= 1
    assert prediction.summary is not None
    assert 0 <= prediction.summary.score <= 1
    assert set(prediction.latencies) == {"preprocess", "inference", "postprocess", "total"}
    for item in prediction.summary.top_slices:
        assert 0 <= item["index"] < volume.array.shape[int(item["axis"])]


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("classes", [1, 2])
def test_any_scan_gets_a_result_on_its_own_grid(name: str, classes: int) -> None:
    check(untrained(tiny_config(classes)).predict(VOLUMES[name]), VOLUMES[name], classes)


@pytest.mark.parametrize("measure", ["predictive_entropy", "mutual_information", "head_disagreement"])
def test_every_measure_lies_between_zero_and_one(measure: str) -> None:
    prediction = untrained(tiny_config(2, infer={"measure": measure})).predict(VOLUMES["oblique"])
    check(prediction, VOLUMES["oblique"], 2)
    assert prediction.summary.measure == measure
    assert prediction.uncertainty.max() > 0


def test_mutual_information_is_never_above_the_entropy() -> None:
    volume = VOLUMES["oblique"]
    entropy = untrained(tiny_config()).predict(volume).uncertainty
    information = untrained(tiny_config(infer={"measure": "mutual_information"})).predict(volume).uncertainty
    assert (information <= entropy + 1e-6).all()


def test_the_result_turns_with_the_file() -> None:
    # The same anatomy stored in another axis order must give the same labels, stored in that order.
    volume = VOLUMES["larger than the patch"]
    affine = np.eye(4)[:, [1, 2, 0, 3]].copy()
    affine[:, 0] *= -1
    stored = np.flip(np.transpose(volume.array, (1, 2, 0)), 0).copy()
    predictor = untrained(tiny_config())
    straight, other = predictor.predict(volume), predictor.predict(Volume(stored, affine))
    assert (other.labels == np.flip(np.transpose(straight.labels, (1, 2, 0)), 0)).all()
    assert np.allclose(
        other.uncertainty, np.flip(np.transpose(straight.uncertainty, (1, 2, 0)), 0), atol=1e-5
    )


def test_the_same_seed_gives_the_same_map_and_another_seed_another() -> None:
    predictor, volume = untrained(tiny_config()), VOLUMES["oblique"]
    first, again, other = (predictor.predict(volume, seed=seed) for seed in (0, 0, 1))
    assert (first.uncertainty == again.uncertainty).all()
    assert (first.uncertainty != other.uncertainty).any()
    assert (first.labels == other.labels).all()


def test_prediction_disturbs_no_global_random_numbers() -> None:
    predictor = untrained(tiny_config())
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    predictor.predict(VOLUMES["oblique"])
    assert torch.equal(torch.rand(2), expected)


def test_without_uncertainty_only_the_labels_are_computed() -> None:
    predictor = untrained(tiny_config())
    plain = predictor.predict(VOLUMES["oblique"], uncertainty=False)
    assert plain.uncertainty is None
    assert plain.summary is None
    assert (plain.labels == predictor.predict(VOLUMES["oblique"]).labels).all()


def test_more_window_memory_changes_no_label() -> None:
    volume = VOLUMES["larger than the patch"]
    one = untrained(tiny_config(infer={"window_batch": 1})).predict(volume, uncertainty=False)
    many = untrained(tiny_config(infer={"window_batch": 8})).predict(volume, uncertainty=False)
    assert (one.labels == many.labels).mean() > 0.9999


def test_out_of_memory_asks_for_less_step_by_step_and_ends_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No machine here runs out of GPU memory on demand: the windows are refused as if it had."""
    volume = VOLUMES["larger than the patch"]
    config = tiny_config(infer={"window_batch": 4})
    expected = untrained(config).predict(volume)
    predictor = untrained(config)
    predictor.precision = Precision("fp32", "cuda")
    predictor._blend_device = "cuda"
    tried: list[tuple[str, int, str]] = []
    original = predictor._slide

    def slide(image: torch.Tensor, samples: int, seed: int, pool: None) -> torch.Tensor:
        tried.append((predictor.precision.device, predictor._window_batch, predictor._blend_device))
        if predictor.precision.device == "cuda":
            raise torch.OutOfMemoryError("full")
        return original(image, samples, seed)

    monkeypatch.setattr(predictor, "_slide", slide)
    found = predictor.predict(volume)
    on_gpu = [("cuda", 4, "cuda"), ("cuda", 2, "cuda"), ("cuda", 1, "cuda"), ("cuda", 1, "cpu")]
    assert tried == [*on_gpu, ("cpu", 1, "cpu")]
    assert (found.labels == expected.labels).mean() > 0.99
    predictor.predict(volume)
    assert tried[5:] == [("cpu", 1, "cpu")]


def test_a_scan_too_large_to_come_back_to_its_grid_on_a_gpu_does_so_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = VOLUMES["larger than the patch"]
    expected = untrained(tiny_config()).predict(volume)
    predictor, original, calls = untrained(tiny_config()), inference.restore, list[str]()

    def full_once(values: torch.Tensor, grid: WorkingGrid) -> torch.Tensor:
        calls.append(values.device.type)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("full")
        return original(values, grid)

    monkeypatch.setattr(inference, "restore", full_once)
    assert np.array_equal(predictor.predict(volume).labels, expected.labels)
    assert calls == ["cpu", "cpu"]


def test_calls_from_several_threads_agree_with_one_after_another() -> None:
    predictor = untrained(tiny_config())
    volumes = list(VOLUMES.values())
    expected = [predictor.predict(volume) for volume in volumes]
    found: dict[int, list[Prediction]] = {}

    def work(index: int) -> None:
        torch.set_num_threads(1)
        found[index] = [predictor.predict(volume) for volume in volumes]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for predictions in found.values():
        for one, other in zip(predictions, expected, strict=True):
            assert (one.labels == other.labels).all()
            assert (one.uncertainty == other.uncertainty).all()


@pytest.mark.parametrize("samples", [0, 65, -1])
def test_a_number_of_samples_out_of_range_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"mc_samples is {samples}; allowed: 1 to 64"):
        untrained(tiny_config()).predict(VOLUMES["oblique"], mc_samples=samples)


def test_the_number_of_samples_is_reported() -> None:
    predictor = untrained(tiny_config())
    assert predictor.predict(VOLUMES["oblique"]).summary.mc_samples == 3
    assert predictor.predict(VOLUMES["oblique"], mc_samples=2).summary.mc_samples == 2


@pytest.mark.parametrize(
    ("measure", "extra"), [("predictive_entropy", 0), ("mutual_information", 1), ("head_disagreement", 1)]
)
def test_window_channels_hold_the_deterministic_and_the_monte_carlo_probabilities(
    measure: str, extra: int
) -> None:
    config = tiny_config(2, infer={"measure": measure})
    torch.manual_seed(0)
    network = DualTaskVNet(config.network).eval()
    image = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        channels = window_channels(network, image, config, 4, torch.Generator().manual_seed(0))
        assert channels.shape == (2, 3 + 3 + extra, 16, 16, 16)
        assert torch.allclose(channels[:, :3], network(image).logits.softmax(dim=1), atol=1e-6)
        assert torch.allclose(channels[:, 3:6].sum(dim=1), torch.ones(1), atol=1e-5)
        assert window_channels(network, image, config, 0, None).shape[1] == 3
    assert 0 <= channels.min() <= channels.max() <= 1 + 1e-6


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_both_sides_count_alike_and_passes_by_their_number(samples: int) -> None:
    config = tiny_config(2, network={"dropout": 0.0}, train={"augmentation": "full", "flip_axes": (0,)})
    torch.manual_seed(0)
    network = DualTaskVNet(config.network).eval()
    image = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        seen = network(image).logits.softmax(dim=1)
        mirrored = network(image.flip(2)).logits.softmax(dim=1).flip(2)
        both = two_sided_channels(network, image, config, samples, torch.Generator().manual_seed(0))
    assert not torch.allclose(seen, mirrored, atol=1e-3)
    assert torch.allclose(both[:, :3], (seen + mirrored) / 2, atol=1e-6)
    if samples:  # without dropout every pass is the plain one: two of three see the windows as they are
        expected = seen if samples == 1 else (2 * seen + mirrored) / 3
        assert torch.allclose(both[:, 3:], expected, atol=1e-6)


def test_a_project_that_never_mirrors_is_segmented_as_it_is() -> None:
    one_sided = tiny_config(train={"augmentation": "full", "flip_axes": (1, 2)})
    mirrored = tiny_config(train={"augmentation": "full", "flip_axes": (0,)})
    off = tiny_config(train={"augmentation": "full", "flip_axes": (0,)}, infer={"mirror": "off"})
    maps = [untrained(c).predict(VOLUMES["oblique"]).uncertainty for c in (one_sided, off, mirrored)]
    assert np.array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], atol=1e-3)


def test_a_mirrored_scan_gets_the_mirrored_labels() -> None:
    config = tiny_config(train={"augmentation": "full", "flip_axes": (0,)})
    volume = ball_case("a", edge=32)[0]  # windows lie alike from both ends
    image = Volume(volume.array[::-1].copy(), volume.affine)
    predictor = untrained(config)
    seen, mirrored = (predictor.predict(v, uncertainty=False).probs for v in (volume, image))
    assert np.allclose(seen[:, ::-1], mirrored, atol=1e-4)


def test_a_network_that_copies_intensity_labels_the_bright_ball_exactly() -> None:
    # Weights set by hand: logit = threshold on the standardized image. Shows that windows, blending and the
    # way back to an anisotropic, turned grid neither shift nor mirror anything.
    config = tiny_config(preprocess={"clip_percentiles": (0.0, 100.0)})
    network = DualTaskVNet(config.network)
    volume, label = ball_case("a", edge=30)

    class Threshold(torch.nn.Module):
        def encode(self, image: torch.Tensor) -> torch.Tensor:
            return image

        def segment(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([-20 * (image - 1.0), 20 * (image - 1.0)], dim=1)

    predictor = Predictor(Checkpoint.of(network, config), "cpu", FP32)
    predictor._network = Threshold()
    clean = Volume(2.0 * label[2:, 4:, 1:-3].astype(np.float32), turned((1.0, 1.0, 1.0), 10.0))
    found = predictor.predict(clean, uncertainty=False)
    assert (found.labels == label[2:, 4:, 1:-3]).all()
    assert volume.array.shape == (30, 30, 30)
