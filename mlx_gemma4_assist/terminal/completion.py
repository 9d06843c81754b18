"""What the line editor completes: commands, their arguments, paths."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import normalize

from .paths import escaped, unescaped

PATH = "PATH"
_LAST_WORD = re.compile(r"(?:\\.|[^ \t\n\\])*\\?$")


class Candidate(NamedTuple):
    """A way to complete what stands before the cursor.

    Attributes:
        text: takes the place of the last ``replaced`` characters.
        shown: what is listed.
        help: said beside it.
    """

    text: str
    replaced: int
    shown: str
    help: str = ""


@dataclass(frozen=True)
class Completions:
    """What is completed behind a slash.

    Attributes:
        commands: what each one does, by its name, such as ``/help``.
        arguments: the values that may follow, by command, such as ``/sessions``, or by command and first word, such as
            ``/set temperature``; ``PATH`` among the values stands for paths.
    """

    commands: Mapping[str, str]
    arguments: Mapping[str, Callable[[], Sequence[str]]]

    def complete(self, text: str, asked: bool) -> Iterator[Candidate]:
        """Yield candidates for what stands before the cursor, in the order in which they are shown.

        Args:
            text: from the beginning of the message to the cursor.
            asked: whether the person has pressed Tab; folders are read only then.
        """
        if text.startswith("/") and "\n" not in text:
            if " " in text:
                yield from self._arguments(text, asked)
                return
            yield from self._commands(text)
        word = _last_word(text)
        if asked and ("/" in word[1:] or word.startswith(("~", "."))):
            yield from paths(word)

    def _commands(self, text: str) -> Iterator[Candidate]:
        for name, purpose in self.commands.items():
            command = _with_slash(name)
            if command.startswith(text):
                yield Candidate(command, len(text), command, purpose)

    def _arguments(self, text: str, asked: bool) -> Iterator[Candidate]:
        known = {_with_slash(name): values for name, values in self.arguments.items()}
        for name in sorted(known, key=len, reverse=True):
            if text.startswith(f"{name} "):
                typed = text.removeprefix(f"{name} ").lstrip(" ")
                yield from _values(known[name](), typed, asked)
                return


def paths(word: str) -> Iterator[Candidate]:
    """Yield the files and folders whose paths begin as a word does, with blanks and quotes escaped."""
    folder, begin = os.path.split(unescaped(word))
    begin = normalize("NFC", begin)
    with suppress(OSError, ValueError), os.scandir(os.path.expanduser(folder) or ".") as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            hidden = entry.name.startswith(".") and not begin.startswith(".")
            if normalize("NFC", entry.name).startswith(begin) and not hidden:
                slash = "/" if entry.is_dir() else ""
                yield Candidate(escaped(os.path.join(folder, entry.name)) + slash, len(word), entry.name + slash)


def _values(values: Sequence[str], typed: str, asked: bool) -> Iterator[Candidate]:
    for value in values:
        if value != PATH and value.casefold().startswith(typed.casefold()):
            yield Candidate(value, len(typed), value)
    if PATH in values and asked:
        yield from paths(_last_word(typed))


def _with_slash(name: str) -> str:
    return f"/{name.removeprefix('/')}"


def _last_word(text: str) -> str:
    found = _LAST_WORD.search(text[-4096:])
    return found.group() if found else ""
