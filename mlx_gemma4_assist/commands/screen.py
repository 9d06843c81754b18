"""What a person sees of a text while it is made."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.responses import GenerationResponse


class Screen:
    """Prints text as it is made.

    Args:
        everything: whether thoughts and calls of tools are printed, too.
    """

    def __init__(self, everything: bool):
        self._everything = everything
        self._last: str | None = None

    def show(self, response: "GenerationResponse") -> None:
        """Print a response's text; what is thought and what is answered begin on lines of their own."""
        if not response.text or not (self._everything or response.channel == "answer"):
            return
        if self._last not in (None, response.channel):
            print()
        self._last = response.channel
        print(response.text, end="", flush=True)
