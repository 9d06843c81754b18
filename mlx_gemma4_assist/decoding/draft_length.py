"""How many drafts the next round makes. Pure Python: it sees numbers only."""

from typing import Protocol

from ..errors import InputError

DEFAULT_DRAFTS = 3
MAX_DRAFTS = 32


class DraftLength(Protocol):
    """Chooses a draft length from what earlier rounds gave."""

    longest: int

    def choose(self) -> int:
        """Drafts for the next round, 0 to ``longest``."""

    def observe(self, drafted: int, accepted: list[int]) -> None:
        """A round was read: of ``drafted`` drafts each row accepted so many."""


class FixedDraftLength:
    """Always the same number of drafts.

    Raises:
        InputError: a number that no round can have.
    """

    def __init__(self, drafts: int):
        if not 0 <= drafts <= MAX_DRAFTS:
            raise InputError(f"num_assistant_tokens is {drafts}, expected 0 to {MAX_DRAFTS}")
        self.longest = drafts

    def choose(self) -> int:
        return self.longest

    def observe(self, drafted: int, accepted: list[int]) -> None:
        """A fixed length learns nothing."""
