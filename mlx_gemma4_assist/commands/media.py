"""Pictures, sound and video that a command names, read and encoded into its prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..text.messages import Media, split_media
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


def read_media(pair: "Pair", content: Content, choice: MediaChoice, *, chat: bool) -> "Content | MediaPrompt":
    """A prompt with media as ``stream_generate`` takes it; one without comes back as it is.

    Args:
        pair: loaded from a checkpoint, whose towers are read if they are needed.
        content: text, or messages that may name media.
        choice: what text shows; messages name theirs themselves.
        chat: whether text is a user's message.

    Raises:
        InputError: media that cannot be read, or that the model does not take.
    """
    media = choice.media if isinstance(content, str) else Media()
    if not (media or (split_media(content)[1] if isinstance(content, list) else Media())):
        if choice.max_soft_tokens is not None:
            raise InputError("--max-soft-tokens is for pictures, and there are none")
        return content
    from ..media.config import MediaOptions
    from ..media.reader import encode_media

    reader = pair.media
    options = MediaOptions(max_soft_tokens=choice.max_soft_tokens)
    inputs = reader.processor.encode(content, media, chat=chat, options=options)
    for line in inputs.notes:
        note(line)
    return encode_media(reader.towers, inputs, reader.config)
