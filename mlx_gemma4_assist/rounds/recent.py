"""What was asked for of late, which is likely to be asked for again: tracing a round takes as long as many rounds."""

from collections.abc import Hashable

PART = 2  # of all that was asked for, "of late" is this part
FORGOTTEN = 1e-3  # a share that is no more than this


class Shares:
    """The share of each kind in what was asked for of late: a moving average.

    The longer things have gone on, the further back "of late" reaches: then a kind that is rare does not look frequent
    because it came three times in a row. A kind that has become frequent is noticed that much later, within
    an eighth of what there was before it.

    Args:
        least, most: how many things "of late" are, at first and at most.
        before: so many things of no kind are taken to have been asked for.
    """

    def __init__(self, least: int, most: int, before: int = 0):
        self._least, self._most = least, most
        self._asked = before
        self._shares: dict[Hashable, float] = {}

    def add(self, kind: Hashable) -> float:
        """One more was asked for; the share of its kind, at most 1."""
        self._asked += 1
        weight = 1 / min(max(self._least, self._asked // PART), self._most, self._asked)
        left = ((other, share * (1 - weight)) for other, share in self._shares.items())
        self._shares = {other: share for other, share in left if share > FORGOTTEN}
        self._shares[kind] = self._shares.get(kind, 0.0) + weight
        return self._shares[kind]

    def of(self, kind: Hashable) -> float:
        return self._shares.get(kind, 0.0)
