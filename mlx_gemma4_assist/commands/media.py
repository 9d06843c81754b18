"""Pictures, sound and video that a command names: checked before anything is loaded, and encoded into its prompt."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..media.config import MediaOptions
from ..media.fetch import check_sources
from ..text.messages import Conversation, Media, split_media
from .loading import note

if TYPE_CHECKING:
    from ..cache.soft_tokens import MediaPrompt
    from ..media.reader import MediaReader

Content = str | list[dict[str, Any]]


def find_media(
    content: Content | Conversation, media: Media, max_soft_tokens: int | None
) -> tuple[str | Conversation, Media]:
    """What a prompt shows; to be called before a model is loaded.

    Args:
        content: text, or messages that may name media.
        media: what text shows.
        max_soft_tokens: the most that a picture takes; None as the checkpoint has it.

    Returns:
        Text, or messages apart from what they show; and all sources.

    Raises:
        InputError: malformed messages, files that are not there, a number of soft tokens that is none.
    """
    if isinstance(content, list):
        content = split_media(content)
    if isinstance(content, Conversation):
        media = content.media
    if max_soft_tokens is not None and not media:
        raise InputError("--max-soft-tokens is for pictures, and there are none")
    MediaOptions(max_soft_tokens=max_soft_tokens)
    check_sources(media)
    return content, media


def read_media(
    reader: "Callable[[], MediaReader]",
    content: Content | Conversation,
    media: Media,
    *,
    chat: bool,
    max_soft_tokens: int | None,
) -> "Content | MediaPrompt":
    """A prompt with media as ``stream_generate`` takes it; text and messages without media come back.

    Args:
        reader: gives the target's reader, such as ``lambda: pair.media``; only called if there are media.
        content, media, max_soft_tokens: see ``find_media``, whose result may be given, too.
        chat: whether text is a user's message.

    Raises:
        InputError: what ``find_media`` raises; media that cannot be read, or that the model does not take.
    """
    found, named = find_media(content, media, max_soft_tokens)
    if not named:
        return found if isinstance(found, str) else [dict(message) for message in found.messages]
    options = MediaOptions(max_soft_tokens=max_soft_tokens)
    shown = named if isinstance(found, str) else Media()
    read = reader().read(found, shown, chat=chat, options=options)
    for line in read.notes:
        note(line)
    return read
