"""The audio tower's attention: queries in blocks, each block over the keys around it, with relative positions.

Shapes: B clips, S frames after subsampling, N heads, D head dim, U blocks of W queries, C keys per block, P positions.
A block's keys begin ``frames_back`` frames before its first query, so query w and key c are ``w + frames_back - c``
frames apart, whatever the block: positions and window are constants of the network.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backend import fused
from .activations import softcap, softmax
from .audio_config import Gemma4AudioConfig
from .clippable import ClippableLinear
from .network import Module

_LONGEST_PERIOD = 10_000.0  # over 2 pi, in frames
_QUERY_SCALE = 1 / math.log(2)
_KEY_SCALE = math.log(1 + math.e) / math.log(2)


@fused
def _softplus(x: mx.array) -> mx.array:
    return mx.logaddexp(x, 0)


def position_table(config: Gemma4AudioConfig) -> mx.array:
    """Sines, then cosines, of distances ``C // 2`` down to 0 (``Gemma4AudioRelPositionalEncoding``): (P, H) float32."""
    rates = config.hidden_size // 2
    steps = np.arange(rates) / max(rates - 1, 1)
    angles = np.arange(config.keys_per_block // 2, -1, -1)[:, None] * _LONGEST_PERIOD**-steps
    return mx.array(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32))


def window(config: Gemma4AudioConfig) -> mx.array:
    """Which keys of a block are near enough to each query: (W, C) bool.

    As transformers' ``sliding_window_mask_function``: the farthest key back that a block holds is one too far.
    """
    queries = np.arange(config.attention_chunk_size)[:, None]
    back = queries + config.frames_back - np.arange(config.keys_per_block)
    earlier = (back >= 0) & (back < config.frames_back)
    later = (back < 0) & (-back < config.attention_context_right)
    return mx.array(earlier | later)


class Blocks:
    """How a clip of a given length is cut; the same for every layer.

    Args:
        length: S.
    """

    def __init__(self, config: Gemma4AudioConfig, length: int):
        self.length = length
        self.width = config.attention_chunk_size
        self.count = -(-length // self.width)
        self._padding = self.count * self.width - length
        self._before, self._after = config.frames_back, config.attention_context_right
        starts = np.arange(self.count)[:, None] * self.width
        self._keys = mx.array(starts + np.arange(config.keys_per_block))

    def queries(self, x: mx.array) -> mx.array:
        """x: (B, S, ...) -> (B, U, W, ...), zeros after the last frame."""
        padded = _pad_frames(x, 0, self._padding)
        return padded.reshape(x.shape[0], self.count, self.width, *x.shape[2:])

    def keys(self, x: mx.array) -> mx.array:
        """x: (B, S, ...) -> (B, U, C, ...), zeros before the first frame and after the last."""
        return _pad_frames(x, self._before, self._padding + self._after)[:, self._keys]

    def joined(self, x: mx.array) -> mx.array:
        """x: (B, U, W, ...) -> (B, S, ...)."""
        return x.reshape(x.shape[0], self.count * self.width, *x.shape[3:])[:, : self.length]


def _pad_frames(x: mx.array, before: int, after: int) -> mx.array:
    return mx.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))


def _by_key(scores: mx.array, keys: int) -> mx.array:
    """scores: (B, N, U, W, P) -> (B, N, U, W, C): what stood at position p of query w stands at key w + p.

    Rows of C + 1 read as rows of C move by one each (Dai et al. 2019, appendix B). What wraps lies outside the window.
    """
    *batch, queries, positions = scores.shape
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, keys + 1 - positions)]
    rows = mx.pad(scores, padding).reshape(*batch, queries * (keys + 1))
    return rows[..., : queries * keys].reshape(*batch, queries, keys)


class AudioAttention(Module):
    """transformers' ``Gemma4AudioAttention``: local, in float32, with capped scores."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        size, clipped = config.hidden_size, config.use_clipped_linears
        self.heads = (config.num_attention_heads, config.head_dim)
        self.scale = config.head_dim**-0.5 * _QUERY_SCALE
        self.cap = config.attention_logit_cap
        self.invalid = config.attention_invalid_logits_value
        self.q_proj = ClippableLinear(size, size, clipped)
        self.k_proj = ClippableLinear(size, size, clipped)
        self.v_proj = ClippableLinear(size, size, clipped)
        self.post = ClippableLinear(size, size, clipped)
        self.relative_k_proj = nn.Linear(size, size, bias=False)
        self.per_dim_scale = mx.zeros((config.head_dim,))

    def _heads(self, x: mx.array) -> mx.array:
        return x.astype(mx.float32).reshape(*x.shape[:-1], *self.heads)

    def __call__(self, x: mx.array, positions: mx.array, blocks: Blocks, mask: mx.array) -> mx.array:
        """x: (B, S, H) -> (B, S, H).

        Args:
            positions: ``position_table`` in the type of ``x``.
            mask: (B, 1, U, W, C) bool, True for what is seen. A query that sees nothing averages its block's keys.
        """
        queries = self._heads(self.q_proj(x)) * (self.scale * _softplus(self.per_dim_scale))
        queries = blocks.queries(queries).transpose(0, 3, 1, 2, 4)
        keys = blocks.keys(self._heads(self.k_proj(x)) * _KEY_SCALE).transpose(0, 3, 1, 4, 2)
        values = blocks.keys(self._heads(self.v_proj(x))).transpose(0, 3, 1, 2, 4)

        distances = self._heads(self.relative_k_proj(positions)).transpose(1, 2, 0)[:, None]
        scores = queries @ keys + _by_key(queries @ distances, keys.shape[-1])
        scores = mx.where(mask, softcap(scores, self.cap), self.invalid)
        out = blocks.joined((softmax(scores) @ values).transpose(0, 2, 3, 1, 4))
        return self.post(out.reshape(x.shape).astype(x.dtype))
