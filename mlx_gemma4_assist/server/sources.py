"""Pictures, sounds and videos of Python apps, as a message has them: a backend opens and fetches nothing."""

import base64
import mimetypes
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputError, described
from ..text.messages import Media, Message, user_message

Source = str | os.PathLike[str] | bytes
"""A picture, sound or video: a path, a ``data:`` URL, one that is downloaded, or the bytes of a file."""
Fetch = Callable[[str], bytes]
"""Downloads what a URL names."""


def user_says(text: str, shown: Sequence[Sequence[Source]], fetch: Fetch) -> Message:
    """What a user says and shows.

    Args:
        text: of the message.
        shown: pictures, sounds and videos, in this order.
        fetch: for URLs.

    Raises:
        InputError: nothing is said and shown, or a file cannot be read.
    """
    media = Media(*(tuple(_url(source, fetch) for source in _several(each)) for each in shown))
    if not isinstance(text, str):
        raise InputError(f"the message is {described(text)}, expected text")
    if not text.strip() and not media:
        raise InputError("the message is empty")
    return user_message(text, media)


def _several(sources: Sequence[Source]) -> Sequence[Source]:
    if isinstance(sources, str | bytes | os.PathLike) or not isinstance(sources, Iterable):
        raise InputError(f"what a message shows is {described(sources)}, expected a list of pictures, sounds or videos")
    return sources


def _url(source: Source, fetch: Fetch) -> str:
    if isinstance(source, bytes):
        return _data_url(source, None)
    if isinstance(source, str) and source.startswith("data:"):
        return source
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _data_url(fetch(source), mimetypes.guess_type(urlsplit(source).path)[0])
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"what a message shows is {described(source)}, expected a path, a URL or bytes")
    try:
        path = Path(source).expanduser()
        return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0])
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    except (ValueError, RuntimeError):  # a null character; a home of nobody
        raise InputError(f"cannot read {str(source)!r}: there can be no such file") from None


def _data_url(content: bytes, kind: str | None) -> str:
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"
