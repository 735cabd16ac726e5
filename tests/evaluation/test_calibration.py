"""A known temperature and a known share of errors are found again; order never changes."""

import numpy as np
import pytest
from scipy.special import expit, logit

from server.evaluation.calibration import fit_platt, fit_temperature
from server.evaluation.error_counts import ErrorCounts, ece


def with_error_rate(values: np.ndarray, rate: np.ndarray, voxels: int = 100_000) -> ErrorCounts:
    errors = np.rint(rate * voxels).astype(np.int64)
    return ErrorCounts(values, errors, np.full(len(values), voxels))


VALUES = np.linspace(0.02, 0.5, 25)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    counts = with_error_rate(VALUES, expit(logit(VALUES) / temperature))
    scaling = fit_temperature(counts)
    assert scaling is not None
    assert 1.0 / scaling.slope == pytest.approx(temperature, rel=1e-3)
    assert ece(counts.with_values(scaling.apply(counts.values))) == pytest.approx(0.0, abs=1e-4)


def test_slope_and_offset_are_found() -> None:
    scaling = fit_platt(with_error_rate(VALUES, expit(2.0 * logit(VALUES) - 1.0)))
    assert scaling is not None
    assert (scaling.slope, scaling.offset) == pytest.approx((2.0, -1.0), rel=0.02)


def test_a_measure_worse_than_chance_becomes_the_share_of_errors() -> None:
    scaling = fit_platt(with_error_rate(VALUES, expit(-logit(VALUES) - 2.0)))
    assert scaling is not None
    assert scaling.slope == pytest.approx(0.0, abs=1e-6)


def test_scaling_keeps_the_order_and_stays_inside_the_unit_interval() -> None:
    scaling = fit_platt(with_error_rate(VALUES, VALUES / 2))
    assert scaling is not None
    scaled = scaling.apply(np.linspace(0, 1, 11))
    assert np.all(np.diff(scaled[1:-1]) > 0)
    assert 0 < scaled.min() < scaled.max() < 1


def test_without_errors_nothing_is_fitted() -> None:
    right = with_error_rate(VALUES, np.zeros(len(VALUES)))
    assert fit_temperature(right) is None
    assert fit_platt(right) is None
