"""A pair for a command: the target named, and the assistant that belongs to it."""

import sys
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
    from ..models.gemma4_text import Gemma4ForCausalLM
    from ..text.processor import Processor

EMBEDDED = "tiny"
NONE = "none"


def note(message: str) -> None:
    """A line for the user that is not part of the output."""
    print(message, file=sys.stderr)


def load_pair(
    model: str, assistant_model: str | None, dtype: str | None
) -> tuple["Gemma4ForCausalLM", "Processor", "Gemma4AssistantForCausalLM | None"]:
    """Load a target, its processor and its assistant; ``assistant_model`` None looks for the matching one.

    Raises:
        InputError: one sentence on what could not be loaded, or does not belong together.
    """
    from ..checkpoints.loading import load, load_assistant
    from ..checkpoints.pairing import assistant_for
    from ..models.config import check_pair

    target, processor = load(model, dtype=dtype)
    if assistant_model == NONE:
        return target, processor, None
    found = assistant_for(model) if assistant_model is None else assistant_model
    if found is None:
        note(f"No assistant is known for {model}: decoding plainly. --assistant-model names one.")
        return target, processor, None
    try:
        assistant = load_assistant(found, dtype=dtype)
    except InputError as error:
        if assistant_model is not None:
            raise
        raise InputError(
            f"the assistant {found} of this model: {error} (--assistant-model none goes without)"
        ) from None
    check_pair(target.config, assistant.config)
    return target, processor, assistant
