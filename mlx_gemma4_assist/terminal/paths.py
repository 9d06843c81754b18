r"""Paths as terminals paste them: quoted, with escaped blanks, as ``file://`` URLs, with ``~``."""

import os
import re
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

_PIECE = re.compile(r"'([^'\n]*)'|\"((?:\\.|[^\"\\\n])*)\"|\\(.)|([^'\"\\]+|[^\\])|\\$", re.DOTALL)
_FILE_URL = re.compile(r"file://(?:localhost)?(/.*)", re.DOTALL)


def escaped(path: str) -> str:
    """A path with a backslash before what would end it in the middle of a text."""
    return re.sub(r"([ \t'\"\\])", r"\\\1", path)


def unescaped(text: str) -> str:
    """A path without the backslashes before characters."""
    return re.sub(r"\\(.)", r"\1", text)


def unquoted(text: str) -> str:
    """A path without quotes and backslashes, as shells read it."""
    return "".join(_plain(match) for match in _PIECE.finditer(text))


def written_path(text: str) -> Path:
    """The path that somebody has typed, completed or dropped, with nothing before and behind it; it need not exist."""
    text = text.strip()
    for reading in (text, unquoted(text)):
        if (found := existing_file(reading)) is not None:
            return found
    return Path(_expanded(unquoted(text)))


def existing_file(name: str) -> Path | None:
    """The regular file that a path or ``file://`` URL names; None if there is none.

    Names with accents are looked for as they are written, composed and decomposed: file systems differ in it.
    """
    name = _expanded(name)
    for form in dict.fromkeys((name, normalize("NFC", name), normalize("NFD", name))):
        if os.path.isfile(form):
            return Path(form)
    return None


def _expanded(name: str) -> str:
    if (url := _FILE_URL.fullmatch(name)) is not None:
        return os.fsdecode(unquote_to_bytes(url[1].encode("utf-8", "replace")))
    return os.path.expanduser(name)


def _plain(match: re.Match[str]) -> str:
    single, double, after_backslash, other = match.groups()
    if double is not None:
        return re.sub(r"\\([\\\"$`])", r"\1", double)
    return next((piece for piece in (single, after_backslash, other) if piece is not None), "")
