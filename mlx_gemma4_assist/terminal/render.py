"""Blocks of Markdown as rich renders them, without what wide screens and dark themes take for granted."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from markdown_it.token import Token
from rich import box
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from .code import CodeLines
from .style import Terminal, made_visible

# Of the terminal's own sixteen colours, those that can be read on dark and on light.
THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "italic",
        "markdown.item.number": "bold",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "bold italic",
        "markdown.link": "blue",
        "markdown.link_url": "blue underline",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)
STYLES = ColorSystem.STANDARD


class Renderer:
    """Renders one block at a time, as wide as the terminal is then."""

    def __init__(self, terminal: Terminal):
        self._terminal = terminal
        self._document = _Document("", hyperlinks=False)
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system="standard",
            theme=THEME,
            highlight=False,
            legacy_windows=False,
            width=terminal.width,
        )

    def block(self, tokens: Sequence[Token]) -> str:
        """Lines with escape sequences, without empty ones before and behind; empty if there are no others.

        Args:
            tokens: of a document.
        """
        self._document.parsed = [_shown(token) for token in tokens]
        options = self._console.options.update(width=self._terminal.width)
        lines = [_line(segments) for segments in self._console.render_lines(self._document, options, pad=False)]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            del lines[0]
        return "".join(f"{line}\n" for line in lines)


def _shown(token: Token) -> Token:
    """A token with its lines broken where they were written, and no address shown twice."""
    if token.children is None:
        return token
    children = []
    within = False
    for child in token.children:
        if child.markup == "autolink":
            continue
        within = child.type == "link_open" or (within and child.type != "link_close")
        if child.type == "softbreak" and not within:
            child = replace(child, type="hardbreak")
        children.append(child)
    return replace(token, children=children)


def _line(segments: Iterable[Segment]) -> str:
    """Segments of a line as text with escape sequences, without blanks at its end."""
    found = [(made_visible(part.text), part.style or Style()) for part in segments if not part.control]
    while found and not found[-1][0].strip(" "):
        found.pop()
    if not found:
        return ""
    text, style = found.pop()
    found.append((text.rstrip(" "), style))
    return "".join(style.render(text, color_system=STYLES) for text, style in found)


class _Heading(Heading):
    """At the left, as all text is."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {f"h{level}": "left" for level in range(1, 7)}


class _Item(ListItem):
    """Its number has a dot."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        mark = f" {number}. "
        lines = console.render_lines(self.elements, options.update(width=options.max_width - len(mark)))
        style = console.get_style("markdown.item.number")
        for line, segments in enumerate(lines):
            yield Segment(mark if line == 0 else " " * len(mark), style)
            yield from segments
            yield Segment("\n")


class _Code(CodeBlock):
    """In the terminal's colours, between its fences, without a frame of blanks."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> "_Code":
        code = cls(token.info.partition(" ")[0].lower(), markdown.code_theme)
        code._fences = (token.markup + token.info, token.markup)
        return code

    def __init__(self, lexer_name: str, theme: str) -> None:
        super().__init__(lexer_name, theme)
        self._fences = ("", "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = CodeLines(self.lexer_name)
        first, last = self._fences
        lines = str(self.text).expandtabs(4).rstrip().split("\n")
        if first:
            yield Text(first, "dim")
        yield Text.from_ansi("\n".join(map(code.line, lines)))
        if last:
            yield Text(last, "dim")


class _Table(TableElement):
    """Its columns break words rather than leave out their ends."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE, pad_edge=False, style="markdown.table.border", collapse_padding=True)
        if self.header is not None and self.header.row is not None:
            for cell in self.header.row.cells:
                heading = cell.content.copy()
                heading.stylize("markdown.table.header")
                table.add_column(heading, overflow="fold")
        for row in self.body.rows if self.body is not None else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Document(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "list_item_open": _Item,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }
