"""Parts of a file that holds a conversation: read, and refused where they are damaged."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..text.messages import WITH_MEDIA, Message, check_messages

LARGEST = 2**32 - 1  # token id


def encoded_session(content: Mapping[str, Any]) -> bytes:
    """A file's bytes: what ``Session.saved`` returned, and more.

    Raises:
        InputError: JSON cannot hold it, such as bytes of a picture.
    """
    try:
        text = json.dumps(content, ensure_ascii=False, indent=1)
    except TypeError as error:
        raise InputError(f"the conversation cannot be saved: {error}") from None
    except (ValueError, RecursionError):
        raise InputError("the conversation cannot be saved: a message is nested too deep") from None
    return text.encode("utf-8", "backslashreplace")  # halves of surrogate pairs, escaped as JSON has them


def tokens_as_text(answers: Iterable[Sequence[int]]) -> dict[str, str]:
    """Tokens of messages, as numbers with blanks between them, by the places of the messages that have some."""
    return {str(place): " ".join(map(str, tokens)) for place, tokens in enumerate(answers) if tokens}


def tokens_of(content: Mapping[str, Any], messages: int, what: str) -> dict[int, list[int]]:
    """Tokens of messages by their places.

    Args:
        content: a part of a file; it may have none.
        messages: how many it has.
        what: the part is, for errors.

    Raises:
        InputError: they are damaged.
    """
    found, places = content.get("tokens", {}), {str(place): place for place in range(messages)}
    if not isinstance(found, Mapping) or not found.keys() <= places.keys():
        raise InputError(f"{what} with tokens of messages that it does not have")
    for place, tokens in found.items():
        numbers = tokens.split() if isinstance(tokens, str) else [""]
        if not all(map(_is_token, numbers)):
            raise InputError(f"{what} with tokens of message {place} that are none")
    return {places[place]: [int(number) for number in tokens.split()] for place, tokens in found.items()}


def messages_of(content: Mapping[str, Any], what: str, name: str) -> list[Message]:
    """The messages in a part of a file; a conversation that has not begun has none.

    Raises:
        InputError: there is no list of them, or one is malformed.
    """
    messages = listed(content.get("messages"), what, "a list of messages")
    if messages:
        try:
            check_messages(messages, WITH_MEDIA)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return messages


def listed(value: object, what: str, expected: str) -> list[Any]:
    """A list, as it is; raises ``InputError`` over anything else."""
    if not isinstance(value, list):
        raise InputError(f"{what} without {expected}")
    return value


def number_of(value: object, what: str) -> int:
    """A whole number, 0 or more, as it is; raises ``InputError`` over anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{what} with {value!r:.20} in the place of a number")
    return value


def _is_token(number: str) -> bool:
    return number.isdecimal() and len(number) <= len(str(LARGEST)) and int(number) <= LARGEST
