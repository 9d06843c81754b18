"""Elementwise functions of the networks.

MLX's CPU backend takes about 20 ns for an exponential, and for what is made of one, but 6 ns for a power (measured,
MLX 0.32.4 on x86). There ``exp(x)`` is ``e ** x``, in float32; a GPU keeps MLX's own functions.
"""

import math

import mlx.core as mx

from ..backend import compiles_in_process, fused

FEW_SCORES = 2048  # up to these, one slow operation is as fast as six quick ones
FAINT = -60.0  # below the largest score of a row; fainter ones are raised to this, which no sum in float32 shows


def sigmoid(x: mx.array) -> mx.array:
    """``1 / (1 + exp(-x))``, of x's dtype."""
    if compiles_in_process():
        return mx.sigmoid(x)
    return (1 / (1 + _exp(-x))).astype(x.dtype)


def softmax(scores: mx.array) -> mx.array:
    """Over the last axis, computed in float32, of the scores' dtype.

    On a CPU no share falls below ``exp(FAINT)`` of the largest: denormal numbers make the product with values slow.
    """
    if compiles_in_process() or scores.size < FEW_SCORES:
        return mx.softmax(scores, axis=-1, precise=True)
    depth = (scores - mx.max(scores, axis=-1, keepdims=True)).astype(mx.float32)
    powers = _exp(mx.maximum(depth, FAINT))
    return (powers / mx.sum(powers, axis=-1, keepdims=True)).astype(scores.dtype)


@fused
def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


@fused
def glu(x: mx.array, gate: mx.array) -> mx.array:
    """``x * sigmoid(gate)`` (Dauphin et al. 2017)."""
    return x * sigmoid(gate)


@fused
def geglu(gate: mx.array, x: mx.array) -> mx.array:
    """``gelu_pytorch_tanh(gate) * x``, in few operations: ``(1 + tanh(z)) / 2`` is ``sigmoid(2 z)``.

    MLX's own cannot do without a C++ compiler on a CPU.
    """
    wide = gate if compiles_in_process() else gate.astype(mx.float32)
    twice_inner = wide * (1.5957691216057308 + 0.07135481282718516 * (wide * wide))
    return (wide * sigmoid(twice_inner)).astype(x.dtype) * x


@fused
def softcap(logits: mx.array, cap: float) -> mx.array:
    """``cap * tanh(logits / cap)``."""
    return mx.tanh(logits / cap) * cap


def _exp(x: mx.array) -> mx.array:
    return mx.power(math.e, x.astype(mx.float32))
