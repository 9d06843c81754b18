"""The audio tower of E2B and E4B: log-mel frames to soft tokens, a conformer after the Universal Speech Model.

Two convolutions leave a quarter of the frames; each layer is half a feed-forward, local attention, a light convolution
and the other half (Zhang et al. 2023, https://arxiv.org/abs/2303.01037). Shapes: B clips, T frames, M mel bins, S
frames after subsampling, H hidden size. Module names are Hugging Face's.
"""

import re

import mlx.core as mx
import mlx.nn as nn

from ..errors import InputError
from .activations import glu, silu
from .audio_attention import AudioAttention, Blocks, position_table, window
from .audio_config import Gemma4AudioConfig
from .clippable import ClippableLinear
from .layers import RMSNorm
from .network import Module, Network, named_parameters

# transformers' checkpoints, mlx-vlm's conversions of them.
_TOWER = re.compile(r"^(?:model\.)?audio_tower\.")
# Constants that transformers computes.
_CONSTANT = re.compile(r"(^|\.)(inv_timescales|softcap)$")
_BOUND = re.compile(r"\.(input|output)_(min|max)$")
# The layers' norms have this whatever rms_norm_eps says; only those of the convolutions follow the config.
_NORM_EPS = 1e-6


def _bounded(x: mx.array, limit: float) -> mx.array:
    """x within ``gradient_clipping``, or within what its type holds."""
    limit = min(limit, mx.finfo(x.dtype).max)
    return mx.clip(x, -limit, limit)


class SubSampleConvLayer(Module):
    """transformers' ``Gemma4AudioSubSampleConvProjectionLayer``, channels last: every other frame, every other bin."""

    def __init__(self, channels_in: int, channels_out: int, eps: float):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(channels_out, eps=eps, bias=False)

    def __call__(self, x: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """x: (B, T, M, channels), mask: (B, T) bool -> half of both, rounded up."""
        x = mx.where(mask[..., None, None], x, mx.zeros_like(x))
        return mx.maximum(self.norm(self.conv(x)), 0), mask[:, ::2]


class SubSampleConvProjection(Module):
    """transformers' ``Gemma4AudioSubSampleConvProjection``."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        first, second = config.subsampling_conv_channels
        self.layer0 = SubSampleConvLayer(1, first, config.rms_norm_eps)
        self.layer1 = SubSampleConvLayer(first, second, config.rms_norm_eps)
        self.input_proj_linear = nn.Linear(config.bins_left * second, config.hidden_size, bias=False)

    def __call__(self, input_features: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """(B, T, M) and (B, T) -> (B, S, H) and (B, S)."""
        x, mask = self.layer0(input_features[..., None].astype(self.layer0.conv.weight.dtype), mask)
        x, mask = self.layer1(x, mask)
        return self.input_proj_linear(x.flatten(2)), mask


class AudioFeedForward(Module):
    """transformers' ``Gemma4AudioFeedForward``: one of a layer's two, added with ``residual_weight``."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        size, clipped = config.hidden_size, config.use_clipped_linears
        self.ffw_layer_1 = ClippableLinear(size, 4 * size, clipped)
        self.ffw_layer_2 = ClippableLinear(4 * size, size, clipped)
        self.pre_layer_norm = RMSNorm(size, eps=_NORM_EPS)
        self.post_layer_norm = RMSNorm(size, eps=_NORM_EPS)
        self.limit = config.gradient_clipping
        self.weight = config.residual_weight

    def __call__(self, x: mx.array) -> mx.array:
        """x: (B, S, H) -> (B, S, H)."""
        inner = silu(self.ffw_layer_1(self.pre_layer_norm(_bounded(x, self.limit))))
        out = self.post_layer_norm(_bounded(self.ffw_layer_2(inner), self.limit))
        return x + out * self.weight


class AudioLightConv(Module):
    """transformers' ``Gemma4AudioLightConv1d``: a gate, then a causal convolution of each channel by itself."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        size, clipped, eps = config.hidden_size, config.use_clipped_linears, config.rms_norm_eps
        self.linear_start = ClippableLinear(size, 2 * size, clipped)
        self.linear_end = ClippableLinear(size, size, clipped)
        self.depthwise_conv1d = nn.Conv1d(size, size, config.conv_kernel_size, groups=size, bias=False)
        self.pre_layer_norm = RMSNorm(size, eps=eps)
        self.conv_norm = RMSNorm(size, eps=eps)
        self.frames_back = config.conv_kernel_size - 1
        self.limit = config.gradient_clipping

    def __call__(self, x: mx.array) -> mx.array:
        """x: (B, S, H) -> (B, S, H)."""
        gated = glu(*mx.split(self.linear_start(self.pre_layer_norm(x)), 2, axis=-1))
        mixed = self.depthwise_conv1d(mx.pad(gated, [(0, 0), (self.frames_back, 0), (0, 0)]))
        return x + self.linear_end(silu(self.conv_norm(_bounded(mixed, self.limit))))


class AudioLayer(Module):
    """transformers' ``Gemma4AudioLayer``."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        self.feed_forward1 = AudioFeedForward(config)
        self.feed_forward2 = AudioFeedForward(config)
        self.self_attn = AudioAttention(config)
        self.lconv1d = AudioLightConv(config)
        self.norm_pre_attn = RMSNorm(config.hidden_size, eps=_NORM_EPS)
        self.norm_post_attn = RMSNorm(config.hidden_size, eps=_NORM_EPS)
        self.norm_out = RMSNorm(config.hidden_size, eps=_NORM_EPS)
        self.limit = config.gradient_clipping

    def __call__(self, x: mx.array, positions: mx.array, blocks: Blocks, mask: mx.array) -> mx.array:
        """x: (B, S, H) -> (B, S, H); the others as for ``AudioAttention``."""
        x = self.feed_forward1(x)
        attended = self.self_attn(self.norm_pre_attn(_bounded(x, self.limit)), positions, blocks, mask)
        x = x + self.norm_post_attn(_bounded(attended, self.limit))
        x = self.feed_forward2(self.lconv1d(x))
        return self.norm_out(_bounded(x, self.limit))


class Gemma4AudioModel(Network):
    """transformers' ``Gemma4AudioModel``: log-mel frames in, soft tokens before the multimodal embedder out."""

    def __init__(self, config: Gemma4AudioConfig):
        super().__init__()
        self.config = config
        self.subsample_conv_projection = SubSampleConvProjection(config)
        self.layers = [AudioLayer(config) for _ in range(config.num_hidden_layers)]
        self.output_proj = nn.Linear(config.hidden_size, config.output_proj_dims, bias=True)
        # Underscored, so that they are not taken for parameters.
        self._positions = position_table(config)
        self._window = window(config)

    def __call__(self, input_features: mx.array, input_features_mask: mx.array) -> tuple[mx.array, mx.array]:
        """Encode clips; computed in the weights' type, attention in float32.

        Args:
            input_features: (B, T, M) floating-point, log-mel frames of 10 ms.
            input_features_mask: (B, T) bool, True for frames of sound, False for padding.

        Returns:
            Features (B, S, ``output_proj_dims``) with S = ceil(T / 4), and their mask (B, S) bool, every fourth of the
            input's. Only features whose mask is True are soft tokens; the others mean nothing.

        Raises:
            InputError: no frame at all, as for a sound of up to 8 ms, or frames of other than M mel bins.
        """
        self._check_shape(*input_features.shape[1:])
        x, mask = self.subsample_conv_projection(input_features, input_features_mask.astype(mx.bool_))
        blocks = Blocks(self.config, x.shape[1])
        positions = self._positions.astype(x.dtype)
        seen = blocks.keys(mask)[:, None, :, None, :] & self._window
        for layer in self.layers:
            x = layer(x, positions, blocks, seen)
        return self.output_proj(x), mask

    def _check_shape(self, frames: int, bins: int) -> None:
        if frames == 0:
            raise InputError("the sound is too short: it has no frame")
        if -(-bins // 4) != self.config.bins_left:
            raise InputError(f"a frame of the sound has {bins} mel bins, expected {4 * self.config.bins_left}")

    def parameter_name(self, name: str) -> str | None:
        """The parameter that a checkpoint's tensor (or module) belongs to, None for what this network does not have.

        Left out are other networks, constants, and bounds that a config without clipped linears makes no use of.
        """
        own, found = _TOWER.subn("", name)
        if not found or _CONSTANT.search(own) or (not self.config.use_clipped_linears and _BOUND.search(own)):
            return None
        return own

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """As ``Network.sanitize``; transformers' convolutions become channels last, as mlx-vlm's are."""
        shapes = {name: parameter.shape for name, parameter in named_parameters(self).items()}
        named = super().sanitize(weights)
        return {name: _channels_last(value, shapes.get(name)) for name, value in named.items()}


def _channels_last(weight: mx.array, shape: tuple[int, ...] | None) -> mx.array:
    """A convolution's (out, in, ...) -> (out, ..., in) where that has the parameter's shape; others as they are."""
    if shape is None or len(shape) < 3 or weight.shape == shape or weight.ndim != len(shape):
        return weight
    moved = mx.moveaxis(weight, 1, -1)
    return mx.contiguous(moved) if moved.shape == shape else weight
