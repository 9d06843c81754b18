"""A moving average of a whole curve is the Kalman filter of its matrices, however they are kept."""

import random

import numpy as np
import pytest

from mlx_gemma4_assist.drafts.curve import DriftingCurve

POINTS = 5


def unknown() -> np.ndarray:
    return 2.25 + 0.15 * np.minimum.outer(np.arange(POINTS), np.arange(POINTS)) + 0.01 * np.eye(POINTS)


class Matrices:
    """The same filter, written as one reads it."""

    def __init__(self, forgetting: float):
        self.mean, self.covariance, self.forgetting = np.zeros(POINTS), unknown(), forgetting

    def observe(self, at: int, surprise: float, variance: float) -> None:
        column = self.covariance[at].copy()
        gain = column / (column[at] + variance)
        self.mean = self.mean + surprise * gain
        self.covariance -= np.outer(gain, column)

    def forget(self) -> None:
        self.covariance += self.forgetting * (unknown() - self.covariance)

    def move(self, amount: float, variance: float) -> None:
        self.mean = self.mean + amount
        self.covariance += variance


@pytest.mark.parametrize("forgetting", [0.0, 0.0016, 0.04, 0.5])
def test_is_the_filter(forgetting):
    """Also after so many steps that little of what was learned first is left."""
    rng = random.Random(1)
    curve, filtered = DriftingCurve([0.0] * POINTS, unknown().tolist(), forgetting), Matrices(forgetting)
    for _ in range(2_000):
        step, at, amount, variance = rng.random(), rng.randrange(POINTS), rng.gauss(0, 1), rng.uniform(0.01, 1)
        for each in (curve, filtered):
            if step < 0.4:
                each.forget()
            elif step < 0.42:
                each.move(amount, 0.1 * variance)
            elif step < 0.44:
                each.move(amount, 0)
            else:
                each.observe(at, amount, variance)
        assert curve.mean == pytest.approx(filtered.mean.tolist(), abs=1e-9)
    for a in range(POINTS):
        assert curve.variance(a) == pytest.approx(filtered.covariance[a, a], rel=1e-6)
        for b in range(POINTS):
            between = filtered.covariance[a, a] + filtered.covariance[b, b] - 2 * filtered.covariance[a, b]
            assert curve.deviation_between(a, b) == pytest.approx(max(0.0, between) ** 0.5, abs=1e-6)


def test_a_copy_learns_by_itself():
    curve = DriftingCurve([0.0] * POINTS, unknown().tolist(), 0.1)
    curve.observe(1, 1.0, 0.5)
    other = curve.copy()
    before = curve.mean, [curve.variance(at) for at in range(POINTS)]
    other.observe(3, -2.0, 0.5)
    other.forget()
    other.move(1.0, 1.0)
    assert (curve.mean, [curve.variance(at) for at in range(POINTS)]) == before
    assert other.mean != curve.mean
