"""How many drafts the next round makes. Pure Python: it sees counts and times only.

A round with k drafts emits ``1 + a1 + a1 a2 + ... + a1...ak`` tokens on average, where ``ai`` is the chance that
draft i stands once the drafts before it stood (Leviathan et al. 2023, equation 1, there with one chance for all), and
it takes a time ``ck``. ``AutoDraftLength`` learns both from the rounds themselves and takes the k of the most tokens
per second; k = 0, plain decoding, is a candidate like any other. What is not known well enough is found out by
probes, whose cost is bounded.

Both curves are learned by the same rule, ``DriftingCurve``: a moving average for a whole curve at once. The costs are
learned as logarithms, so that a machine that slows down moves all of them by one amount, also those of lengths that
have not been tried for long; the chances as logits, so that a text that is easier to guess moves all of them.
"""

from dataclasses import dataclass
from math import exp, log, sqrt

from ..errors import InputError
from ..options import MAX_DRAFTS

AUTO_LONGEST = 8

# Costs. Deviations are of logarithms: 0.1 is 10 %.
SLOPE = 0.3  # plain steps that a draft adds, before anything is known; published curves: 0.14 to 0.65
SLOPE_SPREAD = 0.8
COST_BEND = 0.06  # how far one step of the curve may leave the line
COST_LEVEL = 1.0  # how far the machine's speed may move
COST_FORGETTING = 1e-4  # per round
COST_NOISE = 0.1  # of one time; then a moving average of what is seen
LEAST_NOISE = 0.02
NOISE_RATE = 0.03
OUTLIER = 3.0  # deviations beyond which a surprise counts as that many,
MOST_SURPRISE = 0.4  # and what it counts at most: while little is known, deviations are large
LEAST_STEP = 0.05  # plain steps: a draft is not free, whatever noise says; published: 0.03 to draft, 0.03 to verify
MOST_COST = 1e3

# Acceptance. Deviations are of logits.
ACCEPTANCE = 0.6  # before anything is known: enough to try one draft first, not many
ACCEPTANCE_LEVEL = 1.5  # of all positions together
ACCEPTANCE_BEND = 0.39  # from one position to the next
ACCEPTANCE_FORGETTING = 2.5e-3  # per round
LEAST_SPREAD = 0.02  # of a draft's outcome

# A round's time is short: what can wait is not done in each.
FORGET_EVERY = 16  # rounds
LEARN_EVERY = 4  # times of one length, after twice as many in a row
PROBE_EVERY = 4  # rounds, at most

# Probes. Amounts are in plain steps.
OPENING = (0, 0, 0, 0, 1, 1, 1, 1)  # the most drafts of a first session's first rounds: from cheap to dear
PROBE_SHARE = 0.02  # of all time goes into probes at first;
BACK_OFF = 0.75  # each one lost lowers the share by this factor,
MOST_LOSSES = 4  # down to a third: the text may change
PROBE_ROUNDS = 2  # a time means something between rounds of one length only
MOST_PROBED = 1.5  # times what it should take is what a probe is charged with at most: it may include compiling
PROBE_FEE = 0.05  # what a probe costs at least, so that near ties are not probed all the time
MOST_SAVINGS = 2.0
COST_HOPE = 2.0  # deviations by which a length may be cheaper than believed
ACCEPTANCE_HOPE = 1.0

# What an earlier session knew counts as so many rounds: a machine stays the same, a text does not.
REPLAYED_TIMES = 20
REPLAYED_DRAFTS = 0.5
SESSION_NOISE = 0.03  # how much costs differ from session to session
REMEMBERED = 50  # what it counts as in the next one's memory


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


@dataclass(frozen=True)
class Learned:
    """What ``AutoDraftLength`` knows of a pair on a machine, to begin with next time.

    Attributes:
        costs: of a round with 0, 1, ... drafts, in plain steps; the first is 1.
        timed: how many rounds of each length were timed.
        stood: how many drafts stood at the first, second, ... position of a round,
        reached: of how many that followed only drafts that stood.

    Raises:
        ValueError: what cannot have been learned.
    """

    costs: tuple[float, ...]
    timed: tuple[int, ...]
    stood: tuple[int, ...]
    reached: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (2 <= len(self.costs) == len(self.timed) == len(self.stood) + 1 == len(self.reached) + 1):
            raise ValueError("the lengths do not fit each other")
        if len(self.stood) > MAX_DRAFTS:
            raise ValueError(f"more than {MAX_DRAFTS} drafts")
        if any(type(cost) not in (int, float) or not 1 <= cost <= MOST_COST for cost in self.costs):
            raise ValueError("a cost is not a sensible number")
        if any(type(count) is not int or not 0 <= count < 10**9 for count in self.timed + self.stood + self.reached):
            raise ValueError("a count is not a natural number")
        if any(stood > reached for stood, reached in zip(self.stood, self.reached, strict=True)):
            raise ValueError("more drafts stood than were made")


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


class AutoDraftLength:
    """The number of drafts with the most expected tokens per second.

    Deterministic: the same rounds give the same choices. One instance may serve many runs of a pair.

    Args:
        longest: the most drafts of a round.
        learned: what an earlier session knew; its costs count for more than its acceptance.

    Raises:
        InputError: a number of drafts that no round can have.
    """

    def __init__(self, longest: int = AUTO_LONGEST, learned: Learned | None = None):
        if not 1 <= longest <= MAX_DRAFTS:
            raise InputError(f"the longest draft is {longest}, expected 1 to {MAX_DRAFTS}")
        self.longest = longest
        self._acceptance = _unknown_acceptance(longest)
        self._costs = _unknown_costs(longest)
        self._noise = COST_NOISE**2  # variance of the logarithm of a time
        self._timings = 0
        self._timed = [0] * (longest + 1)
        self._stood, self._reached = [0] * longest, [0] * longest

        self._opening = list(reversed(OPENING))
        self._tried: set[int] = set()
        self._previous: tuple[int, float | None] = (0, None)  # the last observed round: its drafts, its time
        self._streak = 0  # rounds of its length before it
        self._rounds = 0
        self._savings = 0.0  # what probes may cost, in plain steps
        self._losses = 0  # probes lost in a row
        self._probe: Probe | None = None
        if learned is not None:
            self._recall(learned)
        self._weigh()

    def choose(self) -> int:
        if self._opening:
            return min(self._best, self._opening.pop())
        if self._probe is None and self._savings >= PROBE_FEE and self._rounds % PROBE_EVERY == 0:
            drafts = self._worth_a_probe()
            if drafts != self._best:
                self._probe = Probe(drafts)
        if self._probe is not None and self._probe.chosen < PROBE_ROUNDS:
            self._probe.chosen += 1
            return self._probe.drafts
        return self._best

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        self._follow_probe(drafted, 1 + sum(accepted) / len(accepted), seconds)
        self._rounds += 1
        if self._rounds % FORGET_EVERY == 0:
            self._acceptance.forget()
            self._costs.forget()
        self._learn_acceptance(drafted, accepted)
        if self._learn_previous_cost(drafted, seconds) or drafted:
            self._weigh()

    def learned(self) -> Learned:
        """What to begin with next time."""
        costs = tuple(min(cost, MOST_COST) for cost in self._cost)
        return Learned(costs, tuple(self._timed), tuple(self._stood), tuple(self._reached))

    def _weigh(self) -> None:
        """Costs in plain steps, expected tokens, and the best length, from both curves as they are now."""
        plain = self._costs.mean[0]
        self._cost, self._tokens = [1.0], [1.0]
        all_stand = 1.0
        for logit, log_cost in zip(self._acceptance.mean, self._costs.mean[1:], strict=True):
            # More drafts never cost less: what noise says to the contrary is ironed out.
            self._cost.append(max(exp(log_cost - plain), self._cost[-1] + LEAST_STEP))
            all_stand *= _chance(logit)
            self._tokens.append(self._tokens[-1] + all_stand)
        values = [tokens / cost for tokens, cost in zip(self._tokens, self._cost, strict=True)]
        self._value = max(values)  # tokens per plain step
        self._best = values.index(self._value)

    def _worth_a_probe(self) -> int:
        """The cheapest length that the savings can pay and that may be better than the best; the best if there is none.

        A length may be better by what is uncertain about it, and only that: acceptance at positions which rounds of the
        best length do not reach, and its cost relative to theirs.
        """
        cheapest, price = self._best, self._savings
        all_stand, hoped = 1.0, 1.0
        for drafts in range(self.longest + 1):
            if drafts > 0:
                logit = self._acceptance.mean[drafts - 1]
                if drafts > self._best:
                    logit += ACCEPTANCE_HOPE * sqrt(self._acceptance.variance(drafts - 1))
                all_stand *= _chance(logit) if self._best else 1.0
                hoped += all_stand
            loss = PROBE_ROUNDS * (self._cost[drafts] - self._tokens[drafts] / self._value)
            if drafts == self._best or loss > price:
                continue
            hoped_cost = self._cost[drafts] * exp(-COST_HOPE * self._costs.deviation_between(drafts, self._best))
            if hoped / hoped_cost > self._value:
                cheapest, price = drafts, loss
        return cheapest

    def _follow_probe(self, drafted: int, emitted: float, seconds: float | None) -> None:
        """Charge a probe with the time that it lost against the best length, in plain steps, and save for the next.

        A probe that gained pays for another at once; lost ones make the next ever rarer. It is charged with the time
        that it took, not with what it should have taken: changing the length costs too. The time of the round before
        holds a part of it.
        """
        if (probe := self._probe) is not None:
            probe.age += 1
            if drafted == probe.drafts:
                if probe.seen == 0:
                    before, its_seconds = self._previous
                    self._charge(probe, before, self._cost[before], its_seconds)
                probe.seen += 1
                self._charge(probe, drafted, emitted / self._value, seconds)
            # The run may have ended before, or the rounds been given other numbers.
            if probe.seen == PROBE_ROUNDS or probe.age > PROBE_ROUNDS + 2:
                self._savings += probe.gain - PROBE_FEE
                self._losses = 0 if probe.gain > 0 else min(self._losses + 1, MOST_LOSSES)
                self._probe = None
        share = PROBE_SHARE * BACK_OFF**self._losses
        self._savings = min(self._savings + share * self._cost[drafted], MOST_SAVINGS)

    def _charge(self, probe: Probe, drafted: int, worth: float, seconds: float | None) -> None:
        cost = self._cost[drafted]
        probe.worth += worth
        probe.expected += cost
        timed = seconds is not None and seconds > 0 and self._timings > 0
        probe.taken += seconds / exp(self._costs.mean[0]) if timed and seconds else cost

    def _learn_acceptance(self, drafted: int, accepted: list[int]) -> None:
        for at in range(drafted):
            reached = sum(count >= at for count in accepted)
            if not reached:
                break
            stood = sum(count > at for count in accepted)
            self._reached[at] += reached
            self._stood[at] += stood
            _observe_drafts(self._acceptance, at, stood / reached, reached)

    def _learn_previous_cost(self, drafted: int, seconds: float | None) -> bool:
        """Learn from the time of the round before this one, if both are of one length.

        The host reads a round while the next is under way, and submitting that one may have waited for a part of it to
        be done, so that a time between two reads is of both. The first time of a length may include compiling it,
        that of a run the end of its prompt.
        Returns whether there was something to learn: in a long row of one length only every few rounds.
        """
        before, its_seconds = self._previous
        self._previous = drafted, seconds
        self._streak = self._streak + 1 if before == drafted else 0
        thinned = self._streak > 2 * LEARN_EVERY and self._streak % LEARN_EVERY > 0
        if self._streak == 0 or thinned or its_seconds is None or its_seconds <= 0:
            return False
        if drafted not in self._tried:
            self._tried.add(drafted)
            return False
        self._learn_cost(drafted, its_seconds)
        return True

    def _learn_cost(self, drafted: int, seconds: float) -> None:
        surprise = log(seconds) - self._costs.mean[drafted]
        if self._timings == 0:  # costs are in plain steps yet
            self._costs.move(surprise, 0)
            surprise = 0.0
        limit = OUTLIER * sqrt(self._costs.variance(drafted) + self._noise)
        if surprise < -limit:  # nothing makes a round too short: the machine is faster than it seemed
            self._costs.move(surprise + limit, 0)
        surprise = max(-limit, min(surprise, limit, MOST_SURPRISE))
        self._timings += 1
        noise = max(surprise**2 - self._costs.variance(drafted), LEAST_NOISE**2)
        self._costs.observe(drafted, surprise, self._noise)
        self._noise += max(NOISE_RATE, 1 / (self._timings + 2)) * (noise - self._noise)
        self._timed[drafted] += 1

    def _recall(self, learned: Learned) -> None:
        """Replay what was learned as if a few rounds had shown it. The machine's speed of that time does not count."""
        for drafts, (cost, timed) in enumerate(zip(learned.costs, learned.timed, strict=True)):
            if timed and drafts <= self.longest:
                variance = SESSION_NOISE**2 + COST_NOISE**2 / min(timed, REPLAYED_TIMES)
                self._costs.observe(drafts, log(cost) - self._costs.mean[drafts], variance)
                self._timed[drafts] = min(timed, REMEMBERED)
        self._costs.move(0, COST_LEVEL**2)
        if learned.timed[0]:
            self._opening = []
        for at, (stood, reached) in enumerate(zip(learned.stood, learned.reached, strict=True)):
            if reached and at < self.longest:
                _observe_drafts(self._acceptance, at, stood / reached, min(reached, REPLAYED_DRAFTS))
                self._reached[at] = min(reached, REMEMBERED)
                self._stood[at] = round(stood / reached * self._reached[at])


def _chance(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def _observe_drafts(acceptance: DriftingCurve, at: int, rate: float, drafts: float) -> None:
    """Of so many drafts at a position this share stood: one step of logistic regression, by the filter's rule.

    Near 0 and 1 single drafts say little about a logit; the bound keeps one draft from moving it too far.
    """
    chance = _chance(acceptance.mean[at])
    spread = max(chance * (1 - chance), LEAST_SPREAD)
    acceptance.observe(at, (rate - chance) / spread, 1 / (drafts * spread))


def _unknown_acceptance(longest: int) -> DriftingCurve:
    """One chance for all positions, uncertain; from one to the next it may change a little."""
    places = range(longest)
    covariance = [[ACCEPTANCE_LEVEL**2 + ACCEPTANCE_BEND**2 * min(i, j) for j in places] for i in places]
    mean = [log(ACCEPTANCE / (1 - ACCEPTANCE))] * longest
    return DriftingCurve(mean, covariance, ACCEPTANCE_FORGETTING * FORGET_EVERY)


def _unknown_costs(longest: int) -> DriftingCurve:
    """``log(1 + SLOPE k)``: neither the machine's speed nor the slope are known, and the line may bend."""
    lengths = range(longest + 1)
    by_slope = [SLOPE_SPREAD * SLOPE * k / (1 + SLOPE * k) for k in lengths]  # how far a deviation of the slope moves k
    covariance = [
        [COST_LEVEL**2 + by_slope[i] * by_slope[j] + COST_BEND**2 * min(i, j) for j in lengths] for i in lengths
    ]
    return DriftingCurve([log(1 + SLOPE * k) for k in lengths], covariance, COST_FORGETTING * FORGET_EVERY)
