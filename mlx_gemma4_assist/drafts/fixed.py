"""A number of drafts that never changes."""

from ..errors import InputError
from ..options import MAX_DRAFTS

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
