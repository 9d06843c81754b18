"""What a person sees of a reply while it is made."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .drafts import styled
from .style import Terminal, Visible
from .thoughts import CLEAR_LINE, Thoughts

if TYPE_CHECKING:
    from ..server.chat_session import ReplyPiece

LONG_PROMPT = 256  # tokens; shorter ones are read in no time


class Text(Protocol):
    """An answer's text on its way to where it is shown."""

    def add(self, piece: "ReplyPiece") -> str:
        """What is to be written for the next piece."""

    def finish(self) -> str:
        """What is to be written at its end, so that it ends with a line's end."""


class AnswerView:
    """Shows one reply: its thoughts, and its answer as it is made.

    On a terminal Markdown is rendered block by block, unless the terminal is narrow, has no colours, or the drafts are
    to be seen. What is not shown by a terminal gets the answer's text as it was made, and a line's end where it lacks
    one.

    Args:
        terminal: where it is shown.
        show_drafts: whether tokens are coloured by who chose them.
        show_thinking: whether thoughts are shown while they come; if not, one line says that the model thinks.
        markdown: whether it is rendered.
        clock: seconds.
    """

    def __init__(
        self,
        terminal: Terminal,
        *,
        show_drafts: bool = False,
        show_thinking: bool = True,
        markdown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._terminal = terminal
        self._drafts, self._markdown = show_drafts, markdown
        self._thoughts = Thoughts(terminal, show_thinking, clock)
        self._text: Text | None = None
        self._waiting = ""
        self._begun = False

    def waiting(self, done: int, total: int) -> None:
        """Show how many tokens of a long prompt have been read: one line, which the next one replaces."""
        if total < LONG_PROMPT or self._begun or not self._terminal.erases:
            return
        line = f"reading the prompt: {done:,} of {total:,} tokens"[: self._terminal.width - 1]
        if line != self._waiting:
            self._waiting = line
            self._terminal.write(CLEAR_LINE + self._terminal.dim(line))

    def show(self, piece: "ReplyPiece") -> None:
        """Show the next piece."""
        if not piece.text:
            return
        self._begun = True
        self._end_waiting()
        if piece.channel == "thought":
            if self._terminal.shown:
                self._end_text()
            self._thoughts.add(piece.text)
            return
        self._thoughts.end()
        if self._text is None:
            self._text = self._new_text()
        self._terminal.write(self._text.add(piece))

    def finish(self, cancelled: bool = False) -> None:
        """The reply has ended: nothing is held back any longer, and the cursor is at the beginning of a line.

        Args:
            cancelled: whether it was stopped: a thought under way has no end then.
        """
        self._end_waiting()
        self._thoughts.end(stopped=cancelled)
        self._end_text()

    def _end_waiting(self) -> None:
        if self._waiting:
            self._waiting = ""
            self._terminal.write(CLEAR_LINE)

    def _end_text(self) -> None:
        text, self._text = self._text, None
        if text is not None:
            self._terminal.write(text.finish())

    def _new_text(self) -> Text:
        if not self._terminal.shown:
            return Verbatim()
        if self._drafts:
            return Plain(drafts=self._terminal.colour)
        if self._markdown and self._terminal.erases and self._terminal.colour:
            return Rendered(self._terminal)
        return Plain(drafts=False)


class Verbatim:
    """Text as it was made."""

    def __init__(self) -> None:
        self._last = ""

    def add(self, piece: "ReplyPiece") -> str:
        """The text of it."""
        self._last = piece.text
        return piece.text

    def finish(self) -> str:
        """A line's end, where there is none."""
        return "" if self._last.endswith("\n") else "\n"


class Plain:
    """Text as a terminal may have it, whose lines the terminal breaks.

    Args:
        drafts: whether tokens are coloured by who chose them.
    """

    def __init__(self, drafts: bool):
        self._drafts = drafts
        self._visible = Visible()
        self._ended = True

    def add(self, piece: "ReplyPiece") -> str:
        """The text of it, with control characters made visible."""
        if not (self._drafts and piece.spans):
            return self._shown(piece.text, 0)
        return "".join(self._shown(span.text, span.draft) for span in piece.spans)

    def finish(self) -> str:
        """What was held back, and a line's end where there is none."""
        text = self._visible.finish()
        return text if self._ended and not text else f"{text}\n"

    def _shown(self, text: str, draft: int) -> str:
        text = self._visible(text)
        if text:
            self._ended = text.endswith("\n")
        return styled(text, draft)


class Rendered:
    """Text whose Markdown is rendered.

    Args:
        terminal: one that erases and has colours.
    """

    def __init__(self, terminal: Terminal):
        from .markdown import MarkdownText  # rich and Pygments take a while to import

        self._visible = Visible()
        self._text = MarkdownText(terminal)

    def add(self, piece: "ReplyPiece") -> str:
        """More of the block under way, and blocks that it finishes."""
        return self._text.add(self._visible(piece.text))

    def finish(self) -> str:
        """The rest, rendered."""
        return self._text.add(self._visible.finish()) + self._text.finish()
