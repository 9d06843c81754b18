"""Pictures, sounds and videos of saved chats: files named by the SHA-256 of their content, shared by all chats.

A chat's file names a medium by that digest alone: no path and no address is ever read from it.
"""

import base64
import binascii
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ..files import remove_unfinished, replacing, sync_folder
from ..text.messages import SOURCES, Kind

DIGEST = re.compile(rb'"([0-9a-f]{64})"')
"""In the bytes of a chat's file: whatever may be one counts, so that damaged files keep their media, too."""

_NAME = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+|")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+|);base64,")

_Part = dict[str, Any]


class Restored(NamedTuple):
    """What was in a file.

    Attributes:
        content: with media in their places.
        missing: how many media are not there, or are damaged; a text stands in the place of each.
    """

    content: Any
    missing: int


class MediaFolder:
    """A folder of media. Who writes to it or sweeps it holds the lock of the chats.

    Args:
        folder: is there by the time that something is written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._digests: dict[str, str] = {}

    def stored(self, content: Any) -> Any:
        """A chat's JSON with a reference in place of each medium's ``data:`` URL; the media are written.

        Raises:
            OSError: one cannot be written.
        """
        known, self._digests = self._digests, {}

        def put(part: _Part) -> _Part:
            return {key: self._put(value, known) if _names(part, key) else value for key, value in part.items()}

        content = _replaced(content, put)
        sync_folder(self._folder)
        return content

    def restored(self, content: Any) -> Restored:
        """A chat's JSON with the ``data:`` URLs that ``stored`` took out of it."""
        missing = 0

        def get(part: _Part) -> _Part:
            nonlocal missing
            named = {key: self._get(value) for key, value in part.items() if value is not None and _names(part, key)}
            if None not in named.values():
                return part | named
            missing += 1
            return {"type": "text", "text": f"[a {Kind(part['type']).noun} that is no longer there]"}

        return Restored(_replaced(content, get), missing)

    def sweep(self, named: set[str]) -> None:
        """Remove the media that are not named, and what killed processes have left.

        Raises:
            OSError: the folder cannot be read, or written to.
        """
        remove_unfinished(self._folder, ".")
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in named:
                path.unlink()

    def _put(self, url: Any, known: dict[str, str]) -> Any:
        """The reference to what a URL holds; what is no ``data:`` URL, or not one that comes back alike, stays."""
        found = _DATA_URL.match(url) if isinstance(url, str) else None
        if found is None:
            return url
        digest = known.get(url)
        if digest is None or not (self._folder / digest).exists():
            data = _decoded(url[found.end() :])
            if data is None:
                return url
            digest = self._write(data)
        self._digests[url] = digest
        return {"sha256": digest, "type": found[1]}

    def _write(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        path = self._folder / digest
        if not path.exists() or path.stat().st_size != len(data):
            with replacing(path) as file:
                file.write(data)
        return digest

    def _get(self, value: Any) -> str | None:
        """The URL that a file's value stands for; None if there is nothing behind it."""
        if isinstance(value, str):
            return value if value.startswith("data:") else None
        if not isinstance(value, dict) or value.keys() != {"sha256", "type"}:
            return None
        digest, kind = value["sha256"], value["type"]
        if not (
            isinstance(digest, str) and _NAME.fullmatch(digest) and isinstance(kind, str) and _TYPE.fullmatch(kind)
        ):
            return None
        data = self._read(digest)
        return None if data is None else f"data:{kind};base64,{base64.b64encode(data).decode()}"

    def _read(self, digest: str) -> bytes | None:
        """A medium; a damaged one goes, so that it can be written anew."""
        path = self._folder / digest
        try:
            if not path.is_file():
                return None
            data = path.read_bytes()
            if sha256(data).hexdigest() == digest:
                return data
            path.unlink()
        except OSError:
            pass
        return None


def _names(part: _Part, key: str) -> bool:
    """Whether a part's key says where its medium is; base64 has it in place."""
    return key in SOURCES[part["type"]] and key != "base64"


def _replaced(content: Any, replace: Callable[[_Part], _Part]) -> Any:
    """JSON with its media parts replaced. What calls of tools have for arguments is no part of a message."""
    if isinstance(content, list | tuple):
        return [_replaced(each, replace) for each in content]
    if not isinstance(content, dict):
        return content
    kind = content.get("type")
    if isinstance(kind, str) and kind in SOURCES:
        return replace(content)
    return {key: value if key == "tool_calls" else _replaced(value, replace) for key, value in content.items()}


def _decoded(text: str) -> bytes | None:
    """What base64 says; None unless encoding that again gives the same text."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None
