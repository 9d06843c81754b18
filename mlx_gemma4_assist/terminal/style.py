"""Where output goes: what is known of the terminal, and how text is made fit for one."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from .numbers import whole_number

DIM, RESET = "\033[2m", "\033[0m"
NARROW = 20
"""Windows of so few columns, or of fewer, get plain text."""

_FALLBACK = (80, 24)


class Terminal:
    """Facts about where output goes. They are asked anew each time: a window may be resized.

    Args:
        out: takes answers.
        notes: takes what is said beside them.
        environ: variables of the environment; TERM, NO_COLOR, COLUMNS, LINES count.
        keyboard: where a person types, None where nothing is typed.
    """

    def __init__(self, out: TextIO, notes: TextIO, environ: Mapping[str, str], keyboard: TextIO | None):
        self._out, self._notes, self._environ, self._keyboard = out, notes, environ, keyboard

    @classmethod
    def of(
        cls, out: TextIO | None = None, notes: TextIO | None = None, environ: Mapping[str, str] = os.environ
    ) -> "Terminal":
        """The terminal of streams; without them, of this process's standard streams as they are now."""
        return cls(out or sys.stdout, notes or sys.stderr, environ, sys.stdin)

    @property
    def shown(self) -> bool:
        """Whether a terminal shows the output: what is written there must hold no control characters."""
        return self._out.isatty()

    @property
    def interactive(self) -> bool:
        """Whether a person sees and types, in a terminal that understands escape sequences."""
        return self._moves and self._keyboard is not None and self._keyboard.isatty()

    @property
    def erases(self) -> bool:
        """Whether lines that were written may be replaced: the terminal can, and it is not narrow."""
        return self._moves and self.width > NARROW

    @property
    def colour(self) -> bool:
        """Whether text may have styles: not where ``NO_COLOR`` is set (https://no-color.org)."""
        return self._moves and self._styled

    @property
    def width(self) -> int:
        """In columns."""
        return self.size[0]

    @property
    def height(self) -> int:
        """In rows."""
        return self.size[1]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows: of the window; where there is none as COLUMNS and LINES say; else 80 and 24."""
        with suppress(OSError, ValueError):  # no terminal, or not even a file
            columns, rows = os.get_terminal_size(self._out.fileno())
            if columns > 0 and rows > 0:
                return columns, rows
        said = (self._environ.get("COLUMNS", ""), self._environ.get("LINES", ""))
        columns, rows = (whole_number(text) or 0 for text in said)
        return columns or _FALLBACK[0], rows or _FALLBACK[1]

    def write(self, text: str) -> None:
        """Write to the output, at once."""
        if text:
            self._out.write(text)
            self._out.flush()

    def dim(self, text: str) -> str:
        """Text, dim where the output has styles."""
        return f"{DIM}{text}{RESET}" if text and self.colour else text

    def note(self, text: str) -> None:
        """Write lines beside the output: dim where there are styles, and broken between words, as terminals do not.

        A terminal obeys nothing in them but styles: messages, names and errors of servers are among them. What cannot
        be written is lost.
        """
        if self._notes.isatty():
            text = "".join(each if _STYLE.fullmatch(each) else made_visible(each) for each in _STYLE.split(text))
            text = "\n".join(broken(line, self.width - 1) for line in text.split("\n"))
        dim = text and self._styled and self._moves_in(self._notes)
        self._beside((f"{DIM}{text}{RESET}" if dim else text) + "\n")

    def aside(self, text: str) -> None:
        """Write a piece of untrusted text beside the output, without ending the line."""
        self._beside(made_visible(text) if self._notes.isatty() else text)

    def _beside(self, text: str) -> None:
        with suppress(OSError):
            self._notes.write(text)
            self._notes.flush()

    @property
    def _moves(self) -> bool:
        return self._moves_in(self._out)

    @property
    def _styled(self) -> bool:
        return not self._environ.get("NO_COLOR")

    def _moves_in(self, stream: TextIO) -> bool:
        return stream.isatty() and self._environ.get("TERM") != "dumb"


def broken(line: str, width: int) -> str:
    """A line with line feeds in the place of blanks, so that its words stay whole where they fit.

    A line with styles, whose escape sequences take no room, stays as it is.
    """
    rows = []
    while len(line) > width and "\033" not in line:
        at = line.rfind(" ", len(line) - len(line.lstrip()) + 1, width + 1)
        if at < 0:
            break
        rows.append(line[:at].rstrip())
        line = line[at + 1 :]
    return "\n".join([*rows, line])


_STYLE = re.compile("(\033\\[[0-9;]*m)")
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def made_visible(text: str) -> str:
    """Text without characters that a terminal obeys: ESC becomes ␛, CSI ``\\x9b``. Tabs and line feeds stay."""
    return _UNSAFE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    if code == 0x7F:
        return "␡"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Visible:
    """Makes text visible that comes in pieces: a CR that an LF follows, perhaps in the next piece, is no control."""

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, text: str) -> str:
        """The next piece of text as a terminal may have it."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return made_visible(text.removesuffix(self._held).replace("\r\n", "\n"))

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return made_visible(held)
