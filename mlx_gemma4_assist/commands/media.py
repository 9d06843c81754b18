"""Pictures, sound and video that a command names, read and encoded into its prompt."""

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..text.messages import Media, split_media
from .loading import note

if TYPE_CHECKING:
    from ..cache.soft_tokens import MediaPrompt
    from ..text.processor import Processor

Content = str | list[dict[str, Any]]


class Source(NamedTuple):
    """The model that media are for: what it was loaded from, in which type, and its processor."""

    model: str
    dtype: str | None
    processor: "Processor"


def read_media(
    source: Source, content: Content, media: Media, *, chat: bool, max_soft_tokens: int | None
) -> "Content | MediaPrompt":
    """A prompt with media as ``stream_generate`` takes it; one without comes back as it is.

    Args:
        source: the model.
        content: text, or messages that may name media.
        media: what text shows.
        chat: whether text is a user's message.
        max_soft_tokens: the most that a picture takes; None as the checkpoint has it.

    Raises:
        InputError: media that cannot be read, or that the model does not take.
    """
    named = media or (split_media(content)[1] if isinstance(content, list) else Media())
    if not named:
        if max_soft_tokens is not None:
            raise InputError("--max-soft-tokens is for pictures, and there are none")
        return content
    from ..media.config import MediaOptions
    from ..media.reader import encode_media, load_media

    options = MediaOptions(max_soft_tokens=max_soft_tokens)
    reader = load_media(source.model, source.processor, dtype=source.dtype)
    inputs = reader.processor.encode(content, media, chat=chat, options=options)
    for line in inputs.notes:
        note(line)
    return encode_media(reader.towers, inputs, reader.config)
