"""Soft tokens of what was shown before: a conversation shows its pictures with every turn."""

from collections import OrderedDict

import mlx.core as mx

MOST = 64 << 20


class KnownMedia:
    """The soft tokens of one target, by their content's keys; those that were not asked for longest go first.

    Args:
        most: bytes that are kept.
    """

    def __init__(self, most: int = MOST):
        self._most, self._nbytes = most, 0
        self._found: OrderedDict[int, mx.array] = OrderedDict()

    def find(self, key: int) -> mx.array | None:
        """(n, H), or None where they are not known."""
        if key in self._found:
            self._found.move_to_end(key)
        return self._found.get(key)

    def keep(self, key: int, embeddings: mx.array) -> None:
        """Remember soft tokens, which are evaluated."""
        if key in self._found or embeddings.nbytes > self._most:
            return
        self._found[key] = embeddings
        self._nbytes += embeddings.nbytes
        while self._nbytes > self._most:
            self._nbytes -= self._found.popitem(last=False)[1].nbytes
