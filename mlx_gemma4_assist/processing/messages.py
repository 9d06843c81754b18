"""What a conversation must look like before a chat template sees it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError

Message = Mapping[str, Any]
ROLES = ("system", "developer", "user", "assistant", "model", "tool")


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what a chat template would fail at or, worse, leave out.

    A message is ``{"role": ..., "content": ...}``; its content a string or a list of ``{"type": "text", "text": ...}``.
    An assistant's may do without content if it has ``tool_calls``.

    Raises:
        InputError: which message is wrong, and how.
    """
    if not messages:
        raise InputError("the prompt is empty: it has no messages")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise InputError(f"message {number} is {type(message).__name__}, expected a dict with role and content")
        role = message.get("role")
        if role not in ROLES:
            raise InputError(f"message {number} has the role {role!r}, expected one of {', '.join(ROLES)}")
        if message.get("content") is None and role in ("assistant", "model") and message.get("tool_calls"):
            continue
        if "content" not in message:
            raise InputError(f"message {number} has no content")
        _check_content(number, message["content"])


def _check_content(number: int, content: Any) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InputError(
            f"message {number} has content of type {type(content).__name__}, expected a string or a list of parts"
        )
    for part in content:
        if not isinstance(part, Mapping) or "type" not in part:
            raise InputError(f"message {number} has the part {part!r}, expected a dict with type and text")
        if part["type"] != "text":
            raise InputError(f"message {number} has a part of type {part['type']!r}, but only text is supported")
        if not isinstance(part.get("text"), str):
            raise InputError(f"message {number} has a text part without text")
