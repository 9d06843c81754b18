"""What each query may see, and attention of scale 1 over it.

Shapes: B rows of a batch, L positions, N query heads, G key-value heads, D head dim, S keys.
"""

from typing import NamedTuple

import mlx.core as mx

from ..backend import compiles_in_process
from .activations import softmax

KeysValues = tuple[mx.array, mx.array]

GPU_BAND, CPU_BAND = 512, 64
FEW = 16  # queries: a short block's heads share one product on a CPU


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


def band_size() -> int:
    """Queries of a prompt that attend together, which bounds the memory for scores and the keys seen in vain.

    On a CPU the fewer the faster, down to 64 (2,048 tokens, head dim 32: 512 took 1.25 times as long as 64). A GPU
    wants enough work per kernel: its size was chosen, not measured on Metal.
    """
    return GPU_BAND if compiles_in_process() else CPU_BAND


def attend(queries: mx.array, keys_values: KeysValues, mask: Mask) -> mx.array:
    """Attention of scale 1: queries (B, N, L, D) over keys and values (B, G, S, D) -> (B, N, L, D).

    Bands leave out the keys that none of their queries may see, and bound the memory for scores.
    """
    if not isinstance(mask, list):
        return _attend(queries, *keys_values, mask)
    bands = []
    for band in mask:
        keys, values = (x[:, :, slice(*band.keys)] for x in keys_values)
        bands.append(_attend(queries[:, :, slice(*band.queries)], keys, values, band.mask))
    return mx.concatenate(bands, axis=2)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    if compiles_in_process():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0, mask=mask)
    return _in_products(queries, keys, values, mask)


def _in_products(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    """The same where MLX has no kernel for it and makes it of products and ``mx.softmax``: on a CPU.

    Of a few queries, all heads that read the same keys share a product: a matrix is read once, not once per head. Of
    many, a band at a time has scores in memory.
    """
    B, N, L, D = queries.shape
    G, S = keys.shape[1:3]
    group = N // G
    if L > CPU_BAND:
        bands = []
        for q0 in range(0, L, CPU_BAND):
            q1 = min(q0 + CPU_BAND, L)
            end = S - L + q1 if isinstance(mask, str) else S
            rows = mask[..., q0:q1, :] if isinstance(mask, mx.array) and mask.shape[-2] > 1 else mask
            bands.append(_in_products(queries[:, :, q0:q1], keys[:, :, :end], values[:, :, :end], rows))
        return mx.concatenate(bands, axis=2)
    if isinstance(mask, str):
        mask = mx.arange(S) <= mx.arange(S - L, S)[:, None]
    if L <= FEW:
        queries = queries.reshape(B, G, group * L, D)
        mask = mx.tile(mask, (group, 1)) if mask is not None and mask.shape[-2] > 1 else mask
    else:
        queries = queries.reshape(B, G, group, L, D)
        keys, values = keys[:, :, None], values[:, :, None]
        mask = mask[:, :, None] if mask is not None and mask.ndim == 4 else mask
    scores = queries @ keys.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
    return (softmax(scores) @ values).reshape(B, N, L, D)
