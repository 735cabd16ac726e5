"""The score of the pool is the score of a reply, and the features are means of the bottleneck."""

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import FP32, ball_case, tiny_config
from ugmcl import case_score
from ugmcl.bottleneck import FeaturePool
from ugmcl.case_score import score_case
from ugmcl.checkpoint import Checkpoint
from ugmcl.inference import Predictor
from ugmcl.network import DualTaskVNet


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    config = tiny_config()
    return Predictor(Checkpoint.of(DualTaskVNet(config.network), config), precision=FP32)


def test_the_score_equals_that_of_a_reply(predictor: Predictor) -> None:
    scan, _ = ball_case("one")
    summary = predictor.predict(scan).summary
    assert summary is not None
    assert score_case(predictor, scan).score == summary.score


def test_a_score_that_needs_dropout_passes_gets_them(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, _ = ball_case("one")
    for module in ("ugmcl.uncertainty.SCORE", "ugmcl.case_score.SCORE"):
        monkeypatch.setattr(module, "expected_dice_loss")
    assert case_score.SCORE == "expected_dice_loss"
    summary = predictor.predict(scan).summary
    assert summary is not None
    assert score_case(predictor, scan).score == summary.score


def test_features_are_one_finite_vector_and_change_nothing_else(predictor: Predictor) -> None:
    scan, _ = ball_case("one")
    plain, pooled = predictor.predict(scan), predictor.predict(scan, features=True)
    assert plain.features is None
    assert pooled.features is not None
    assert pooled.features.shape == (8,)
    assert pooled.features.dtype == np.float32
    assert np.isfinite(pooled.features).all()
    assert np.array_equal(plain.labels, pooled.labels)
    assert np.array_equal(plain.probs, pooled.probs)
    other = predictor.predict(ball_case("another")[0], features=True).features
    assert other is not None
    assert not np.array_equal(other, pooled.features)


def test_the_mean_is_weighted_by_the_foreground() -> None:
    bottleneck = torch.tensor([[1.0, 3.0], [10.0, 50.0]]).reshape(1, 2, 2, 1, 1)
    # Two voxels of the image lie on each of the bottleneck: mean foreground 1/4 and 3/4.
    foreground = torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(1, 1, 4, 1, 1)
    pool = FeaturePool()
    pool.add(bottleneck, foreground)
    assert pool.vector() == pytest.approx([2.5, 40.0])


def test_windows_add_up() -> None:
    pool = FeaturePool()
    pool.add(torch.full((2, 1, 1, 1, 1), 2.0), torch.ones(2, 1, 2, 2, 2))
    pool.add(torch.full((1, 1, 1, 1, 1), 8.0), torch.ones(1, 1, 2, 2, 2))
    assert pool.vector() == pytest.approx([4.0])
    pool.clear()
    pool.add(torch.full((1, 1, 1, 1, 1), 8.0), torch.ones(1, 1, 2, 2, 2))
    assert pool.vector() == pytest.approx([8.0])


def test_a_scan_without_foreground_is_described_by_all_of_it() -> None:
    pool = FeaturePool()
    pool.add(torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1, 1), torch.zeros(1, 1, 4, 1, 1))
    assert pool.vector() == pytest.approx([2.0])


def test_no_window_gives_no_features() -> None:
    with pytest.raises(ValueError, match="No window was pooled"):
        FeaturePool().vector()
