"""A moving average for a whole curve at once."""

from copy import copy
from math import sqrt

import numpy as np

LEAST_SCALE = 1e-3  # below it numbers would lose digits


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
        self._forgetting = forgetting
        # Matrices are flat, and what is computed has its place. Between two rounds, where all is cold, broadcasting or
        # new memory take ten times as long as the numbers do. The covariance is a sum, so that forgetting is cheap: of
        # what was learned, times a scale, and a share of what was there before anything was known.
        points = len(mean)
        self._unknown = np.array(covariance).reshape(-1)
        self._learned, self._scale, self._share = self._unknown.copy(), 1.0, 0.0
        self._row_of, self._column_of = np.divmod(np.arange(points * points), points)
        self._shares, self._columns = np.zeros(points * points), np.zeros(points * points)

    def copy(self) -> "DriftingCurve":
        """One that knows as much, and learns by itself."""
        other = copy(self)  # the lists are never changed in place, and what is computed in is nobody's
        other._learned = self._learned.copy()
        return other

    def observe(self, at: int, surprise: float, variance: float) -> None:
        """Point ``at`` was seen ``surprise`` above its mean, by a look with a noise of this variance."""
        points = len(self.mean)
        row = slice(at * points, (at + 1) * points)
        column = self._scale * self._learned[row]
        column += self._share * self._unknown[row]
        shares = column / (column[at] + variance)
        self.mean = [mean + surprise * share for mean, share in zip(self.mean, shares.tolist(), strict=True)]
        column /= self._scale
        shares.take(self._row_of, out=self._shares, mode="clip")
        column.take(self._column_of, out=self._columns, mode="clip")
        self._shares *= self._columns
        self._learned -= self._shares

    def forget(self) -> None:
        """Time passes: the means stay, but are trusted less."""
        kept = 1 - self._forgetting
        self._scale, self._share = kept * self._scale, kept * self._share + self._forgetting
        if self._scale < LEAST_SCALE:
            self._learned *= self._scale
            self._learned += self._share * self._unknown
            self._scale, self._share = 1.0, 0.0

    def move(self, amount: float, variance: float) -> None:
        """All points together move by ``amount``, and become uncertain by ``variance``."""
        self.mean = [mean + amount for mean in self.mean]
        if variance:
            self._learned += variance / self._scale

    def variance(self, at: int) -> float:
        return self._between(at, at)

    def deviation_between(self, a: int, b: int) -> float:
        """How uncertain the difference of two points is."""
        return sqrt(max(0.0, self._between(a, a) + self._between(b, b) - 2 * self._between(a, b)))

    def _between(self, a: int, b: int) -> float:
        place = a * len(self.mean) + b
        return self._scale * float(self._learned[place]) + self._share * float(self._unknown[place])
