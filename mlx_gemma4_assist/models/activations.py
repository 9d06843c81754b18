"""Elementwise functions of the networks, as a GPU computes them; ``cpu`` has other forms of those slow there."""

import mlx.core as mx

from ..backend import cpu_form, fused, on_gpu
from . import cpu


def softmax(scores: mx.array) -> mx.array:
    """Over the last axis, computed in float32, of the scores' dtype."""
    if not on_gpu():
        return cpu.softmax(scores)
    return mx.softmax(scores, axis=-1, precise=True)


@cpu_form(cpu.silu)
@fused
def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)``."""
    return x * mx.sigmoid(x)


@cpu_form(cpu.glu)
@fused
def glu(x: mx.array, gate: mx.array) -> mx.array:
    """``x * sigmoid(gate)`` (Dauphin et al. 2017)."""
    return x * mx.sigmoid(gate)


@cpu_form(cpu.geglu)
@fused
def geglu(gate: mx.array, x: mx.array) -> mx.array:
    """``gelu_pytorch_tanh(gate) * x``, in few operations: ``(1 + tanh(z)) / 2`` is ``sigmoid(2 z)``."""
    twice_inner = gate * (1.5957691216057308 + 0.07135481282718516 * (gate * gate))
    return (gate * mx.sigmoid(twice_inner)).astype(x.dtype) * x


@fused
def softcap(logits: mx.array, cap: float) -> mx.array:
    """``cap * tanh(logits / cap)``."""
    return mx.tanh(logits / cap) * cap
