"""Whether a model thinks, and how long, from text and for a sentence."""

from ..errors import InputError, counted
from .numbers import whole_number


def thinking_of(text: str) -> tuple[bool, int | None]:
    """Whether the model thinks first, and the most tokens of a thought, None for no limit.

    Raises:
        InputError: the text says neither.
    """
    if text.lower() in ("on", "off"):
        return text.lower() == "on", None
    if budget := whole_number(text):
        return True, budget
    raise InputError(f"thinking is {text!r:.40}, expected off, on, or the most tokens of a thought")


def thinking_words(thinks: bool | None, budget: int | None) -> str:
    """As ``thinking_of`` reads them."""
    if not thinks:
        return "off"
    return "on" if budget is None else f"on, with {counted(budget, 'token')} at most"
