"""One prompt's way into a cache: where it begins, and at which positions it leaves restore points.

A prompt leaves a point at its end, before the token that generation starts from, since the same prompt may come again,
and the next turn of a conversation goes on there or behind it. It leaves others on the way, if they are far enough from
each other: where turns begin, the first among them, before which system text and tools stand; every 8,192 positions;
where a prompt that waits parts from it; and where others have parted from what it begins with.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..cache.rows import KVCache
from ..cache.soft_tokens import SoftTokens
from .prefix import PrefixCache

SPACING = 1024  # positions between points that nobody asks for
LONG = 8192  # positions without a turn's beginning, after which there is a point all the same
LOOKED_AT = 64  # prompts that wait


class Text(NamedTuple):
    """A prompt, as restore points see it.

    Attributes:
        tokens: ids, and negative keys in the place of soft tokens.
        media: these; there are no points within them.
        points: positions where a later prompt may part from it: where turns begin.
        left_out: ids with which something begins that later prompts leave out, such as thoughts.
    """

    tokens: Sequence[int]
    media: Sequence[SoftTokens] = ()
    points: Sequence[int] = ()
    left_out: Collection[int] = ()

    def stays(self, tokens: Sequence[int]) -> bool:
        """Whether later prompts go on with ``tokens``, which begin with the text's, as far as its last turn goes."""
        last = max(self.points, default=0)
        return not set(self.left_out).intersection(tokens[last:])

    def outside(self, position: int) -> int:
        """The position, or the beginning of the picture or sound that it is within."""
        return next((each.start for each in self.media if each.start < position < each.end), position)


class Reading:
    """A prompt that is read into a cache of one row.

    Args:
        store: of restore points.
        cache: of any content; what it shares with the text's beginning is kept, or more is restored.
        text: the prompt. At least its last token is left to be read.

    Attributes:
        begin: how many tokens the cache holds to begin with.
        hidden: (1, 1, H), the target's hidden state at the position before, if it was restored with it.
    """

    def __init__(self, store: PrefixCache, cache: KVCache, text: Text):
        self.begin = cache.reuse(0, text.tokens)
        self.hidden: mx.array | None = None
        self._store, self._cache, self._text = store, cache, text
        self._end = len(text.tokens) - 1
        self._planned: list[int] = []
        self._shared: dict[int, tuple[Sequence[int], int]] = {}  # by the identity of a waiting prompt's tokens
        if store.budget:
            self._restore()
            self._planned = self._plan()

    @property
    def is_asked_again(self) -> bool:
        """Whether a prompt that waits is the same: it is going to begin with the last hidden state of this one."""
        return any(len(other) == len(self._text.tokens) and n == self._end for other, n in self._waiting())

    def step(self, most: int) -> int:
        """How many tokens to read at once: ``most``, or up to the next point."""
        (length,) = self._cache.lengths
        following = [point for point in self._wanted() if point > length]
        return min(most, min(following, default=length + most) - length)

    def passed(self, hidden: mx.array | None = None) -> None:
        """Take a point, if the cache is at one, with the target's hidden state (1, 1, H) at the position before."""
        (length,) = self._cache.lengths
        if length in self._wanted():
            self._store.take(self._cache, length, hidden)

    def keep(self) -> None:
        """Take a point here: the prompt is not read to its end."""
        (length,) = self._cache.lengths
        if self._store.budget and length > self.begin:
            self._store.take(self._cache, length)

    def _restore(self) -> None:
        found = self._store.restore(self._cache, self._text.tokens, self.begin)
        if found is not None:
            self.begin, self.hidden = found
        self._store.count(len(self._text.tokens), 0 if found is None else found.position)

    def _plan(self) -> list[int]:
        """Positions of points, whoever waits."""
        begin, end, text = self.begin, self._end, self._text
        named = [text.outside(point) for point in sorted(text.points) if begin < point < end]
        last = end if text.stays(text.tokens) or not named else named[-1]
        regular = map(text.outside, range(LONG * (begin // LONG + 1), end, LONG))
        found = [last]
        for point in sorted({*named, *regular}, reverse=True):
            if point <= found[-1] - SPACING:
                found.append(point)
        parted = text.outside(min(self._store.known(self._cache, text.tokens), end))
        for point in (parted, *named[:1]):
            if all(abs(point - other) >= self._store.least for other in found):
                found.append(point)
        return [point for point in found if point >= begin + self._store.least]

    def _wanted(self) -> list[int]:
        """The planned positions, and where prompts part that wait now."""
        if not self._store.budget:
            return []
        found = [*self._planned]
        for point in sorted({self._text.outside(n) for _, n in self._waiting()}):
            if point >= self.begin + self._store.least and not any(
                0 <= point - other < self._store.least for other in found
            ):
                found.append(point)
        return found

    def _waiting(self) -> Iterator[tuple[Sequence[int], int]]:
        """The prompts that wait, and how many tokens they share with this one, which can be restored for them."""
        for other in islice(self._store.awaited, LOOKED_AT):
            known = self._shared.get(id(other))
            if known is None or known[0] is not other:
                known = other, shared_length(self._text.tokens, other)
                self._shared[id(other)] = known
            yield other, min(known[1], self._end, len(other) - 1)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginnings."""
    length = min(len(one), len(other))
    different = np.flatnonzero(np.array(one[:length], np.int64) != np.array(other[:length], np.int64))
    return int(different[0]) if different.size else length
