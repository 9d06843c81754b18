"""How many drafts the next round of a batch makes. Pure Python: it sees counts and times only.

A round with k drafts in s slots emits the sum over its rows of ``1 + a1 + ... + a1...ak`` tokens, each row with chances
of its own, and takes a time ``c(s, k)``. ``AutoBatchDraftLength`` learns the chances of each request, and the times as
one surface over slots and drafts; it takes the k of the most tokens per second. A draft more for one row costs what it
costs for all rows, so every row may use as many as the round makes. With one row it is ``learned.AutoDraftLength``.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import le

from ..errors import InputError
from ..options import MAX_DRAFTS
from .acceptance import Acceptance
from .costs import MOST_COST, REMEMBERED, Costs, unknown_costs
from .learned import AUTO_LONGEST, FORGET_EVERY, REPLAYED_DRAFTS, Learned
from .probes import OPENING, Belief, Probes
from .protocol import BatchChoice

SLOTS = (1, 2, 4, 8, 16)

MOST_DELAY = 0.05  # of the time from chunk to chunk of a prompt, by which others' drafts may make it longer
LATELY = 0.99  # is kept from one drafted round to the next of what requests show; a new one begins with it


class _Row:
    """A request in the batch: its acceptance, expected tokens of a round with 0, 1, ... drafts, the most that count."""

    def __init__(self, acceptance: Acceptance):
        self.acceptance = acceptance
        self.tokens = acceptance.tokens()
        self.cap = 0

    def capped(self, tokens: list[float]) -> list[float]:
        return [tokens[min(drafts, self.cap)] for drafts in range(len(tokens))]


@dataclass
class _Coast:
    """Plain rounds in a row, after which the next is plain too, whatever they bring, also if fewer drafts may count: so
    many at most. They are accounted for together: looking at each takes a hundredth of a small pair's round."""

    rows: Sequence[Hashable]
    caps: Sequence[int]
    choice: BatchChoice
    most: int
    seconds: list[float | None] = field(default_factory=list)


class AutoBatchDraftLength:
    """The number of drafts with the most expected tokens per second of a batch.

    Deterministic: the same rounds give the same choices. One instance serves request after request.

    Args:
        longest: the most drafts of a round.
        learned: what an earlier session knew of rounds with one row; its costs count for more than its acceptance.
        slots: the numbers of slots that the batch may have: 1, 2, 4, ... Each costs time to learn for all.

    Attributes:
        rounds: how many were observed; in a row of plain ones some are counted later.

    Raises:
        InputError: a number of drafts that no round can have; ``choose`` and ``observe``: more rows than slots.
    """

    def __init__(self, longest: int = AUTO_LONGEST, learned: Learned | None = None, slots: Sequence[int] = SLOTS):
        if not 1 <= longest <= MAX_DRAFTS:
            raise InputError(f"the longest draft is {longest}, expected 1 to {MAX_DRAFTS}")
        self.longest = longest
        self._slots = slots
        self._costs = Costs(unknown_costs(longest, FORGET_EVERY, slots))
        self._probes: dict[int, Probes] = {}
        self._rows: dict[Hashable, _Row] = {}
        self._believed: tuple[int, list[_Row], Belief] | None = None  # until something has been learned
        self._hopes: list[float] | None = None  # that go with it, if asked for since something was forgotten
        self._stood, self._reached = [0.0] * longest, [0.0] * longest  # lately, by any request
        self._new: Acceptance | None = None  # what a new request begins with, until any shows more
        self._coast: _Coast | None = None
        self.rounds = 0
        if learned is not None:
            self._recall(learned)

    def choose(self, rows: Sequence[Hashable], caps: Sequence[int], reading: float | None = None) -> BatchChoice:
        if (coast := self._coast) is not None:
            if coast.rows == rows and all(map(le, caps, coast.caps)):
                return coast.choice
            self._catch_up()
        plain = self._plain(rows)
        if reading is not None:
            payable = self._payable(plain, reading)
            if payable == 0:
                return BatchChoice(0, [0] * len(caps))
            caps = [min(cap, payable) for cap in caps]
        for row, cap in zip(rows, caps, strict=True):
            if row is not None:
                self._cap(self._joined(row), min(cap, self.longest))
        present = self._present(rows)
        belief = self._belief(plain, present)
        probes = self._probes_of(plain)

        def hoped() -> list[float]:
            return self._hoped(plain, present, belief)

        drafts = probes.choose(belief, hoped)
        drafts = min(drafts, max((row.cap for row in present), default=0))
        choice = BatchChoice(drafts, [min(cap, drafts) for cap in caps])
        if drafts == belief.best == 0:
            quiet = min(FORGET_EVERY - self.rounds % FORGET_EVERY, self._costs.rounds_to_learn(plain))
            quiet = probes.rounds_to_probe(belief, hoped, quiet)
            if quiet > 1:
                self._coast = _Coast(list(rows), list(caps), choice, quiet)
        return choice

    def observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None = None,
    ) -> None:
        if (coast := self._coast) is not None:
            if drafted == 0 and coast.rows == rows:
                coast.seconds.append(seconds)
                if len(coast.seconds) == coast.most:
                    self._catch_up()
                return
            self._catch_up()
        self._observe(rows, drafted, limits, accepted, seconds)

    def _catch_up(self) -> None:
        coast, self._coast = self._coast, None
        if coast is None or not coast.seconds:
            return
        plain = self._plain(coast.rows)
        if self._present(coast.rows):
            self._probes_of(plain).coast(len(coast.seconds), coast.seconds[-1])
        for seconds in coast.seconds:
            self._forget()
            self._learn_cost(plain, seconds)

    def _observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None,
    ) -> None:
        plain, present = self._plain(rows), self._present(rows)
        within = drafted <= self.longest  # others may ask for more, which says nothing of what is chosen here
        if present and within:
            emitted = sum(1 + count for row, count in zip(rows, accepted, strict=True) if row in self._rows)
            probes = self._probes_of(plain)
            probes.observe(self._belief(plain, present), drafted, emitted, seconds, self._costs.seconds(plain))
        self._forget()
        if drafted:
            self._learn_acceptance(rows, drafted, limits, accepted)
        if within:
            self._learn_cost(plain + drafted, seconds)
        else:
            self._costs.interrupt()

    def left(self, row: Hashable) -> None:
        self._catch_up()
        self._rows.pop(row, None)

    def learned(self) -> Learned:
        """What to begin with next time: of rounds with one row, from which those with more are guessed."""
        self._catch_up()
        costs = tuple(min(cost, MOST_COST) for cost in self._costs.in_plain_steps(0, self.longest))
        timed = tuple(self._costs.timed[: self.longest + 1])
        return Learned(costs, timed, tuple(map(round, self._stood)), tuple(map(round, self._reached)))

    def _recall(self, learned: Learned) -> None:
        self._costs.recall(learned.costs[: self.longest + 1], learned.timed[: self.longest + 1])
        if learned.timed[0]:
            self._probes[0] = Probes(())
        for at, (stood, reached) in enumerate(zip(learned.stood, learned.reached, strict=True)):
            if reached and at < self.longest:
                self._reached[at] = min(reached, REMEMBERED)
                self._stood[at] = stood / reached * self._reached[at]

    def _joined(self, row: Hashable) -> _Row:
        """The row of a request; a new one begins with what others showed lately, which says little about it."""
        if row not in self._rows:
            if self._new is None:
                self._new = Acceptance(self.longest, FORGET_EVERY)
                for at, (stood, reached) in enumerate(zip(self._stood, self._reached, strict=True)):
                    if reached:
                        self._new.observe(at, stood / reached, min(reached, REPLAYED_DRAFTS))
            self._rows[row] = _Row(self._new.copy())
        return self._rows[row]

    def _present(self, rows: Sequence[Hashable]) -> list[_Row]:
        return [self._rows[row] for row in rows if row in self._rows]

    def _plain(self, rows: Sequence[Hashable]) -> int:
        """The kind of a round without drafts in as many slots as these rows need; with drafts it is so many more."""
        for place, slots in enumerate(self._slots):
            if len(rows) <= slots:
                return place * (self.longest + 1)
        raise InputError(f"a batch has {len(rows)} rows, expected at most {self._slots[-1]}")

    def _probes_of(self, plain: int) -> Probes:
        if plain not in self._probes:
            self._probes[plain] = Probes(OPENING)
        return self._probes[plain]

    def _payable(self, plain: int, reading: float) -> int:
        """How many drafts a round may have while others wait for their prompts to be read; none while nothing is known
        of how long rounds take."""
        seconds = self._costs.seconds(plain)
        if seconds is None:
            return 0
        most = 1 + MOST_DELAY * (reading / seconds + 1)
        return sum(cost <= most for cost in self._costs.in_plain_steps(plain, self.longest)) - 1

    def _cap(self, row: _Row, cap: int) -> None:
        if row.cap != cap:
            row.cap, self._believed = cap, None

    def _belief(self, plain: int, rows: list[_Row]) -> Belief:
        """What rounds in so many slots cost and give these rows."""
        if self._believed is None or self._believed[:2] != (plain, rows):
            self._believed, self._hopes = (plain, rows, self._weighed(plain, rows)), None
        return self._believed[2]

    def _weighed(self, plain: int, rows: list[_Row]) -> Belief:
        tokens = [sum(each) for each in zip(*(row.capped(row.tokens) for row in rows), strict=True)]
        return Belief(self._costs.in_plain_steps(plain, self.longest), tokens or [1.0] * (self.longest + 1))

    def _hoped(self, plain: int, rows: list[_Row], belief: Belief) -> list[float]:
        """Tokens per plain step that each length may have at best: all texts may have become easier. See
        ``AutoDraftLength``."""
        if self._hopes is None:
            best = belief.best
            hoped = [row.capped(row.acceptance.hoped_tokens(best)) for row in rows]
            self._hopes = [
                sum(tokens) / (cost * self._costs.hope(plain + drafts, plain + best))
                for drafts, (cost, *tokens) in enumerate(zip(belief.costs, *hoped, strict=True))
            ]
        return self._hopes

    def _forget(self) -> None:
        self.rounds += 1
        if self.rounds % FORGET_EVERY == 0:
            self._hopes = None
            self._costs.forget()
            for row in self._rows.values():
                row.acceptance.forget()

    def _learn_cost(self, kind: int, seconds: float | None) -> None:
        if self._costs.observe(kind, seconds):
            self._believed = None

    def _learn_acceptance(
        self, rows: Sequence[Hashable], drafted: int, limits: Sequence[int], accepted: Sequence[int]
    ) -> None:
        self._new = None
        self._stood = [LATELY * count for count in self._stood]
        self._reached = [LATELY * count for count in self._reached]
        for name, limit, count in zip(rows, limits, accepted, strict=True):
            row, counted = self._rows.get(name), min(limit, drafted)
            if row is None or not counted:
                continue
            for at in range(min(counted, count + 1, self.longest)):
                self._reached[at] += 1
                self._stood[at] += count > at
            if row.acceptance.observe_round(counted, [count]):
                row.tokens, self._believed = row.acceptance.tokens(), None
