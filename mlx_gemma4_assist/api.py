"""Text from a target, with or without its assistant: ``stream_generate``, ``generate``."""

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, overload

from .cache.file import PathLike, read_cache
from .cache.rows import KVCache
from .cache.soft_tokens import MediaPrompt
from .engine.engine import Engine
from .engine.learning import Memory
from .engine.pair import Pair
from .engine.prefill import Progress, no_progress
from .engine.request import Request
from .engine.responses import GenerationResponse, responses
from .errors import InputError, described
from .models.gemma4_assistant import Gemma4AssistantForCausalLM
from .models.gemma4_text import Gemma4ForCausalLM
from .options import GenerationOptions, OptionValues
from .text.channels import Channel
from .text.processor import Processor, Prompt
from .text.stops import StopStrings

Function = TypeVar("Function", bound=Callable[..., Any])


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
    return Engine(Pair(model, assistant_model)).new_cache(num_assistant_tokens)


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
    slack = Engine(pair).slack(num_assistant_tokens)
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
    if not isinstance(chat, bool):
        raise InputError(f"chat is {described(chat)}, expected True or False")
    processor = pair.text()
    options = GenerationOptions() if options is None else options
    stop = StopStrings(options.stop)
    whole = prompt if isinstance(prompt, MediaPrompt) else MediaPrompt(processor.encode(prompt, chat=chat))
    ends = processor.eos_token_ids | processor.stop_ids(options.stop)
    request = Request(whole, options, ends, tuple(processor.suppress_tokens))
    run = Engine(pair, draft_memory).run(request, prompt_cache, prompt_progress_callback)
    return responses(run, processor.turn(whole.tokens, stop, skip_special_tokens=options.skip_special_tokens))


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
            assistant of another target, an argument of another kind.
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
