"""The standard streams as a command finds them: closed, full, without a reader, in another encoding."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from ..errors import InputError
from ..files import decode_text, read_text

STANDARD_INPUT = "-"
_notes: ContextVar[Callable[[str], None] | None] = ContextVar("notes", default=None)


def prepare_streams() -> None:
    """Make the standard streams fit to be used, before anything else is.

    Raises:
        InputError: standard output is closed, or the working folder is gone, without which libraries do not load.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a file that is opened later must not become a standard stream
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print would turn to standard output instead
        sys.stderr = _nowhere()
    if sys.stdout is None:
        sys.stdout = _nowhere()
        raise InputError("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character gets a question mark
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(f"cannot use the working folder: {error.strerror}") from None


def _nowhere() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(os.devnull, "w"))


def drop_output() -> None:
    """Forget what standard output has not taken, so that the end of the process does not try again."""
    _turn_away(sys.stdout)


@contextmanager
def noting_to(take: Callable[[str], None]) -> Iterator[None]:
    """Hand the lines of :func:`note` on instead, in this thread: nothing may be written while a person types."""
    before = _notes.set(take)
    try:
        yield
    finally:
        _notes.reset(before)


def notes_elsewhere() -> bool:
    """Whether lines of :func:`note` are handed on in this thread."""
    return _notes.get() is not None


def note(line: str) -> None:
    """Write a line that is not part of the output to standard error; one that cannot be written is lost."""
    take = _notes.get()
    if take is not None:
        take(line)
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _turn_away(sys.stderr)


def _turn_away(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # it has no number where a test has put something else in its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def check_standard_input() -> None:
    """Raises:
    InputError: standard input is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed")


def read_input(name: str | Path) -> str:
    """The text of a file; ``-`` is standard input. A byte order mark is not part of it.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    if str(name) != STANDARD_INPUT:
        return read_text(Path(name))
    check_standard_input()
    return decode_text(sys.stdin.buffer.read(), "standard input")


def moves_cursor(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_styles(stream: TextIO) -> bool:
    """Whether text may be dim or coloured there: not where ``NO_COLOR`` is set (https://no-color.org)."""
    return moves_cursor(stream) and not os.environ.get("NO_COLOR")
