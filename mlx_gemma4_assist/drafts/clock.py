"""How long rounds take, as seen by a host that reads them a round late."""

from time import perf_counter


class RoundClock:
    """How long each round took: the time from reading one to reading the next, which is when the device finished it.

    A round during which the consumer of the tokens was away for long is not timed: the device may have waited for it.
    """

    LONGEST_PAUSE = 0.25  # of the round

    def __init__(self) -> None:
        self._read: float | None = None
        self._left = 0.0
        self._pause = 0.0

    def leave(self) -> None:
        """The consumer has the tokens."""
        self._left = perf_counter()

    def come_back(self) -> None:
        """The consumer wants more."""
        self._pause = perf_counter() - self._left

    def round_was_read(self) -> float | None:
        """Seconds of the round that has just been read, None if they are not known."""
        before, self._read = self._read, perf_counter()
        if before is None:
            return None
        seconds = self._read - before
        return seconds if self._pause <= self.LONGEST_PAUSE * seconds else None
