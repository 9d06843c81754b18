"""What rounds cost, learned from noisy times that come a round late.

The costs are learned as logarithms, so that a machine that slows down moves all of them by one amount, also those of
lengths that have not been tried for long.
"""

from math import exp, log, sqrt

from .curve import DriftingCurve

# Deviations are of logarithms: 0.1 is 10 %.
SLOPE = 0.3  # plain steps that a draft adds, before anything is known; published curves: 0.14 to 0.65
SLOPE_SPREAD = 0.8
COST_BEND = 0.06  # how far one step of the curve may leave the line
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

LEARN_EVERY = 4  # times of one kind, after twice as many in a row: a round's time is short
REPLAYED_TIMES = 20  # what an earlier session knew counts as so many rounds: a machine stays the same
SESSION_NOISE = 0.03  # how much costs differ from session to session


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
        Returns whether there was something to learn: in a long row of one kind only every few rounds.
        """
        before, its_seconds = self._previous
        self._previous = kind, seconds
        self._streak = self._streak + 1 if before == kind else 0
        thinned = self._streak > 2 * LEARN_EVERY and self._streak % LEARN_EVERY > 0
        if self._streak == 0 or thinned or its_seconds is None or its_seconds <= 0:
            return False
        if kind not in self._tried:
            self._tried.add(kind)
            return False
        self._learn(kind, its_seconds)
        return True

    def replay(self, kind: int, cost: float, timed: int) -> None:
        """Some rounds of an earlier session took ``cost``, in the curve's unit. Its speed does not count."""
        variance = SESSION_NOISE**2 + COST_NOISE**2 / min(timed, REPLAYED_TIMES)
        self._curve.observe(kind, log(cost) - self._curve.mean[kind], variance)

    def forget(self) -> None:
        """Time passes."""
        self._curve.forget()

    def forget_speed(self) -> None:
        """The machine may be another one, or do other things."""
        self._curve.move(0, COST_LEVEL**2)

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


def unknown_costs(longest: int, forget_every: int) -> DriftingCurve:
    """``log(1 + SLOPE k)``: neither the machine's speed nor the slope are known, and the line may bend."""
    lengths = range(longest + 1)
    by_slope = [SLOPE_SPREAD * SLOPE * k / (1 + SLOPE * k) for k in lengths]  # how far a deviation of the slope moves k
    covariance = [
        [COST_LEVEL**2 + by_slope[i] * by_slope[j] + COST_BEND**2 * min(i, j) for j in lengths] for i in lengths
    ]
    return DriftingCurve([log(1 + SLOPE * k) for k in lengths], covariance, COST_FORGETTING * forget_every)
