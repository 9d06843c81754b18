"""A request in progress."""

import secrets
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

import mlx.core as mx

from ..backend import wired_limit
from ..cache.layout import CacheLayout
from ..cache.rows import KVCache
from ..errors import InputError
from ..options import GenerationOptions
from ..rounds.compiled import compiles
from ..rounds.host_accept import HostAcceptor
from ..rounds.sampling import Sampling, in_use, row_keys, sampling_of
from ..rounds.state import Accept, Decoder
from ..rounds.steps import Steps
from .admission import Needs, OutOfMemory
from .batch import Member
from .guiding import Constraint, Held
from .pair import Pair
from .prediction import Foreseen, Free, Prediction
from .prefill import Progress, chunks, last_hidden
from .prefix import PrefixCache
from .reading import Reading, Text
from .request import Request, TokenEvent
from .scheduler import ChunkSize, Job, Scheduler


class Host(Protocol):
    """What a run asks of its engine."""

    @property
    def pair(self) -> Pair: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def prefix(self) -> PrefixCache: ...

    saves_when_idle: bool

    def decoder(self, layout: CacheLayout, sampling: Sampling, acceptor: Accept | None) -> Decoder: ...
    def steps(self, decoder: Decoder, compiled: bool) -> Steps: ...
    def drafts(self, options: GenerationOptions) -> int | None: ...


class Run:
    """A request in progress: iterate over it for its events, and close it.

    Several of one engine may be iterated over in turns: whoever asks for an event makes progress for all.

    Args:
        engine: what runs it.
        request: what to continue, and how.
        cache: of one row.
        progress: called with (tokens of the prompt computed, tokens to compute).
        longest: the most drafts of a round.
        kept: whether the cache is wanted afterwards.

    Attributes:
        kept: how many of the tokens made belong to the text, as far as it has been handed out. Who cuts the text
            earlier, at a stop string, says so here before closing.
        media: the prompt's soft tokens.
        to_compute: tokens of the prompt that neither the cache held nor the engine's prefix cache.
        needs: how much memory it takes.
    """

    def __init__(
        self,
        engine: Host,
        request: Request,
        cache: KVCache,
        progress: Progress,
        *,
        longest: int,
        kept: bool = True,
    ):
        options = request.options
        self.kept = 0
        self.to_compute = 0
        self.prompt: Sequence[int] = request.prompt.keys
        self.media = request.prompt.media
        self._text = Text(self.prompt, request.prompt.media, request.points, request.left_out)
        self._engine, self._request, self._cache, self._progress = engine, request, cache, progress
        self._keeps_cache = kept
        self._sampling = sampling_of(options, request.suppress_tokens)
        self._compiled = compiles(options.compile)
        forced = 0 if self._draws_by_seed() else longest  # drafts of a grammar's
        self._held = _held(request, forced)
        self.needs = self._needs(longest)
        self._job = Job(
            self._read_prompt,
            cache,
            self.needs,
            self.needs.budget,
            request.stop_tokens,
            engine.drafts(options),
            steady=self._draws_by_seed(),
            priority=request.priority,
            top_logprobs=options.top_logprobs,
        )
        self._holder: object | None = None
        self._events = self._run()

    def __iter__(self) -> Generator[TokenEvent, None, None]:
        return self._events

    def _needs(self, longest: int) -> Needs:
        request = self._request
        return Needs(
            self._cache.layout,
            len(self.prompt),
            request.budget(self._engine.pair.target.config),
            request.options.prefill_step_size,
            longest,
            self._sampling,
        )

    def close(self) -> None:
        """No more is wanted. Drafts behind a stop, tokens that nobody asked for and rounds in flight fall away."""
        self._events.close()
        self._leave()  # begun, but never iterated over

    def hold(self, constraint: Constraint) -> None:
        """Let the text go on as a constraint says, which is in the state of the text as far as it has been handed out.

        All that is there has been handed out.
        """
        if self._held is None:
            self._held = Held(constraint, 0)
        self._held.constraint = constraint
        self._engine.scheduler.hold(self._job, self._held)

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were not computed; known once the first event is there."""
        return len(self.prompt) - self.to_compute

    @property
    def ready(self) -> bool:
        """Whether the next event is there, or an error in its place, without any work."""
        return bool(self._job.events) or self._job.failed or self._job.refusal is not None

    def begin(self) -> None:
        """Take part in the engine's work from now on, not only once an event is asked for."""
        if self._holder is None:
            self._holder = self._cache.claim()
            self._engine.prefix.expect(self, self.prompt)
            self._engine.scheduler.add(self._job)

    def _run(self) -> Generator[TokenEvent, None, None]:
        cache, job = self._cache, self._job
        try:
            self.begin()
            with wired_limit():
                while True:
                    while not job.events:
                        self._step()
                    event = job.events.popleft()
                    self.kept += len(event.tokens)
                    if event.finish_reason is not None:
                        self._check_held()
                    yield event
                    if event.finish_reason is not None:
                        return
                    if not cache.is_held_by(self._holder):
                        raise InputError("another text has begun on this prompt_cache: this one cannot go on")
        except RuntimeError:  # what the device was doing with the buffers is not known
            self._engine.prefix.clear()
            cache.reset()
            raise
        finally:
            self._leave()
            if self.kept and cache.lengths[0] and cache.is_held_by(self._holder):
                cache.rewind(0, len(self.prompt) + self.kept - 1)
            if self._engine.scheduler.idle and not job.failed and not self._engine.saves_when_idle:
                while self._engine.prefix.save():
                    pass

    def _check_held(self) -> None:
        """Raises:
        InputError: the grammar could not go on, and so the text has ended.
        """
        if self._held is not None and self._held.constraint.error is not None:
            raise InputError(f"the grammar could not go on: {self._held.constraint.error}")

    def _leave(self) -> None:
        self._engine.prefix.expect_no_longer(self)
        self._engine.scheduler.drop(self._job)
        if not self._keeps_cache:
            self._cache.empty()

    def _step(self) -> None:
        if self._job.refusal is not None:
            raise OutOfMemory(self._job.refusal)
        if self._job.failed:
            raise RuntimeError("the engine failed, or was interrupted, in a step for another request")
        self._engine.scheduler.step()

    def _read_prompt(self, drafts_at_once: bool, chunk_size: ChunkSize) -> Iterator[Member | None]:
        """The prompt into the cache, chunk by chunk; then the row that goes on from its last token.

        Where that row drafts from its first round on, a last forward keeps its hidden state; otherwise the first round,
        which has no drafts, gives the first token sooner.
        """
        cache, engine, prompt = self._cache, self._engine, self._request.prompt
        options = self._request.options
        engine.prefix.expect_no_longer(self)
        reading = Reading(engine.prefix, cache, self._text)
        rest = self.prompt[reading.begin :]
        self.to_compute = len(rest)
        decoder = engine.decoder(cache.layout, in_use([self._sampling]), None)
        steps = engine.steps(decoder, self._compiled)
        drafts_at_once = drafts_at_once and engine.pair.assistant is not None
        joins = (drafts_at_once or reading.is_asked_again) and not self._draws_by_seed()
        apart = 2 if joins and len(rest) > 1 and rest[-2] >= 0 else 1
        read = chunks(
            engine.pair.target,
            cache,
            rest[:-apart],
            lambda: reading.step(min(options.prefill_step_size, chunk_size() or options.prefill_step_size)),
            steps=steps,
            media=prompt.media,
            progress=self._count,
        )
        for _ in read:
            reading.passed()
            yield None
        hidden = None if self._draws_by_seed() else reading.hidden if len(rest) == 1 else None
        if apart == 2:
            reading.passed()
            hidden = last_hidden(decoder, cache, rest[-2])
        reading.passed(hidden)
        yield self._member(rest[-1], hidden)

    def _count(self, done: int, total: int) -> None:
        self._job.read = done
        self._progress(done, total)

    def _draws_by_seed(self) -> bool:
        """Whether the text depends on how many drafts each round has: then it has as many as it would have alone."""
        return self._request.options.seed is not None and self._sampling.draws_drafts

    def _member(self, token: int, hidden: mx.array | None) -> Member:
        options = self._request.options
        processors = options.logits_processors
        return Member(
            self._cache,
            token,
            hidden,
            row_keys(secrets.randbits(32) if options.seed is None else options.seed, 1),
            self._sampling,
            text=self._request.prompt.tokens,
            compiled=self._compiled,
            holder=self._holder if self._keeps_cache else None,
            acceptor=HostAcceptor(processors, self._request.prompt.tokens) if processors else None,
            leaving=None if self._keeps_cache else self._leave_point,
            held=self._held,
        )

    def _leave_point(self, cache: KVCache, row: int) -> None:
        """Where the text ends, for a later prompt that goes on with it; a caller's own cache has that already."""
        store, made = self._engine.prefix, self._job.made if self._job.ended else self.kept
        length = len(self.prompt) + made - 1
        if store.budget and made and self._text.stays(cache.tokens[row][:length]) and cache.can_rewind(row, length):
            store.take(cache.take(row), length)


def _held(request: Request, drafts: int) -> Held | None:
    """What holds a request's text, and what is known of it; so many of a round's drafts may be known."""
    constraint = None if request.constraint is None else request.constraint()
    if request.prediction and drafts:
        prediction = Prediction(request.prediction, request.answer_begins)
        return Foreseen(Free() if constraint is None else constraint, drafts, prediction=prediction)
    return None if constraint is None else Held(constraint, drafts)
