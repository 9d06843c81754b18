"""Conversations in files: messages as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..text.messages import WITH_MEDIA, Message, check_messages

FORMAT = "mlx_gemma4_assist conversation"
VERSION = 1


def saved(messages: Sequence[Message], model: str) -> dict[str, Any]:
    """What a file holds of a conversation; ``model`` is the name of the one that answered last."""
    return {"format": FORMAT, "version": VERSION, "model": model, "messages": list(messages)}


def checked_messages(content: Mapping[str, Any], name: str) -> list[Message]:
    """The messages in a file's content; ``name`` is the file's, for errors.

    Raises:
        InputError: it is no conversation, one of a later version, or one that holds other messages than it can.
    """
    if content.get("format") != FORMAT:
        raise InputError(f"{name} holds no conversation of ChatSession.save")
    if content.get("version") != VERSION:
        raise InputError(f"{name} holds a conversation of version {content.get('version')!r:.20}, expected {VERSION}")
    messages = content.get("messages")
    if not isinstance(messages, list):
        raise InputError(f"{name} holds a conversation without a list of messages")
    if messages:  # a conversation that has not begun
        try:
            check_messages(messages, WITH_MEDIA)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return messages
