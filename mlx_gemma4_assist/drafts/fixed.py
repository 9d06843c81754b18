"""A number of drafts that never changes."""

from collections.abc import Hashable, Sequence

from ..errors import InputError
from ..options import MAX_DRAFTS
from .protocol import BatchChoice

DEFAULT_DRAFTS = 3


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

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        """A fixed length learns nothing."""


class FixedBatchDraftLength:
    """Always the same number of drafts for a batch, or as many as some row may still use.

    Raises:
        InputError: a number that no round can have.
    """

    def __init__(self, drafts: int):
        self.longest = FixedDraftLength(drafts).longest

    def choose(self, rows: Sequence[Hashable], caps: Sequence[int]) -> BatchChoice:
        drafts = min(self.longest, max(caps, default=0))
        return BatchChoice(drafts, [min(drafts, cap) for cap in caps])

    def observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None = None,
    ) -> None:
        """A fixed length learns nothing."""

    def left(self, row: Hashable) -> None:
        """Nothing is kept of a request."""
