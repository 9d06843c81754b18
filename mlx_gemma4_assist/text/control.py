"""Control tokens: those that mean something to a model beyond their letters, and where a template ends turns.

A chat template puts what people wrote between control tokens, in one text. For the tokenizer to tell them apart, text
of messages goes into the template with a seam within whatever spells a control token there. It is tokenized seam by
seam, so that all letters stay and no control token comes of them.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TURN = "<turn|>"
THINK = "<|think|>"
"""By which a system turn asks for thoughts."""
END_OF_CALLS = "<|tool_response>"
"""What the model writes behind its calls of tools: now it is the tools' turn."""

_SPELLED = re.compile(r"<[^<>\s]+>")  # how templates write control tokens, which a tokenizer may not call special
SEAM = f"\ufdd0{secrets.token_hex(8)}\ufdd1"
"""Between noncharacters, and never the same twice, so that no text has it."""
_IDS = f"{SEAM[:-1]} "


def spliced(tokens: Iterable[int]) -> str:
    """Text that ``pieces`` reads as exactly these ids."""
    return f"{SEAM}{_IDS}{' '.join(map(str, tokens))}{SEAM}"


def pieces(text: str) -> Iterator[str | list[int]]:
    """Text between seams, and ids that are spliced in."""
    for piece in text.split(SEAM):
        yield [int(number) for number in piece[len(_IDS) :].split()] if piece.startswith(_IDS) else piece


class ControlTokens:
    """A tokenizer's special tokens, and whatever else its chat template spells that the vocabulary has as one token."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self._tokenizer = tokenizer

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """By their spelling."""
        tokenizer = self._tokenizer.backend_tokenizer
        special = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        written = {spelling: tokenizer.token_to_id(spelling) for spelling in _SPELLED.findall(self._template)}
        return special | {spelling: i for spelling, i in written.items() if i is not None}

    @property
    def _template(self) -> str:
        return str(self._tokenizer.chat_template)

    @cached_property
    def spelled(self) -> re.Pattern[str]:
        """Finds any of them, the longest first."""
        return re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or r"(?!)")

    @cached_property
    def _first_letters(self) -> re.Pattern[str]:
        letters = "".join(sorted({spelling[0] for spelling in self.ids}))
        return re.compile(f"[{re.escape(letters)}]" if letters else r"(?!)")

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(spelling) for spelling in self.ids})

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """What text that follows, in the next part of a message, could make a control token of."""
        return frozenset(spelling[:end] for spelling in self.ids for end in range(1, len(spelling)))

    def sealed(self, value: Any) -> Any:
        """A message, or any part of it, with seams in its texts and in the names of its entries."""
        if isinstance(value, str):
            return self._sealed(value)
        if isinstance(value, Mapping):
            return {self.sealed(key): self.sealed(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.sealed(item) for item in value]
        return value

    def _sealed(self, text: str) -> str:
        """Text with a seam behind the first letter of every control token, and of an unfinished one at its end."""
        whole, parts, done = len(text.rstrip()), [], 0
        for match in self._first_letters.finditer(text):
            start = match.start()
            unfinished = whole - start < self._lengths[-1] and text[start:whole] in self._beginnings
            if unfinished or any(text[start : start + length] in self.ids for length in self._lengths):
                parts.append(text[done : start + 1])
                done = start + 1
        return SEAM.join([*parts, text[done:]])

    def among(self, texts: Iterable[str]) -> frozenset[int]:
        """The ids of the texts that are control tokens."""
        return frozenset(self.ids[text] for text in texts if text in self.ids)

    def turn_ends(self) -> frozenset[int]:
        """What the chat template writes behind an answer, and what hands the turn to tools; empty without a template.

        A template that refuses an answer of one letter has no end of turn.
        """
        if self._tokenizer.chat_template is None:
            return frozenset()
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "0"}]
        try:
            _, answered, behind = render(self._tokenizer, turns, {"add_generation_prompt": False}).rpartition("0")
        except InputError:
            return frozenset()
        found = self.spelled.search(behind) if answered else None
        ends = [found.group()] if found else []
        if END_OF_CALLS in self._template:
            ends.append(END_OF_CALLS)
        return self.among(ends)
