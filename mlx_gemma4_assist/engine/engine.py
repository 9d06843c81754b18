"""Runs requests on a pair, one or many at once: token ids in, token events out. It knows nothing of text.

All work is done in the thread that asks for events; one at a time.
"""

import os
from collections.abc import Sequence
from math import inf

from ..backend import Kept, on_gpu, usable_bytes
from ..cache.layout import CacheLayout, round_up
from ..cache.quantization import KVQuantization, kv_quantization
from ..cache.rows import KVCache
from ..cache.soft_tokens import MediaPrompt
from ..drafts.fixed import DEFAULT_DRAFTS
from ..drafts.learned import AUTO_LONGEST
from ..drafts.memory import DraftKey
from ..errors import InputError, OptionError, described
from ..options import GenerationOptions
from ..rounds.accept import accept
from ..rounds.compiled import CompiledSteps
from ..rounds.sampling import Sampling
from ..rounds.state import Accept, Decoder
from ..rounds.steps import EAGER, Steps
from .admission import Admission
from .ahead import ReadAhead
from .batch import Batch
from .learning import DraftLengths, Memory, draft_key
from .pair import Pair
from .prefill import Progress, no_progress
from .prefix_options import FOLDER_BYTES, prefix_cache
from .request import Request
from .run import Run
from .scheduler import LOOK_AHEAD, MAX_STALL, Scheduler

KEPT = 8  # compiled rounds per target, each for what settings have in use
SLACK_STEP = 32


class Engine:
    """What runs requests on a pair.

    Args:
        pair: the networks.
        memory: where draft lengths that were learned are kept for later processes; None keeps them for as long as the
            target lives.
        prefix_cache_bytes: of keys and values that are kept of prompts and texts, so that what begins like them is not
            read again; 0 keeps none. None is a sixteenth of the memory, at most 2 GiB.
        prefix_cache_folder: where these are kept for later processes; None writes nothing.
        prefix_cache_folder_bytes: the most that the folder's files take.
        memory_limit: bytes that MLX may use in this process; None is what the device recommends, or all that there is.
            What is kept of prompts is given up, then requests wait, and at last are refused, rather than go beyond it.
        max_stall: seconds that requests which generate wait at most for others' prompts between two rounds; None lets
            them wait until all are read that there is room for, after which all tokens are there soonest.

    Attributes:
        pair: as given.
        scheduler: makes progress for all runs that have begun.
        prefix: what is kept of prompts and texts.
        saves_when_idle: whether restore points are written to their folder by :meth:`idle` only, which does little at a
            time, and not also when the last request has ended.

    Raises:
        InputError: one of them is something else.
    """

    def __init__(
        self,
        pair: Pair,
        memory: Memory | None = None,
        *,
        prefix_cache_bytes: int | None = None,
        prefix_cache_folder: str | os.PathLike[str] | None = None,
        prefix_cache_folder_bytes: int = FOLDER_BYTES,
        memory_limit: int | None = None,
        max_stall: float | None = MAX_STALL,
    ):
        if not isinstance(pair, Pair):
            raise InputError(f"the pair is {described(pair)}, expected a Pair")
        if memory is not None and (isinstance(memory, type) or not isinstance(memory, Memory)):
            raise InputError(f"draft_memory is {described(memory)}, expected None or DraftMemory(folder)")
        self.pair = pair
        self.saves_when_idle = False
        self.prefix = prefix_cache(pair, prefix_cache_bytes, prefix_cache_folder, prefix_cache_folder_bytes)
        limit = usable_bytes() if memory_limit is None else _positive("memory_limit", memory_limit)
        self.admission = Admission(pair, limit, self.prefix.release)
        batch = Batch(self.decoder, self.steps)
        lengths = DraftLengths(pair.target, self._key_of_figures, memory)
        stall = inf if max_stall is None else _seconds("max_stall", max_stall)
        self.scheduler = Scheduler(batch, self.admission, lengths, stall)
        self._ahead = ReadAhead(pair.target, self.prefix, lambda quantization: self.new_cache(None, quantization))
        self._keys: dict[bool, DraftKey] = {}

    def new_cache(self, num_assistant_tokens: int | None = None, quantization: KVQuantization | None = None) -> KVCache:
        """An empty cache for requests with so many drafts per round; None leaves room for as many as are learned."""
        return self._cache(self.slack(num_assistant_tokens), quantization)

    def slack(self, num_assistant_tokens: int | None = None) -> int:
        """Slots beyond the window that :meth:`new_cache` gives a ring."""
        asked = GenerationOptions(num_assistant_tokens=num_assistant_tokens).num_assistant_tokens
        return slack_for(longest_draft(self.pair, asked))

    def _cache(self, slack: int, quantization: KVQuantization | None) -> KVCache:
        layout = CacheLayout(self.pair.target.config, slack, self.pair.dtype, quantization)
        return KVCache.of(layout, self.pair.fingerprint, (), [[]], [0])  # its buffers are made once it is let in

    def run(self, request: Request, cache: KVCache | None = None, progress: Progress = no_progress) -> Run:
        """A request's events, as one iterates over them; nothing is computed before.

        Args:
            request: what to continue, and how.
            cache: from :meth:`new_cache`. What it shares with the prompt's beginning is not computed again; afterwards
                it holds the prompt and all tokens of the text but the last, whose keys come with the next request.
            progress: called with (tokens of the prompt computed, tokens to compute).

        Raises:
            InputError: the prompt or an option does not fit the pair, or the cache does not belong to it; there is no
                memory for the prompt, whoever else is there.
        """
        if not callable(progress):
            raise InputError(f"prompt_progress_callback is {described(progress)}, expected a function")
        options = request.options
        longest = longest_draft(self.pair, options.num_assistant_tokens)
        if self.pair.assistant is None and options.draft_temperature:
            raise OptionError("{draft_temperature} is for drafts, but there is no assistant model")
        request.check(self.pair.target.config)
        foreseen = request.constraint is not None or request.prediction
        if foreseen and self.pair.assistant is None and options.num_assistant_tokens is None:
            longest = AUTO_LONGEST  # what a grammar forces, or another text has, needs no assistant
        self._ahead.drop()
        run = self._run(request, cache, progress, longest)
        self.admission.check(run.needs)
        return run

    def _run(self, request: Request, cache: KVCache | None, progress: Progress, longest: int) -> Run:
        quantization = kv_quantization(request.options, self.pair.target.config)
        if cache is None:
            own = self._cache(slack_for(longest), quantization)
            return Run(self, request, own, progress, longest=longest, kept=False)
        if not isinstance(cache, KVCache):
            raise InputError(f"prompt_cache is {described(cache)}, expected what make_prompt_cache returns")
        if cache.fingerprint != self.pair.fingerprint or cache.layout.slack < _needed_slack(longest):
            raise InputError("prompt_cache was made for another model, or for fewer num_assistant_tokens")
        if quantization is not None and quantization != cache.layout.quantization:
            held = "is dense" if cache.layout.quantization is None else f"has {cache.layout.quantization}"
            raise OptionError("{kv_bits} asks for {asked}, and the prompt_cache {held}", asked=quantization, held=held)
        return Run(self, request, cache, progress, longest=longest)

    def read_ahead(self, prompt: MediaPrompt | Sequence[int], quantization: KVQuantization | None = None) -> None:
        """A later prompt is going to begin with this one: :meth:`idle` reads it, all but its last token.

        Its keys and values are to be quantized as this one's.

        Raises:
            InputError: a prompt that the network could not read.
        """
        prompt = prompt if isinstance(prompt, MediaPrompt) else MediaPrompt(list(prompt))
        Request(prompt).check(self.pair.target.config)
        self._ahead.add(prompt, quantization)

    def idle(self) -> bool:
        """Do a little of what nobody waits for: read a chunk ahead, or write a restore point to the folder.

        Returns:
            Whether something was done, so that there may be more; nothing is while a request is under way.
        """
        return self.scheduler.idle and (self._ahead.step() or self.prefix.save())

    def decoder(self, layout: CacheLayout, sampling: Sampling, acceptor: Accept | None) -> Decoder:
        """The networks and settings of rounds; without an acceptor the device decides what stands."""
        return Decoder(self.pair.target, self.pair.assistant, layout, sampling, acceptor or accept)

    def steps(self, decoder: Decoder, compiled: bool) -> Steps:
        """How rounds are made. What was compiled is kept with the target, for later engines too."""
        if not compiled:
            return EAGER
        kept: Kept = self.pair.target.kept.get("steps", lambda: Kept(KEPT))
        layout = decoder.layout
        key = id(decoder.assistant), layout.slack, layout.dtype, layout.quantization, decoder.sampling, on_gpu()
        steps: CompiledSteps = kept.get(key, lambda: CompiledSteps(decoder))
        if not steps.serve(decoder):  # an assistant that has died left its id to another
            kept.drop(key)
            steps = kept.get(key, lambda: CompiledSteps(decoder))
        return steps

    def drafts(self, options: GenerationOptions) -> int | None:
        """How many drafts a request wants in a round; None for as many as are worth their time."""
        if self.pair.assistant is None:
            return 0
        if options.num_assistant_tokens is None and options.seed is not None and options.draft_temperature:
            return (
                DEFAULT_DRAFTS  # drafts that are drawn change the text, so their number must not be learned from times
            )
        return options.num_assistant_tokens

    def _key_of_figures(self, compiled: bool) -> DraftKey:
        """Made once: it takes a walk through all layers."""
        if compiled not in self._keys:
            assert self.pair.assistant is not None
            self._keys[compiled] = draft_key(self.pair.target, self.pair.assistant, compiled)
        return self._keys[compiled]


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise InputError(f"{name} is {described(value)}, expected seconds, 0 or more")
    return value


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InputError(f"{name} is {described(value)}, expected a positive number of bytes")
    return value


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


def slack_for(drafts: int) -> int:
    """Slots beyond the window that a ring has where rounds have up to so many drafts."""
    return round_up(_needed_slack(drafts), SLACK_STEP)


def _needed_slack(drafts: int) -> int:
    """Positions that the rounds in flight may write beyond what is kept in the end."""
    return (LOOK_AHEAD + 1) * (drafts + 1)
