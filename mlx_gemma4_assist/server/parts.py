"""What messages have in common in protocols besides OpenAI's: pictures, what tools answer, answers that were begun."""

from collections.abc import Sequence

from ..text.messages import Message
from .exchange import Model, bad_request

Part = dict[str, str]


def answered(texts: Sequence[str], pictures: Sequence[Part]) -> str | list[Part]:
    """A tool's answer: its text in lines, and behind it what it shows."""
    text = "\n".join(texts)
    if not pictures:
        return text
    return [*([{"type": "text", "text": text}] if text else []), *pictures]


def check_pictures(message: Message, model: Model, place: str) -> None:
    """Refuse pictures that nobody would look at.

    Raises:
        RequestError: the message has one, and the model takes none.
    """
    content = message["content"]
    if not model.pictures and not isinstance(content, str) and any(part["type"] == "image" for part in content):
        raise bad_request(f"{place} has a picture, but the model takes none", place)


def continued(messages: list[Message]) -> tuple[list[Message], bool]:
    """Messages, and whether the last one is to be continued. An answer in which nothing is said is left out.

    Raises:
        RequestError: there are no messages, or the last one waits for results.
    """
    begun = bool(messages) and messages[-1]["role"] == "assistant"
    if begun and messages[-1].get("tool_calls"):
        raise bad_request("messages end with calls of tools whose results are missing", "messages")
    if begun and not messages[-1]["content"]:
        messages, begun = messages[:-1], False
    if not messages:
        raise bad_request("messages has nothing that could be answered", "messages")
    return messages, begun
