"""Who runs when: prompts are read in the gaps between rounds, and rounds have all rows that want one.

Decoding comes first: while rows run, prompts are read between two rounds for ``MAX_STALL`` seconds at most, in chunks
of what was read in that time before. A request that ends leaves at once; its row is free for the next.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter

from ..cache.layout import CacheLayout
from ..drafts.clock import RoundClock
from ..drafts.protocol import BatchDraftLength, DraftLength
from .batch import Batch, Landed, Member
from .loop import LogProbs
from .request import TokenEvent

LOOK_AHEAD = 1
MAX_STALL = 0.15  # seconds that running rows wait for others' prompts between two rounds
LEAST_CHUNK = 32  # tokens


ChunkSize = Callable[[], int | None]
ReadPrompt = Callable[[bool, ChunkSize], Iterator[Member | None]]


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        read_prompt: reads the prompt into a cache, one chunk with each step of what it returns, and at last gives the
            member to run. It is told whether others run meanwhile, and what to ask before each chunk for its size.
        layout: of the cache.
        suppress_tokens: ids that are never drawn.
        budget: the most tokens to make.
        stop_tokens: any of these ends it.
        draft_length: how many drafts it wants in a round, where it is alone.
        learns: whether that is learned, and so what it wants beside others.
        steady: whether all its rounds have as many drafts, also where fewer tokens are left: its text depends on it.
        top_logprobs: of how many of the likeliest tokens it wants log-probabilities; None for none, not even its own.
        events: what it has been given and nobody has fetched yet.
        read: how many tokens of the prompt have been read.
        made: how many tokens these and the ones before have.
        ended: whether it has its last event.
        failed: whether a step that it had a part in was not completed.
        member: its row, once its prompt has been read.
    """

    read_prompt: ReadPrompt
    layout: CacheLayout
    suppress_tokens: tuple[int, ...]
    budget: int
    stop_tokens: frozenset[int]
    draft_length: DraftLength
    learns: bool = False
    steady: bool = False
    top_logprobs: int | None = None
    events: deque[TokenEvent] = field(default_factory=deque)
    read: int = 0
    made: int = 0
    ended: bool = False
    failed: bool = False
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
        together: makes what chooses how many drafts a round has that several rows share; asked for it once there are.
    """

    def __init__(self, batch: Batch, together: Callable[[], BatchDraftLength]):
        self._batch, self._make_together = batch, together
        self._has_read = False  # some of a prompt, since a round was read
        self._speed: float | None = None  # tokens of prompts per second
        self._waiting: deque[Job] = deque()
        self._reading: tuple[Job, Iterator[Member | None]] | None = None
        self._running: dict[Member, Job] = {}
        self._clock = RoundClock()

    @cached_property
    def _together(self) -> BatchDraftLength:
        return self._make_together()

    @property
    def idle(self) -> bool:
        """Whether there is nobody to work for."""
        return not self._waiting and self._reading is None and not self._running and not self._batch.members

    def add(self, job: Job) -> None:
        """Let a job take part, as soon as there is room for it."""
        self._waiting.append(job)

    def drop(self, job: Job) -> None:
        """Let a job go, at whatever point it is. Its row, if it has one, is its own again."""
        if job in self._waiting:
            self._waiting.remove(job)
        if self._reading is not None and self._reading[0] is job:
            self._reading = None
        if job.member is not None:
            self._end(job.member)

    def step(self) -> None:
        """Some of a prompt, and a round, if there are any to do.

        Where one raises, or is interrupted, all jobs that had a part in it have failed.
        """
        done = False
        self._clock.come_back()
        try:
            self._read_prompts()
            if self._running:
                self._run_round()
            done = True
        finally:
            self._clock.leave()
            if not done:
                self._fail()

    def _read_prompts(self) -> None:
        """Read on until somebody runs, and for a while beside those who do."""
        if self._reading is None and not self._waiting:
            return
        begin = perf_counter()
        while reading := self._next_prompt():
            job, chunks = reading
            before, start = job.read, perf_counter()
            job.member = next(chunks)
            self._has_read = True
            self._time(job.read - before, perf_counter() - start)
            if job.member is not None:
                self._reading = None
                self._batch.join(job.member)
                self._running[job.member] = job
            if self._running and perf_counter() - begin >= MAX_STALL / 2:
                return

    def _time(self, tokens: int, seconds: float) -> None:
        if tokens >= LEAST_CHUNK:
            self._speed = tokens / seconds

    def _chunk_size(self) -> int | None:
        """How many tokens of a prompt may be read at once; None for as many as it asks for, if nobody waits."""
        if not self._running or self._speed is None:
            return None
        return max(LEAST_CHUNK, int(self._speed * MAX_STALL / 2))

    def _next_prompt(self) -> tuple[Job, Iterator[Member | None]] | None:
        if self._reading is None and self._waiting and self._batch.has_room():
            job = self._waiting[0]
            if self._batch.fits(job.layout, job.suppress_tokens):
                self._reading = job, job.read_prompt(bool(self._running), self._chunk_size)
                self._waiting.popleft()
        return self._reading

    def _run_round(self) -> None:
        batch, ahead = self._batch, self._ahead()
        while batch.in_flight <= ahead and (limits := self._limits()):
            batch.submit(max(limits.values()), limits)
        drafted, found = batch.land()
        seconds = self._clock.round_was_read()
        self._observe(drafted, found, None if self._has_read else seconds)
        self._has_read = False
        for each in found:
            job = self._running[each.member]
            job.take(each)
            if job.ended:
                self._end(each.member)

    def _end(self, member: Member) -> None:
        if self._running.pop(member, None) is not None and len(self._batch.slots) > 1:
            self._together.left(member)
        self._batch.leave(member)

    def _ahead(self) -> int:
        """How many rounds to submit beyond the one that is read. None where the host decides what stands, and none
        before somebody has a first token: that round has no drafts to wait for."""
        begun = False
        for member, job in self._running.items():
            if member.acceptor is not None:
                return 0
            begun |= job.made > 0
        return LOOK_AHEAD if begun else 0

    def _limits(self) -> dict[Member, int]:
        """How many drafts count in the next round of each row; nothing if nobody wants one."""
        together = self._learns_together()
        caps = {member: self._cap(member, job, together) for member, job in self._running.items()}
        if max(caps.values()) < 0:
            return {}
        caps = {member: max(0, cap) for member, cap in caps.items()}
        if not together:
            return caps
        rows = self._batch.slots
        choice = self._together.choose(rows, [0 if row is None else caps.get(row, 0) for row in rows])
        learning = {member: min(cap, choice.drafts) for member, cap in caps.items() if self._running[member].learns}
        return caps | learning

    def _cap(self, member: Member, job: Job, together: bool) -> int:
        """The most drafts of a row's next round; negative if it wants no round."""
        flying = self._batch.in_flight_for(member)
        left = job.budget - job.made - flying
        if left <= 0:
            return -1
        first = job.made == 0 and flying == 0
        if first and member.drafts_at_once == 0:
            return 0
        longest = self._together.longest if job.learns and together else job.draft_length.choose()
        longest = min(longest, member.drafts_at_once) if first else longest
        return longest if job.steady else min(longest, left - 1)

    def _learns_together(self) -> bool:
        """Whether several rows share rounds, and any of them has as many drafts as are worth their time."""
        return len(self._batch.slots) > 1 and any(job.learns for job in self._running.values())

    def _observe(self, drafted: int, found: Sequence[Landed], seconds: float | None) -> None:
        """A round was read: whoever chose its drafts learns from it."""
        if len(self._batch.slots) == 1:
            for each in found:
                self._running[each.member].draft_length.observe(each.drafted, [each.accepted], seconds)
        elif self._learns_together():
            of = {each.member: each for each in found}
            rows = [row if row in of else None for row in self._batch.slots]
            limits = [0 if row is None else of[row].drafted for row in rows]
            accepted = [0 if row is None else of[row].accepted for row in rows]
            self._together.observe(rows, drafted, limits, accepted, seconds)

    def _fail(self) -> None:
        """Let everybody go who had a part in a step that was not completed: what their rows hold is not known."""
        jobs: Sequence[Job] = [*self._running.values(), *([self._reading[0]] if self._reading else [])]
        self._reading = None
        if len(self._batch.slots) > 1:
            for member in self._running:
                self._together.left(member)
        self._running.clear()
        self._batch.clear()
        for job in jobs:
            job.failed = job.ended = True
