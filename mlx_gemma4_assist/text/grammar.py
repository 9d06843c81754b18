"""Grammars that hold an answer: JSON schemas, regular expressions, Lark grammars, as llguidance reads them.

Nothing else knows llguidance, which is imported when a grammar is asked for. What it forces is written as its tokenizer
writes it, so that text that leaves no choice leaves none between tokens either.
"""

import json
import re
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from ..errors import OptionError
from ..extras import library
from ..options import GenerationOptions
from .masks import ALL, Words, allow, has, only, single

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KINDS = {"json_schema": "a JSON schema", "regex": "a regular expression", "lark": "a Lark grammar"}
# On one line, as Python writes it: no text can go on with white space for ever, and all between two values is forced.
# A schema's own "x-guidance" goes before.
SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def check_grammar(options: GenerationOptions) -> None:
    """Refuse a grammar that llguidance cannot read, as far as can be seen without a tokenizer.

    Raises:
        InputError: llguidance is not installed.
        OptionError: with llguidance's reason.
    """
    if options.grammar is None:
        return
    name, value = options.grammar
    _refuse(name, _guidance(name).LLMatcher.validate_grammar(_definition(name, value)))


def _guidance(name: str) -> Any:
    return library("llguidance", KINDS[name], "grammar")


def _definition(name: str, value: str) -> str:
    """What an option says, as llguidance takes it."""
    matcher = _guidance(name).LLMatcher
    made = {
        "json_schema": lambda: matcher.grammar_from_json_schema(value, defaults=SPACED),
        "regex": lambda: matcher.grammar_from_regex(value),
        "lark": lambda: matcher.grammar_from_lark(value),
    }
    text: str = made[name]()
    return text


_QUOTED = re.compile(r"\s*(\^+|\d+ \|.*)\s*")  # a line of a grammar, or what points at a place in it


def _sentence(reason: str) -> str:
    return " ".join(" ".join(line.split()) for line in reason.splitlines() if not _QUOTED.fullmatch(line))


def _refuse(name: str, reason: str) -> None:
    """Raises:
    OptionError: there is a reason.
    """
    if reason:
        raise OptionError(f"{{{name}}} is not supported: {{reason}}", reason=_sentence(reason))


class GrammarTokens:
    """A tokenizer as llguidance reads it: made once, when the first grammar asks for it.

    Args:
        tokenizer: which neither cuts nor pads.
        control: spellings of tokens that no text becomes, whether the tokenizer calls them special or not.
        end: the token that ends a text where the grammar does.
    """

    def __init__(self, tokenizer: Tokenizer, control: Collection[str], end: int):
        self._tokenizer, self._control = tokenizer, frozenset(control)
        self.end = end

    @cached_property
    def guided(self) -> "LLTokenizer":
        """Takes some seconds for a vocabulary of 262,144."""
        made: LLTokenizer = _guidance("lark").LLTokenizer(self._described(), eos_token=self.end)
        return made

    def _described(self) -> str:
        added = self._tokenizer.get_added_tokens_decoder().values()
        text = self._tokenizer.to_str()
        if all(token.special for token in added if token.content in self._control):
            return text
        described = json.loads(text)
        for token in described["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self._control
        return json.dumps(described, ensure_ascii=False)


class Grammar:
    """A grammar for the texts of one tokenizer.

    Args:
        definition: as llguidance takes it.
        tokens: the tokenizer.
        stops: the ids that end a text.
        vocabulary: of the target; ids beyond it never come.

    Attributes:
        refusal: why llguidance does not support it; empty if it does.

    Raises:
        InputError: llguidance is not installed.
    """

    def __init__(self, definition: str, tokens: GrammarTokens, stops: Collection[int], vocabulary: int):
        self.end, self.stops, self.vocabulary = tokens.end, frozenset(stops), vocabulary
        self._fresh: LLMatcher = _guidance("lark").LLMatcher(tokens.guided, definition, log_level=0)
        self.refusal = _sentence(self._fresh.get_error())

    @classmethod
    def of(
        cls, options: GenerationOptions, tokens: GrammarTokens, stops: Collection[int], vocabulary: int
    ) -> "Grammar":
        """The grammar that options have.

        Raises:
            InputError: llguidance is not installed.
            OptionError: it does not support the grammar; with its reason.
        """
        assert options.grammar is not None
        name, value = options.grammar
        made = cls(_definition(name, value), tokens, stops, vocabulary)
        _refuse(name, made.refusal)
        return made

    @classmethod
    def of_lark(cls, lark: str, tokens: GrammarTokens, stops: Collection[int], vocabulary: int) -> "Grammar":
        """A Lark grammar that this package has made."""
        return cls(_definition("lark", lark), tokens, stops, vocabulary)

    def matcher(self) -> "LLMatcher":
        """What llguidance knows of a text that has not begun."""
        return self._fresh.deep_copy()


class GrammarState:
    """How far a text has come under a grammar, which holds every token up to the one that ends the text.

    Attributes:
        error: why the grammar could not go on, None if it could; then the text ends.
        thoughts: False: what a grammar holds has none.
    """

    thoughts = False

    def __init__(self, grammar: Grammar):
        self.error: str | None = None
        self._grammar = grammar
        self._matcher = grammar.matcher()
        self._consumed: list[int] = []  # what the matcher has
        self._places = [(False, 0)]  # behind each token: whether the text has ended, how many of those there were
        self._broken = 0  # behind how many tokens

    def mask(self, words: Words) -> int | None:
        """Write which ids may come next; return the only one, if there is no choice."""
        if self.error is not None:
            return only(words, self._grammar.end)
        if not self._ended:
            return self._next(words)
        words[:] = ALL
        return None

    def take(self, token: int) -> None:
        """The text goes on with this token."""
        ended, ends, stands = self._ended, self._ended or token in self._grammar.stops, True
        if self.error is None and not ends:
            stands = self._matcher.consume_token(token)
            self._consumed.append(token)
        elif self.error is None and not ended:
            stands = self._matcher.is_accepting()
        self._places.append((ends, len(self._consumed)))
        if not stands:
            self._break()

    @property
    def _ended(self) -> bool:
        return self._places[-1][0]

    def _break(self) -> None:
        """The grammar cannot go on from here."""
        self.error = _sentence(self._matcher.get_error()) or "no token of the vocabulary may come next"
        self._broken = len(self._places)

    def back(self, count: int) -> None:
        """The last ``count`` tokens were not meant."""
        if count == 0:
            return
        del self._places[-count:]
        kept, had = self._places[-1][1], len(self._consumed)
        del self._consumed[kept:]
        if self.error is None:
            self._roll_back(had - kept)
        elif len(self._places) < self._broken:  # a matcher that is broken stays so
            self.error, self._matcher = None, self._grammar.matcher()
            self._matcher.consume_tokens(self._consumed)

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice; the end of the text is one of them."""
        if self.error is not None or self._ended:
            return []
        tokens = self._forced()
        if not self._matcher.consume_tokens(tokens):
            self._break()
            return []
        ends = [self._grammar.end] if self._matcher.is_stopped() else []
        self._roll_back(len(tokens))
        return tokens + ends

    def _forced(self) -> list[int]:
        """What the matcher forces, up to the first id that the target does not have."""
        if self._matcher.is_stopped():
            return []
        tokens = self._matcher.compute_ff_tokens()
        vocabulary = self._grammar.vocabulary
        return tokens[: next((i for i, token in enumerate(tokens) if token >= vocabulary), len(tokens))]

    def _next(self, words: Words) -> int | None:
        """The mask of a place within the text."""
        matcher, grammar = self._matcher, self._grammar
        if matcher.is_stopped():
            return only(words, grammar.end)
        if forced := self._forced():
            return only(words, forced[0])
        found = np.frombuffer(matcher.compute_bitmask(), np.uint32)[: len(words)]
        if matcher.is_error() or not found.any():
            self._break()
            return only(words, grammar.end)
        words[:] = 0
        words[: len(found)] = found
        if has(words, grammar.end):
            allow(words, grammar.stops)
        return single(words)

    def _roll_back(self, count: int) -> None:
        if count and not self._matcher.rollback(count):
            self._break()
