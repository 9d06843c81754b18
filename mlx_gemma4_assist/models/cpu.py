"""All that exists for MLX's CPU backend only: the same computations in the form that is quick there.

The backend has no fused kernels, and takes about 20 ns for an exponential, and for what is made of one, but 6 ns for a
power (measured, MLX 0.32.4 on x86): here ``exp(x)`` is ``e ** x``, in float32. A GPU makes what ``activations``,
``attention`` and ``layers`` say, which hand over to this file.

Shapes: B rows of a batch, L queries, N query heads, G key-value heads, D head dim, S keys.
"""

import math
from functools import cache

import mlx.core as mx

from ..backend import fused

BAND = 64  # queries that attend together; 512 took 1.25 times as long (2,048 tokens, head dim 32)
FEW_QUERIES = 16  # up to these, the heads of a block share one product
FEW_SCORES = 2048  # up to these, one slow operation is as fast as six quick ones
FAINT = -60.0  # below the largest score of a row; fainter ones are raised to this, which no sum in float32 shows


# Elementwise functions


def sigmoid(x: mx.array) -> mx.array:
    """``1 / (1 + exp(-x))``, of x's dtype."""
    return (1 / (1 + _exp(-x))).astype(x.dtype)


@fused
def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


@fused
def glu(x: mx.array, gate: mx.array) -> mx.array:
    """``x * sigmoid(gate)``."""
    return x * sigmoid(gate)


@fused
def geglu(gate: mx.array, x: mx.array) -> mx.array:
    """``gelu_pytorch_tanh(gate) * x``, computed in float32 up to the last product: ``(1 + tanh(z)) / 2`` is
    ``sigmoid(2 z)``."""
    wide = gate.astype(mx.float32)
    twice_inner = wide * (1.5957691216057308 + 0.07135481282718516 * (wide * wide))
    return (wide * sigmoid(twice_inner)).astype(x.dtype) * x


def _exp(x: mx.array) -> mx.array:
    return mx.power(math.e, x.astype(mx.float32))


# Norms


def normalized(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """``mx.fast.rms_norm`` over the last axis, in the operations that MLX makes of it on this backend.

    What it would count anew for each norm, the inverse of the axis' length, is the same array each time.
    """
    share = _share(x.shape[-1])
    return _normalized(x, share, eps) if weight is None else _normalized_and_scaled(x, weight, share, eps)


@cache
def _share(dims: int) -> mx.array:
    return mx.array(1.0 / dims)


@fused
def _normalized(x: mx.array, share: mx.array, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    mean = mx.sum(mx.square(wide), axis=-1, keepdims=True) * share
    return (wide * mx.rsqrt(mean + eps)).astype(x.dtype)


@fused
def _normalized_and_scaled(x: mx.array, weight: mx.array, share: mx.array, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    mean = mx.sum(mx.square(wide), axis=-1, keepdims=True) * share
    return weight * (wide * mx.rsqrt(mean + eps)).astype(mx.result_type(x, weight))


# Attention


def softmax(scores: mx.array) -> mx.array:
    """Over the last axis, computed in float32, of the scores' dtype.

    No share falls below ``exp(FAINT)`` of the largest: denormal numbers make the product with values slow.
    """
    if scores.size < FEW_SCORES:
        return mx.softmax(scores, axis=-1, precise=True)
    depth = (scores - mx.max(scores, axis=-1, keepdims=True)).astype(mx.float32)
    powers = _exp(mx.maximum(depth, FAINT))
    return (powers / mx.sum(powers, axis=-1, keepdims=True)).astype(scores.dtype)


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    """Attention of scale 1 in products: queries (B, N, L, D) over keys and values (B, G, S, D) -> (B, N, L, D).

    ``mx.fast.scaled_dot_product_attention`` is made of products here too, but of one per head. Of a few queries, all
    heads that read the same keys share a product: a matrix is read once, not once per head. Of many, a band at a time
    has scores in memory.

    Args:
        mask: (B, 1, L, S) or (L, S) bool, where L may be 1, "causal", or None for everything.
    """
    if queries.shape[2] > BAND:
        return _attend_in_bands(queries, keys, values, mask)
    if isinstance(mask, str):
        L, S = queries.shape[2], keys.shape[2]
        mask = mx.arange(S) <= mx.arange(S - L, S)[:, None]
    return _attend_together(queries, keys, values, mask)


def _attend_in_bands(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    L, S = queries.shape[2], keys.shape[2]
    bands = []
    for q0 in range(0, L, BAND):
        q1 = min(q0 + BAND, L)
        end = S - L + q1 if isinstance(mask, str) else S
        rows = mask[..., q0:q1, :] if isinstance(mask, mx.array) and mask.shape[-2] > 1 else mask
        bands.append(attend(queries[:, :, q0:q1], keys[:, :, :end], values[:, :, :end], rows))
    return mx.concatenate(bands, axis=2)


def _attend_together(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    B, N, L, D = queries.shape
    G = keys.shape[1]
    group = N // G
    if L <= FEW_QUERIES:
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


def quantized_product(
    rows: mx.array,
    words: mx.array,
    scales: mx.array,
    biases: mx.array,
    *,
    transpose: bool,
    group_size: int,
    bits: int,
) -> mx.array:
    """``mx.quantized_matmul``, computed in float32, of the rows' dtype.

    In float32 it takes as long as a product with a dense matrix, in bfloat16 eight to ten times as long (measured,
    1,024 and 8,192 keys).
    """
    x, scales, biases = (array.astype(mx.float32) for array in (rows, scales, biases))
    product = mx.quantized_matmul(x, words, scales, biases, transpose=transpose, group_size=group_size, bits=bits)
    return product.astype(rows.dtype)


# Experts


def expert_product(x: mx.array, weight: mx.array, experts: mx.array) -> mx.array:
    """Each row times the matrix of its expert, which the backend's ``gather_mm`` does in float32 only.

    In other types a few rows copy the matrices that they need; from as many rows as there are experts on, all matrices
    are widened instead, which takes memory for one copy of them in float32.

    Args:
        x: (..., 1, in), broadcast against ``experts``.
        weight: (number of experts, out, in).
        experts: (...) integers.

    Returns:
        (..., 1, out), of the type that the product of x and weight has.
    """
    if weight.dtype != mx.float32 and experts.size < weight.shape[0]:
        return x @ weight[experts].swapaxes(-1, -2)
    matrices = weight.astype(mx.float32).swapaxes(-1, -2)
    product = mx.gather_mm(x.astype(mx.float32), matrices, rhs_indices=experts)
    return product.astype(mx.result_type(x, weight))


# Weights


def in_columns(weight: mx.array) -> mx.array:
    """A float32 matrix that lies in memory column by column; its shape and values stay as they are.

    The backend hands float32 matrices to a BLAS that multiplies them 1.3 to 1.6 times faster so, for one row and for
    many (measured, MLX 0.32.4 on x86); bfloat16 goes through kernels of MLX's own, which gain nothing.
    """
    return mx.contiguous(weight.T).T
