"""Markdown while it comes: blocks under way as they are written, and rendered once they are finished."""

from .blocks import Block, blocks, finished, open_fence
from .code import CodeLines
from .render import Renderer
from .rows import Rows
from .style import Terminal


class MarkdownText:
    """What is to be written to a terminal for a text that comes in pieces; the same however it is cut.

    The text of a block under way is shown as it is. When the block is finished, its rows are erased, and what it looks
    like takes their place; where they do not fit on the screen, or the window has been resized meanwhile, they stay.
    An item of a list is such a block, and so is a line of fenced code. Nothing that has been rendered is touched again.

    Args:
        terminal: one that erases and has colours.
    """

    def __init__(self, terminal: Terminal):
        self._terminal = terminal
        self._renderer = Renderer(terminal)
        self._code: CodeBlock | None = None
        self._lines: list[str] = []  # of the blocks under way
        self._fence = ""  # that is open in them
        self._line, self._blank = "", True  # the one under way; whether it holds blanks only
        self._gap = self._begun = False  # whether there are blank lines before what follows, whether anything was shown
        self._rows = self._new_rows()

    def add(self, text: str) -> str:
        """More text, without control characters."""
        written = []
        while text:
            part, end, text = text.partition("\n")
            written.append(self._more(part))
            if end:
                written.append(self._end_line())
        return "".join(written)

    def finish(self) -> str:
        """The text has ended, perhaps in the middle of a block. The cursor is at the beginning of a row then."""
        written = "" if self._blank else self._end_line()
        self._line, self._blank = "", True
        if self._lines and self._rows.stay:
            written += self._close()
        elif self._lines:
            found = blocks(self._lines)
            written += self._replace(found, len(found))
        self._code = None
        return written

    def _more(self, part: str) -> str:
        """More of the line under way; blanks that begin it wait for what follows."""
        held = self._line if self._blank else ""
        self._line += part
        if self._blank and not part.strip():
            return ""
        self._blank = False
        return self._show(held + part)

    def _show(self, text: str) -> str:
        gap = ""
        if self._rows.empty:
            self._rows = self._new_rows()
            gap = "\n" if self._gap and self._begun else ""
            self._gap = False
            self._begun = True
        return gap + self._rows.add(text)

    def _end_line(self) -> str:
        line, blank = self._line, self._blank
        self._line, self._blank = "", True
        if self._code is not None:
            return self._end_code_line(self._code, line)
        if blank and not self._lines:
            self._gap = True
            return ""
        self._lines.append(line)
        self._fence = open_fence(self._fence, line)
        self._rows.add("\n")
        return self._settle_kept(line) if self._rows.stay else self._settle()

    def _settle(self) -> str:
        """A line has ended: render what it finishes."""
        found = blocks(self._lines)
        if found and found[-1].kind == "fence":
            return self._open_code(found)
        count = finished(found, self._lines)
        return self._replace(found, count) if count else ""

    def _settle_kept(self, line: str) -> str:
        """The same, of blocks that stay as they are: the next blank line ends them, unless it is code's."""
        return "" if line.strip() or self._fence else self._close()

    def _close(self) -> str:
        self._gap = not self._lines[-1].strip()
        written = self._rows.close()
        self._go_on([])
        return written

    def _replace(self, found: list[Block], count: int) -> str:
        """Render some blocks, and show the lines behind them again."""
        written = [self._rows.erase()]
        for block in found[:count]:
            written += self._gap_before(block.start), self._rendered(block)
            self._begun = True
        rest = found[count].start if count < len(found) else len(self._lines)
        self._gap = rest > 0 and not self._lines[rest - 1].strip()
        self._go_on(self._lines[rest:])
        if self._lines:
            written.append(self._show("\n".join(self._lines) + "\n"))
        return "".join(written)

    def _gap_before(self, line: int) -> str:
        """The empty row before a block but the first, whose is there already."""
        return "\n" if line > 0 and not self._lines[line - 1].strip() else ""

    def _rendered(self, block: Block) -> str:
        if block.kind == "fence":
            return self._terminal.dim(self._lines[block.start]) + "\n"
        return self._renderer.block(block.tokens) or "\n".join(self._lines[block.start : block.end]) + "\n"

    def _go_on(self, lines: list[str]) -> None:
        self._lines, self._fence = lines, ""
        for line in lines:
            self._fence = open_fence(self._fence, line)
        self._rows = self._new_rows()

    def _new_rows(self) -> Rows:
        return Rows(self._terminal, stays=not self._terminal.erases)

    def _open_code(self, found: list[Block]) -> str:
        """The last line has opened a fence."""
        self._code = CodeBlock(self._lines[-1])
        return self._replace(found, len(found))

    def _end_code_line(self, code: "CodeBlock", line: str) -> str:
        stays = self._rows.stay
        rendered = self._rows.close() or "\n"
        if not stays:
            shown = self._terminal.dim(line) if code.closes(line) else code.line(line)
            rendered = self._rows.erase() + shown + "\n"
        if code.closes(line):
            self._code = None
        self._rows = self._new_rows()
        return rendered


class CodeBlock:
    """Fenced code, of which the first line has been read.

    Args:
        opening: that line, such as three backticks and a language.
    """

    def __init__(self, opening: str):
        text = opening.lstrip(" ")
        self._indent = len(opening) - len(text)
        self._mark = open_fence("", opening)
        words = text.lstrip(self._mark[:1]).split()
        self._lines = CodeLines(words[0].lower() if words else "")

    def closes(self, line: str) -> bool:
        """Whether a line is the end of it."""
        text = line.strip()
        return len(line) - len(line.lstrip(" ")) < 4 and text.startswith(self._mark) and not text.strip(self._mark[0])

    def line(self, text: str) -> str:
        """A line of code, as long as it is: the terminal breaks it, so that it can be copied."""
        indent = min(self._indent, len(text) - len(text.lstrip(" ")))
        return self._lines.line(text[indent:].expandtabs(4))
