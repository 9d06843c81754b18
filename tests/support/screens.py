"""Terminals of a test: what is written is drawn on a screen, of which every row is kept."""

import io
from collections.abc import Iterator
from unicodedata import combining

import pyte
from wcwidth import wcwidth

from mlx_gemma4_assist.terminal.style import Terminal


class Window(io.StringIO):
    """A stream that is a terminal's."""

    def isatty(self) -> bool:
        return True


class Drawn(pyte.HistoryScreen):
    """Wide characters do not stand across the edge, and invisible ones do not hide what follows, as pyte has it."""

    def draw(self, data: str) -> None:
        for character in data:
            if wcwidth(character) == 2 and self.cursor.x == self.columns - 1:
                super().draw(" ")
            if wcwidth(character) > 0 or combining(character):
                super().draw(character)


class Screen:
    """A terminal, and a screen that shows what is written to it.

    Attributes:
        terminal: to be written to.
        environ: of it; COLUMNS and LINES are its size.
    """

    def __init__(self, columns: int = 80, rows: int = 24, **environ: str):
        self.environ = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)} | environ
        self._window = Window()
        self.terminal = Terminal(self._window, self._window, self.environ, self._window)
        self._drawn = Drawn(columns, rows, history=100_000, ratio=0.5)
        self._drawn.set_mode(pyte.modes.LNM)  # what a line discipline does: an LF goes to the line's beginning
        self._stream = pyte.Stream(self._drawn)
        self._at = 0

    @property
    def written(self) -> str:
        """All that was written so far."""
        return self._window.getvalue()

    def resize(self, columns: int, rows: int) -> None:
        self._draw()
        self.environ |= {"COLUMNS": str(columns), "LINES": str(rows)}
        self._drawn.resize(rows, columns)

    @property
    def rows(self) -> list[str]:
        """All rows down to the cursor's, those that were scrolled away among them, without blanks at their ends."""
        return ["".join(cell.data for cell in cells).rstrip() for cells in self.cells]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    @property
    def cells(self) -> list[list[pyte.screens.Char]]:
        """The same rows, as characters with styles."""
        self._draw()
        lines = [*self._drawn.history.top, *(self._drawn.buffer[y] for y in range(self._drawn.cursor.y + 1))]
        return [[line[x] for x in range(self._drawn.columns)] for line in lines]

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row, among all rows."""
        rows = len(self.cells)
        return self._drawn.cursor.x, rows - 1

    @property
    def below(self) -> str:
        """What is to be seen below the cursor: nothing, mostly."""
        self._draw()
        lines = (self._drawn.buffer[y] for y in range(self._drawn.cursor.y + 1, self._drawn.lines))
        return "".join(line[x].data for line in lines for x in range(self._drawn.columns)).strip()

    def styles(self, text: str) -> set[tuple[str, bool, bool, bool]]:
        """Of the characters of a text where it first stands in a row: colour, bold, italic, underlined."""
        return set(self._styles(text))

    def _styles(self, text: str) -> Iterator[tuple[str, bool, bool, bool]]:
        for cells in self.cells:
            row = "".join(cell.data or "\0" for cell in cells)
            if (at := row.find(text)) >= 0:
                for cell in cells[at : at + len(text)]:
                    yield cell.fg, cell.bold, cell.italics, cell.underscore
                return
        raise AssertionError(f"{text!r} is not on the screen")

    def _draw(self) -> None:
        new = self.written[self._at :]
        self._at += len(new)
        self._stream.feed(new)
