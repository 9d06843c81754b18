"""What each query may see, and attention of scale 1 over it.

Shapes: B rows of a batch, L positions, N query heads, G key-value heads, D head dim, S keys.
"""

from typing import NamedTuple, Protocol

import mlx.core as mx

from ..backend import on_gpu
from . import cpu

BAND = 512


class Band(NamedTuple):
    """Some queries of a long block, and the keys that any of them may see.

    Attributes:
        queries, keys: first and last + 1, in the block and among the keys.
        mask: between these: (B, 1, queries, keys) bool, or ``"causal"``.
    """

    queries: tuple[int, int]
    keys: tuple[int, int]
    mask: mx.array | str


Mask = mx.array | str | list[Band] | None
"""What each query may see: (B, 1, L, S) bool, ``"causal"``, bands that cover all queries, or None for everything."""


class View(Protocol):
    """Keys and values that lie otherwise than in two arrays of the queries' type."""

    def attend(self, queries: mx.array, mask: Mask) -> mx.array:
        """Attention of scale 1: queries (B, N, L, D) -> (B, N, L, D)."""


KeysValues = tuple[mx.array, mx.array] | View
"""What is attended to: keys and values (B, G, S, D), or what knows how to."""


def band_size() -> int:
    """Queries of a prompt that attend together, which bounds the memory for scores and the keys seen in vain.

    A GPU wants enough work per kernel: its size was chosen, not measured on Metal.
    """
    return BAND if on_gpu() else cpu.BAND


def attend(queries: mx.array, keys_values: KeysValues, mask: Mask) -> mx.array:
    """Attention of scale 1: queries (B, N, L, D) over keys and values (B, G, S, D) -> (B, N, L, D).

    Bands leave out the keys that none of their queries may see, and bound the memory for scores.
    """
    if not isinstance(keys_values, tuple):
        return keys_values.attend(queries, mask)
    if isinstance(mask, list):
        keys, values = keys_values
        bands = [
            attend(queries[:, :, slice(*q)], (keys[:, :, slice(*k)], values[:, :, slice(*k)]), band)
            for q, k, band in mask
        ]
        return mx.concatenate(bands, axis=2)
    if not on_gpu():
        return cpu.attend(queries, *keys_values, mask)
    return mx.fast.scaled_dot_product_attention(queries, *keys_values, scale=1.0, mask=mask)
