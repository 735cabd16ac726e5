"""Uncertainty by hand-computed numbers, and shared Monte Carlo passes against naive ones."""

import json
import math

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import tiny_config
from ugmcl.network import DualTaskVNet
from ugmcl.uncertainty import (
    BAND_NAMES,
    bands,
    certainty_weights,
    expected_dice_loss,
    normalized_entropy,
    region_scores,
    stochastic_passes,
    summarize,
    top_slices,
)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_entropy_is_zero_when_sure_and_one_when_uniform(classes: int) -> None:
    sure = torch.zeros(1, classes, 2, 2, 2)
    sure[:, 1] = 1.0
    assert (normalized_entropy(sure) == 0).all()
    uniform = torch.full((1, classes, 2, 2, 2), 1 / classes)
    assert torch.allclose(normalized_entropy(uniform), torch.ones(1))


def test_entropy_by_hand() -> None:
    probs = torch.tensor([0.25, 0.75])[None, :, None, None, None]
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert normalized_entropy(probs).item() == pytest.approx(expected)


def test_the_mask_keeps_voxels_below_the_threshold_and_soft_weights_keep_all() -> None:
    uncertainty = torch.tensor([0.1, 0.75, 0.9])[None, None, :, None, None]
    assert certainty_weights(uncertainty, 0.75, "mask").flatten().tolist() == [1, 0, 0]
    assert certainty_weights(uncertainty, 0.75, "soft").flatten().tolist() == pytest.approx([0.9, 0.25, 0.1])


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_passes_that_share_the_encoder_equal_full_passes_under_the_same_masks(
    norm: str, classes: int
) -> None:
    torch.manual_seed(0)
    network = DualTaskVNet(tiny_config(classes, network={"norm": norm}).network).eval()
    image = torch.randn(2, 1, 16, 16, 16)
    shared = stochastic_passes(
        network, network.encode(image), 5, torch.Generator().manual_seed(3), entropies=True
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        outputs = []
        for _ in range(5):
            features = network.encode(image)
            outputs.append(network.decode(features, network.sample_masks(2, features.bottleneck, generator)))
    probs = torch.stack([output.logits.softmax(dim=1) for output in outputs])
    assert torch.allclose(shared.probs, probs.mean(dim=0), atol=1e-5)
    assert torch.allclose(shared.sdm, torch.stack([o.sdm for o in outputs]).mean(dim=0), atol=1e-5)
    entropies = torch.stack([normalized_entropy(p) for p in probs])
    assert torch.allclose(shared.expected_entropy, entropies.mean(dim=0), atol=1e-5)
    assert not torch.allclose(probs[0], probs[1])


def test_leaving_the_distance_head_out_changes_no_probability() -> None:
    network = DualTaskVNet(tiny_config().network).eval()
    features = network.encode(torch.randn(2, 1, 16, 16, 16))
    both = stochastic_passes(network, features, 3, torch.Generator().manual_seed(1))
    alone = stochastic_passes(network, features, 3, torch.Generator().manual_seed(1), distances=False)
    assert torch.equal(both.probs, alone.probs)
    assert both.sdm is not None
    assert alone.sdm is None
    assert torch.equal(network.segment(features), network.decode(features).logits)


def test_the_mean_of_the_passes_is_at_least_as_uncertain_as_the_passes() -> None:
    network = DualTaskVNet(tiny_config().network).eval()
    passes = stochastic_passes(network, network.encode(torch.randn(1, 1, 16, 16, 16)), 6, entropies=True)
    assert (normalized_entropy(passes.probs) - passes.expected_entropy).min() >= -1e-6


def test_expected_dice_loss_by_hand() -> None:
    foreground = np.array([0.9, 0.6, 0.4, 0.1])
    # expected overlap 0.9 + 0.6, sizes 2.0 and 2
    assert expected_dice_loss(foreground, foreground > 0.5) == pytest.approx(1 - 2 * 1.5 / 4)


def test_expected_dice_loss_at_its_ends() -> None:
    sure = np.array([1.0, 1.0, 0.0])
    assert expected_dice_loss(sure, sure > 0.5) == 0.0
    assert expected_dice_loss(np.zeros(3), np.zeros(3, bool)) == 0.0
    assert expected_dice_loss(np.full(3, 0.4), np.zeros(3, bool)) == 1.0


def test_every_candidate_score_lies_between_zero_and_one() -> None:
    rng = np.random.default_rng(0)
    for segmentation in (rng.random((4, 4, 4)) < 0.3, np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)):
        uncertainty, foreground, plain = rng.random((3, 4, 4, 4)).astype(np.float32)
        for score in region_scores(uncertainty, foreground, segmentation, plain).values():
            assert 0 <= score <= 1


def test_the_least_sure_slices_come_first_and_neighbors_are_not_repeated() -> None:
    uncertainty = np.zeros((10, 12, 14), np.float32)
    uncertainty[:, :, 5] = 0.8
    uncertainty[:, :, 6] = 0.7
    uncertainty[:, :, 9] = 0.4
    found = top_slices(uncertainty, 2)
    assert found[0] == {"axis": 2, "index": 5, "score": 1.0}
    assert found[1] == {"axis": 2, "index": 9, "score": 0.5}


def test_a_sure_map_has_no_least_sure_slice() -> None:
    assert top_slices(np.zeros((4, 4, 4), np.float32)) == []


def test_a_summary_is_plain_json_with_the_promised_keys() -> None:
    rng = np.random.default_rng(0)
    uncertainty, foreground = rng.random((2, 6, 7, 8)).astype(np.float32)
    plain = summarize(
        uncertainty, foreground, foreground > 0.5, np.sqrt(foreground), "predictive_entropy", 8
    ).to_dict()
    assert set(json.loads(json.dumps(plain))) == {
        "score",
        "mean_foreground",
        "measure",
        "mc_samples",
        "top_slices",
    }
    assert plain["score"] == expected_dice_loss(np.sqrt(foreground), foreground > 0.5)
    assert len(plain["top_slices"]) == 5
    assert plain["mean_foreground"] == pytest.approx(float(uncertainty[foreground > 0.5].mean()))
    assert all(0 < item["score"] <= 1 for item in plain["top_slices"])


def test_bands_rise_with_the_map() -> None:
    values = np.array([0.0, 0.099, 0.1, 0.39, 0.4, 0.69, 0.71, 1.0], np.float32)
    assert bands(values).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert bands(values).dtype == np.uint8
    assert len(BAND_NAMES) == 3
