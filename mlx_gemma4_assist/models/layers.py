"""The parts that targets and assistants share: rotary embedding, gated MLP, attention.

Shapes: B rows of a batch, L positions, H hidden size, N query heads, G key-value heads, D head dim, S keys. Between the
attentions all positions are rows of one matrix, (B * L, H): MLX's product of a matrix with more axes adds two nodes to
the graph, and building and walking the graph is what a small model's token takes longest for.
"""

from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..backend import on_gpu
from . import cpu
from .activations import geglu
from .attention import KeysValues, Mask, attend
from .config import Gemma4TextConfig
from .linear import Linear
from .network import Module


class BlockCache(Protocol):
    """The keys and values of one forward, as the decoder asks for them. ``cache.layout.Block`` implements it.

    Attributes:
        offset: (B,) int32, the position of the block's first token in each row.
        masks: by layer type, what each query of the block may see.
    """

    offset: mx.array
    masks: dict[str, Mask]

    def update(self, layer: int, keys: mx.array, values: mx.array) -> KeysValues:
        """Store a block's new (B, G, L, D) keys and values; return the (B, G, S, D) to attend to."""


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """transformers' ``Gemma4RMSNorm`` over the last axis; without a weight nothing is scaled."""
    if on_gpu():
        return mx.fast.rms_norm(x, weight, eps)
    return cpu.normalized(x, weight, eps)


class RMSNorm(Module):
    """``rms_norm`` with a learned weight."""

    def __init__(self, dims: int, eps: float):
        super().__init__()
        self.weight = mx.ones((dims,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.weight, self.eps)


class RotaryEmbedding(Module):
    """Rotary embedding of one layer type, with one offset per row.

    ``proportional`` (transformers' ``_compute_proportional_rope_parameters``) rotates the first
    ``partial_rotary_factor`` of the pairs with frequencies spread over the whole head; the others stand still: their
    period is infinite. The table comes from numpy, so that no lazy array is bound to the thread that asks first.
    """

    def __init__(self, head_dim: int, parameters: dict[str, Any]):
        super().__init__()
        self.head_dim = head_dim
        self.base = float(parameters["rope_theta"])
        self.scale = 1.0 / parameters.get("factor", 1.0)
        self._periods = None
        if parameters.get("rope_type", "default") == "proportional":
            turning = int(parameters.get("partial_rotary_factor", 1.0) * head_dim // 2)
            periods = np.full(head_dim // 2, np.inf, dtype=np.float32)
            periods[:turning] = self.base ** (np.arange(0, 2 * turning, 2, dtype=np.float64) / head_dim)
            self._periods = mx.array(periods)

    def __call__(self, x: mx.array, offset: mx.array) -> mx.array:
        """x: (B, heads, L, D); offset: (B,) int32, the position of the first of the L."""
        base = None if self._periods is not None else self.base
        return mx.fast.rope(
            x, self.head_dim, traditional=False, base=base, scale=self.scale, offset=offset, freqs=self._periods
        )


class MLP(Module):
    """transformers' ``Gemma4TextMLP``; the KV-shared layers of E2B have it twice as wide."""

    def __init__(self, config: Gemma4TextConfig, layer: int):
        super().__init__()
        wide = config.use_double_wide_mlp and layer >= config.num_kv_layers
        size = config.intermediate_size * (2 if wide else 1)
        self.gate_proj = Linear(config.hidden_size, size)
        self.up_proj = Linear(config.hidden_size, size)
        self.down_proj = Linear(size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x)))


class Attention(Module):
    """transformers' ``Gemma4TextAttention``: scale 1, normed queries and keys, a value norm without weight.

    A layer that owns keys and values writes them to the cache; a KV-shared layer has no projections for them. With
    ``attention_k_eq_v`` a full layer's value is its raw key projection: value-normed, not rotated.
    """

    def __init__(self, config: Gemma4TextConfig, layer: int):
        super().__init__()
        kind = config.layer_types[layer]
        heads, kv_heads = config.num_attention_heads, config.kv_heads(kind)
        self.layer = layer
        self.kind = kind
        self.head_dim = config.head_dim_of(kind)
        self.eps = config.rms_norm_eps
        self.owns_kv = layer < config.num_kv_layers
        self.k_eq_v = config.attention_k_eq_v and kind == "full_attention"
        self.q_proj = Linear(config.hidden_size, heads * self.head_dim)
        self.o_proj = Linear(heads * self.head_dim, config.hidden_size)
        self.q_norm = RMSNorm(self.head_dim, eps=self.eps)
        if self.owns_kv:
            self.k_proj = Linear(config.hidden_size, kv_heads * self.head_dim)
            self.k_norm = RMSNorm(self.head_dim, eps=self.eps)
            if not self.k_eq_v:
                self.v_proj = Linear(config.hidden_size, kv_heads * self.head_dim)
        self.rotary = RotaryEmbedding(self.head_dim, config.rope_parameters[kind])

    def _heads(self, x: mx.array, rows: int) -> mx.array:
        """(B * L, heads * D) -> (B, L, heads, D)."""
        return x.reshape(rows, x.shape[0] // rows, -1, self.head_dim)

    def keys_values(self, x: mx.array, cache: BlockCache) -> KeysValues:
        """Project x: (B * L, H), store it, and return what the cache gives to attend to."""
        rows = cache.offset.shape[0]
        raw = self._heads(self.k_proj(x), rows)
        values = raw if self.k_eq_v else self._heads(self.v_proj(x), rows)
        keys = self.rotary(self.k_norm(raw).transpose(0, 2, 1, 3), cache.offset)
        values = rms_norm(values, None, self.eps).transpose(0, 2, 1, 3)
        return cache.update(self.layer, keys, values)

    def __call__(self, x: mx.array, offset: mx.array, mask: Mask, keys_values: KeysValues) -> mx.array:
        """x: (B * L, H) -> (B * L, H), attending to given (B, G, S, D) keys and values; offset: (B,)."""
        heads = self._heads(self.q_proj(x), offset.shape[0])
        queries = self.rotary(self.q_norm(heads).transpose(0, 2, 1, 3), offset)
        out = attend(queries, keys_values, mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(x.shape[0], -1))
