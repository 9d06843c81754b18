"""Text from a target, with or without its assistant: ``stream_generate``, ``generate``."""

import inspect
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, overload

import mlx.core as mx

from .backend import wired_limit
from .cache.file import PathLike, read_cache
from .cache.quantization import kv_quantization
from .cache.rows import KVCache
from .cache.soft_tokens import MediaPrompt
from .engine.engine import Engine
from .engine.learning import Memory
from .engine.pair import Pair
from .engine.prefill import Progress, no_progress
from .engine.request import Request
from .engine.responses import BatchedText, GenerationResponse, responses
from .engine.run import Run
from .errors import InputError, described
from .models.gemma4_assistant import Gemma4AssistantForCausalLM
from .models.gemma4_text import Gemma4ForCausalLM
from .options import GenerationOptions, OptionValues, options_for_each
from .text.channels import Channel, ChannelText
from .text.processor import Processor, Prompt
from .text.stops import StopStrings

Function = TypeVar("Function", bound=Callable[..., Any])


def make_prompt_cache(
    model: Gemma4ForCausalLM,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    num_assistant_tokens: int | None = None,
    *,
    kv_bits: int | None = None,
    kv_group_size: int = GenerationOptions.kv_group_size,
    quantized_kv_start: int = GenerationOptions.quantized_kv_start,
) -> KVCache:
    """An empty cache for several calls of ``stream_generate``: a conversation's earlier turns are then not read again.

    Args:
        model: the target.
        assistant_model, num_assistant_tokens: as those calls will have them; more drafts need more slack.
        kv_bits, kv_group_size, quantized_kv_start: how keys and values are quantized, see ``GenerationOptions``; those
            calls need not say it again.

    Raises:
        InputError: an option out of range; keys that cannot be quantized so.
    """
    engine = Engine(Pair(model, assistant_model), prefix_cache_bytes=0)
    options = GenerationOptions(
        num_assistant_tokens=num_assistant_tokens,
        kv_bits=kv_bits,
        kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start,
    )
    return engine.new_cache(options.num_assistant_tokens, kv_quantization(options, model.config))


@overload
def load_prompt_cache(
    file_name: PathLike,
    model: Gemma4ForCausalLM,
    return_metadata: Literal[False] = ...,
    *,
    assistant_model: Gemma4AssistantForCausalLM | None = ...,
    num_assistant_tokens: int | None = ...,
) -> KVCache: ...
@overload
def load_prompt_cache(
    file_name: PathLike,
    model: Gemma4ForCausalLM,
    return_metadata: Literal[True],
    *,
    assistant_model: Gemma4AssistantForCausalLM | None = ...,
    num_assistant_tokens: int | None = ...,
) -> tuple[KVCache, dict[str, str]]: ...
def load_prompt_cache(
    file_name: PathLike,
    model: Gemma4ForCausalLM,
    return_metadata: bool = False,
    *,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    num_assistant_tokens: int | None = None,
) -> KVCache | tuple[KVCache, dict[str, str]]:
    """The cache that ``save_prompt_cache`` has written: a text that was read before a restart is not read again.

    Args:
        file_name: the file.
        model: the target, to which the file must belong; mlx-lm does not ask for it.
        return_metadata: whether the metadata that were kept with it are returned, too.
        assistant_model, num_assistant_tokens: as the calls of ``stream_generate`` will have them; where they take more
            slack than the cache was made with, it gets more.

    Raises:
        InputError: a file that cannot be read; of another model, dtype, format or version; a damaged one.
    """
    pair = Pair(model, assistant_model)
    slack = Engine(pair, prefix_cache_bytes=0).slack(num_assistant_tokens)
    cache, metadata = read_cache(Path(file_name), model.config, pair.dtype, pair.fingerprint, slack)
    return (cache, metadata) if return_metadata else cache


def stream(
    pair: Pair,
    prompt: Prompt | MediaPrompt,
    options: GenerationOptions | None = None,
    *,
    chat: bool = True,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = no_progress,
    draft_memory: Memory | None = None,
) -> Generator[GenerationResponse, None, None]:
    """``stream_generate`` for a pair and options that were made before. Arguments and errors as there."""
    engine = Engine(pair, draft_memory, prefix_cache_bytes=0)  # which nobody asks a second time
    return stream_on(
        engine, prompt, options, chat=chat, prompt_cache=prompt_cache, prompt_progress_callback=prompt_progress_callback
    )


def stream_on(
    engine: Engine,
    prompt: Prompt | MediaPrompt,
    options: GenerationOptions | None = None,
    *,
    chat: bool = True,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = no_progress,
) -> Generator[GenerationResponse, None, None]:
    """``stream_generate`` on an engine that lives longer: what its prefix cache has of the prompt is not read again.

    Arguments and errors as there.
    """
    options = GenerationOptions() if options is None else options
    request, text = _request(engine.pair, prompt, options, chat)
    return responses(engine.run(request, prompt_cache, prompt_progress_callback), text)


def _request(
    pair: Pair, prompt: Prompt | MediaPrompt, options: GenerationOptions, chat: bool
) -> tuple[Request, ChannelText]:
    """A prompt as an engine's request, and what turns its tokens into text."""
    if not isinstance(chat, bool):
        raise InputError(f"chat is {described(chat)}, expected True or False")
    processor = pair.text()
    stop = StopStrings(options.stop)
    whole = prompt if isinstance(prompt, MediaPrompt) else MediaPrompt(processor.encode(prompt, chat=chat))
    ends = processor.eos_token_ids | processor.stop_ids(options.stop)
    vocabulary = pair.target.config.vocab_size
    held = None if options.grammar is None else processor.grammar(options, whole.tokens, ends, vocabulary)
    request = Request(
        whole,
        options,
        ends,
        tuple(processor.suppress_tokens),
        points=tuple(processor.turn_begins(whole.tokens)),
        left_out=processor.left_out,
        constraint=held,
    )
    text = processor.turn(whole.tokens, stop, skip_special_tokens=options.skip_special_tokens)
    return request, text


def with_options_spelled_out(function: Function) -> Function:
    """Lets ``help`` and ``inspect`` show each generation option in the place of ``**options``."""
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    spelled = [
        inspect.Parameter(each.name, kind, default=each.default, annotation=OptionValues.__annotations__[each.name])
        for each in fields(GenerationOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*kept, *spelled])  # type: ignore[attr-defined]
    return function


def _check_names(function: str, options: Mapping[str, object]) -> None:
    """Refuse keywords that a function does not have, as Python would if it spelled its options out.

    Raises:
        TypeError: with the function, and the keyword that may have been meant.
    """
    unknown = next((name for name in options if name not in OptionValues.__annotations__), None)
    if unknown is None:
        return
    known = [*OptionValues.__annotations__, *inspect.signature(stream_generate).parameters]
    close = get_close_matches(unknown, known, n=1, cutoff=0.5)
    meant = f". Did you mean {close[0]!r}?" if close else ""
    raise TypeError(f"{function}() got an unexpected keyword argument {unknown!r}{meant}")


@with_options_spelled_out
def stream_generate(
    model: Gemma4ForCausalLM,
    processor: Processor,
    prompt: Prompt | MediaPrompt,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    *,
    chat: bool = True,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = no_progress,
    draft_memory: Memory | None = None,
    **options: Unpack[OptionValues],
) -> Generator[GenerationResponse, None, None]:
    """Generate, yielding one response per token as soon as it is known.

    The tokens are exactly those that the target alone would give (float32; in bfloat16 and quantized, forwards over one
    and over several tokens round differently, so that near ties may fall otherwise). With a seed, sampled tokens do not
    depend on the assistant either, unless a ``draft_temperature`` is given.

    Args:
        model, processor: from ``load``.
        prompt: text, token ids (used exactly as given), chat messages, or token ids with pictures and sound among them.
        assistant_model: from ``load_assistant``; None decodes plainly.
        chat: whether a text prompt is a user's message for the chat template, or raw text.
        prompt_cache: from ``make_prompt_cache``. What it shares with the prompt's beginning is not computed again;
            afterwards it holds the prompt and all generated tokens but the last, whose keys come with the next call.
        prompt_progress_callback: called with (tokens computed, tokens to compute).
        draft_memory: where draft lengths that are learned are kept for later processes, such as ``DraftMemory()``; None
            writes nothing to disk, and remembers them for as long as the target lives.
        **options: the fields of ``GenerationOptions``, as keywords.

    Raises:
        InputError: before any work is done: an option out of range, an empty prompt, one longer than the context, an
            assistant of another target, an argument of another kind, a grammar that is not supported.
        TypeError: a keyword that is none of these.
    """
    _check_names("stream_generate", options)
    return stream(
        Pair(model, assistant_model, processor),
        prompt,
        GenerationOptions(**options),  # type: ignore[arg-type]  # it reads more types than it holds
        chat=chat,
        prompt_cache=prompt_cache,
        prompt_progress_callback=prompt_progress_callback,
        draft_memory=draft_memory,
    )


@with_options_spelled_out
def generate(
    model: Gemma4ForCausalLM,
    processor: Processor,
    prompt: Prompt | MediaPrompt,
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    *,
    chat: bool = True,
    prompt_cache: KVCache | None = None,
    prompt_progress_callback: Progress = no_progress,
    draft_memory: Memory | None = None,
    **options: Unpack[OptionValues],
) -> str:
    """All of the answer at once, without thoughts and calls of tools, unless ``skip_special_tokens`` is False.

    Arguments and errors as for :func:`stream_generate`.
    """
    _check_names("generate", options)
    parts = stream_generate(
        model,
        processor,
        prompt,
        assistant_model,
        chat=chat,
        prompt_cache=prompt_cache,
        prompt_progress_callback=prompt_progress_callback,
        draft_memory=draft_memory,
        **options,
    )
    return "".join(response.text for response in parts if response.channel is Channel.ANSWER)


@dataclass
class BatchStats:
    """What a batch took, with mlx-lm's fields.

    Attributes:
        prompt_tokens: of all prompts, how many tokens were computed.
        prompt_time: seconds until all prompts had been read.
        prompt_tps: the one over the other.
        generation_tokens: of all texts.
        generation_time: seconds of the whole call, prompts included: they are read while others generate.
        generation_tps: tokens of all texts per second of it.
        peak_memory: MLX's peak memory in GB.
        cached_tokens: of all prompts, how many tokens were not computed, since a cache had them.
    """

    prompt_tokens: int = 0
    prompt_tps: float = 0.0
    prompt_time: float = 0.0
    generation_tokens: int = 0
    generation_tps: float = 0.0
    generation_time: float = 0.0
    peak_memory: float = 0.0
    cached_tokens: int = 0


@dataclass
class BatchResponse:
    """What ``batch_generate`` returns, with mlx-lm's fields.

    Attributes:
        texts: of each prompt, as ``generate`` returns it.
        stats: of all.
        caches: of each prompt, if asked for; they hold what ``prompt_cache`` of ``stream_generate`` holds.
        last: the last response of each: why it ended, what drafts did for it.
    """

    texts: list[str]
    stats: BatchStats
    caches: list[KVCache] | None
    last: list[GenerationResponse]


@with_options_spelled_out
def batch_generate(
    model: Gemma4ForCausalLM,
    processor: Processor,
    prompts: Sequence[Prompt | MediaPrompt],
    assistant_model: Gemma4AssistantForCausalLM | None = None,
    *,
    chat: bool = True,
    prompt_caches: Sequence[KVCache] | None = None,
    return_prompt_caches: bool = False,
    verbose: bool = False,
    draft_memory: Memory | None = None,
    memory_limit: int | None = None,
    max_stall: float | None = None,
    **options: Any,
) -> BatchResponse:
    """Generate after many prompts at once, each with exactly the text that it would have got alone.

    Up to 16 run at a time, fewer where memory is short; as one ends the next begins. Each accepts its own number of
    drafts. What several prompts begin with is read once.

    Args:
        model, processor, assistant_model, chat, draft_memory: as for ``stream_generate``.
        prompts: each as for ``stream_generate``.
        prompt_caches: from ``make_prompt_cache``, one for each prompt.
        return_prompt_caches: whether the caches are wanted afterwards.
        verbose: whether to tell of each text that is finished, on standard error.
        memory_limit: bytes that MLX may use in this process; None is what the device recommends, or all that there is.
        max_stall: seconds that those who generate wait at most for others' prompts between two rounds; None lets them
            wait until all are read that there is room for, after which all texts are there soonest.
        **options: the fields of ``GenerationOptions``, as keywords: a value for all prompts, or a list with one for
            each. ``stop`` and ``logits_processors`` are one for each where they are lists of lists.

    Raises:
        InputError: before any work is done, as ``stream_generate``, or a list of another length than ``prompts``.
    """
    _check_names("batch_generate", options)
    if isinstance(prompts, str | bytes | Mapping | MediaPrompt) or not isinstance(prompts, Sequence):
        raise InputError(f"the prompts are {described(prompts)}, expected a list of prompts")
    each = options_for_each(options, len(prompts))
    pair = Pair(model, assistant_model, processor)
    engine = Engine(pair, draft_memory, memory_limit=memory_limit, max_stall=max_stall)
    caches = _caches(engine, prompts, each, prompt_caches, return_prompt_caches)
    requests = [_request(engine.pair, prompt, one, chat) for prompt, one in zip(prompts, each, strict=True)]
    runs = [engine.run(request, cache) for (request, _), cache in zip(requests, caches, strict=True)]
    texts = [BatchedText(run, text) for run, (_, text) in zip(runs, requests, strict=True)]
    parts, last, stats = _collected(engine, runs, texts, verbose)
    answers = ["".join(part) for part in parts]
    return BatchResponse(answers, stats, [c for c in caches if c is not None] if return_prompt_caches else None, last)


def _caches(
    engine: Engine,
    prompts: Sequence[Prompt | MediaPrompt],
    options: Sequence[GenerationOptions],
    given: Sequence[KVCache] | None,
    wanted: bool,
) -> Sequence[KVCache | None]:
    if given is not None:
        if len(given) != len(prompts):
            raise InputError(f"there are {len(given)} prompt_caches for {len(prompts)} prompts")
        if len(set(map(id, given))) < len(given):
            raise InputError("prompt_caches has a cache twice: each holds one prompt's text")
        return given
    config = engine.pair.target.config
    return [
        engine.new_cache(one.num_assistant_tokens, kv_quantization(one, config)) if wanted else None for one in options
    ]


def _collected(
    engine: Engine, runs: Sequence[Run], texts: Sequence[BatchedText], verbose: bool
) -> tuple[list[list[str]], list[GenerationResponse], BatchStats]:
    """Run an engine until all texts have ended: their pieces, last responses, and what it took."""
    parts: list[list[str]] = [[] for _ in texts]
    last: dict[int, GenerationResponse] = {}
    begin = read = time.perf_counter()
    try:
        with wired_limit():
            while any(text.finish_reason is None for text in texts):
                engine.scheduler.step()
                for place, response in _ready(texts, verbose):
                    read = time.perf_counter() if place not in last else read
                    last[place] = response
                    if response.channel is Channel.ANSWER:
                        parts[place].append(response.text)
    finally:
        for text in texts:
            text.close()
    seconds = time.perf_counter() - begin
    computed, made = sum(run.to_compute for run in runs), sum(one.generation_tokens for one in last.values())
    stats = BatchStats(computed, computed / (read - begin) if read > begin else 0.0, read - begin)
    stats.generation_tokens, stats.generation_time = made, seconds
    stats.generation_tps = made / seconds if seconds else 0.0
    stats.cached_tokens = sum(run.cached_tokens for run in runs)
    stats.peak_memory = mx.get_peak_memory() / 1e9
    return parts, [last[place] for place in range(len(texts))], stats


def _ready(texts: Sequence[BatchedText], verbose: bool) -> Iterator[tuple[int, GenerationResponse]]:
    """The responses that have come, with the places of their texts."""
    for place, text in enumerate(texts):
        if text.finish_reason is None:
            for response in text.take():
                yield place, response
            if verbose and text.finish_reason is not None:
                print(f"text {place + 1} of {len(texts)} is finished", file=sys.stderr, flush=True)
