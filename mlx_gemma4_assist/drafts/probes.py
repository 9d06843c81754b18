"""Rounds of another length than the best, to find out what is not known well enough. Amounts are in plain steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

# The most drafts of a first session's first rounds: from cheap to dear.
OPENING = (0, 0, 0, 0, 1, 1, 1, 1)
PROBE_EVERY = 4  # rounds, at most: a round's time is short
PROBE_SHARE = 0.02  # of all time goes into probes at first;
BACK_OFF = 0.75  # each one lost lowers the share by this factor,
MOST_LOSSES = 4  # down to a third: the text may change
PROBE_ROUNDS = 2  # a time means something between rounds of one length only
MOST_PROBED = 1.5  # times what it should take is what a probe is charged with at most: it may include compiling
PROBE_FEE = 0.05  # what a probe costs at least, so that near ties are not probed all the time
MOST_SAVINGS = 2.0
LEAST_GAIN = 0.02  # of plain rounds: what gains less is not worth changing to and fro, which costs more than times tell


class Belief:
    """What rounds with 0, 1, ... drafts cost and give.

    Attributes:
        costs: in plain steps; the first is 1.
        tokens: as expected.
        value: tokens per plain step of the best length; of plain rounds those that drafts would have to make,
        best: which that is.
    """

    def __init__(self, costs: list[float], tokens: list[float]):
        self.costs, self.tokens = costs, tokens
        values = [gained / cost for gained, cost in zip(tokens, costs, strict=True)]
        values[0] *= 1 + LEAST_GAIN
        self.value = max(values)
        self.best = values.index(self.value)


@dataclass
class Probe:
    """Some rounds of another length than the best: how many of them were chosen, how many observed, how many rounds of
    any length observed since; in plain steps, what they were worth, what they should have taken, and what they took."""

    drafts: int
    chosen: int = 0
    seen: int = 0
    age: int = 0
    worth: float = 0.0
    expected: float = 0.0
    taken: float = 0.0

    @property
    def gain(self) -> float:
        return self.worth - min(self.taken, MOST_PROBED * self.expected)


class Probes:
    """Chooses between the best length and what may be better, and keeps account of what that costs.

    Args:
        opening: the most drafts of the first rounds.
    """

    def __init__(self, opening: Sequence[int] = OPENING) -> None:
        self._opening = list(reversed(opening))
        self._previous: tuple[int, float | None] = (0, None)  # the last observed round: its drafts, its time
        self._rounds = 0
        self._savings = 0.0  # what probes may cost
        self._losses = 0  # probes lost in a row
        self._probe: Probe | None = None

    def choose(self, belief: Belief, hoped: Callable[[], list[float]]) -> int:
        """Drafts of the next round; ``hoped`` tells the tokens per plain step that each length may have at best."""
        if self._opening:
            return min(belief.best, self._opening.pop())
        may_probe = self._probe is None and self._savings >= PROBE_FEE and self._rounds % PROBE_EVERY == 0
        if may_probe and (better := self._worth_a_probe(belief, hoped, self._savings)):
            self._probe = Probe(min(better, key=better.__getitem__))
        if self._probe is not None and self._probe.chosen < PROBE_ROUNDS:
            self._probe.chosen += 1
            return self._probe.drafts
        return belief.best

    def rounds_to_probe(self, belief: Belief, hoped: Callable[[], list[float]], most: int) -> int:
        """After how many more plain rounds, which are the best, another length may be chosen; ``most`` if none is
        before."""
        if self._opening or self._probe is not None:
            return 1
        rounds, savings = self._rounds, self._savings
        better = self._worth_a_probe(belief, hoped, savings + most * self._share)
        price = max(PROBE_FEE, min(better.values(), default=inf))
        for more in range(1, most):
            rounds, savings = rounds + 1, min(savings + self._share, MOST_SAVINGS)
            if savings >= price and rounds % PROBE_EVERY == 0:
                return more
        return most

    def observe(self, belief: Belief, drafted: int, emitted: float, seconds: float | None, plain: float | None) -> None:
        """Charge a probe with the time that it lost against the best length, and save for the next.

        A probe that gained pays for another at once; lost ones make the next ever rarer. It is charged with the time
        that it took, not with what it should have taken: changing the length costs too. The time of the round before
        holds a part of it.

        Args:
            belief: as the round was observed.
            drafted: its drafts.
            emitted: its tokens.
            seconds: its time,
            plain: that of a plain step; None if they are not known.
        """
        if (probe := self._probe) is not None:
            probe.age += 1
            if drafted == probe.drafts:
                if probe.seen == 0:
                    before, its_seconds = self._previous
                    _charge(probe, belief.costs[before], belief.costs[before], its_seconds, plain)
                probe.seen += 1
                _charge(probe, belief.costs[drafted], emitted / belief.value, seconds, plain)
            # The run may have ended before, or the rounds been given other numbers.
            if probe.seen == PROBE_ROUNDS or probe.age > PROBE_ROUNDS + 2:
                self._savings += probe.gain - PROBE_FEE
                self._losses = 0 if probe.gain > 0 else min(self._losses + 1, MOST_LOSSES)
                self._probe = None
        self._savings = min(self._savings + self._share * belief.costs[drafted], MOST_SAVINGS)
        self._previous = drafted, seconds
        self._rounds += 1

    def coast(self, rounds: int, seconds: float | None) -> None:
        """The same for so many plain rounds in a row, while nothing is probed; ``seconds`` is the last one's time."""
        for _ in range(rounds):
            self._savings = min(self._savings + self._share, MOST_SAVINGS)
        self._previous = 0, seconds
        self._rounds += rounds

    @property
    def _share(self) -> float:
        return PROBE_SHARE * BACK_OFF**self._losses

    @staticmethod
    def _worth_a_probe(belief: Belief, hoped: Callable[[], list[float]], savings: float) -> dict[int, float]:
        """The lengths that savings can pay and that may be better than the best, and what it costs to probe them."""
        each = enumerate(zip(belief.costs, belief.tokens, strict=True))
        losses = {drafts: PROBE_ROUNDS * (cost - tokens / belief.value) for drafts, (cost, tokens) in each}
        payable = {drafts: loss for drafts, loss in losses.items() if loss <= savings and drafts != belief.best}
        if not payable:  # most often: what may be hoped for takes longer to tell
            return {}
        hopes = hoped()
        return {drafts: loss for drafts, loss in payable.items() if hopes[drafts] > belief.value}


def _charge(probe: Probe, cost: float, worth: float, seconds: float | None, plain: float | None) -> None:
    probe.worth += worth
    probe.expected += cost
    timed = seconds is not None and plain is not None and seconds > 0
    probe.taken += seconds / plain if timed and seconds and plain else cost
