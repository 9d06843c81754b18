"""Pictures, sound and video that a command names: checked before anything is loaded, and encoded into its prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..media.config import MediaOptions
from ..media.fetch import check_sources
from ..text.messages import Conversation, Media, split_media
from .interrupts import ending_at_once
from .options import MaxSoftTokens
from .streams import note

if TYPE_CHECKING:
    from ..cache.soft_tokens import MediaPrompt
    from ..engine.pair import Checkpoint, Pair
    from ..media.prepared import PreparedPrompt

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
    max_soft_tokens: MaxSoftTokens = None

    @property
    def media(self) -> Media:
        return Media(tuple(self.image or ()), tuple(self.audio or ()), tuple(self.video or ()))

    @property
    def options(self) -> MediaOptions:
        """Raises ``OptionError`` over a number of soft tokens that is none."""
        return MediaOptions(max_soft_tokens=self.max_soft_tokens)


def find_media(content: Content, choice: MediaChoice) -> str | Conversation:
    """Text, or messages apart from what they show; to be called before a model is loaded.

    Raises:
        InputError: malformed messages, files that are not there, a number of soft tokens that is none.
    """
    found = split_media(content) if isinstance(content, list) else content
    media = found.media if isinstance(found, Conversation) else choice.media
    if choice.max_soft_tokens is not None and not media.pictures:
        raise InputError("--max-soft-tokens is for pictures, and there are none")
    _ = choice.options
    check_sources(media)
    return found


def prepare(
    checkpoint: "Checkpoint",
    found: str | Conversation,
    choice: MediaChoice,
    *,
    chat: bool,
    enable_thinking: bool = False,
) -> "PreparedPrompt":
    """A prompt as the model reads it, before its weights are; what users should know of it is noted.

    Args:
        checkpoint: whose prompt it is.
        found: from ``find_media``.
        choice: what text shows.
        chat: whether text is a user's message.
        enable_thinking: handed to the chat template.

    Raises:
        InputError: media that cannot be read, or that the model does not take; a template that knows of no thinking;
            a prompt that is longer than the context.
    """
    shown = Media() if isinstance(found, Conversation) else choice.media
    with ending_at_once():  # features of pictures and sound take libraries that are imported for them
        prepared = checkpoint.prepare(found, shown, chat=chat, enable_thinking=enable_thinking, options=choice.options)
    for line in prepared.notes:
        note(line)
    return prepared


def encoded(pair: "Pair", prompt: "PreparedPrompt") -> "MediaPrompt | list[int]":
    """A prompt as ``stream`` takes it: what it shows goes through the target's towers, which are read for this only.

    Raises:
        InputError: damaged towers; a picture of more patches than the tower has places for.
    """
    if not prompt.media:
        return prompt.tokens
    from ..media.reader import encode_media

    return encode_media(pair.media.towers, prompt, pair.target.config)
