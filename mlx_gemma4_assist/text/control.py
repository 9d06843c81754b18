"""Control tokens: those that mean something to a model beyond their letters, and where a template ends turns."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import InputError
from .template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_CALLS = "<|tool_response>"
"""What the model writes behind its calls of tools: now it is the tools' turn."""


class ControlTokens:
    """A tokenizer's special tokens, and whatever else its chat template spells that the vocabulary has as one token."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self._tokenizer = tokenizer

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """By their spelling."""
        template = str(self._tokenizer.chat_template)
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
        return {
            token.content: number
            for number, token in added
            if token.special or (not token.content.isspace() and token.content in template)
        }

    @cached_property
    def spelled(self) -> re.Pattern[str]:
        """Finds any of them, the longest first."""
        return re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or r"(?!)")

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
        if END_OF_CALLS in str(self._tokenizer.chat_template):
            ends.append(END_OF_CALLS)
        return self.among(ends)
