"""Who runs when: prompts are read in the gaps between rounds, and rounds have all rows that want one.

Decoding comes first: while rows run, prompts are read between two rounds for ``max_stall`` seconds at most, in chunks
of what was read in that time before, at first of ``LEAST_CHUNK`` tokens. A request that ends leaves at once; its row is
free for the next.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Protocol

from ..cache.layout import grown_size
from ..cache.rows import KVCache
from ..drafts.clock import RoundClock
from ..drafts.learned import AUTO_LONGEST
from ..drafts.protocol import BatchDraftLength
from .admission import Admission, Needs, grown_bytes, joined_bytes
from .batch import Batch, Landed, Member
from .guiding import Held
from .loop import LogProbs
from .request import TokenEvent

LOOK_AHEAD = 1
MAX_STALL = 0.15  # seconds
LEAST_CHUNK = 32  # tokens: fewer take as long


class Lengths(Protocol):
    """Who lends what chooses how many drafts a round has: ``learning.DraftLengths``."""

    def borrow(self, compiled: bool) -> BatchDraftLength: ...
    def give_back(self) -> None: ...


ChunkSize = Callable[[], int | None]
ReadPrompt = Callable[[bool, ChunkSize], Iterator[Member | None]]


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        read_prompt: reads the prompt into a cache, one chunk with each step of what it returns, and at last gives the
            member to run. It is told whether that is to draft from its first round on, beside others, and what to ask
            before each chunk for its size.
        cache: that the prompt is read into.
        needs: how much memory it takes.
        budget: the most tokens to make.
        stop_tokens: any of these ends it.
        drafts: how many it wants in a round; None for as many as are worth their time.
        steady: whether all its rounds have as many drafts, also where fewer tokens are left: its text depends on it.
        priority: who waits begins before those of lower ones.
        top_logprobs: of how many of the likeliest tokens it wants log-probabilities; None for none, not even its own.
        events: what it has been given and nobody has fetched yet.
        read: how many tokens of the prompt have been read.
        made: how many tokens these and the ones before have.
        ended: whether it has its last event.
        failed: whether a step that it had a part in was not completed.
        refusal: why it cannot begin, if there is no memory for it.
        member: its row, once its prompt has been read.
    """

    read_prompt: ReadPrompt
    cache: KVCache
    needs: Needs
    budget: int
    stop_tokens: frozenset[int]
    drafts: int | None
    steady: bool = False
    priority: int = 0
    top_logprobs: int | None = None
    events: deque[TokenEvent] = field(default_factory=deque)
    read: int = 0
    made: int = 0
    ended: bool = False
    failed: bool = False
    refusal: str | None = None
    member: Member | None = None

    def take(self, landed: Landed) -> None:
        """A round's tokens, cut at a stop token and at the budget."""
        tokens, stops = landed.tokens[: self.budget - self.made], self.stop_tokens
        stopped = not stops.isdisjoint(tokens)
        if stopped:
            tokens = tokens[: next(place for place, token in enumerate(tokens, 1) if token in stops)]
        self.made += len(tokens)
        reason = "stop" if stopped else "length" if self.made == self.budget else None
        self.ended = reason is not None
        log_probs = () if self.top_logprobs is None else self._log_probs(landed.log_probs[: len(tokens)])
        self.events.append(TokenEvent(tokens, landed.accepted, landed.drafted, reason, log_probs))

    def _log_probs(self, found: Sequence[LogProbs]) -> Sequence[LogProbs]:
        return [each._replace(likeliest=each.likeliest[: self.top_logprobs]) for each in found]


class Scheduler:
    """Takes jobs and makes progress with them, a step at a time, in whichever thread asks for it.

    Args:
        batch: has a row for each job that runs.
        admission: knows who has room.
        lengths: lends what chooses how many drafts a round has, as long as rows run that leave it to that.
        max_stall: seconds that rows wait at most for others' prompts between two rounds, as far as chunks of
            ``LEAST_CHUNK`` tokens, and pictures, which are never divided, are read in that time; may be infinite.
    """

    def __init__(
        self,
        batch: Batch,
        admission: Admission,
        lengths: Lengths,
        max_stall: float = MAX_STALL,
    ):
        self._batch, self._admission, self._lengths = batch, admission, lengths
        self._chooser: BatchDraftLength | None = None
        self._max_stall = max_stall
        self._has_read = False  # some of a prompt, since a round was read
        self._read_for: float | None = None  # seconds that prompts were read for in this step; None if none was
        self._drafts = False  # whether the last round that was read had drafts
        self._speed: float | None = None  # tokens of prompts per second
        self._began = 0.0  # when rows began to wait for prompts
        self._waiting: list[Job] = []
        self._reading: tuple[Job, Iterator[Member | None]] | None = None
        self._running: dict[Member, Job] = {}
        self._learning: list[Member] = []  # those of them that leave the number of drafts to what learns it
        self._clock = RoundClock()

    def _choosing(self) -> BatchDraftLength | None:
        """What chooses how many drafts the next round has; None where all rows have told."""
        if not self._learning:
            return None
        if self._chooser is None:
            self._chooser = self._lengths.borrow(self._learning[0].compiled)
        return self._chooser

    def _rest(self) -> None:
        """Nothing is left of the last rows when nobody runs."""
        if self._running:
            return
        self._drafts = False
        if self._chooser is not None:
            self._lengths.give_back()
            self._chooser = None

    @property
    def idle(self) -> bool:
        """Whether there is nobody to work for."""
        return not self._waiting and self._reading is None and not self._running and not self._batch.members

    @property
    def running(self) -> int:
        """How many have rows now: prompts that are read, and requests that wait, have none."""
        return len(self._running)

    def add(self, job: Job) -> None:
        """Let a job take part, as soon as there is room for it: after those of its priority, before lower ones."""
        insort(self._waiting, job, key=lambda each: -each.priority)

    def drop(self, job: Job) -> None:
        """Let a job go, at whatever point it is. Its row, if it has one, is its own again."""
        if job in self._waiting:
            self._waiting.remove(job)
        if self._reading is not None and self._reading[0] is job:
            self._reading = None
        if job.member is not None:
            self._end(job.member)

    def hold(self, job: Job, held: Held) -> None:
        """Hold a job's text from its next round on, if it has a row."""
        if job.member is not None:
            self._batch.hold(job.member, held)

    def step(self) -> None:
        """Some of a prompt, and a round, if there are any to do.

        Where one raises, or is interrupted, all jobs that had a part in it have failed.
        """
        done = False
        self._clock.come_back()
        try:
            self._stay_within_memory()
            self._read_prompts()
            if self._running:
                self._run_round()
            done = True
        finally:
            self._clock.leave()
            if not done:
                self._fail()

    def _read_prompts(self) -> None:
        """Read on for a while, and a chunk at least, so that whoever asks for steps can drop jobs between them."""
        self._read_for = None
        if self._reading is None and not self._waiting:
            return
        self._began = perf_counter()
        while reading := self._next_prompt():
            job, chunks = reading
            if job.member is None:
                self._read_on(job, chunks)
            self._read_for = perf_counter() - self._began
            if job.member is not None and not self._batch.takes(job.member):
                return
            if job.member is not None:
                self._reading = None
                self._batch.join(job.member)
                self._running[job.member] = job
                if job.drafts is None:
                    self._learning.append(job.member)
            if self._read_for >= self._max_stall / 2:
                return

    def _read_on(self, job: Job, chunks: Iterator[Member | None]) -> None:
        before, start = job.read, perf_counter()
        job.member = next(chunks)
        self._has_read = True
        self._time(job.read - before, perf_counter() - start)

    def _time(self, tokens: int, seconds: float) -> None:
        if tokens >= LEAST_CHUNK:
            self._speed = tokens / seconds

    def _chunk_size(self) -> int | None:
        """How many tokens of a prompt may be read at once; None for as many as it asks for, if nobody minds waiting."""
        if not self._running or self._max_stall == inf:
            return None
        left = self._max_stall - (perf_counter() - self._began)  # half of it, lest a slower chunk takes more than all
        return LEAST_CHUNK if self._speed is None else max(LEAST_CHUNK, int(self._speed * left / 2))

    def _next_prompt(self) -> tuple[Job, Iterator[Member | None]] | None:
        if self._reading is None and self._waiting and self._batch.has_room():
            job = self._waiting[0]
            if self._batch.fits(job.cache.layout) and self._has_memory(job):
                self._reading = job, job.read_prompt(self._drafts_at_once(job), self._chunk_size)
                self._waiting.pop(0)
        return self._reading

    def _drafts_at_once(self, job: Job) -> bool:
        """Whether a job's first round is to have drafts: those that it asks for, or as many as others have lately."""
        if not self._running:
            return False
        return self._drafts if job.drafts is None else job.drafts > 0

    def _has_memory(self, job: Job) -> bool:
        """Whether the next job may begin. It waits for others, and is refused where there are none."""
        if self._running:
            needs = [*(each.needs for each in self._running.values()), job.needs]
            sizes = [*map(self._batch.capacity, self._running), job.cache.size]
            return self._admission.has_room(joined_bytes(needs, len(self._batch.slots), sizes))
        job.refusal = self._admission.refusal(job.needs, job.cache.nbytes)
        if job.refusal is not None:
            job.ended = True
            self._waiting.pop(0)
        return job.refusal is None

    def _stay_within_memory(self) -> None:
        """Look at what the process uses, where that matters. A row that outgrows the memory ends with its next rounds,
        for which it has room."""
        if self._waiting:
            self._admission.look(self._batch.nbytes + self._being_read() + self._waiting[0].cache.nbytes)
        for member, job in self._running.items():
            if self._batch.outgrows(member) and not self._may_grow():
                job.budget = min(job.budget, job.made + max(1, self._batch.in_flight_for(member)))

    def _may_grow(self) -> bool:
        """Whether there is memory for the room that all rows need for their next rounds."""
        reading = self._being_read()
        self._admission.look(self._batch.nbytes + reading)
        needs = [job.needs for job in self._running.values()]
        sizes = [max(grown_size(self._batch.need(each)), self._batch.capacity(each)) for each in self._running]
        return self._admission.has_room(grown_bytes(needs, len(self._batch.slots), sizes) + reading)

    def _being_read(self) -> int:
        """Bytes of the cache that a prompt is being read into."""
        return 0 if self._reading is None else self._reading[0].cache.nbytes

    def _is_too_wide(self) -> bool:
        """Whether rounds are to have fewer slots: nobody is going to need them soon."""
        return self._batch.wide and self._reading is None and not self._waiting

    def _narrow(self) -> None:
        """Have fewer slots. While their keys and values are copied there are half as many more; nothing that is kept of
        prompts is given up for that."""
        there = self._batch.nbytes
        self._admission.look(there)
        if self._admission.fits(there + there // 2):
            self._batch.narrow()
        else:
            self._batch.stay_wide()

    def _run_round(self) -> None:
        if self._batch.in_flight == 0 and self._is_too_wide():
            self._narrow()
        batch, ahead, submitted = self._batch, self._ahead(), 0
        while batch.in_flight <= ahead and (limits := self._limits()):
            batch.submit(max(limits.values()), limits)
            submitted += 1
        drafted, found = batch.land()
        seconds = self._clock.round_was_read()
        self._drafts = drafted > 0
        # Submitting takes time: where look-ahead begins two rounds are, and behind a text's last one none is.
        self._observe(drafted, found, seconds if submitted == 1 and not self._has_read else None)
        self._has_read = False
        for each in found:
            job = self._running[each.member]
            job.take(each)
            if job.ended:
                self._end(each.member)

    def _end(self, member: Member) -> None:
        if self._running.pop(member, None) is not None and member in self._learning:
            self._learning.remove(member)
        if self._chooser is not None:
            self._chooser.left(member)
        self._batch.leave(member)
        self._rest()

    def _ahead(self) -> int:
        """How many rounds to submit beyond the one that is read. None where the host decides what stands, where a row
        joins or slots become fewer after the rounds in flight, and before anybody has a first token: that round has no
        drafts to wait for."""
        if (self._reading is not None and self._reading[0].member is not None) or self._is_too_wide():
            return 0
        begun = False
        for member, job in self._running.items():
            if member.acceptor is not None:
                return 0
            begun |= job.made > 0
        return LOOK_AHEAD if begun else 0

    def _limits(self) -> dict[Member, int]:
        """How many drafts count in the next round of each row; nothing if nobody wants one."""
        known = {member: self._known(member) for member in self._running}
        caps = {member: self._cap(member, job, known[member]) for member, job in self._running.items()}
        if max(caps.values()) < 0:
            return {}
        caps = {member: max(0, cap) for member, cap in caps.items()}
        chooser = self._choosing()
        if chooser is None or not any(caps.values()):
            return caps
        rows = self._batch.slots
        of_rows = [0 if row is None else caps.get(row, 0) for row in rows]
        drafts = chooser.choose(rows, of_rows, self._reading_for()).drafts
        for member in self._learning:
            caps[member] = min(caps[member], max(drafts, known[member]))
        return caps

    def _reading_for(self) -> float | None:
        """Seconds that prompts were read for just before the next round, if some are going to be read behind it."""
        goes_on = self._reading is not None or (self._waiting and self._batch.has_room())
        return self._read_for if goes_on else None

    def _cap(self, member: Member, job: Job, known: int) -> int:
        """The most drafts of a row's next round, of which so many are known; negative if it wants no round."""
        flying = self._batch.in_flight_for(member)
        left = job.budget - job.made - flying
        if left <= 0:
            return -1
        if job.made == 0 and flying == 0 and member.hidden is None:
            return min(known, left - 1)
        longest = AUTO_LONGEST if job.drafts is None else job.drafts
        return longest if job.steady else min(max(longest, known), left - 1)

    def _known(self, member: Member) -> int:
        """How many drafts of a row's next round are known without the assistant, where nobody else would have to make
        as many."""
        if member.held is None or len(self._batch.slots) > 1:
            return 0
        return len(member.held.known(self._batch.in_flight_for(member) > 0))

    def _observe(self, drafted: int, found: Sequence[Landed], seconds: float | None) -> None:
        """A round was read: what chooses drafts learns from it."""
        chooser = self._choosing()
        if chooser is None or not found or found[0].known:  # which says nothing of the assistant
            return
        of = {each.member: each for each in found}
        landed = [None if row is None else of.get(row) for row in self._batch.slots]
        rows = [None if each is None else each.member for each in landed]
        limits = [0 if each is None else each.drafted for each in landed]
        accepted = [0 if each is None else each.accepted for each in landed]
        chooser.observe(rows, drafted, limits, accepted, seconds)

    def _fail(self) -> None:
        """Let everybody go who had a part in a step that was not completed: what their rows hold is not known."""
        jobs: Sequence[Job] = [*self._running.values(), *([self._reading[0]] if self._reading else [])]
        self._reading = None
        if self._chooser is not None:
            for member in self._running:
                self._chooser.left(member)
        self._running.clear()
        self._learning.clear()
        self._rest()
        self._batch.clear()
        for job in jobs:
            job.failed = job.ended = True
