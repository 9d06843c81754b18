"""Lines of code in colours, one by one as they are finished."""

from collections.abc import Iterable

from rich.color import ColorSystem
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax, TokenType

# Of the terminal's own sixteen colours, those that can be read on dark and on light. Keys are Pygments' token types.
THEME = ANSISyntaxTheme(
    {
        ("Comment",): Style(dim=True),
        ("Keyword",): Style(color="magenta"),
        ("Operator", "Word"): Style(color="magenta"),
        ("Name", "Class"): Style(bold=True),
        ("Name", "Decorator"): Style(color="blue"),
        ("Name", "Function"): Style(bold=True),
        ("Name", "Tag"): Style(color="magenta"),
        ("Literal",): Style(color="green"),
        ("Literal", "Number"): Style(color="cyan"),
        ("Generic", "Deleted"): Style(color="red"),
        ("Generic", "Inserted"): Style(color="green"),
        ("Generic", "Heading"): Style(bold=True),
    }
)
PLAIN = ("", "text", "txt", "plain", "plaintext")
MOST_LINES, KEPT_LINES = 40, 10
LONGEST = 2000  # characters of a line: longer ones are data


class CodeLines:
    """Colours lines in the order in which they come, in time that grows with their number.

    What a line means may depend on lines before it, such as on a string's beginning. So it is read together with those
    since the last line that began a statement at the left margin, but with no more than ``MOST_LINES``.

    Args:
        language: as a fence names it; an unknown one has no colours.
    """

    def __init__(self, language: str):
        self._lexer = None if language in PLAIN else Syntax("", language).lexer
        self._before: list[str] = []

    def line(self, text: str) -> str:
        """A line without line feed, with its colours as escape sequences."""
        if self._lexer is None or len(text) > LONGEST:
            return text
        found = self._last([*self._before, text])
        if found and not text[:1].isspace() and found[0][0][0] in ("Keyword", "Name"):
            self._before = []  # a statement begins, rather than a string going on
        if len(self._before) >= MOST_LINES:
            del self._before[:-KEPT_LINES]
        self._before.append(text)
        return "".join(_styled(kind, part) for kind, part in found)

    def _last(self, lines: list[str]) -> list[tuple[TokenType, str]]:
        """The tokens of the last of some lines, with their types."""
        end = sum(map(len, lines)) + len(lines) - 1
        start = end - len(lines[-1])
        found, at = [], 0
        for kind, value in self._tokens("\n".join(lines)):
            if part := value[max(start - at, 0) : max(end - at, 0)]:
                found.append((kind or ("Text",), part))
            at += len(value)
        return found

    def _tokens(self, text: str) -> Iterable[tuple[TokenType, str]]:
        return () if self._lexer is None else self._lexer.get_tokens(text)


def _styled(kind: TokenType, text: str) -> str:
    return THEME.get_style_for_token(kind).render(text, color_system=ColorSystem.STANDARD)
