"""How many drafts the next round makes. Pure Python: it sees counts and times only.

A round with k drafts emits ``1 + a1 + a1 a2 + ... + a1...ak`` tokens on average, where ``ai`` is the chance that
draft i stands once the drafts before it stood, and it takes a time ``ck``. ``AutoDraftLength`` learns both from the
rounds themselves and takes the k of the most tokens per second; k = 0, plain decoding, is a candidate like any other.
What is not known well enough is found out by probes, whose cost is bounded.

Both curves are learned by the same rule, ``DriftingCurve``.
"""

from dataclasses import dataclass

from ..errors import InputError
from ..options import MAX_DRAFTS
from .acceptance import Acceptance
from .costs import MOST_COST, REMEMBERED, Costs, unknown_costs
from .probes import OPENING, Belief, Probes

AUTO_LONGEST = 8

FORGET_EVERY = 16  # rounds: a round's time is short

REPLAYED_DRAFTS = 0.5  # what an earlier session knew counts as so many drafts: a text does not stay the same


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


class AutoDraftLength:
    """The number of drafts with the most expected tokens per second, of one text at a time.

    Deterministic: the same rounds give the same choices. This is the rule by itself, which ``native/engine/drafts.h``
    follows; engines run ``batch.AutoBatchDraftLength``, which makes the same choices for a text that is alone.

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
        self._acceptance = Acceptance(longest, FORGET_EVERY)
        self._costs = Costs(unknown_costs(longest, FORGET_EVERY))
        self._stood, self._reached = [0] * longest, [0] * longest
        self._rounds = 0
        self._probes = Probes(() if learned is not None and learned.timed[0] else OPENING)
        if learned is not None:
            self._recall(learned)
        self._weigh()

    def choose(self) -> int:
        return self._probes.choose(self._belief, self._hoped)

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        emitted = 1 + sum(accepted) / len(accepted)
        self._probes.observe(self._belief, drafted, emitted, seconds, self._costs.seconds(0))
        self._rounds += 1
        if self._rounds % FORGET_EVERY == 0:
            self._acceptance.forget()
            self._costs.forget()
        learned = drafted > 0 and self._learn_acceptance(drafted, accepted)
        if self._costs.observe(drafted, seconds) or learned:
            self._weigh()

    def learned(self) -> Learned:
        """What to begin with next time."""
        costs = tuple(min(cost, MOST_COST) for cost in self._belief.costs)
        return Learned(costs, tuple(self._costs.timed), tuple(self._stood), tuple(self._reached))

    def _weigh(self) -> None:
        self._belief = Belief(self._costs.in_plain_steps(0, self.longest), self._acceptance.tokens())

    def _hoped(self) -> list[float]:
        """Tokens per plain step that each length may have at best.

        A length may be better by what is uncertain about it, and only that: acceptance at positions which rounds of the
        best length do not reach, and its cost relative to theirs.
        """
        best = self._belief.best
        hoped = zip(self._acceptance.hoped_tokens(best), self._belief.costs, strict=True)
        return [tokens / (cost * self._costs.hope(drafts, best)) for drafts, (tokens, cost) in enumerate(hoped)]

    def _learn_acceptance(self, drafted: int, accepted: list[int]) -> bool:
        for at in range(drafted):
            self._reached[at] += sum(count >= at for count in accepted)
            self._stood[at] += sum(count > at for count in accepted)
        return self._acceptance.observe_round(drafted, accepted)

    def _recall(self, learned: Learned) -> None:
        """Replay what was learned as if a few rounds had shown it."""
        self._costs.recall(learned.costs[: self.longest + 1], learned.timed[: self.longest + 1])
        for at, (stood, reached) in enumerate(zip(learned.stood, learned.reached, strict=True)):
            if reached and at < self.longest:
                self._acceptance.observe(at, stood / reached, min(reached, REPLAYED_DRAFTS))
                self._reached[at] = min(reached, REMEMBERED)
                self._stood[at] = round(stood / reached * self._reached[at])
