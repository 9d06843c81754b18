"""A pair for a command: the target named, and the assistant that belongs to it."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..files import read_json_if_there
from ..options import GenerationOptions
from ..text.messages import Message
from .options import FILTERS, ModelChoice
from .streams import ending_at_once

if TYPE_CHECKING:
    from ..drafts.memory import DraftMemory
    from ..engine.pair import Pair
    from ..engine.responses import GenerationResponse

PATIENCE = 2.0  # seconds before a person is told that loading goes on
PATIENCE_OF_LOGS = 15.0  # and whoever reads standard error elsewhere
GENERATION_CONFIG = "generation_config.json"
BYTES_OF_A_TOKEN = 4  # of text, about


def note(message: str) -> None:
    """A line for the user that is not part of the output."""
    print(message, file=sys.stderr)


def check_choice(choice: ModelChoice, options: GenerationOptions, *, compares: bool = False) -> None:
    """Refuse, before anything is loaded, what would be refused after it.

    Args:
        choice: the networks.
        options: what they are wanted for.
        compares: whether assisted decoding is to be compared with plain decoding.

    Raises:
        InputError: in the words that were typed.
    """
    from ..backend import DTYPES
    from ..engine.pair import NONE
    from ..rounds.compiled import check_compiler

    if choice.dtype is not None and choice.dtype not in DTYPES:
        raise OptionError("{dtype} is {value!r}, expected " + ", ".join(DTYPES), value=choice.dtype)
    if options.compile:
        check_compiler()
    if choice.assistant_model != NONE:
        return
    if compares:
        raise OptionError("{assistant_model} is none, so there is nothing to compare plain decoding with")
    if drafts := options.num_assistant_tokens:
        sentence = "{num_assistant_tokens} is {value}, but there is no assistant model: {assistant_model} is none"
        raise OptionError(sentence, value=drafts)


def checkpoint_sampling(model: str) -> dict[str, Any]:
    """How a checkpoint's generation_config.json wants text to be drawn; nothing if it decodes greedily.

    Raises:
        InputError: there is no such checkpoint, or it wants what is out of range.
    """
    with ending_at_once():
        from ..checkpoints.hub import resolve

        folder = resolve(model)
    config = read_json_if_there(folder / GENERATION_CONFIG)
    if config.get("do_sample") is not True:
        return {}
    found = {"temperature": 1.0} | {name: config[name] for name in FILTERS if config.get(name) is not None}
    try:
        GenerationOptions(**found)
    except OptionError as error:
        raise InputError(f"{folder / GENERATION_CONFIG}: {error}") from None
    return found


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


def cut_off(last: "GenerationResponse", context: int) -> str:
    """By what a text was cut off, for a sentence; empty if it ended by itself."""
    if last.finish_reason != "length":
        return ""
    full = last.prompt_tokens + last.generation_tokens >= context
    return "the context is full" if full else "cut off by --max-tokens"


@contextmanager
def _said_if_slow(message: str) -> Iterator[None]:
    """A note if what is done meanwhile takes long."""
    timer = threading.Timer(PATIENCE if sys.stderr.isatty() else PATIENCE_OF_LOGS, note, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _wake_compiler() -> None:
    """Let MLX's CPU backend look for g++ now: it does so once in a process, and is deaf to Ctrl-C meanwhile."""
    import mlx.core as mx

    mx.eval(mx.compile(mx.negative)(mx.zeros(1)))


def about_tokens(prompt: str | Sequence[Message]) -> int:
    """How many tokens a text or a conversation has, about: there is no tokenizer yet that could count them."""
    return len(str(prompt).encode(errors="replace")) // BYTES_OF_A_TOKEN


def _warn_of_memory(choice: ModelChoice, tokens: int | None) -> None:
    """Say so if the machine has too little memory. What is not here yet is downloaded, an assistant is left out."""
    from ..checkpoints.hub import here, resolve
    from ..checkpoints.pairing import assistant_for
    from ..engine.pair import NONE
    from ..machine.doctor import this_machine
    from ..machine.room import memory_warning

    folder = here(choice.model) or resolve(choice.model)
    with suppress(InputError):  # whoever loads it says so
        named = assistant_for(choice.model) if choice.assistant_model is None else choice.assistant_model
        assistant = None if named in (None, NONE) else here(named)
        warning = memory_warning(this_machine(), folder, assistant, choice.dtype, tokens)
        if warning is not None:
            note(f"Warning: {warning}.")


def load_pair(choice: ModelChoice, tokens: int | None = None) -> "Pair":
    """Load a target, its processor and its assistant; the matching one where none is named.

    Before their weights are read, the user is warned if these and the conversation do not fit in memory.

    Args:
        choice: the networks.
        tokens: of the conversation; None is all that the model has.

    Raises:
        InputError: one sentence on what could not be loaded, or does not belong together.
    """
    named = choice.assistant_model
    with ending_at_once(), _said_if_slow(f"Loading {choice.model} ..."):
        from ..engine.pair import MATCHING, Pair

        _warn_of_memory(choice, tokens)
        pair = Pair.load(choice.model, MATCHING if named is None else named, dtype=choice.dtype)
        _wake_compiler()
    if pair.assistant is None and named is None:
        note(f"No assistant is known for {choice.model}: decoding plainly. --assistant-model names one.")
    return pair


def draft_memory(learned: bool) -> "DraftMemory | None":
    """The user's folder of learned draft lengths; None for a command that was told to leave it alone."""
    from ..drafts.memory import DraftMemory

    return DraftMemory() if learned else None
