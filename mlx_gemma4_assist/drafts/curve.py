"""A moving average for a whole curve at once."""

from math import sqrt


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
        self._covariance = covariance
        self._kept = 1 - forgetting
        self._regained = [[forgetting * value for value in row] for row in covariance]

    def observe(self, at: int, surprise: float, variance: float) -> None:
        """Point ``at`` was seen ``surprise`` above its mean, by a look with a noise of this variance."""
        column = self._covariance[at]
        total = column[at] + variance
        shares = [value / total for value in column]
        self.mean = [mean + surprise * share for mean, share in zip(self.mean, shares, strict=True)]
        self._covariance = [
            [value - share * other for value, other in zip(row, column, strict=True)]
            for row, share in zip(self._covariance, shares, strict=True)
        ]

    def forget(self) -> None:
        """Time passes: the means stay, but are trusted less."""
        kept = self._kept
        self._covariance = [
            [kept * value + regained for value, regained in zip(row, regained_row, strict=True)]
            for row, regained_row in zip(self._covariance, self._regained, strict=True)
        ]

    def move(self, amount: float, variance: float) -> None:
        """All points together move by ``amount``, and become uncertain by ``variance``."""
        self.mean = [mean + amount for mean in self.mean]
        self._covariance = [[value + variance for value in row] for row in self._covariance]

    def variance(self, at: int) -> float:
        return self._covariance[at][at]

    def deviation_between(self, a: int, b: int) -> float:
        """How uncertain the difference of two points is."""
        rows = self._covariance
        return sqrt(max(0.0, rows[a][a] + rows[b][b] - 2 * rows[a][b]))
