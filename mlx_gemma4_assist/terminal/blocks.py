"""The blocks of Markdown in lines, and which of them are finished."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

# Nothing of a text may vanish: tags, pictures and definitions of links are shown as they were written.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable(["image", "reference"])

_LISTS = ("bullet_list_open", "ordered_list_open")
_AT_ONCE = ("heading_open", "hr")
_AT_BLANK = ("paragraph_open", "table_open", "blockquote_open")
_FENCE = re.compile(r"[\s>]*(?:(?:[-*+]|\d{1,9}[.)])\s+)?(`{3,}|~{3,})(.*)")


@dataclass(frozen=True)
class Block:
    """A block, or an item of a list.

    Attributes:
        kind: the type of its first token, such as ``paragraph_open``.
        start, end: its lines, ``end`` excluded; blank ones that follow are not among them.
        tokens: of a document that holds nothing else.
    """

    kind: str
    start: int
    end: int
    tokens: tuple[Token, ...]


def blocks(lines: Sequence[str]) -> list[Block]:
    """All blocks of some lines; an item of a list that is not within another block is a block."""
    found = []
    for tokens in _groups(_PARSER.parse("\n".join(lines) + "\n"), 0):
        parts = _items(tokens) if tokens[0].type in _LISTS else [tokens]
        found += [_block(part, lines) for part in parts]
    return found


def finished(found: Sequence[Block], lines: Sequence[str]) -> int:
    """How many blocks, from the first on, no further line can change."""
    if not found:
        return 0
    kind = found[-1].kind
    closed = kind in _AT_ONCE or (kind in _AT_BLANK and not lines[-1].strip())
    return len(found) if closed else len(found) - 1


def open_fence(fence: str, line: str) -> str:
    """The mark of the fence that is open behind a line, such as three backticks; empty if none is.

    Args:
        fence: that of the line before.
        line: perhaps within a list or a quote.
    """
    match = _FENCE.match(line)
    if match is None:
        return fence
    mark, rest = match[1], match[2]
    if not fence:
        return "" if mark[0] == "`" and "`" in rest else mark
    return "" if mark.startswith(fence) and not rest.strip() else fence


def _groups(tokens: Sequence[Token], level: int) -> list[list[Token]]:
    """Tokens from one that opens at a level to the one that closes it; one that does neither is a group."""
    groups: list[list[Token]] = []
    for token in tokens:
        if token.level == level and token.nesting >= 0:
            groups.append([])
        groups[-1].append(token)
    return groups


def _items(tokens: list[Token]) -> list[list[Token]]:
    """A list for each of its items; all but the first are parsed again, and have their own numbers then."""
    first, last = tokens[0], tokens[-1]
    return [[first.copy(map=item[0].map), *item, last] for item in _groups(tokens[1:-1], 1)]


def _block(tokens: list[Token], lines: Sequence[str]) -> Block:
    start, end = tokens[0].map or (0, 0)
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1
    return Block(tokens[0].type, start, end, tuple(tokens))
