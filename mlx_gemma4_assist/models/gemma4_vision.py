"""The vision tower of E2B, E4B, 26B-A4B and 31B: patches of a picture in, soft tokens out.

Shapes: B pictures, P patches, D hidden size, N heads, S soft tokens. Patches that only pad a picture have position -1.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backend import on_gpu
from .activations import geglu
from .attention import attend
from .clippable import ClippableLinear
from .layers import RMSNorm, rms_norm
from .network import Module
from .vision_config import Gemma4VisionConfig

# MLX's fused attention over many queries has these; any other size keeps all scores in memory.
_FUSED_HEADS = (64, 80, 128)


class VisionPatchEmbedder(Module):
    """transformers' ``Gemma4VisionPatchEmbedder``: a linear map of pixels, and a table for columns and one for rows."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        self.input_proj = nn.Linear(3 * config.patch_size**2, config.hidden_size, bias=False)
        self.position_embedding_table = mx.ones((2, config.position_embedding_size, config.hidden_size))

    def __call__(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        """pixel_values: (B, P, values) from 0 to 1, position_ids: (B, P, 2) int32 -> (B, P, D)."""
        columns, rows = self.position_embedding_table
        x = self.input_proj((2 * (pixel_values - 0.5)).astype(columns.dtype))
        places = mx.maximum(position_ids, 0)
        positions = columns[places[..., 0]] + rows[places[..., 1]]
        return x + mx.where(position_ids[..., :1] < 0, 0, positions)


class AxialRotaryEmbedding:
    """transformers' ``Gemma4VisionRotaryEmbedding``: half of a head turns with the column, half with the row."""

    def __init__(self, config: Gemma4VisionConfig):
        quarter = config.head_dim // 4
        self._frequencies = mx.array((config.rope_theta ** -(np.arange(quarter) / quarter)).astype(np.float32))

    def angles(self, position_ids: mx.array) -> tuple[mx.array, mx.array]:
        """position_ids: (B, P, 2) -> cosines and sines (B, 1, P, 2, head_dim / 4), of columns and rows."""
        angles = (position_ids[..., None].astype(mx.float32) * self._frequencies)[:, None]
        return mx.cos(angles), mx.sin(angles)

    def __call__(self, x: mx.array, angles: tuple[mx.array, mx.array]) -> mx.array:
        """x: (B, N, P, head_dim); within the half of an axis, its first quarter is paired with its second."""
        B, N, P, D = x.shape
        cosines, sines = (a.astype(x.dtype) for a in angles)
        first, second = mx.moveaxis(x.reshape(B, N, P, 2, 2, D // 4), -2, 0)
        turned = [first * cosines - second * sines, second * cosines + first * sines]
        return mx.stack(turned, axis=-2).reshape(B, N, P, D)


def attend_padded(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """``attend``, of heads that on a GPU are filled with zeros up to a size that has a fused kernel.

    The zeros change nothing. Chosen from MLX's source, not measured on Metal. The heads of 26B-A4B and 31B have 72:
    unfused, the 16 heads' scores of a picture with 1,120 soft tokens (10,080 patches) would fill 3 GB in bfloat16.
    """
    size = queries.shape[-1]
    padding = next((fused - size for fused in _FUSED_HEADS if fused >= size), 0)
    if padding and on_gpu():
        queries, keys, values = (mx.pad(x, [(0, 0)] * 3 + [(0, padding)]) for x in (queries, keys, values))
    return attend(queries, (keys, values), mask)[..., :size]


class VisionAttention(Module):
    """transformers' ``Gemma4VisionAttention``: scale 1, queries and keys normed, values normed without a weight."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        clipped, width = config.use_clipped_linears, config.hidden_size
        heads, kv_heads = (n * self.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = ClippableLinear(width, heads, clipped)
        self.k_proj = ClippableLinear(width, kv_heads, clipped)
        self.v_proj = ClippableLinear(width, kv_heads, clipped)
        self.o_proj = ClippableLinear(heads, width, clipped)
        self.q_norm = RMSNorm(self.head_dim, eps=self.eps)
        self.k_norm = RMSNorm(self.head_dim, eps=self.eps)
        self._rotary = AxialRotaryEmbedding(config)

    def _heads(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], -1, self.head_dim)

    def __call__(self, x: mx.array, angles: tuple[mx.array, mx.array], mask: mx.array) -> mx.array:
        """x: (B, P, D), mask: (B, 1, 1, P) bool, the patches that may be seen -> (B, P, D)."""
        B, P, _ = x.shape
        queries = self._rotary(self.q_norm(self._heads(self.q_proj(x))).transpose(0, 2, 1, 3), angles)
        keys = self._rotary(self.k_norm(self._heads(self.k_proj(x))).transpose(0, 2, 1, 3), angles)
        values = rms_norm(self._heads(self.v_proj(x)), None, self.eps).transpose(0, 2, 1, 3)
        out = attend_padded(queries, keys, values, mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, P, -1))


class VisionMLP(Module):
    """transformers' ``Gemma4VisionMLP``."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        width, inner, clipped = config.hidden_size, config.intermediate_size, config.use_clipped_linears
        self.gate_proj = ClippableLinear(width, inner, clipped)
        self.up_proj = ClippableLinear(width, inner, clipped)
        self.down_proj = ClippableLinear(inner, width, clipped)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(geglu(self.gate_proj(x), self.up_proj(x)))


class VisionEncoderLayer(Module):
    """transformers' ``Gemma4VisionEncoderLayer``."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.mlp = VisionMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, angles: tuple[mx.array, mx.array], mask: mx.array) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), angles, mask))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class VisionEncoder(Module):
    """transformers' ``Gemma4VisionEncoder``."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        self.layers = [VisionEncoderLayer(config) for _ in range(config.num_hidden_layers)]
        self._rotary = AxialRotaryEmbedding(config)

    def __call__(self, x: mx.array, position_ids: mx.array) -> mx.array:
        """x: (B, P, D), position_ids: (B, P, 2) -> (B, P, D)."""
        angles = self._rotary.angles(position_ids)
        mask = (position_ids[..., 0] >= 0)[:, None, None]
        for layer in self.layers:
            x = layer(x, angles, mask)
        return x


class Gemma4VisionModel(Module):
    """transformers' ``Gemma4VisionModel``."""

    def __init__(self, config: Gemma4VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedder = VisionPatchEmbedder(config)
        self.encoder = VisionEncoder(config)
        if config.standardize:
            self.std_bias = mx.zeros((config.hidden_size,))
            self.std_scale = mx.ones((config.hidden_size,))

    def __call__(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        """Encode pictures.

        Args:
            pixel_values: (B, P, 3 * patch_size ** 2) floating-point from 0 to 1; P a multiple of the pooling square.
            position_ids: (B, P, 2) int32, column and row of each patch, -1 for padding, which comes last.

        Returns:
            (B, S, D) with S = P / ``pooling_kernel_size`` ** 2, in the type of the weights. A picture's soft tokens are
            the first of its own patches / ``pooling_kernel_size`` ** 2, row by row; what follows them means nothing.
        """
        x = self.patch_embedder(pixel_values, position_ids)
        pooled = self._pool(self.encoder(x, position_ids), position_ids)
        if self.config.standardize:
            pooled = (pooled - self.std_bias.astype(mx.float32)) * self.std_scale.astype(mx.float32)
        return pooled.astype(x.dtype)

    def _pool(self, x: mx.array, position_ids: mx.array) -> mx.array:
        """transformers' ``Gemma4VisionPooler``: the mean of each square, times sqrt(D), which float16 does not hold."""
        side = self.config.pooling_kernel_size
        squares = mx.maximum(position_ids, 0) // side
        wide = (mx.max(position_ids[..., 0], axis=1, keepdims=True) + 1) // side
        square = mx.where(position_ids[..., 0] < 0, -1, squares[..., 0] + wide * squares[..., 1])
        share = (square[:, None] == mx.arange(x.shape[1] // side**2)[:, None]).astype(mx.float32)
        scale: float = x.shape[-1] ** 0.5 / side**2
        return share @ x.astype(mx.float32) * scale
