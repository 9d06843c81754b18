"""What chooses how many drafts the next round makes. Pure Python: it sees counts and times only."""

from typing import Protocol


class DraftLength(Protocol):
    """Chooses a draft length from what earlier rounds gave.

    With rounds submitted ahead, ``choose`` for a round comes before ``observe`` of the round in front of it. A round
    may be given fewer drafts than were chosen, and may never be observed.
    """

    longest: int

    def choose(self) -> int:
        """Drafts for the next round, 0 to ``longest``."""

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        """A round was read: of ``drafted`` drafts each row accepted so many; it took ``seconds``, None if unknown."""
