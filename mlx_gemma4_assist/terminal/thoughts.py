"""Thoughts: dim while they come, and folded to one line when they end."""

import time
from collections.abc import Callable

from .rows import Rows
from .style import Terminal, Visible

CLEAR_LINE = "\r\033[2K"


class Thoughts:
    """Shows one thought after the other.

    Where lines cannot be replaced they stay, and the folded line comes below. Where the output is not shown by a
    terminal, all of it goes to the notes.

    Args:
        terminal: where it is shown; the cursor is at the beginning of a row when a thought begins, and when it has
            ended.
        show: whether their text is shown; if not, one line says that the model thinks.
        clock: seconds.
    """

    def __init__(self, terminal: Terminal, show: bool, clock: Callable[[], float] = time.monotonic):
        self._terminal, self._show, self._clock = terminal, show, clock
        self._began: float | None = None
        self._rows, self._visible = self._new_rows(), Visible()
        self._empty, self._sign = True, ""

    def add(self, text: str) -> None:
        """More of a thought."""
        if self._began is None:
            self._began = self._clock()
            self._rows, self._visible = self._new_rows(), Visible()
            self._empty, self._sign = True, ""
        if not self._show:
            self._give_sign(self._clock() - self._began)
            return
        text = self._visible(text) if self._terminal.shown else text
        if self._empty:
            text = text.lstrip("\n")
            self._empty = not text
        if self._terminal.shown:
            self._terminal.write(self._terminal.dim(self._rows.add(text)))
        else:
            self._terminal.aside(text)

    def end(self, stopped: bool = False) -> None:
        """Fold the thought, if one is under way.

        Args:
            stopped: whether it has not come to its own end.
        """
        if self._began is None:
            return
        seconds = self._clock() - self._began
        self._began = None
        line = f"{'stopped thinking after' if stopped else 'thought for'} {_spoken(seconds)}"
        if self._terminal.shown:
            self._terminal.write(self._cleared() + self._terminal.dim(line) + "\n")
            return
        if not self._empty:
            self._terminal.aside("\n")
        self._terminal.note(line)

    def _new_rows(self) -> Rows:
        return Rows(self._terminal, stays=not self._terminal.erases)

    def _give_sign(self, seconds: float) -> None:
        sign = "thinking..." + (f" {_spoken(seconds)}" if seconds >= 1 else "")
        if self._terminal.erases and sign != self._sign:
            self._sign = sign
            self._terminal.write(CLEAR_LINE + self._terminal.dim(sign))

    def _cleared(self) -> str:
        if self._sign:
            return CLEAR_LINE
        return self._rows.close() if self._rows.stay else self._rows.erase()


def _spoken(seconds: float) -> str:
    whole = max(round(seconds), 1)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
