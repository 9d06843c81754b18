"""A call of a tool while it is written: ``call:NAME{...}``."""

import re

from .arguments import Arguments
from .channels import QUOTE

_HEAD = re.compile(r"\s*call:\s*([^{}]*[^{}\s])\s*")


class CallReader:
    """Reads what stands between the tokens that begin and end a call.

    Attributes:
        raw: all of it as text, as long as no JSON has been given.
        name: of the tool; empty so far.
        arguments: how far they have come.
    """

    def __init__(self) -> None:
        self.raw, self.name = "", ""
        self.arguments = Arguments()
        self._malformed = False
        self._pieces: list[str] = []

    @property
    def json(self) -> str:
        """All that was given."""
        return "".join(self._pieces)

    @property
    def is_call(self) -> bool:
        """Whether JSON has been given."""
        return self.name != "" and self.arguments.sure and not self._malformed

    def feed(self, text: str) -> str:
        """The JSON that text gives."""
        if not self.is_call:
            self.raw += text
        if not self.name:
            head, brace, text = self.raw.partition("{")
            if not brace:
                return ""
            found = _HEAD.fullmatch(head)
            if found is None:
                self._malformed = True
                return ""
            self.name = found[1]
        return self._given(self.arguments.feed(text))

    def quote(self) -> str:
        """The JSON that a quoting token gives."""
        if not self.is_call:
            self.raw += QUOTE
        if not self.name:
            self._malformed = True
        return self._given(self.arguments.quote() if self.name else "")

    def end(self) -> str:
        """The JSON that is missing at the end of a call."""
        return self._given(self.arguments.end()) if self.is_call else ""

    def _given(self, json_text: str) -> str:
        self._malformed = self._malformed or self.arguments.malformed
        if self._malformed:
            return ""
        self._pieces.append(json_text)
        return json_text
