"""A pair for a command: the target named, and the assistant that belongs to it."""

import sys
from typing import TYPE_CHECKING

from .options import ModelChoice
from .streams import ending_at_once

if TYPE_CHECKING:
    from ..drafts.memory import DraftMemory
    from ..engine.pair import Pair


def note(message: str) -> None:
    """A line for the user that is not part of the output."""
    print(message, file=sys.stderr)


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
