"""Text under way at the end of the screen, whose rows are counted so that it can be erased again."""

from collections.abc import Iterator

from wcwidth import wcwidth

from .style import Terminal

TAB = 4
_WIDENS = "\ufe0f"  # variation selector 16: the character before it is an emoji, of two columns in some terminals


class Rows:
    """Rows that may be erased, as long as all of them are on the screen and the window keeps its size.

    Lines are broken here, between words, a column before the terminal would. Terminals differ over the width of some
    characters; each counts with the most that any gives it. So never more rows are erased than were written. Text that
    outgrows the screen, or whose window is resized, stays: from then on the terminal breaks its lines.

    Args:
        terminal: where it is shown; the text must hold no control characters but tabs and line feeds.
        stays: whether it is never to be erased.
    """

    def __init__(self, terminal: Terminal, *, stays: bool = False):
        self._terminal = terminal
        self._size = terminal.size
        self._stays = stays
        self._begin()

    @property
    def stay(self) -> bool:
        """Whether they can no longer be erased."""
        if not self._stays and self._terminal.size != self._size:
            self._stays = True
        return self._stays

    def add(self, text: str) -> str:
        """What is to be written for more text. A line feed is written once something follows it."""
        if not text:
            return ""
        _ = self.stay
        return "".join(self._placed(text))

    def erase(self) -> str:
        """What erases them; they are empty then. Only to be called where they do not stay."""
        up = f"\033[{self._row}A" if self._row else ""
        erasing = "" if self.empty else f"\r{up}\033[J"
        self._begin()
        return erasing

    def close(self) -> str:
        """What ends the last row, so that the cursor is at the beginning of one. It is the end of them."""
        return "" if self.empty else "\n"

    def _begin(self) -> None:
        self._row = self._column = self._breaks = 0
        self._word = ""  # at the end of the row, of simple characters
        self._full = False  # whether a blank did not fit into the row
        self.empty = True

    def _placed(self, text: str) -> Iterator[str]:
        for character in text:
            if character == "\n":
                self._breaks += 1
                continue
            if self._breaks:
                yield from self._go_down(self._breaks)
                self._breaks = 0
            self.empty = False
            if character == "\t":
                for _ in range(TAB - self._column % TAB):
                    yield from self._place(" ", 1)
            else:
                yield from self._place(character, _columns(character))

    def _place(self, character: str, columns: int) -> Iterator[str]:
        """A character, perhaps in a new row. Blanks that do not fit are left out."""
        fits = self._stays or self._column + columns < self._size[0]
        if character == " " and not fits:
            self._full = True
            return
        if (self._full or not fits) and columns and character != _WIDENS:
            yield from self._wrap()
        self._column += columns
        self._word = self._word + character if _is_simple(character) else ""
        yield character

    def _wrap(self) -> Iterator[str]:
        """Begin a row with the word under way, if it is not the only one of its row."""
        word = "" if self._full or self._stays or len(self._word) >= self._column else self._word
        if word:
            yield f"\033[{len(word)}D\033[K"
        yield from self._go_down(1)
        self._word, self._column = word, len(word)
        yield word

    def _go_down(self, rows: int) -> Iterator[str]:
        yield "\n" * rows
        self._row += rows
        self._column, self._word, self._full = 0, "", False
        if self._row >= self._size[1] - 1:
            self._stays = True


def _is_simple(character: str) -> bool:
    """Whether it is part of a word, and each terminal gives it one column."""
    return "!" <= character < "\u0250" and character.isprintable() and character != "\xa0"


def _columns(character: str) -> int:
    """The most columns that a terminal gives a character."""
    if character == _WIDENS:
        return 1
    if "\U0001f1e6" <= character <= "\U0001f1ff":  # half a flag
        return 2
    return max(wcwidth(character), 0)
