"""Text whose tokens are styled by who chose them: the target, or a draft that it accepted."""

from collections.abc import Iterable

from .style import RESET

# From the first draft on. Each differs from all others without its colour, too; the last stands for all that follow.
STYLES = ("32;4", "36;1", "35;3", "34;1;4", "31;3;4", "33;1;3;4")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def styled(text: str, draft: int) -> str:
    """Text without control characters as a token of a draft.

    Args:
        text: of one or several tokens.
        draft: 0 for the target's own, n for the n-th draft of a round.
    """
    if draft < 1 or not text:
        return text
    begin = f"\033[{STYLES[min(draft, len(STYLES)) - 1]}m"
    lines = text.split("\n")  # an underline does not go on beyond a line's end
    return "\n".join(f"{begin}{line}{RESET}" if line else "" for line in lines)


def legend(places: int) -> str:
    """One line that tells which style stands for what.

    Args:
        places: the most drafts of a round.
    """
    return ", ".join(["target", *_names(places)])


def _names(places: int) -> Iterable[str]:
    for draft in range(1, min(places, len(STYLES)) + 1):
        later = " and later" if draft == len(STYLES) < places else ""
        yield styled(f"{ORDINALS[draft - 1]} draft{later}", draft)
