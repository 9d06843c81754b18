"""Spans of a block whose tokens see one another: a picture's soft tokens."""

from typing import NamedTuple

import mlx.core as mx
import numpy as np


class Spans(NamedTuple):
    """Which tokens of a block belong together.

    Attributes:
        ranges: first and last + 1 of each span, counted from the block's first token.
        everywhere: whether their tokens see one another in all layers and at any distance (transformers'
            ``Gemma4UnifiedModel``, the 12B), or in sliding layers and within the window only
            (``create_masks_for_vision_model``, the others).
    """

    ranges: tuple[tuple[int, int], ...] = ()
    everywhere: bool = False

    def touched(self, first: int, end: int) -> list[tuple[int, int]]:
        """The spans that tokens ``first`` to ``end`` - 1 are part of."""
        return [span for span in self.ranges if span[0] < end and span[1] > first]

    def reach(self, first: int, end: int) -> tuple[int, int]:
        """The range of tokens ``first`` to ``end`` - 1, extended to the spans that they are part of."""
        touched = self.touched(first, end)
        return min([first, *(start for start, _ in touched)]), max([end, *(stop for _, stop in touched)])

    def together(self, queries: tuple[int, int], keys: tuple[int, int], before: int) -> mx.array:
        """Which keys share a query's span: (queries, keys) bool.

        Args:
            queries: first and last + 1, in the block.
            keys: first and last + 1, where the block's own begin at ``before``.
        """
        numbers = np.full(before + max((stop for _, stop in self.ranges), default=0), -1)
        for i, (start, stop) in enumerate(self.ranges):
            numbers[before + start : before + stop] = i
        longest = max(before + queries[1], keys[1])
        numbers = np.pad(numbers, (0, max(0, longest - len(numbers))), constant_values=-1)
        query = numbers[before + queries[0] : before + queries[1], None]
        return mx.array((query == numbers[keys[0] : keys[1]]) & (query >= 0))


NO_SPANS = Spans()
