"""What rounds cost, learned from noisy times that come a round late.

The costs are learned as logarithms, so that a machine that slows down moves all of them by one amount, also those of
lengths that have not been tried for long.
"""

from collections import deque
from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import median

from .curve import DriftingCurve

# Deviations are of logarithms: 0.1 is 10 %.
SLOPE = 0.3  # plain steps that a draft adds, before anything is known; published curves: 0.14 to 0.65
SLOPE_SPREAD = 0.8
COST_BEND = 0.06  # how far one step of the curve may leave the line
SLOTS_LEVEL = 0.15  # how far a doubling of the slots may leave what the number of positions says, for any drafts,
SLOTS_SLOPE = 0.15  # and in what drafts add
BEND_IN_COMMON = 0.7  # of a bend of the curve over drafts, with twice the slots
COST_LEVEL = 1.0  # how far the machine's speed may move
COST_FORGETTING = 1e-4  # per round
COST_NOISE = 0.1  # of one time; then a moving average of what is seen
COST_HOPE = 2.0  # deviations by which a length may be cheaper than believed
LEAST_NOISE = 0.02
NOISE_RATE = 0.03
OUTLIER = 3.0  # deviations beyond which a surprise counts as that many,
MOST_SURPRISE = 0.4  # and what it counts at most: while little is known, deviations are large
LEAST_STEP = 0.05  # plain steps: a draft is not free, whatever noise says; published: 0.03 to draft, 0.03 to verify
MOST_COST = 1e3

# A round's time is short: behind so many times of a kind, one of so many in a row is learned from,
LEARN_EVERY = ((64, 64), (32, 8))
SETTLED = 2  # from this one on: the first ones hold what the host does about rounds of another kind
REPLAYED_TIMES = 20  # what an earlier session knew counts as so many rounds: a machine stays the same
SESSION_NOISE = 0.03  # how much costs differ from session to session
REMEMBERED = 50  # what a session counts as in the next one's memory, at most


class Costs:
    """The logarithms of the times of all kinds of rounds.

    Args:
        curve: a point for each kind of round, in any unit until a first time is known.

    Attributes:
        timed: how many rounds of each kind were timed.
        known: whether any was, so that the curve is of seconds.
    """

    def __init__(self, curve: DriftingCurve):
        self.timed = [0] * len(curve.mean)
        self.known = False
        self._curve = curve
        self._noise = COST_NOISE**2  # variance of the logarithm of a time
        self._timings = 0
        self._tried: set[int] = set()
        self._previous: tuple[int | None, float | None] = (0, None)  # the last observed round: its kind, its time
        self._streak = 0  # rounds of its kind before it
        self._passed_over: deque[float] = deque(maxlen=3)  # the last times of its kind that were not learned from

    def seconds(self, kind: int) -> float | None:
        """Of a round, None while nothing is known of this machine."""
        return exp(self._curve.mean[kind]) if self.known else None

    def in_plain_steps(self, plain: int, longest: int) -> list[float]:
        """Costs of kinds ``plain`` to ``plain + longest`` over that of kind ``plain``.

        More drafts never cost less: what noise says to the contrary is ironed out.
        """
        costs = [1.0]
        for log_cost in self._curve.mean[plain + 1 : plain + longest + 1]:
            costs.append(max(exp(log_cost - self._curve.mean[plain]), costs[-1] + LEAST_STEP))
        return costs

    def hope(self, kind: int, best: int) -> float:
        """The factor by which a kind may be cheaper than believed, relative to kind ``best``."""
        return exp(-COST_HOPE * self._curve.deviation_between(kind, best))

    def observe(self, kind: int, seconds: float | None) -> bool:
        """Learn from the time of the round before this one, if both are of one kind.

        The host reads a round while the next is under way, and submitting that one may have waited for a part of it to
        be done, so that a time between two reads is of both. The first time of a kind may include compiling it, that
        of a run the end of its prompt.
        Returns whether there was something to learn: the better a kind is known, the more rarely.
        """
        before, its_seconds = self._previous
        self._previous = kind, seconds
        if before != kind:
            self._streak = 0
            return before is not None and self._learn_from_passed_over(before)
        self._streak += 1
        if its_seconds is None or its_seconds <= 0:
            return False
        if kind not in self._tried:
            self._tried.add(kind)
            return False
        every = self._every(kind)
        if every > 1 and self._streak % every != SETTLED:
            if self._streak >= SETTLED:
                self._passed_over.append(its_seconds)
            return False
        self._passed_over.clear()
        self._learn(kind, its_seconds)
        return True

    def _learn_from_passed_over(self, kind: int) -> bool:
        """How fast the machine is now, so that another kind's times are held against that, not against a while ago."""
        if not self._passed_over:
            return False
        self._learn(kind, median(self._passed_over))
        self._passed_over.clear()
        return True

    def rounds_to_learn(self, kind: int) -> int:
        """After how many more rounds of a kind there may be something to learn, from one of them or the first."""
        every = self._every(kind)
        if self._previous[0] != kind or every == 1:
            return 1
        return every - (self._streak - SETTLED) % every

    def _every(self, kind: int) -> int:
        return next((every for times, every in LEARN_EVERY if self.timed[kind] >= times), 1)

    def interrupt(self) -> None:
        """A round of no kind was between: neither its time nor the next one's says anything."""
        self._previous, self._streak = (None, None), 0
        self._passed_over.clear()

    def recall(self, costs: Sequence[float], timed: Sequence[int]) -> None:
        """Replay what an earlier session knew of the first kinds as if a few rounds had shown it.

        Args:
            costs: in plain steps. The machine's speed of that time does not count.
            timed: how many rounds of each kind these are of.
        """
        for kind, (cost, times) in enumerate(zip(costs, timed, strict=True)):
            if times:
                variance = SESSION_NOISE**2 + COST_NOISE**2 / min(times, REPLAYED_TIMES)
                self._curve.observe(kind, log(cost) - self._curve.mean[kind], variance)
                self.timed[kind] = min(times, REMEMBERED)
        self._curve.move(0, COST_LEVEL**2)

    def forget(self) -> None:
        """Time passes."""
        self._curve.forget()

    def _learn(self, kind: int, seconds: float) -> None:
        surprise = log(seconds) - self._curve.mean[kind]
        if not self.known:  # costs are in plain steps yet
            self._curve.move(surprise, 0)
            self.known, surprise = True, 0.0
        variance = self._curve.variance(kind)
        limit = OUTLIER * sqrt(variance + self._noise)
        if surprise < -limit:  # nothing makes a round too short: the machine is faster than it seemed
            self._curve.move(surprise + limit, 0)
        surprise = max(-limit, min(surprise, limit, MOST_SURPRISE))
        self._timings += 1
        noise = max(surprise**2 - variance, LEAST_NOISE**2)
        self._curve.observe(kind, surprise, self._noise)
        self._noise += max(NOISE_RATE, 1 / (self._timings + 2)) * (noise - self._noise)
        self.timed[kind] += 1


def unknown_costs(longest: int, forget_every: int, slots: Sequence[int] = (1,)) -> DriftingCurve:
    """``log(1 + SLOPE (s (k + 1) - 1))`` for k drafts in s slots: a round costs what its positions cost.

    The points are those of 0 to ``longest`` drafts in the first number of slots, then those in the next. Neither the
    machine's speed nor the slope are known, the line may bend, and each number of slots, twice the one before, may
    leave it: plain rounds with more rows tell something of drafts, and drafts of few rows of those of many.
    """
    kinds = [(place, k, number * (k + 1) - 1) for place, number in enumerate(slots) for k in range(longest + 1)]
    # How far a deviation of the slope moves a kind: of all positions, and of the drafts' alone.
    by_slope = [SLOPE_SPREAD * SLOPE * more / (1 + SLOPE * more) for _, _, more in kinds]
    by_drafts = [SLOTS_SLOPE * SLOPE * slots[at] * k / (1 + SLOPE * more) for at, k, more in kinds]
    covariance = [
        [
            COST_LEVEL**2
            + by_slope[a] * by_slope[b]
            + COST_BEND**2 * min(i, j) * BEND_IN_COMMON ** abs(at - other)
            + min(at, other) * (SLOTS_LEVEL**2 + by_drafts[a] * by_drafts[b])
            for b, (other, j, _) in enumerate(kinds)
        ]
        for a, (at, i, _) in enumerate(kinds)
    ]
    return DriftingCurve([log(1 + SLOPE * more) for _, _, more in kinds], covariance, COST_FORGETTING * forget_every)
