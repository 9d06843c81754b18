"""Files that are dropped on a terminal, which pastes their paths: found in a text, and taken out of it."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import InputError
from ..text.messages import Kind
from .paths import existing_file, unescaped, unquoted, written_path
from .shown import KINDS, Shown, kind_of, labelled

_START = re.compile(r"(?<![^ \t\r\n(\[{<,;'\"])['\"]?(?=/|~/|\.\.?/|file://)")
_WORD = re.compile(r"(?:'[^'\n]*'|\"(?:\\.|[^\"\\\n])*\"|\\.|[^ \t\r\n'\"\\])+")
_PUNCTUATION = r".,;:!?)\]}>'\""
_SUFFIX = re.compile(rf"\.(?:{'|'.join(KINDS)})(?=[{_PUNCTUATION}]*(?:[ \t\r\n]|[^\0-\x7f]|\Z))", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t]*")
_LONGEST_PATH = 1024
_TYPED = 4096
"""Characters of a text from which on it is no longer taken for typed: blanks of paths in it must be escaped."""


def dropped(
    text: str, counts: Mapping[Kind, int], note: Callable[[str], object] = lambda line: None
) -> tuple[str, list[Shown]]:
    """Split a message into what it says and the files that it shows.

    A path counts if it begins with ``/``, ``~/``, ``./``, ``../`` or ``file://``, quoted or not, and leads to a regular
    file whose suffix is a picture's, a sound's or a video's. Whatever else looks like a path stays text, and so does
    the path of a broken file.

    Args:
        text: the message.
        counts: how many files of each kind the conversation shows already; labels count on from there.
        note: is told, in one line, why a file was left out.

    Returns:
        The text without the paths, and the files in their order.
    """
    kept, shown, at, seen = "", list[Shown](), 0, 0
    for start in _START.finditer(text):
        if start.start() < seen or (found := _file_at(text, start.start())) is None:
            continue
        path, kind, end = found
        seen = end
        try:
            shown.append(labelled(path, kind, _number(kind, counts, shown)))
        except InputError as error:
            note(f"{error}; its path stays text")
            continue
        kept = _joined(kept + text[at : start.start()], after_blank=end < _behind_blanks(text, end))
        at = _behind_blanks(text, end)
    return (kept + text[at:]).strip() if shown else text, shown


def show(text: str, kind: Kind, counts: Mapping[Kind, int]) -> list[Shown]:
    """The files that somebody names for a kind, whatever their suffix; one, or several as shells read them.

    Raises:
        InputError: one of them is not there, is a folder, or is broken.
    """
    whole = written_path(text)
    if os.path.isdir(whole):
        raise InputError(f"{whole} is a folder, expected a {kind.noun}")
    names = [whole] if os.path.isfile(whole) else [written_path(word) for word in _WORD.findall(text)]
    if not names:
        raise InputError(f"{text!r:.80} names no file")
    shown: list[Shown] = []
    for path in names:
        if not os.path.isfile(path):
            raise InputError(f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}")
        shown.append(labelled(path, kind, _number(kind, counts, shown)))
    return shown


def _number(kind: Kind, counts: Mapping[Kind, int], shown: list[Shown]) -> int:
    return counts.get(kind, 0) + sum(each.kind is kind for each in shown) + 1


def _file_at(text: str, start: int) -> tuple[Path, Kind, int] | None:
    """The medium whose path begins there, and where the path ends."""
    for reading, end in _readings(text, start):
        kind = kind_of(reading)
        if kind is not None and (path := existing_file(reading)) is not None:
            return path, kind, end
    return None


def _readings(text: str, start: int) -> Iterator[tuple[str, int]]:
    """Yield what may be meant by a path, and where it ends: as shells read it; then up to a suffix, the nearest first.

    The latter leaves punctuation behind, and takes blanks and apostrophes that nobody has escaped.
    """
    quote = text[start] if text[start] in "'\"" else ""
    longest = start + _LONGEST_PATH
    word = _WORD.match(text, start, longest)
    if word is not None and kind_of(word.group().rstrip("'\"")) is not None:
        yield unquoted(word.group()), word.end()
    if quote and (end := text.find(quote, start + 1, longest)) > 0:  # several without a blank between them
        yield text[start + 1 : end], end + 1
    line_end = text.find("\n", start, longest)
    limit = min(longest, len(text) if line_end < 0 else line_end)
    if len(text) > _TYPED:
        limit = min(limit, start if word is None else word.end())
    for suffix in _SUFFIX.finditer(text, start, limit):
        if not quote or text.startswith(quote, suffix.end()):
            yield unescaped(text[start + len(quote) : suffix.end()]), suffix.end() + len(quote)


def _behind_blanks(text: str, end: int) -> int:
    found = _BLANKS.match(text, end)
    return end if found is None else found.end()


def _joined(kept: str, after_blank: bool) -> str:
    """What stands before a path, fit to be followed by what stands behind it: of two blanks one is left."""
    begins_line = not kept or kept.endswith("\n")
    kept = kept.rstrip(" \t")
    return kept + " " if after_blank and not begins_line else kept
