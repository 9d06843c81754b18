"""Conversations to text, by a checkpoint's chat template."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..errors import InputError, first_line
from .messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FAILURES = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template may end in: it is a program that somebody else wrote."""


def render(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], values: Mapping[str, Any]) -> str:
    """What the chat template makes of messages, BOS included.

    Args:
        tokenizer: has the template.
        messages: ``check_messages`` has passed them, or ``split_media`` has made them.
        values: arguments of transformers' ``apply_chat_template``, such as ``add_generation_prompt``, ``tools`` and a
            ``chat_template`` to use instead, and whatever the template itself asks for.

    Raises:
        InputError: there is no chat template, or it refuses the conversation.
    """
    if not (values.get("chat_template") or tokenizer.chat_template):
        raise InputError("the checkpoint has no chat template, so it takes text or token ids, not messages")
    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, **values))
    except FAILURES as error:
        raise InputError(f"the chat template refuses this conversation: {first_line(error)}") from None
