"""What was asked for of late, which is likely to be asked for again: tracing a round takes as long as many rounds."""

from collections.abc import Hashable

FORGOTTEN = 1e-3  # a share that is no more than this
PART = 4  # of all that was asked for, "of late" is this part
STAYS = 8  # times that a shape of shelves is asked for before it is traced,
LATELY = 64  # of so many that any was; what was asked for before counts half, and half of that again


class Shares:
    """The share of each kind in what was asked for of late: a moving average.

    The longer things have gone on, the further back "of late" reaches: then a kind that is rare does not look frequent
    because it came three times in a row. A kind that has become frequent is noticed that much later, within a
    twentieth of what there was before it.

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


class Lately:
    """What was asked for lately, and how often."""

    def __init__(self) -> None:
        self._asked = 0
        self._times: dict[Hashable, int] = {}

    def often(self, key: Hashable) -> bool:
        """Whether this was the ``STAYS``-th time; then it is forgotten."""
        self._asked += 1
        if self._asked % LATELY == 0:
            self._times = {other: times // 2 for other, times in self._times.items() if times > 1}
        self._times[key] = self._times.get(key, 0) + 1
        if self._times[key] < STAYS:
            return False
        del self._times[key]
        return True
