"""Pictures, sounds and videos that go with a message: files that were dropped or named, and URLs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import InputError
from ..server.exchange import Model
from ..text.messages import SOURCES, Kind, Message
from .dropped import show
from .shown import Shown

URLS = ("http://", "https://", "data:")
LONGEST = 60  # characters of a URL that are shown


class Attached(NamedTuple):
    """Something that a message shows.

    Attributes:
        kind: what it is.
        source: a path or a URL.
        label: what stands for it on the screen.
    """

    kind: Kind
    source: str
    label: str


def of_file(shown: Shown) -> Attached:
    """A file that was dropped."""
    return Attached(shown.kind, str(shown.path), shown.label)


def named(kind: Kind, text: str, counts: Mapping[Kind, int]) -> list[Attached]:
    """What was named by a URL, or by paths, perhaps quoted or escaped.

    Args:
        kind: what it is taken for.
        text: as it was typed.
        counts: how many of each kind the conversation shows already.

    Raises:
        InputError: there is no such file, or it is broken.
    """
    if not text.lower().startswith(URLS):
        return [of_file(each) for each in show(text, kind, counts)]
    name = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return [Attached(kind, text, f"[{kind.noun} {counts[kind] + 1}: {name}]")]


def check_taken(model: Model, kind: Kind) -> None:
    """Raises:
    InputError: the model takes nothing of this kind.
    """
    if not {Kind.PICTURE: model.pictures, Kind.SOUND: model.sound, Kind.VIDEO: model.video}[kind]:
        raise InputError(f"{model.id} takes no {kind.noun}")


def sources(message: Message) -> list[Attached]:
    """What a message shows already."""
    found = []
    for part in parts_of(message):
        if part["type"] in SOURCES:
            kind = Kind(part["type"])
            key = next(key for key in SOURCES[kind] if part.get(key) is not None)
            found.append(Attached(kind, part[key], f"[{kind.noun}]"))
    return found


def counts(messages: Sequence[Message], more: Sequence[Attached]) -> dict[Kind, int]:
    """How many of each kind messages show, and what is to be shown besides."""
    shown = [each.kind for each in more]
    shown += [Kind(part["type"]) for message in messages for part in parts_of(message) if part["type"] in SOURCES]
    return {kind: shown.count(kind) for kind in Kind}


def parts_of(message: Message) -> list[dict[str, str]]:
    """A message's parts; text alone is one."""
    content = message.get("content")
    return [dict(part) for part in content] if isinstance(content, list) else [{"type": "text", "text": content or ""}]


def text_of(message: Message) -> str:
    """A message's words."""
    return "".join(part["text"] for part in parts_of(message) if part["type"] == "text")
