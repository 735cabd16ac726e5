"""case_score: how unsure a model is of a scan and what it sees in it, which is what choosing a case takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .inference import Predictor
from .uncertainty import SCORE, expected_dice_loss
from .volume import Volume


class CaseScore(NamedTuple):
    """What the order of the pool depends on.

    Attributes:
        score: In [0, 1], higher = less sure; `uncertainty.SCORE`.
        features: `(filters[-1],)` float32, see `bottleneck.FeaturePool`; of one model, to be compared.
    """

    score: float
    features: NDArray[np.float32]


def score_case(
    predictor: Predictor, scan: Volume, *, mc_samples: int | None = None, seed: int = 0
) -> CaseScore:
    """The score that a reply for the scan has, with the scan's features.

    A score of the pass without dropout needs no other pass, which is most of the time of a reply.

    Args:
        predictor: Holds the model.
        scan: On its file's grid.
        mc_samples: Dropout passes, where the score takes any; the config's when `None`.
        seed: Of their masks.
    """
    if SCORE != "plain_dice_loss":
        prediction = predictor.predict(scan, mc_samples=mc_samples, seed=seed, features=True)
        assert prediction.summary is not None
        score = prediction.summary.score
    else:
        prediction = predictor.predict(scan, uncertainty=False, features=True)
        plain = 1.0 - prediction.probs[0].clip(0.0, 1.0)
        score = expected_dice_loss(plain, prediction.labels > 0)
    assert prediction.features is not None
    return CaseScore(float(score), prediction.features)
