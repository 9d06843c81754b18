"""Pictures, sounds and videos of Python apps, as a message has them: a backend opens and fetches nothing."""

import base64
import mimetypes
import os
from collections.abc import Callable, Sequence
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
    media = Media(*(tuple(_url(source, fetch) for source in each) for each in shown))
    if not isinstance(text, str):
        raise InputError(f"the message is {described(text)}, expected text")
    if not text.strip() and not media:
        raise InputError("the message is empty")
    return user_message(text, media)


def _url(source: Source, fetch: Fetch) -> str:
    if isinstance(source, bytes):
        return _data_url(source, None)
    if isinstance(source, str) and source.startswith("data:"):
        return source
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _data_url(fetch(source), mimetypes.guess_type(urlsplit(source).path)[0])
    path = Path(source).expanduser()
    try:
        return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _data_url(content: bytes, kind: str | None) -> str:
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"
