"""Which ids may come in one place of a text, as words of 32 bits: bit i of word w is for the id 32 w + i."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
"""(ceil(V / 32),) for a vocabulary of V."""

ALL = np.uint32(0xFFFFFFFF)


def has(words: Words, token: int) -> bool:
    """Whether an id may come."""
    return bool(words[token >> 5] >> np.uint32(token & 31) & np.uint32(1))


def allow(words: Words, tokens: Iterable[int]) -> None:
    """Let these ids come, too; those that are beyond the vocabulary do not."""
    for token in _within(words, tokens):
        words[token >> 5] |= np.uint32(1 << (token & 31))


def forbid(words: Words, tokens: Iterable[int]) -> None:
    """Let these ids not come."""
    for token in _within(words, tokens):
        words[token >> 5] &= ~np.uint32(1 << (token & 31))


def _within(words: Words, tokens: Iterable[int]) -> Iterator[int]:
    return (token for token in tokens if token >> 5 < len(words))


def only(words: Words, token: int) -> int:
    """Let nothing else come but this id, which is returned."""
    words[:] = 0
    allow(words, [token])
    return token


def single(words: Words) -> int | None:
    """The only id that may come; None where there are more."""
    places = np.flatnonzero(words)
    if len(places) != 1:
        return None
    word = int(words[places[0]])
    return int(places[0]) * 32 + word.bit_length() - 1 if word & (word - 1) == 0 else None
