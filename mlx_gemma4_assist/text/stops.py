"""Stop strings in a stream of text."""

from collections.abc import Iterable

from ..errors import InputError


class StopStrings:
    """Cuts a stream of text before the first stop string, wherever the pieces of text are divided.

    The first one is the one that is complete first; of several that end together, the longest. Text is held back as
    long as it may be the beginning of a stop string, so whatever ``feed`` and ``flush`` return is safe to show.

    Attributes:
        matched: the stop string that was found, None so far.

    Raises:
        InputError: a stop string is empty.
    """

    def __init__(self, stop: str | Iterable[str] = ()):
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self._stop:
            raise InputError("a stop string is empty")
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> tuple[str, bool]:
        """Take the next piece of text; return what is safe to show, and whether a stop string is complete.

        After a stop string nothing more is returned.
        """
        if self.matched is not None:
            return "", True
        text = self._held + text
        self._held = ""
        found = [(start + len(stop), start, stop) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            _, start, self.matched = min(found)
            return text[:start], True
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        safe = len(text) - held
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """The text that was held back, when no more is to come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop`` without completing it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
