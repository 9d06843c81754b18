"""The rows of an engine: requests join and leave between rounds, and each accepts its own number of drafts.

Rows lie in slots of 1, 2, 4, 8 or 16, since their number is part of the shape that rounds are traced for. Nobody waits
for a row, and a row without a request costs its slot only: it writes to its own buffers, at their beginning. When half
of the slots, or more, were not needed for a while, those who are left move together.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx

from ..cache.batch_rows import BatchCache
from ..cache.layout import CacheLayout
from ..cache.rows import KVCache
from ..cache.store import placed
from ..drafts.batch import SLOTS
from ..options import MAX_DRAFTS
from ..rounds.adjust import counted, nothing_counted
from ..rounds.host_accept import HostAcceptor, accept_in_rows
from ..rounds.recent import Shares
from ..rounds.sampling import Sampling, Settings, in_use, settings_of
from ..rounds.state import Accept, Counts, Decoder, RoundState
from ..rounds.steps import Steps
from .guiding import Guide, Held
from .loop import Flight, LogProbs

NOBODY = Sampling()
WIDE = 16  # rounds with twice the slots that are needed, after which it is worth a copy of the rows to have fewer
REMEMBERED = 512  # rounds, for which what was in use by rows that shared them stays so
FIRST_ALONE, MOST_ALONE = 16, 128  # rows that began alone last, at first and at most,
OFTEN = 0.25  # of which this share is often enough for rounds of their own


@dataclass(eq=False)
class Member:
    """A request, as a row of a batch.

    Attributes:
        cache: one row, filled up to, not including, ``token``; while others share the batch it is empty, and has the
            row's content again when the member has left.
        token: the newest token.
        hidden: (1, 1, H), the target's hidden state at the position before; None where no forward has kept it.
        keys: (1, 2) uint32, of the row's noise.
        sampling: how its tokens are drawn.
        text: all ids so far, for penalties.
        compiled: whether its rounds are compiled, where it is alone; in a batch they are if anybody's are.
        holder: of the cache, if its content is wanted when the member has left.
        acceptor: stands in for acceptance on the device; such a row's rounds are not submitted ahead.
        leaving: is handed the cache that has the row, and which it is there, just before the member leaves.
        held: by what its text is held, such as a grammar.
    """

    cache: KVCache
    token: int
    hidden: mx.array | None
    keys: mx.array
    sampling: Sampling
    text: Sequence[int] = ()
    compiled: bool = False
    holder: object | None = None
    acceptor: HostAcceptor | None = None
    leaving: Callable[[KVCache, int], None] | None = None
    held: Held | None = None

    def take_back(self, cache: KVCache, slot: int) -> None:
        """Have the row of a batch's cache as one's own again, if it is still wanted."""
        if self.holder is not None and self.cache.is_held_by(self.holder):
            self.cache.adopt(cache.take(slot))
            mx.async_eval(self.cache.buffers)  # what is not under way could not be used in another thread


class Landed(NamedTuple):
    """What a round gave a member: its tokens, of which the first ``accepted`` are drafts, out of ``drafted``; their
    log-probabilities, if anybody asked for them; and whether the assistant had no part in it."""

    member: Member
    tokens: list[int]
    accepted: int
    drafted: int
    log_probs: Sequence[LogProbs]
    known: bool


class InUse:
    """What rows that share rounds need together, and have needed of late.

    Requests come and go; were rounds made for what is needed just now, each might need a trace of its own. What nobody
    has needed for ``REMEMBERED`` rounds, or twice as many, is forgotten.
    """

    def __init__(self) -> None:
        self._rounds = 0
        self._lately: list[Sampling] = []
        self._before: list[Sampling] = []
        self._alone = Shares(FIRST_ALONE, MOST_ALONE)

    def of(self, rows: Sequence[Sampling]) -> Sampling:
        """What these rows and the ones before them need; ids that are never drawn are those of these rows."""
        self._lately = [in_use([*rows, *self._lately])]
        never = in_use(rows).suppress_tokens
        return in_use([*self._lately, *self._before])._replace(suppress_tokens=never)

    def of_one(self, needed: Sampling) -> Sampling:
        """What a row that begins alone is given: what it needs, if many have begun so; otherwise what others have
        needed, too, which rounds are likely to be there for."""
        return needed if self._alone.add(needed) >= OFTEN else self.of([needed])

    def count_round(self) -> None:
        """A round has been submitted that is not for what one row needs alone."""
        self._rounds += 1
        if self._rounds % REMEMBERED == 0:
            self._lately, self._before = [], self._lately


class Batch:
    """Members in slots, and their rounds in flight.

    Args:
        decoder: makes the networks and settings of rounds, from a cache's layout, what is in use, and how drafts are
            accepted.
        steps: how rounds of a decoder are made, compiled or not.
    """

    def __init__(
        self,
        decoder: Callable[[CacheLayout, Sampling, Accept | None], Decoder],
        steps: Callable[[Decoder, bool], Steps],
    ):
        self._decoder, self._steps = decoder, steps
        self._counted: deque[list[int]] = deque()  # of each round in flight, how many drafts count in each slot
        self._slots: list[Member | None] = []
        self._flight: Flight | None = None
        self._limits: list[int] = []
        self._guide: Guide | None = None
        self._in_use = InUse()
        self._shares = False  # whether rounds are made for what others need or have needed, too
        self._wide = 0  # rounds in a row that had more slots than were needed

    @property
    def members(self) -> list[Member]:
        return [member for member in self._slots if member is not None]

    @property
    def slots(self) -> Sequence[Member | None]:
        """Who is in each slot."""
        return self._slots

    @property
    def _enough(self) -> int:
        """How many slots the members need."""
        return next(size for size in SLOTS if size >= len(self.members))

    @property
    def wide(self) -> bool:
        """Whether rounds have had more slots than are needed for long enough to have fewer."""
        return self._wide >= WIDE and self._enough < len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows' keys and values."""
        return 0 if self._flight is None else self._flight.cache.nbytes

    def capacity(self, member: Member) -> int:
        """For how many positions a member's row has room in linear buffers; 0 without any."""
        return 0 if self._flight is None else self._flight.cache.capacity(self._slots.index(member))

    def outgrows(self, member: Member) -> bool:
        """Whether its buffers must grow for its next rounds."""
        flight = self._flight
        if flight is None:
            return False
        row = self._slots.index(member)
        end, capacity = flight.end(row) + flight.cache.layout.slack, flight.cache.capacity(row)
        return 0 < capacity < flight.steps.reach(end)

    def need(self, member: Member) -> int:
        """For how many positions its next rounds need room."""
        assert self._flight is not None
        flight = self._flight
        return flight.steps.reach(flight.end(self._slots.index(member)) + flight.cache.layout.slack)

    @property
    def _vocabulary(self) -> int:
        assert self._flight is not None
        return self._flight.cache.layout.config.vocab_size

    @property
    def in_flight(self) -> int:
        """How many rounds were submitted and not read."""
        return 0 if self._flight is None else len(self._flight)

    def in_flight_for(self, member: Member) -> int:
        """How many of these a member has a row in."""
        return 0 if self._flight is None else self._flight.in_flight_for(member)

    def has_room(self) -> bool:
        return len(self.members) < SLOTS[-1]

    def fits(self, layout: CacheLayout) -> bool:
        """Whether a row of a layout can share rounds with those there are: all keys are quantized alike."""
        return self._flight is None or replace(layout, slack=0) == replace(self._flight.cache.layout, slack=0)

    def takes(self, member: Member) -> bool:
        """Whether a row can join now. One whose rings have more slack than the others' joins once the rounds in flight
        have been read: all have as much then."""
        flight = self._flight
        return flight is None or len(flight) == 0 or member.cache.layout.slack <= flight.cache.layout.slack

    def join(self, member: Member) -> None:
        """Take a request into a free slot, from the next round on."""
        if self._flight is None:
            self._begin(member)
            self._set_limits([MAX_DRAFTS])
        else:
            self._share_slack(member.cache)
            self._place(member, self._free_slot())
            self._renew()

    def leave(self, member: Member) -> None:
        """Let a request go; it has its cache back. Does nothing where it has left already."""
        if member not in self._slots or self._flight is None:
            return
        slot, flight = self._slots.index(member), self._flight
        if member.leaving is not None:
            member.leaving(flight.cache, slot)
        self._slots[slot] = flight.holders[slot] = None
        if not self.members:
            self.clear()
            if flight.cache is not member.cache:
                member.take_back(flight.cache, slot)
            return
        member.take_back(flight.cache, slot)
        flight.cache.forget(slot)
        length = placed(flight.state.length, slot, mx.array([0], mx.int32))
        mx.async_eval(length)
        flight.state = flight.state._replace(length=length)
        self._renew()

    def narrow(self) -> None:
        """Have no more slots than are needed; no round is in flight."""
        assert self._flight is not None
        flight, slots = self._flight, self._enough
        kept = [slot for slot, member in enumerate(self._slots) if member is not None]
        assert isinstance(flight.cache, BatchCache)
        flight.cache.keep(kept, slots)
        flight.state = _longer(_only(flight.state, kept), slots - len(kept))
        flight.keep(kept, slots)
        self._slots = [*self.members, *[None] * (slots - len(kept))]
        self._wide = 0
        self._renew()

    def stay_wide(self) -> None:
        """Have the slots that there are for as long again."""
        self._wide = 0

    def hold(self, member: Member, held: Held) -> None:
        """Hold a member's text from its next round on."""
        member.held = held
        if self._flight is not None and member in self._slots:
            self._hold()

    def clear(self) -> None:
        """Let everybody go; caches that rows were taken from stay empty."""
        self._slots, self._flight = [], None
        self._counted.clear()

    def submit(self, drafts: int, limits: Mapping[Member, int]) -> None:
        """Hand the device a round of so many drafts, of which at most ``limits`` count in each row."""
        assert self._flight is not None
        counted = [-1 if member is None else limits[member] for member in self._slots]
        wanted = [limit if limit < drafts else MAX_DRAFTS for limit in counted]
        if wanted != self._limits:
            self._set_limits(wanted)
        if self._guide is not None:
            self._guide.limits = counted
        self._flight.submit(drafts)
        self._wide = self._wide + 1 if self._enough < len(self._slots) else 0
        self._counted.append(counted)
        if self._shares:
            self._in_use.count_round()

    def land(self) -> tuple[int, list[Landed]]:
        """Wait for the first round in flight: how many drafts it made, and what it gave those who had a part in it and
        are still here."""
        assert self._flight is not None
        found = self._flight.land()
        counted = self._counted.popleft()
        landed = [
            Landed(member, found.tokens[row], found.accepted[row], counted[row], found.log_probs[row], found.known)
            for row, member in enumerate(self._slots[: len(counted)])
            if member is not None and found.tokens[row]
        ]
        for each in landed:
            if each.member.held is not None:
                each.member.held.advance(each.tokens)
        self._flight.settle()
        return found.drafted, landed

    def _begin(self, member: Member) -> None:
        needed = in_use([member.sampling])
        used = self._in_use.of_one(needed) if member.compiled else needed
        self._shares = used != needed
        decoder = self._decoder(member.cache.layout, used, member.acceptor)
        state = _state_of(member, decoder)
        self._flight = Flight(
            decoder, self._steps(decoder, member.compiled), member.cache, state, [member.token], [member]
        )
        self._slots = [member]
        self._flight.state = state._replace(counts=self._counts(state.counts, used))
        self._hold()

    def _share_slack(self, joining: KVCache) -> None:
        assert self._flight is not None
        cache = self._flight.cache
        if joining.layout.slack < cache.layout.slack:
            joining.widen(cache.layout)
        elif joining.layout.slack > cache.layout.slack:
            cache.widen(joining.layout)

    def _free_slot(self) -> int:
        if None not in self._slots:
            self._resize(next(size for size in SLOTS if size > len(self._slots)))
        return self._slots.index(None)

    def _resize(self, slots: int) -> None:
        """More slots, behind those that there are."""
        assert self._flight is not None
        flight, now = self._flight, len(self._slots)
        if isinstance(flight.cache, BatchCache):
            flight.cache.extend(slots)
        else:
            own, flight.cache = flight.cache, BatchCache(flight.cache, slots)
            own.empty()
        flight.state = _longer(flight.state, slots - now)
        flight.extend(slots - now)
        self._slots += [None] * (slots - now)

    def _place(self, member: Member, slot: int) -> None:
        assert self._flight is not None
        flight = self._flight
        row = _state_of(member, flight.decoder)
        assert isinstance(flight.cache, BatchCache)
        flight.cache.place(slot, member.cache)
        member.cache.empty()
        flight.state = _with_row(flight.state, slot, row)
        flight.newest[slot], flight.holders[slot] = member.token, member
        self._slots[slot] = member

    def _renew(self) -> None:
        """What is in use, how rounds of it are made, and the settings of each of several rows."""
        assert self._flight is not None
        flight, self._shares = self._flight, True
        acceptors = [None if member is None else member.acceptor for member in self._slots]
        acceptor = accept_in_rows(acceptors) if any(acceptors) else None
        used = self._in_use.of([member.sampling for member in self.members])
        flight.decoder = self._decoder(flight.cache.layout, used, acceptor)
        flight.steps = self._steps(flight.decoder, any(member.compiled for member in self.members))
        flight.state = flight.state._replace(counts=self._counts(flight.state.counts, used))
        self._hold()
        self._set_limits([-1 if member is None else MAX_DRAFTS for member in self._slots])

    def _counts(self, now: Counts | None, used: Sampling) -> Counts | None:
        """What rounds of these rows count with, if they count at all."""
        if not used.penalizes:
            return None
        return nothing_counted(len(self._slots), self._vocabulary) if now is None else now

    def _hold(self) -> None:
        """Let those be heard whose rows are held."""
        assert self._flight is not None
        held = [None if member is None else member.held for member in self._slots]
        self._guide = self._flight.guide = Guide(held, self._vocabulary) if any(held) else None

    def _set_limits(self, limits: list[int]) -> None:
        assert self._flight is not None
        self._limits = limits
        rows = self._settings(limits) if self._differ() else None
        self._flight.state = self._flight.state._replace(rows=rows)

    def _differ(self) -> bool:
        """Whether rows have settings to be told apart: one greedy row that nothing changes has none."""
        assert self._flight is not None
        return len(self._slots) > 1 or self._limits[0] < MAX_DRAFTS or self._flight.decoder.sampling.has_values

    def _settings(self, limits: Sequence[int]) -> Settings:
        nobody = NOBODY._replace(suppress_tokens=self.members[0].sampling.suppress_tokens)
        return settings_of([nobody if member is None else member.sampling for member in self._slots], limits)


def _state_of(member: Member, decoder: Decoder) -> RoundState:
    """One row, before its first round."""
    token = mx.array([[member.token]], mx.int32)
    hidden = member.hidden
    if hidden is None:
        hidden = mx.zeros(decoder.target.embed(token).shape, decoder.target.hidden_dtype)
    counts = counted(member.text, decoder.layout.config.vocab_size) if member.sampling.penalizes else None
    return RoundState(mx.array(member.cache.lengths, mx.int32), token, hidden, member.keys, counts=counts)


def _longer(state: RoundState, rows: int) -> RoundState:
    """A state with rows of zeros behind it; their settings are set afterwards."""

    def longer(array: mx.array) -> mx.array:
        return mx.concatenate([array, mx.zeros((rows, *array.shape[1:]), array.dtype)])

    length, token, hidden, keys = (longer(array) for array in state[:4])
    counts = None if state.counts is None else Counts(*(longer(array) for array in state.counts))
    return RoundState(length, token, hidden, keys, state.rows, counts)


def _only(state: RoundState, rows: Sequence[int]) -> RoundState:
    """A state with some of its rows; their settings are set afterwards."""
    picks = mx.array(list(rows))
    length, token, hidden, keys = (array[picks] for array in state[:4])
    counts = None if state.counts is None else Counts(*(array[picks] for array in state.counts))
    return RoundState(length, token, hidden, keys, state.rows, counts)


def _with_row(state: RoundState, slot: int, row: RoundState) -> RoundState:
    """A state with one row in another's place; its settings are set afterwards."""
    length, token, hidden, keys = (placed(*each) for each in zip(state[:4], [slot] * 4, row[:4], strict=True))
    counts, new = state.counts, row.counts
    if new is not None:
        rows, vocabulary = length.shape[0], new.seen.shape[-1]
        counts = nothing_counted(rows, vocabulary) if counts is None else counts
        counts = Counts(placed(counts.seen, slot, new.seen), placed(counts.made, slot, new.made))
    return RoundState(length, token, hidden, keys, state.rows, counts)
