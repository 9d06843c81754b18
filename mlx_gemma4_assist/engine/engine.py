"""Runs requests on a pair: token ids in, token events out. It knows nothing of text.

One request at a time, in the thread that iterates over it.
"""

import secrets
from collections.abc import Generator, Sequence

from ..backend import Kept, compiles_by_default, on_gpu, wired_limit
from ..cache.layout import CacheLayout, round_up
from ..cache.rows import KVCache
from ..drafts.fixed import DEFAULT_DRAFTS, FixedDraftLength
from ..drafts.learned import AUTO_LONGEST
from ..drafts.protocol import DraftLength
from ..errors import InputError, OptionError, described
from ..options import GenerationOptions
from ..rounds.accept import accept
from ..rounds.compiled import CompiledSteps, check_compiler
from ..rounds.host_accept import HostAcceptor
from ..rounds.sampling import sampling_of
from ..rounds.state import Decoder
from ..rounds.steps import EAGER, Steps
from .learning import Learning, Memory
from .loop import Emitted, Plan, rounds
from .pair import Pair
from .prefill import Progress, no_progress, prefill
from .request import Request, TokenEvent

LOOK_AHEAD = 1
KEPT = 8  # settings of compiled rounds per target: sampling options are constants of a trace
SLACK_STEP = 32


class Engine:
    """What runs requests on a pair.

    Args:
        pair: the networks.
        memory: where draft lengths that were learned are kept for later processes; None keeps them for as long as the
            target lives.

    Raises:
        InputError: one of them is something else.
    """

    def __init__(self, pair: Pair, memory: Memory | None = None):
        if not isinstance(pair, Pair):
            raise InputError(f"the pair is {described(pair)}, expected a Pair")
        if memory is not None and (isinstance(memory, type) or not isinstance(memory, Memory)):
            raise InputError(f"draft_memory is {described(memory)}, expected None or DraftMemory(folder)")
        self.pair = pair
        self._memory = memory

    def new_cache(self, num_assistant_tokens: int | None = None) -> KVCache:
        """An empty cache for requests with so many drafts per round; None leaves room for as many as are learned."""
        layout = CacheLayout(self.pair.target.config, self.slack(num_assistant_tokens), self.pair.dtype)
        return KVCache(layout, fingerprint=self.pair.fingerprint)

    def slack(self, num_assistant_tokens: int | None = None) -> int:
        """Slots beyond the window that :meth:`new_cache` gives a ring."""
        asked = GenerationOptions(num_assistant_tokens=num_assistant_tokens).num_assistant_tokens
        return round_up(_needed_slack(longest_draft(self.pair, asked)), SLACK_STEP)

    def run(self, request: Request, cache: KVCache | None = None, progress: Progress = no_progress) -> "Run":
        """A request's events, as one iterates over them; nothing is computed before.

        Args:
            request: what to continue, and how.
            cache: from :meth:`new_cache`. What it shares with the prompt's beginning is not computed again; afterwards
                it holds the prompt and all tokens of the text but the last, whose keys come with the next request.
            progress: called with (tokens of the prompt computed, tokens to compute).

        Raises:
            InputError: the prompt or an option does not fit the pair, or the cache does not belong to it.
        """
        if not callable(progress):
            raise InputError(f"prompt_progress_callback is {described(progress)}, expected a function")
        options = request.options
        longest = longest_draft(self.pair, options.num_assistant_tokens)
        if self.pair.assistant is None and options.draft_temperature:
            raise OptionError("{draft_temperature} is for drafts, but there is no assistant model")
        request.check(self.pair.target.config)
        if cache is None:
            cache = self.new_cache(options.num_assistant_tokens)
        elif not isinstance(cache, KVCache):
            raise InputError(f"prompt_cache is {described(cache)}, expected what make_prompt_cache returns")
        elif cache.fingerprint != self.pair.fingerprint or cache.layout.slack < _needed_slack(longest):
            raise InputError("prompt_cache was made for another model, or for fewer num_assistant_tokens")
        return Run(self, request, cache, progress)

    def decoder(self, request: Request, layout: CacheLayout) -> Decoder:
        """The networks and settings of a request's rounds."""
        processors = request.options.logits_processors
        acceptor = HostAcceptor(processors, request.prompt.tokens) if processors else accept
        sampling = sampling_of(request.options, request.suppress_tokens)
        return Decoder(self.pair.target, self.pair.assistant, layout, sampling, acceptor)

    def steps(self, decoder: Decoder, options: GenerationOptions) -> Steps:
        """How a request's rounds are made. What was compiled is kept with the target, for later engines too.

        Raises:
            InputError: there is no compiler, where MLX needs one.
        """
        if not compiles(options.compile):
            return EAGER
        kept: Kept = self.pair.target.kept.get("steps", lambda: Kept(KEPT))
        layout = decoder.layout
        key = id(decoder.assistant), layout.slack, layout.dtype, decoder.sampling, on_gpu()
        steps: CompiledSteps = kept.get(key, lambda: CompiledSteps(decoder))
        if not steps.serve(decoder):  # an assistant that has died left its id to another
            kept.drop(key)
            steps = kept.get(key, lambda: CompiledSteps(decoder))
        return steps

    def learning(self, options: GenerationOptions) -> Learning | None:
        """What a request's rounds teach about draft lengths; None where their number is fixed."""
        assistant = self.pair.assistant
        if assistant is None or options.num_assistant_tokens is not None:
            return None
        if options.seed is not None and options.draft_temperature:
            return None  # drafts that are drawn change the text, so their number must not be learned from times
        return Learning(self.pair.target, assistant, compiles(options.compile), self._memory)


class Run:
    """A request in progress: iterate over it for its events, and close it.

    Attributes:
        kept: how many of the tokens made belong to the text, as far as it has been handed out. Who cuts the text
            earlier, at a stop string, says so here before closing.
        to_compute: tokens of the prompt that the cache did not hold.
    """

    def __init__(self, engine: Engine, request: Request, cache: KVCache, progress: Progress):
        options = request.options
        self.kept = 0
        self.to_compute = 0
        self.prompt: Sequence[int] = request.prompt.keys
        self._request, self._cache, self._progress = request, cache, progress
        self._budget = request.budget(engine.pair.target.config)
        self._decoder = engine.decoder(request, cache.layout)
        self._steps = engine.steps(self._decoder, options)
        self._learning = engine.learning(options)
        self._plan = Plan(
            self._budget,
            self._draft_length(engine.pair),
            ahead=0 if options.logits_processors else LOOK_AHEAD,
            seed=secrets.randbits(32) if options.seed is None else options.seed,
            steps=self._steps,
        )
        self._events = self._run()

    def __iter__(self) -> Generator[TokenEvent, None, None]:
        return self._events

    def close(self) -> None:
        """No more is wanted. Drafts behind a stop, tokens that nobody asked for and rounds in flight fall away."""
        self._events.close()

    def _draft_length(self, pair: Pair) -> DraftLength:
        if self._learning is not None:
            return self._learning.draft_length
        asked = self._request.options.num_assistant_tokens
        return FixedDraftLength(0 if pair.assistant is None else DEFAULT_DRAFTS if asked is None else asked)

    def _run(self) -> Generator[TokenEvent, None, None]:
        cache, options = self._cache, self._request.options
        holder = cache.claim()
        rest = self.prompt[cache.reuse(0, self.prompt) :]
        self.to_compute = len(rest)
        rounds_read = 0
        try:
            with wired_limit():
                prefill(
                    self._decoder.target,
                    cache,
                    rest[:-1],
                    options.prefill_step_size,
                    steps=self._steps,
                    media=self._request.prompt.media,
                    progress=self._progress,
                )
                made = 0
                for emitted in rounds(self._decoder, cache, rest[-1:], self._plan):
                    rounds_read += 1
                    event = self._event(emitted, made)
                    self.kept = made = made + len(event.tokens)
                    yield event
                    if event.finish_reason is not None:
                        return
                    if not cache.is_held_by(holder):
                        raise InputError("another text has begun on this prompt_cache: this one cannot go on")
        except RuntimeError:  # what the device was doing with the buffers is not known
            cache.reset()
            raise
        finally:
            if self.kept and cache.lengths[0] and cache.is_held_by(holder):
                cache.rewind(0, len(self.prompt) + self.kept - 1)
            if self._learning is not None:
                self._learning.keep(rounds_read)

    def _event(self, emitted: Emitted, made: int) -> TokenEvent:
        """A round of one row, cut at a stop token and at the budget."""
        (tokens,), (accepted,) = emitted.tokens, emitted.accepted
        tokens = tokens[: self._budget - made]
        stop = next((place for place, token in enumerate(tokens) if token in self._request.stop_tokens), None)
        if stop is not None:
            return TokenEvent(tokens[: stop + 1], accepted, emitted.drafted, "stop")
        reason = "length" if made + len(tokens) == self._budget else None
        return TokenEvent(tokens, accepted, emitted.drafted, reason)


def compiles(asked: bool | None) -> bool:
    """Whether rounds are compiled: as asked, else where that is the default.

    Raises:
        InputError: asked for where there is no compiler that MLX needs.
    """
    if asked:
        check_compiler()
    return compiles_by_default() if asked is None else asked


def longest_draft(pair: Pair, num_assistant_tokens: int | None) -> int:
    """The most drafts that a round of the pair makes.

    Raises:
        InputError: drafts are asked for, but there is no assistant.
    """
    if pair.assistant is not None:
        return AUTO_LONGEST if num_assistant_tokens is None else num_assistant_tokens
    if num_assistant_tokens:
        raise OptionError(
            "{num_assistant_tokens} is {value}, but there is no assistant model", value=num_assistant_tokens
        )
    return 0


def _needed_slack(drafts: int) -> int:
    """Positions that the rounds in flight may write beyond what is kept in the end."""
    return (LOOK_AHEAD + 1) * (drafts + 1)
