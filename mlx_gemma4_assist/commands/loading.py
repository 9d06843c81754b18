"""A pair for a command: the target named, and the assistant that belongs to it."""

import sys
from typing import TYPE_CHECKING

from ..errors import OptionError
from ..options import GenerationOptions
from .options import ModelChoice
from .streams import ending_at_once

if TYPE_CHECKING:
    from ..drafts.memory import DraftMemory
    from ..engine.pair import Pair


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


def load_pair(choice: ModelChoice) -> "Pair":
    """Load a target, its processor and its assistant; the matching one where none is named.

    Raises:
        InputError: one sentence on what could not be loaded, or does not belong together.
    """
    named = choice.assistant_model
    with ending_at_once():
        from ..engine.pair import MATCHING, Pair

        pair = Pair.load(choice.model, MATCHING if named is None else named, dtype=choice.dtype)
    if pair.assistant is None and named is None:
        note(f"No assistant is known for {choice.model}: decoding plainly. --assistant-model names one.")
    return pair


def draft_memory(learned: bool) -> "DraftMemory | None":
    """The user's folder of learned draft lengths; None for a command that was told to leave it alone."""
    from ..drafts.memory import DraftMemory

    return DraftMemory() if learned else None
