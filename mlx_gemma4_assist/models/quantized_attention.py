"""Attention over keys and values of which all but the first positions are quantized.

Shapes: B rows of a batch, L positions, N query heads, G key-value heads, D head dim, S keys.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import mlx.core as mx

from ..backend import on_gpu
from . import cpu
from .activations import softmax
from .attention import Mask, attend

FEW_QUERIES = 64


class Packed(NamedTuple):
    """Quantized keys or values (B, G, S, D), as ``mx.quantize`` returns them.

    Attributes:
        words: (B, G, S, D * bits / 32) uint32.
        scales, biases: (B, G, S, D / group size), of the type that was quantized.
    """

    words: mx.array
    scales: mx.array
    biases: mx.array


class QuantizedKeysValues:
    """Implements ``attention.View``. It lives as long as its forward.

    The few queries of a round are multiplied with what is quantized as it is, so that little memory is read; all query
    heads that share keys are rows of one product. The many queries of a prompt attend to a dense copy, made once for
    all layers that share it: it takes less memory than the scores of a band, and dense products are faster there.
    Chosen from MLX's source, not measured on Metal.

    Args:
        dense: keys and values (B, G, S, D) of the first positions; None where there are none.
        keys, values: of all later ones.
        group_size, bits: how these are quantized.
    """

    def __init__(
        self,
        dense: tuple[mx.array, mx.array] | None,
        keys: Sequence[mx.array],
        values: Sequence[mx.array],
        group_size: int,
        bits: int,
    ):
        self._dense = dense
        self._keys, self._values = Packed(*keys), Packed(*values)
        self._group_size, self._bits = group_size, bits

    def attend(self, queries: mx.array, mask: Mask) -> mx.array:
        """Attention of scale 1: queries (B, N, L, D) -> (B, N, L, D)."""
        if not isinstance(mask, mx.array) or queries.shape[2] > FEW_QUERIES:
            return attend(queries, self.unpacked, mask)
        return self._attend_packed(queries, mask)

    @cached_property
    def unpacked(self) -> tuple[mx.array, mx.array]:
        """All keys and values, (B, G, S, D) each."""
        keys, values = self._unpack(self._keys), self._unpack(self._values)
        if self._dense is None:
            return keys, values
        return mx.concatenate([self._dense[0], keys], axis=2), mx.concatenate([self._dense[1], values], axis=2)

    def _unpack(self, packed: Packed) -> mx.array:
        return mx.dequantize(*packed, group_size=self._group_size, bits=self._bits)

    def _attend_packed(self, queries: mx.array, mask: mx.array) -> mx.array:
        """``mask``: (B, 1, L, S) bool."""
        B, N, L, D = queries.shape
        G = self._keys.words.shape[1]
        rows = queries.reshape(B, G, N // G * L, D)
        scores = self._product(rows, self._keys, transpose=True)
        if self._dense is not None:
            scores = mx.concatenate([rows @ self._dense[0].swapaxes(-1, -2), scores], axis=-1)
        scores = scores.reshape(B, G, N // G, L, -1)
        scores = mx.where(mask[:, :, None], scores, mx.finfo(scores.dtype).min)
        weights = softmax(scores).reshape(B, G, N // G * L, -1)
        return self._weighted(weights).reshape(B, N, L, D)

    def _weighted(self, weights: mx.array) -> mx.array:
        """weights: (B, G, rows, S) -> sums of values (B, G, rows, D)."""
        if self._dense is None:
            return self._product(weights, self._values, transpose=False)
        first = self._dense[1].shape[2]
        dense = weights[..., :first] @ self._dense[1]
        return dense + self._product(weights[..., first:], self._values, transpose=False)

    def _product(self, rows: mx.array, packed: Packed, *, transpose: bool) -> mx.array:
        product = mx.quantized_matmul if on_gpu() else cpu.quantized_product
        return product(rows, *packed, transpose=transpose, group_size=self._group_size, bits=self._bits)
