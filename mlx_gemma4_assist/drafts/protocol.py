"""What chooses how many drafts the next round makes. Pure Python: it sees counts and times only."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class BatchChoice:
    """What the next round of a batch drafts.

    Attributes:
        drafts: how many the round makes and verifies for every row.
        limits: how many of them count, for each row: what lies behind is treated as past the last draft.
    """

    drafts: int
    limits: list[int]


class BatchDraftLength(Protocol):
    """Chooses a draft length for a batch of requests from what earlier rounds gave.

    With rounds submitted ahead, ``choose`` for a round comes before ``observe`` of the round in front of it. A round
    may be given fewer drafts than were chosen, and may never be observed. Rows are named by whatever tells requests
    apart; ``None`` is a slot that no request holds: a round costs what its slots cost, empty ones too.
    """

    longest: int

    def choose(self, rows: Sequence[Hashable], caps: Sequence[int], reading: float | None = None) -> BatchChoice:
        """Drafts for the next round, 0 to ``longest``.

        Args:
            rows: the requests in the batch. One that is new here joins.
            caps: the most drafts that may count, for each row.
            reading: seconds that others' prompts are read for between two rounds; None where nobody waits for that.
        """

    def observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None = None,
    ) -> None:
        """A round was read: of ``drafted`` drafts so many counted in each row, and so many were accepted.

        It took ``seconds``: None if that is unknown, or if more than the round was done, such as reading a prompt.
        Requests that have left are passed over.
        """

    def left(self, row: Hashable) -> None:
        """A request has ended; its name may be given to another."""
