"""A pair for a command: the target named, and the assistant that belongs to it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..options import FILTERS, GenerationOptions
from .interrupts import ending_at_once
from .options import ModelChoice
from .streams import note, notes_elsewhere

if TYPE_CHECKING:
    from ..drafts.memory import DraftMemory
    from ..engine.pair import Checkpoint, Pair
    from ..engine.responses import GenerationResponse

EMBEDDED_ANSWERS = "The embedded tiny pair answers; --model google/gemma-4-E2B-it is a real one."
PATIENCE = 2.0  # seconds before a person is told that loading goes on
PATIENCE_OF_LOGS = 15.0  # and whoever reads standard error elsewhere


def check_choice(choice: ModelChoice, options: GenerationOptions, *, compares: bool = False) -> None:
    """Refuse, before anything is loaded, what would be refused after it.

    Args:
        choice: the networks.
        options: what they are wanted for, as far as it was typed.
        compares: whether assisted decoding is to be compared with plain decoding.

    Raises:
        InputError: in the words that were typed.
    """
    with ending_at_once():
        from ..backend import DTYPES
        from ..engine.pair import NONE
        from ..rounds.compiled import check_compiler

    if choice.dtype is not None and choice.dtype not in DTYPES:
        raise OptionError("{dtype} is {value!r}, expected " + ", ".join(DTYPES), value=choice.dtype)
    if options.compile:
        check_compiler()
    if options.greedy:
        _check_filters(options)
    if choice.assistant_model == NONE:
        _check_without_assistant(choice, options, compares)


def _check_filters(options: GenerationOptions) -> None:
    """Refuse a filter that was typed where the likeliest token is taken: whoever types one wants to draw.

    Raises:
        OptionError: with the filter.
    """
    for name in FILTERS[1:]:
        value = vars(options)[name]
        if value not in (0, 1):  # which keep all tokens, or the likeliest alone
            sentence = f"{{{name}}} is {{value:g}}, but {{temperature}} is 0, which takes the likeliest token"
            raise OptionError(sentence, value=value)


def _check_without_assistant(choice: ModelChoice, options: GenerationOptions, compares: bool) -> None:
    """Refuse what only an assistant could heed, where there is none. Arguments as for :func:`check_choice`.

    Raises:
        OptionError: with what was asked for.
    """
    why = "none is known for {named}, and {assistant_model} names one"
    if choice.assistant_model is not None:
        why = "{assistant_model} is none"
    said = {"named": choice.model, "value": options.num_assistant_tokens}
    if compares:
        raise OptionError(f"{why}, so there is nothing to compare plain decoding with", **said)
    if options.num_assistant_tokens:
        raise OptionError(f"{{num_assistant_tokens}} is {{value}}, but there is no assistant model: {why}", **said)
    if options.draft_temperature is not None:
        raise OptionError(f"{{draft_temperature}} is for drafts, but there is no assistant model: {why}", **said)


def checkpoint_sampling(model: str) -> dict[str, Any]:
    """How a checkpoint's generation_config.json wants text to be drawn; nothing if it decodes greedily.

    Raises:
        InputError: there is no such checkpoint, or it wants what is out of range.
    """
    with ending_at_once():
        from ..checkpoints.hub import resolve
        from ..checkpoints.sampling import sampling_of

        return sampling_of(resolve(model))


def header(pair: "Pair", choice: ModelChoice, options: GenerationOptions) -> str:
    """What computes, in one line: the networks, their format, how text is drawn."""
    from ..checkpoints.pairing import assistant_for
    from ..evaluation.benchmark import weight_format

    named = assistant_for(choice.model) if choice.assistant_model is None else choice.assistant_model
    how = "greedy"
    if not options.greedy:
        drawn = {name: vars(options)[name] for name in FILTERS}
        how = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in drawn.items())
    assistant = "no assistant" if pair.assistant is None else f"assistant {named}"
    return f"{choice.model}, {assistant}; {weight_format(pair.target)}; {how}"


def introduce(pair: "Pair", choice: ModelChoice, options: GenerationOptions) -> None:
    """Show a person the header; output that a program reads is left alone."""
    if sys.stderr.isatty():
        note(header(pair, choice, options))


def cut_off(last: "GenerationResponse", context: int, max_tokens: int) -> str:
    """By what a text was cut off, for a sentence; empty if it ended by itself."""
    if last.finish_reason != "length":
        return ""
    if last.prompt_tokens + last.generation_tokens >= context:
        return "the context is full"
    return "cut off by --max-tokens" if last.generation_tokens >= max_tokens else "the memory is full"


@contextmanager
def _said_if_slow(message: str) -> Iterator[None]:
    """A note if what is done meanwhile takes long, unless notes wait for a person who types."""
    if notes_elsewhere():
        yield
        return
    timer = threading.Timer(PATIENCE if sys.stderr.isatty() else PATIENCE_OF_LOGS, note, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _warn_of_memory(checkpoint: "Checkpoint", options: GenerationOptions, tokens: int | None) -> None:
    """Say so if the machine has too little memory."""
    from ..cache.quantization import kv_quantization
    from ..machine.doctor import this_machine
    from ..machine.room import memory_warning

    with suppress(InputError):  # whoever loads it says so
        assistant = None if checkpoint.assistant is None else checkpoint.assistant.folder
        quantization = kv_quantization(options, checkpoint.config)
        warning = memory_warning(
            this_machine(), checkpoint.folder, assistant, checkpoint.source.dtype, tokens, quantization
        )
        if warning is not None:
            note(f"Warning: {warning}.")


def open_checkpoint(choice: ModelChoice, options: GenerationOptions, *, compares: bool = False) -> "Checkpoint":
    """Find a target and its assistant, and read all but their weights; the matching assistant where none is named.

    Arguments as for :func:`check_choice`, which has passed them.

    Raises:
        InputError: one sentence on what is not there, does not belong together, or was asked for in vain.
    """
    named = choice.assistant_model
    with ending_at_once(), _said_if_slow(f"Loading {choice.model} ..."):
        from ..cache.quantization import kv_quantization
        from ..engine.pair import MATCHING, Checkpoint
        from ..engine.request import check_biases

        checkpoint = Checkpoint.open(
            choice.model, MATCHING if named is None else named, dtype=choice.dtype, adapter_path=choice.adapter_path
        )
        kv_quantization(options, checkpoint.config)
        check_biases(options, checkpoint.config)
    if checkpoint.assistant is None and named is None:
        _check_without_assistant(choice, options, compares)
        note(f"No assistant is known for {choice.model}: decoding plainly. --assistant-model names one.")
    return checkpoint


def load_pair(checkpoint: "Checkpoint", options: GenerationOptions | None = None, tokens: int | None = None) -> "Pair":
    """Read the weights, after a warning where these and the conversation do not fit in memory.

    Args:
        checkpoint: the networks.
        options: how keys and values are held.
        tokens: of the conversation; None is all that the model has.

    Raises:
        InputError: they are damaged, or do not fit.
    """
    with ending_at_once(), _said_if_slow(f"Loading {checkpoint.source.path_or_repo} ..."):
        _warn_of_memory(checkpoint, GenerationOptions() if options is None else options, tokens)
        return checkpoint.load()


def draft_memory(learned: bool) -> "DraftMemory | None":
    """The user's folder of learned draft lengths; None for a command that was told to leave it alone."""
    from ..drafts.memory import DraftMemory

    return DraftMemory() if learned else None
