"""The next message of a person: from a line editor in a terminal, from lines of standard input elsewhere."""

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .completion import Completions
from .quoted_lines import closes, is_open, without_quotes

if TYPE_CHECKING:
    from .editor import Editor
    from .style import Terminal

SIGN, SIGN_OF_MORE = ">> ", ".. "
UNDECODABLE = "surrogateescape"


class Prompt:
    r"""Asks for messages.

    Three ways lead to several lines: a line that ends in ``\`` goes on in the next one; what begins with ``\"""`` ends
    with the line that ends in ``\"""``; in a terminal Alt-Enter begins a line, and pasted lines are one message. Bytes
    of standard input that are not in its encoding become surrogates, as of Python's "surrogateescape".

    The line editor, which takes prompt_toolkit, is imported by the first :meth:`read`.

    Args:
        terminal: what can be drawn; it is asked anew for each message.
        history: a file of typed messages, which is made if it is missing and only its owner may read. None keeps them
            as long as this object lives.
        words: what can be completed; it is asked each time something is.
        toolbar: the text of the last line of the screen, which is asked about once a second. Line editor only.
    """

    def __init__(
        self,
        terminal: "Terminal",
        *,
        history: Path | None,
        words: Callable[[], Completions],
        toolbar: Callable[[], str],
    ):
        self._terminal, self._history, self._words, self._toolbar = terminal, history, words, toolbar
        self._editor: Editor | None = None
        if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != UNDECODABLE:
            sys.stdin.reconfigure(errors=UNDECODABLE)

    def read(self, default: str = "") -> str | None:
        """The next message, of one line or several; None after Ctrl-D on an empty line or at the end of the input.

        Args:
            default: what the person may edit, send or delete. Without a line editor an empty line stands for it.

        Raises:
            KeyboardInterrupt: Ctrl-C on an empty line; on another one it clears the message.
        """
        interactive = self._terminal.interactive
        text = self._line_editor().read(default) if interactive else self._plain(default)
        return None if text is None else without_quotes(text)

    def leave(self) -> None:
        """Let a :meth:`read` that waits in the line editor return None. For any thread; it does not wait."""
        if self._editor is not None:
            self._editor.leave()

    def _line_editor(self) -> "Editor":
        if self._editor is None:
            from .editor import Editor

            self._editor = Editor(self._terminal, self._history, self._words, self._toolbar)
        return self._editor

    def _plain(self, default: str) -> str | None:
        if default and sys.stdin.isatty():
            self._terminal.note(f"{default}\n(An empty line sends this, another one takes its place.)")
        while True:
            lines: list[str] = []
            try:
                ended = _read_lines(lines)
            except KeyboardInterrupt:
                if not lines:
                    raise
                _ask("\n")
                continue
            if ended and not lines:
                return None
            return "\n".join(lines) or default


def _read_lines(lines: list[str]) -> bool:
    """Add the lines of a message to ``lines``, whatever ends it; whether the input has ended."""
    quoted = False
    while (line := _line(SIGN_OF_MORE if lines else SIGN)) is not None:
        if not lines:
            quoted = is_open(line)
        elif quoted and closes(line):
            quoted, line = False, line.rstrip()
        goes_on = not quoted and line.endswith("\\")
        lines.append(line[:-1] if goes_on else line)
        if not (goes_on or quoted):
            return False
    return True


def _line(sign: str) -> str | None:
    """A line without its end; None at the end of the input."""
    _ask(sign)
    line = sys.stdin.readline()
    return line.removesuffix("\n").removeprefix("\ufeff") if line else None


def _ask(text: str) -> None:
    """Show what only somebody at a terminal needs to see."""
    if sys.stdin.isatty():
        with suppress(OSError):  # standard error is full, or nobody reads it
            print(text, end="", file=sys.stderr, flush=True)
