"""Pictures, sound and video that a command names: checked before anything is loaded, and encoded into its prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..media.config import MediaOptions
from ..media.fetch import check_sources
from ..text.messages import Conversation, Media, split_media
from .loading import note

if TYPE_CHECKING:
    from ..cache.soft_tokens import MediaPrompt
    from ..engine.pair import Pair

Content = str | list[dict[str, Any]]


@dataclass(frozen=True)
class MediaChoice:
    """What a prompt shows."""

    image: Annotated[
        list[str] | None, typer.Option("--image", help="A picture, as a path or URL; may be repeated.")
    ] = None
    audio: Annotated[list[str] | None, typer.Option("--audio", help="A sound, as a path or URL; may be repeated.")] = (
        None
    )
    video: Annotated[list[str] | None, typer.Option("--video", help="A video, as a path or URL; may be repeated.")] = (
        None
    )
    max_soft_tokens: Annotated[
        int | None, typer.Option("--max-soft-tokens", help="The most a picture takes: 70, 140, 280, 560 or 1120.")
    ] = None

    @property
    def media(self) -> Media:
        return Media(tuple(self.image or ()), tuple(self.audio or ()), tuple(self.video or ()))

    @property
    def options(self) -> MediaOptions:
        return MediaOptions(max_soft_tokens=self.max_soft_tokens)


def find_media(content: Content, choice: MediaChoice) -> str | Conversation:
    """Text, or messages apart from what they show; to be called before a model is loaded.

    Raises:
        InputError: malformed messages, files that are not there, a number of soft tokens that is none.
    """
    found = split_media(content) if isinstance(content, list) else content
    media = found.media if isinstance(found, Conversation) else choice.media
    if choice.max_soft_tokens is not None and not media:
        raise InputError("--max-soft-tokens is for pictures, and there are none")
    _ = choice.options
    check_sources(media)
    return found


def read_media(
    pair: "Pair", found: str | Conversation, choice: MediaChoice, *, chat: bool, enable_thinking: bool = False
) -> "Content | MediaPrompt | list[int]":
    """A prompt with media as ``stream_generate`` takes it; text and messages without media come back,
    or their token ids where the model is to think.

    Args:
        pair: loaded from a checkpoint, whose towers are read if they are needed.
        found: from ``find_media``.
        choice: what text shows.
        chat: whether text is a user's message.
        enable_thinking: handed to the chat template.

    Raises:
        InputError: media that cannot be read, or that the model does not take; a template that knows of no thinking.
    """
    if isinstance(found, Conversation):
        if not found.media:
            messages = [dict(message) for message in found.messages]
            return pair.text().encode(messages, enable_thinking=True) if enable_thinking else messages
        shown = Media()
    else:
        shown = choice.media
        if not shown:
            return pair.text().encode(found, chat=chat, enable_thinking=True) if enable_thinking else found
    read = pair.media.read(found, shown, chat=chat, enable_thinking=enable_thinking, options=choice.options)
    for line in read.notes:
        note(line)
    return read
