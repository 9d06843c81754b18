"""Messages of several lines between triple quotes, in the manner of ``ollama run``."""

QUOTES = '"""'


def is_open(text: str) -> bool:
    """Whether a message begins with triple quotes that no line of it closes."""
    return text.lstrip().startswith(QUOTES) and _closing_line(text) is None


def closes(line: str) -> bool:
    """Whether a line ends what triple quotes have opened on a line before it."""
    return line.rstrip().endswith(QUOTES)


def without_quotes(text: str) -> str:
    """A message without the triple quotes around it.

    Quotes that are closed before the last line belong to what is said, such as a program that begins with a docstring.
    Quotes that are not closed have been ended by the end of the input.
    """
    if not text.lstrip().startswith(QUOTES):
        return text
    closing, inner = _closing_line(text), _inner(text)
    if closing is None:
        return inner.strip("\n")
    if closing < len(inner.rstrip().split("\n")) - 1:
        return text
    return inner.rstrip().removesuffix(QUOTES).strip("\n")


def _inner(text: str) -> str:
    return text.lstrip().removeprefix(QUOTES)


def _closing_line(text: str) -> int | None:
    return next((number for number, line in enumerate(_inner(text).split("\n")) if closes(line)), None)
