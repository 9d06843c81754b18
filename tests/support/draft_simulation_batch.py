"""A machine that decodes batches in rounds, as a draft length for a batch sees it: counts and times, with one round in
flight, while requests come and go.

What a round costs: one forward of the target over all its positions, slots * (drafts + 1), and as many steps of the
assistant as there are drafts, each over one position per slot. A forward over n positions costs, relative to one:

- on the published machines what ``FORWARD`` says of n - 1 drafts in one row, and beyond its last the same line;
- "MoE, experts": 8 of 128 experts for each position, so that positions share ever more of what is read, 1 to 4
  positions as published ("MoE" is the straight line through these), until 70 positions, from where computing bounds it;
- "tiles": reading the weights bounds it until 24 positions, computing from there, as with kernels for many rows.

An assistant's step costs a share of a plain step, and grows with rows as that does. Attention is not told apart. Costs
are in plain steps of one row. The times that a draft length sees are noisy; what it is judged by are the costs.
"""

import random
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.drafts.protocol import BatchChoice, BatchDraftLength

from .draft_simulation import FORWARD, KINDS, LONGEST, NOISE, PLAIN_SECONDS, Disturbance, Setting, setting

SLOTS = (1, 2, 4, 8, 16)
SHRINK_AFTER = 8  # rounds with fewer rows
TOKENS = 4000


class FixedBatchDraftLength:
    """Always the same number of drafts for a batch, or as many as some row may still use.

    Raises:
        InputError: a number that no round can have.
    """

    def __init__(self, drafts: int):
        self.longest = FixedDraftLength(drafts).longest

    def choose(self, rows: Sequence[Hashable], caps: Sequence[int], reading: float | None = None) -> BatchChoice:
        drafts = min(self.longest, max(caps, default=0))
        return BatchChoice(drafts, [min(drafts, cap) for cap in caps])

    def observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None = None,
    ) -> None:
        """A fixed length learns nothing."""

    def left(self, row: Hashable) -> None:
        """Nothing is kept of a request."""


def _line(forward: Callable[[int], float]) -> Callable[[int], float]:
    last, step = forward(LONGEST), forward(LONGEST) - forward(LONGEST - 1)
    return lambda n: forward(n - 1) if n <= LONGEST + 1 else last + step * (n - 1 - LONGEST)


def _experts(n: int) -> float:
    read = 128 * (1 - (1 - 8 / 128) ** n)
    return max(1 + 0.078 * (read - 8), 0.14 * n)


POSITIONS: dict[str, Callable[[int], float]] = {
    **{machine: _line(forward) for machine, forward in FORWARD.items()},
    "MoE, experts": _experts,
    "tiles": lambda n: max(1 + 0.02 * (n - 1), n / 16),
}


def batch_costs(machine: str, draft_step: float) -> dict[int, list[float]]:
    """For each number of slots, of rounds with 0 to LONGEST drafts."""
    forward = POSITIONS[machine]
    return {
        slots: [forward(slots * (k + 1)) + draft_step * k * forward(slots) for k in range(LONGEST + 1)]
        for slots in SLOTS
    }


@dataclass(frozen=True)
class Session:
    """A machine, and requests that come and go.

    Attributes:
        name: for people.
        costs: of rounds, for each number of slots and of drafts.
        demand: for each token that the session makes, how many requests there are: where one has ended the next joins,
            where there are too many the last is cancelled. At the same token plain and drafted rounds have as many
            rows, so that they can be compared.
        requests: their texts, in order.
        seed: of the noise of times.
    """

    name: str
    costs: dict[int, list[float]]
    demand: list[int]
    requests: list[Setting]
    seed: int


def random_sessions(count: int, rows: int, seed: int = 0, tokens: int = TOKENS) -> list[Session]:
    """All machines, with requests of 100 to 500 tokens and all kinds of text.

    In every second session of several rows the first request stays to the end, and accepts nothing; of the others
    every tenth accepts nothing.
    """
    rng = random.Random(seed)
    made = []
    for number in range(count):
        machine = list(POSITIONS)[number % len(POSITIONS)]
        costs = batch_costs(machine, rng.uniform(0.03, 0.08))
        stubborn = rows > 1 and number // len(POSITIONS) % 2 == 0
        requests = [setting("", [], [0.0] * tokens, rng.getrandbits(32))] if stubborn else []
        requests += _texts(rng, 6 * tokens)
        name = f"{machine}, {rows} rows" + (", one accepts nothing" if stubborn else "")
        made.append(Session(name, costs, _demand(rng, rows, tokens), requests, rng.getrandbits(32)))
    return made


def _texts(rng: random.Random, tokens: int) -> list[Setting]:
    """Of so many tokens in all."""
    made: list[Setting] = []
    while tokens > 0:
        length = rng.randint(100, 500)
        chances = [0.0] * length if rng.random() < 0.1 else rng.choice(list(KINDS.values()))(rng, length)
        made.append(setting("", [], chances, rng.getrandbits(32), rng.choice([1.0, rng.uniform(0.8, 1)])))
        tokens -= length
    return made


def _demand(rng: random.Random, rows: int, tokens: int) -> list[int]:
    """Full half of the time, and anything from one row between."""
    made: list[int] = []
    while len(made) < tokens:
        made += [rng.choice([rows, rng.randint(1, rows)])] * rng.randint(300, 1000)
    return made[:tokens]


@dataclass
class _Active:
    name: int
    text: Setting
    place: int = 0  # of the next round's first token
    read: int = 0
    flying: int = 0

    @property
    def left(self) -> int:
        """Tokens that may be wanted, as one knows who has not read what is in flight: that gives at least one each."""
        return len(self.text.chances) - self.read - self.flying

    @property
    def goes_on(self) -> bool:
        """Whether the next round has it."""
        return self.left > 0 and self.place < len(self.text.chances)


@dataclass(frozen=True)
class Round:
    """One that was submitted. ``rows`` are the requests' numbers, None for an empty slot."""

    rows: list[int | None]
    drafted: int
    limits: list[int]
    accepted: list[int]
    cost: float
    joined: bool


@dataclass
class BatchRun:
    """What a session took, in plain steps of one row, and its rounds."""

    spent: float = 0.0
    tokens: int = 0
    rounds: list[Round] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return self.tokens / self.spent


class _Batch:
    """The requests in their slots. The number of slots grows at once, and shrinks after some rounds."""

    def __init__(self, session: Session):
        self.session = session
        self.active: list[_Active] = []
        self._waiting = deque(enumerate(session.requests))
        self._slots, self._fewer = 1, 0

    def admit(self, tokens: int, draft_length: BatchDraftLength) -> bool:
        """Have as many requests as there should be, and tell whether any joined."""
        demand = self.session.demand[tokens]
        while len(self.active) > demand:
            draft_length.left(self.active.pop().name)
        joined = self._waiting and len(self.active) < demand
        while self._waiting and len(self.active) < demand:
            self.active.append(_Active(*self._waiting.popleft()))
        return bool(joined)

    def submit(self, draft_length: BatchDraftLength, joined: bool) -> Round | None:
        going = [row for row in self.active if row.goes_on]
        if not going:
            return None
        empty = self._resize(len(going)) - len(going)
        rows = [*(row.name for row in going), *[None] * empty]
        caps = [*(min(row.left - 1, LONGEST) if row.place else 0 for row in going), *[0] * empty]
        choice = draft_length.choose(rows, caps)
        accepted = [0] * len(rows)
        for at, row in enumerate(going):
            accepted[at] = row.text.accepted(row.place, choice.limits[at])
            row.place += accepted[at] + 1
            row.flying += 1
        cost = self.session.costs[len(rows)][choice.drafts]
        return Round(rows, choice.drafts, choice.limits, accepted, cost, joined)

    def read(self, made: Round, draft_length: BatchDraftLength) -> int:
        """How many tokens it gave."""
        counts = dict(zip(made.rows, made.accepted, strict=True))
        tokens = 0
        for row in list(self.active):
            if row.name in counts:
                given = min(counts[row.name] + 1, len(row.text.chances) - row.read)
                row.flying -= 1
                row.read += given
                tokens += given
            if not row.goes_on and row.flying == 0:
                self.active.remove(row)
                draft_length.left(row.name)
        return tokens

    def _resize(self, rows: int) -> int:
        needed = next(slots for slots in SLOTS if slots >= rows)
        self._fewer = self._fewer + 1 if needed < self._slots else 0
        if needed > self._slots or self._fewer > SHRINK_AFTER:
            self._slots, self._fewer = needed, 0
        return self._slots


def run_batch(
    draft_length: BatchDraftLength,
    session: Session,
    tokens: int = TOKENS,
    *,
    noise: float = NOISE,
    disturbance: Disturbance = lambda rng, place: 1.0,
    first_use: float = 1.0,
    overlap: float = 0.0,
) -> BatchRun:
    """Decode until the session has made so many tokens.

    A round is submitted before the one in front of it is read. A round before which a request joined has no time, as
    its prompt was read meanwhile. The rest is as in ``draft_simulation.run``; ``disturbance`` is told the tokens made.
    """
    rng = random.Random(session.seed)
    batch, run = _Batch(session), BatchRun()
    flight: deque[Round] = deque()
    used: set[tuple[int, int]] = set()
    while run.tokens < tokens:
        slow = 1.0
        joined = batch.admit(run.tokens, draft_length)
        while len(flight) < 2 and (submitted := batch.submit(draft_length, joined)) is not None:
            joined = False
            flight.append(submitted)
            kind = len(submitted.rows), submitted.drafted
            slow = max(slow, 1.0 if kind in used else first_use)
            used.add(kind)
        made = flight.popleft()
        cost = (1 - overlap) * made.cost + overlap * (flight[-1].cost if flight else made.cost)
        seconds = PLAIN_SECONDS * cost * max(0.2, rng.gauss(1, noise)) * disturbance(rng, run.tokens) * slow
        timed = run.rounds and not made.joined
        draft_length.observe(made.rows, made.drafted, made.limits, made.accepted, seconds if timed else None)
        run.tokens += batch.read(made, draft_length)
        run.spent += made.cost
        run.rounds.append(made)
    return run


def fixed_throughputs(session: Session, tokens: int = TOKENS) -> list[float]:
    """With 0, 1, ... drafts in every round."""
    lengths = range(LONGEST + 1)
    return [run_batch(FixedBatchDraftLength(drafts), session, tokens).throughput for drafts in lengths]
