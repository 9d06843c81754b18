"""Numbers as people type them."""

MOST_DIGITS = 18
"""No count is as long, and Python refuses to read what has thousands of digits."""


def whole_number(text: str) -> int | None:
    """A number from 0 on; None if a text is none, or longer than a count can be."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None
