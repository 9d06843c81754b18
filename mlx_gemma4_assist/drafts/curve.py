"""A moving average for a whole curve at once."""

from math import sqrt

import numpy as np


class DriftingCurve:
    """A moving average that forgets, for all points of a curve at once: a Kalman filter of a few numbers.

    A plain moving average per point would know nothing of points that are not observed. Here ``covariance`` says how
    points move together: observing one moves the others along by as much as they are bound to it.

    Args:
        mean: the points, before anything is known.
        covariance: how far off they may be, and how much in common.
        forgetting: the share of ``covariance`` by which uncertainty returns to it, each time ``forget`` is called.
    """

    def __init__(self, mean: list[float], covariance: list[list[float]], forgetting: float):
        self.mean = mean
        self._covariance = np.array(covariance)
        self._kept = 1 - forgetting
        self._regained = forgetting * self._covariance

    def observe(self, at: int, surprise: float, variance: float) -> None:
        """Point ``at`` was seen ``surprise`` above its mean, by a look with a noise of this variance."""
        column = self._covariance[at].copy()
        shares = column / (column[at] + variance)
        self.mean = (self.mean + surprise * shares).tolist()
        self._covariance -= shares[:, None] * column

    def forget(self) -> None:
        """Time passes: the means stay, but are trusted less."""
        self._covariance *= self._kept
        self._covariance += self._regained

    def move(self, amount: float, variance: float) -> None:
        """All points together move by ``amount``, and become uncertain by ``variance``."""
        self.mean = [mean + amount for mean in self.mean]
        self._covariance += variance

    def variance(self, at: int) -> float:
        return float(self._covariance[at, at])

    def deviation_between(self, a: int, b: int) -> float:
        """How uncertain the difference of two points is."""
        squares = self._covariance
        return sqrt(max(0.0, squares[a, a] + squares[b, b] - 2 * squares[a, b]))
