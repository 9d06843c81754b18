"""Stand-ins for what a test does without: a processor that needs no tokenizer's files."""

import random
from collections.abc import Iterable, Sequence

from mlx_gemma4_assist.text.channels import ChannelText, Markers
from mlx_gemma4_assist.text.masks import Words, allow
from mlx_gemma4_assist.text.stops import StopStrings


class LetterProcessor:
    """Has the interface of ``Processor``; an id is a letter, so that stops can be put where they hurt."""

    def __init__(self, eos_token_ids: Iterable[int] = (), suppress_tokens: Iterable[int] = ()):
        self.eos_token_ids = frozenset(eos_token_ids)
        self.suppress_tokens = tuple(suppress_tokens)

    def encode(self, prompt: str | Sequence[int], *, chat: bool = True) -> list[int]:
        return [ord(c) - 48 for c in prompt] if isinstance(prompt, str) else list(prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.add(token) for token in tokens)

    def stop_ids(self, stop: Iterable[str]) -> frozenset[int]:
        return frozenset()

    def turn(self, prompt: Sequence[int], stop: StopStrings, *, skip_special_tokens: bool = True) -> ChannelText:
        return ChannelText(lambda skip: self, Markers(), stop)

    def turn_begins(self, tokens: Sequence[int]) -> list[int]:
        return []

    left_out: frozenset[int] = frozenset()

    def add(self, token: int) -> str:
        return chr(48 + token)

    def finalize(self) -> str:
        return ""


class Automaton:
    """A made-up ``engine.guiding.Constraint``: what may come depends on all tokens so far; often that is one id only.

    Attributes:
        error: None; what may not come is an error of the test's own.

    Args:
        seed: of what may come where.
        vocabulary: ids.
        stops: the ids that end a text; among others they may come anywhere, and behind ``length`` tokens nothing else.
    """

    error = None

    def __init__(self, seed: int, vocabulary: int, stops: Iterable[int], length: int = 20):
        self._seed, self._vocabulary, self._stops, self._length = seed, vocabulary, frozenset(stops), length
        self.tokens: list[int] = []

    def allowed(self) -> list[int]:
        """The ids that may come next, in order."""
        if not self._stops.isdisjoint(self.tokens):
            return list(range(self._vocabulary))
        if len(self.tokens) >= self._length:
            return sorted(self._stops)
        rng = random.Random(f"{self._seed} {self.tokens[-3:]} {len(self.tokens) // 5}")
        return sorted(rng.sample(range(self._vocabulary), rng.choice([1, 1, 1, 2, 8, self._vocabulary // 2])))

    def mask(self, words: Words) -> int | None:
        allowed = self.allowed()
        words[:] = 0
        allow(words, allowed)
        return allowed[0] if len(allowed) == 1 else None

    def take(self, token: int) -> None:
        assert token in self.allowed()
        self.tokens.append(token)

    def back(self, count: int) -> None:
        del self.tokens[len(self.tokens) - count :]

    def forced(self) -> list[int]:
        found: list[int] = []
        while len(found) < 9 and len(allowed := self.allowed()) == 1:
            self.take(allowed[0])
            found += allowed
        self.back(len(found))
        return found
