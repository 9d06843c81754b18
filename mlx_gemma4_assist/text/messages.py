"""What a conversation must look like before a chat template sees it, and the media that it names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import InputError

Message = Mapping[str, Any]


class Kind(StrEnum):
    """A kind of media; the value is the type of its parts in messages, as Hugging Face's chat templates have it."""

    PICTURE = "image"
    SOUND = "audio"
    VIDEO = "video"

    @property
    def noun(self) -> str:
        """What this package calls one of the kind."""
        return self.name.lower()


ROLES = ("system", "developer", "user", "assistant", "model", "tool")
TEXT_ONLY = ("text",)
# Where the parts of each kind name what they show, as Hugging Face's chat templates have it.
SOURCES: Mapping[str, tuple[str, ...]] = {
    Kind.PICTURE: ("image", "url", "path", "base64"),
    Kind.SOUND: ("audio", "url", "path"),
    Kind.VIDEO: ("video", "url", "path"),
}
WITH_MEDIA = ("text", *SOURCES)


@dataclass(frozen=True)
class Media:
    """Sources, in the order in which a text has their placeholders."""

    pictures: tuple[Any, ...] = ()
    sounds: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pictures or self.sounds or self.videos)

    @property
    def by_kind(self) -> dict[Kind, tuple[Any, ...]]:
        """The sources of every kind."""
        return {Kind.PICTURE: self.pictures, Kind.SOUND: self.sounds, Kind.VIDEO: self.videos}


NO_MEDIA = Media()


class Conversation(NamedTuple):
    """A conversation apart from what it shows.

    Attributes:
        messages: checked; their media parts are bare, ``{"type": "image"}``.
        media: the sources of these parts, in their order.
    """

    messages: list[Message]
    media: Media


def user_message(text: str, media: Media = NO_MEDIA) -> dict[str, Any]:
    """A message that shows pictures, sounds and videos before its text, the order that the model knows best."""
    parts = [{"type": kind.value, kind.value: source} for kind, those in media.by_kind.items() for source in those]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def check_messages(messages: Sequence[Message], kinds: Sequence[str] = TEXT_ONLY) -> None:
    """Refuse what a chat template would fail at or, worse, leave out.

    A message is ``{"role": ..., "content": ...}``; its content a string or a list of ``{"type": "text", "text": ...}``
    and, if they are among ``kinds``, parts such as ``{"type": "image", "url": ...}`` with exactly one of the keys in
    ``SOURCES``. An assistant's may do without content if it has ``tool_calls``.

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
        _check_content(number, message["content"], kinds)


def split_media(messages: Sequence[Message]) -> Conversation:
    """Check messages, and take out what they show. Nothing is opened.

    OpenAI's ``{"type": "image_url", "image_url": {"url": ...}}`` counts as an image.

    Raises:
        InputError: a message is malformed, see ``check_messages``.
    """
    messages = [_spelled_alike(message) for message in messages] if messages else messages
    check_messages(messages, WITH_MEDIA)
    found: dict[str, list[Any]] = {kind: [] for kind in Kind}
    bare = [_without_sources(message, found) for message in messages]
    pictures, sounds, videos = (tuple(found[kind]) for kind in (Kind.PICTURE, Kind.SOUND, Kind.VIDEO))
    return Conversation(bare, Media(pictures, sounds, videos))


def _check_content(number: int, content: Any, kinds: Sequence[str]) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InputError(
            f"message {number} has content of type {type(content).__name__}, expected a string or a list of parts"
        )
    for part in content:
        if not isinstance(part, Mapping) or "type" not in part:
            raise InputError(f"message {number} has the part {part!r}, expected a dict with type and text")
        _check_part(number, part, kinds)


def _check_part(number: int, part: Mapping[str, Any], kinds: Sequence[str]) -> None:
    kind = part["type"]
    if kind not in kinds:
        only = "only text is" if len(kinds) == 1 else f"only {', '.join(kinds)} are"
        raise InputError(f"message {number} has a part of type {kind!r}, but {only} supported")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InputError(f"message {number} has a text part without text")
    elif sum(part.get(key) is not None for key in SOURCES[kind]) != 1:
        keys = ", ".join(SOURCES[kind])
        raise InputError(f"message {number} has a part of type {kind!r} that needs exactly one of {keys}")


def _without_sources(message: Message, found: Mapping[str, list[Any]]) -> Message:
    """The message with bare media parts, whose sources are added to those found."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        if part["type"] in SOURCES:
            found[part["type"]].append(_source(part))
            part = {"type": part["type"]}
        parts.append(part)
    return {**message, "content": parts}


def _source(part: Mapping[str, Any]) -> Any:
    key = next(key for key in SOURCES[part["type"]] if part.get(key) is not None)
    return f"data:;base64,{part[key]}" if key == "base64" else part[key]


def _spelled_alike(message: Any) -> Any:
    """With OpenAI's spelling of images replaced; what is malformed stays for ``check_messages``."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    parts = []
    for part in message["content"]:
        if isinstance(part, Mapping) and part.get("type") == "image_url":
            image = part.get("image_url")
            part = {"type": "image", "url": image.get("url") if isinstance(image, Mapping) else image}
        parts.append(part)
    return {**message, "content": parts}
