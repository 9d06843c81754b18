"""Text from a target, with or without its assistant: ``stream_generate``, ``generate``.

``python -m mlx_gemma4_assist.generate`` is the same from a shell.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from .backend import compiles_by_default, wired_limit
from .cache.layout import CacheLayout, KVCache, round_up
from .cache.soft_tokens import MediaPrompt
from .drafts.draft_length import AUTO_LONGEST, DEFAULT_DRAFTS, DraftLength, FixedDraftLength
from .drafts.learning import draft_key, keep_learned, start_learning
from .engine.prefill import DEFAULT_STEP_SIZE, Progress, fill, prefill
from .errors import InputError
from .models.config import check_pair
from .models.gemma4_assistant import Gemma4AssistantForCausalLM
from .models.gemma4_text import Gemma4ForCausalLM
from .rounds.compiled import check_compiler, compiled_steps
from .rounds.host_accept import HostAcceptor, LogitsProcessor
from .rounds.round import Emitted, Engine, Plan, accept, rounds
from .rounds.sampling import Sampling
from .text.processor import Processor, Prompt
from .text.stops import StopStrings

LOOK_AHEAD = 1
DEFAULT_DRAFT_TEMPERATURE = 1.0  # accepted most on the embedded pair, by the table of tests/test_tiny_pair.py
SLACK_STEP = 32


@dataclass
class SpeculationStats:
    """What drafting gave, so far.

    Attributes:
        rounds: forwards of the target after the prompt.
        drafted: tokens proposed by the assistant.
        accepted: of these, how many stood.
        accepted_at: for each place in a round, how often the draft there stood.
        drafted_at: for each place in a round, how often there was a draft.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    drafted_at: list[int] = field(default_factory=list)

    def add(self, drafted: int, accepted: int) -> None:
        """Count one round."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        missing = drafted - len(self.drafted_at)
        self.drafted_at += [0] * missing
        self.accepted_at += [0] * missing
        for place in range(drafted):
            self.drafted_at[place] += 1
            self.accepted_at[place] += place < accepted

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted, 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass
class GenerationResponse:
    """One token, with mlx-lm's fields.

    Attributes:
        text: the next piece of text, possibly empty: characters and stop strings are never split.
        token: the token's id.
        from_draft: whether the assistant proposed it.
        prompt_tokens: how many tokens the prompt has.
        prompt_tps: prompt tokens computed per second, up to the first token.
        generation_tokens: how many tokens have been generated.
        generation_tps: of these, how many per second, from the first token on.
        peak_memory: MLX's peak memory in GB.
        finish_reason: on the last response "stop" (a stop token or stop string) or "length", None before.
        stats: of drafting; one object, final on the last response.
    """

    text: str
    token: int
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    finish_reason: str | None
    stats: SpeculationStats


def make_prompt_cache(
    model: Gemma4ForCausalLM,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    num_assistant_tokens: int | None = None,
) -> KVCache:
    """An empty cache for several calls of ``stream_generate``: a conversation's earlier turns are then not read again.

    Args:
        model: the target.
        assistant_model, num_assistant_tokens: as those calls will have them; more drafts need more slack.
    """
    drafts = _longest(assistant_model, num_assistant_tokens)
    dtype = model.embed(mx.array([[0]])).dtype
    return KVCache(CacheLayout(model.config, round_up(_needed_slack(drafts), SLACK_STEP), dtype))


def stream_generate(
    model: Gemma4ForCausalLM,
    processor: Processor,
    prompt: Prompt | MediaPrompt,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    draft_temperature: float | None = None,
    seed: int | None = None,
    num_assistant_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    logits_processors: Sequence[LogitsProcessor] = (),
    chat: bool = True,
    compile: bool | None = None,
    prefill_step_size: int = DEFAULT_STEP_SIZE,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = lambda done, total: None,
) -> Iterator[GenerationResponse]:
    """Generate, yielding one response per token as soon as it is known.

    The tokens are exactly those that the target alone would give (float32; in bfloat16 and quantized, forwards over one
    and over several tokens round differently, so that near ties may fall otherwise). With a seed, sampled tokens do not
    depend on the assistant either, unless a ``draft_temperature`` is given.

    Args:
        model, processor: from ``load``.
        prompt: text, token ids (used exactly as given), chat messages, or token ids with pictures and sound among them.
        assistant_model: from ``load_assistant``; None decodes plainly.
        max_tokens: the most tokens to generate.
        temperature: 0 is greedy.
        top_p, top_k, min_p: filters, in transformers' order: top-k, top-p, min-p after the temperature; 1, 0 and 0
            keep all.
        draft_temperature: how the assistant's drafts are drawn when sampling; 0 takes its likeliest token. None is 0
            with a seed, 1 without one: drawn drafts are accepted more often, but they change the text that is drawn.
        seed: makes sampling repeatable; None draws a fresh one.
        num_assistant_tokens: drafts per round; 0 decodes plainly. None learns from the rounds how many are worth their
            time, none included; only with a seed and a ``draft_temperature`` it is 3, for the text to be repeatable.
        stop: strings that end the text; they are not part of it.
        logits_processors: mlx-lm's ``(tokens, logits) -> logits``, called once per token; rounds then do not overlap.
        chat: whether a text prompt is a user's message for the chat template, or raw text.
        compile: whether rounds run under ``mx.compile``; None does so on Metal. On the CPU backend that takes a C++
            compiler, and half a minute the first time on a machine.
        prefill_step_size: tokens of the prompt computed at once, which bounds memory.
        prompt_cache: from ``make_prompt_cache``. What it shares with the prompt's beginning is not computed again;
            afterwards it holds the prompt and all generated tokens but the last, whose keys come with the next call.
        prompt_progress_callback: called with (tokens computed, tokens to compute).

    Raises:
        InputError: before any work is done: an option out of range, an empty prompt, one longer than the context, an
            assistant of another target.
    """
    if assistant_model is not None:
        check_pair(model.config, assistant_model.config)
    if draft_temperature is None:
        draft_temperature = 0.0 if temperature == 0 or seed is not None else DEFAULT_DRAFT_TEMPERATURE
    sampling = Sampling(temperature, top_k, top_p, min_p, draft_temperature, processor.suppress_tokens)
    if sampling.greedy and draft_temperature > 0:
        raise InputError("draft_temperature needs a temperature above 0: greedy decoding drafts greedily")
    longest = _longest(assistant_model, num_assistant_tokens)
    compiles = _compiles(compile)
    keep: Callable[[int], None] = _keep_nothing
    if assistant_model is None or num_assistant_tokens is not None:
        draft_length: DraftLength = FixedDraftLength(longest)
    elif seed is not None and draft_temperature > 0:
        # Drafts that are drawn change the text, so their number must not be learned from times.
        draft_length = FixedDraftLength(DEFAULT_DRAFTS)
    else:
        key = draft_key(model, assistant_model, compiles)
        draft_length = start_learning(key, longest)
        keep = partial(keep_learned, key, draft_length)
    for name, value in (("max_tokens", max_tokens), ("prefill_step_size", prefill_step_size)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected a positive integer")
    whole = prompt if isinstance(prompt, MediaPrompt) else MediaPrompt(processor.encode(prompt, chat=chat))
    whole.check()
    tokens = whole.tokens
    budget = min(max_tokens, _room(model, tokens))
    cache = (
        prompt_cache if prompt_cache is not None else make_prompt_cache(model, assistant_model, num_assistant_tokens)
    )
    if cache.layout.config != model.config or cache.layout.slack < _needed_slack(longest):
        raise InputError("prompt_cache was made for another model, or for fewer num_assistant_tokens")

    acceptor = HostAcceptor(logits_processors, tokens) if logits_processors else accept
    engine = Engine(model, assistant_model, cache.layout, sampling, acceptor)
    plan = Plan(
        budget,
        draft_length,
        ahead=0 if logits_processors else LOOK_AHEAD,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    fill_step = fill
    if compiles:
        steps = compiled_steps(engine)
        plan, fill_step = steps.carry_out(plan), steps.fill
    prefill_prompt = partial(
        prefill,
        model,
        cache,
        step_size=prefill_step_size,
        progress=prompt_progress_callback,
        fill=fill_step,
        media=whole.media,
    )
    reporter = _Reporter(processor, StopStrings(stop), whole.keys, budget)
    return _run(engine, cache, plan, reporter, prefill_prompt, keep)


def generate(
    model: Gemma4ForCausalLM,
    processor: Processor,
    prompt: Prompt | MediaPrompt,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    draft_temperature: float | None = None,
    seed: int | None = None,
    num_assistant_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    logits_processors: Sequence[LogitsProcessor] = (),
    chat: bool = True,
    compile: bool | None = None,
    prefill_step_size: int = DEFAULT_STEP_SIZE,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = lambda done, total: None,
) -> str:
    """All of the text at once. Arguments and errors as for :func:`stream_generate`."""
    responses = stream_generate(
        model,
        processor,
        prompt,
        assistant_model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        draft_temperature=draft_temperature,
        seed=seed,
        num_assistant_tokens=num_assistant_tokens,
        stop=stop,
        logits_processors=logits_processors,
        chat=chat,
        compile=compile,
        prefill_step_size=prefill_step_size,
        prompt_cache=prompt_cache,
        prompt_progress_callback=prompt_progress_callback,
    )
    return "".join(response.text for response in responses)


def _longest(assistant: Gemma4AssistantForCausalLM | None, num_assistant_tokens: int | None) -> int:
    """The most drafts that a round may have."""
    if assistant is None:
        if num_assistant_tokens:
            raise InputError(f"num_assistant_tokens is {num_assistant_tokens}, but there is no assistant model")
        return 0
    return AUTO_LONGEST if num_assistant_tokens is None else FixedDraftLength(num_assistant_tokens).longest


def _needed_slack(drafts: int) -> int:
    """Positions that the rounds in flight may write beyond what is kept in the end."""
    return (LOOK_AHEAD + 1) * (drafts + 1)


def _room(model: Gemma4ForCausalLM, tokens: Sequence[int]) -> int:
    """How many tokens may follow a prompt."""
    context, vocabulary = model.config.max_position_embeddings, model.config.vocab_size
    if not tokens:
        raise InputError("the prompt is empty")
    if max(tokens) >= vocabulary:
        raise InputError(
            f"the prompt has the token id {max(tokens)}, but the model's vocabulary ends at {vocabulary - 1}"
        )
    if len(tokens) >= context:
        raise InputError(f"the prompt has {len(tokens)} tokens, but the model's context is {context}")
    return context - len(tokens)


def _reuse(cache: KVCache, tokens: Sequence[int]) -> list[int]:
    """Rewind the cache to what it shares with a prompt; return what is left to compute, the last token at least."""
    (held,) = cache.tokens
    same = 0
    for ours, theirs in zip(held, tokens[:-1], strict=False):
        if ours != theirs:
            break
        same += 1
    if cache.can_rewind(0, same):
        cache.rewind(0, same)
    else:
        cache.reset()
        same = 0
    return list(tokens[same:])


def _compiles(compile: bool | None) -> bool:
    if compile:
        check_compiler()
    return compiles_by_default() if compile is None else compile


def _run(
    engine: Engine,
    cache: KVCache,
    plan: Plan,
    reporter: "_Reporter",
    prefill_prompt: Callable[[Sequence[int]], None],
    keep: Callable[[int], None],
) -> Iterator[GenerationResponse]:
    rest = _reuse(cache, reporter.prompt)
    reporter.start(len(rest))
    try:
        with wired_limit():
            prefill_prompt(rest[:-1])
            for emitted in rounds(engine, cache, rest[-1:], plan):
                yield from reporter.report(emitted)
                if reporter.finish_reason is not None:
                    return
    finally:
        # Drafts behind a stop, tokens that nobody asked for and rounds in flight fall away.
        if reporter.generated:
            cache.rewind(0, len(reporter.prompt) + reporter.generated - 1)
        keep(reporter.stats.rounds)


def _keep_nothing(rounds: int) -> None:
    """A fixed number of drafts teaches nothing."""


class _Reporter:
    """Rounds to responses: text, stops, counts and times of one run."""

    def __init__(self, processor: Processor, stop: StopStrings, prompt: Sequence[int], budget: int):
        self.prompt = prompt
        self.generated = 0
        self.finish_reason: str | None = None
        self.stats = SpeculationStats()
        self._stops = processor.eos_token_ids
        self._detokenizer = processor.detokenizer()
        self._stop_strings = stop
        self._budget = budget

    def start(self, to_compute: int) -> None:
        self._to_compute = to_compute
        self._started = time.perf_counter()
        self._first = None

    def report(self, emitted: Emitted) -> Iterator[GenerationResponse]:
        """The responses of one round of one row, up to a stop."""
        (tokens,), (accepted,) = emitted.tokens, emitted.accepted
        if self._first is None:
            self._first = time.perf_counter()
        self.stats.add(emitted.drafted, accepted)
        for place, token in enumerate(tokens):
            self.generated += 1
            text = self._text(token)
            yield self._response(text, token, place < accepted)
            if self.finish_reason is not None:
                return

    def _text(self, token: int) -> str:
        """The text that a token finishes; sets ``finish_reason`` at the last."""
        if token in self._stops:
            self.finish_reason = "stop"
            text = ""
        else:
            text, found = self._stop_strings.feed(self._detokenizer.add(token))
            if found:
                self.finish_reason = "stop"
                return text
            if self.generated == self._budget:
                self.finish_reason = "length"
        if self.finish_reason is None:
            return text
        rest, found = self._stop_strings.feed(self._detokenizer.finalize())
        if found:
            self.finish_reason = "stop"
        return text + rest + self._stop_strings.flush()

    def _response(self, text: str, token: int, from_draft: bool) -> GenerationResponse:
        spent = time.perf_counter() - self._first
        return GenerationResponse(
            text=text,
            token=token,
            from_draft=from_draft,
            prompt_tokens=len(self.prompt),
            prompt_tps=self._to_compute / (self._first - self._started),
            generation_tokens=self.generated,
            generation_tps=(self.generated - 1) / spent if self.generated > 1 and spent > 0 else 0.0,
            peak_memory=mx.get_peak_memory() / 1e9,
            finish_reason=self.finish_reason,
            stats=self.stats,
        )
