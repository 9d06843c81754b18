"""Configurations of what sees: Hugging Face's names and defaults, and a validation that says what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .validation import (
    MOST_LAYERS,
    WIDEST,
    expect,
    expect_counts,
    expect_small,
    expect_types,
    is_count,
    is_number,
    known,
)

_THETA = 100.0
_LARGEST_PATCH = 4096  # pixels on a side of what becomes one soft token, of which 48 are in use
_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "pooling_kernel_size",
    "patch_size",
    "position_embedding_size",
)


@dataclass(frozen=True)
class Gemma4VisionConfig:
    """The vision tower of E2B, E4B, 26B-A4B and 31B (transformers' ``Gemma4VisionConfig``).

    Attributes:
        pooling_kernel_size: patches on a side of the square that becomes one soft token.
        position_embedding_size: columns and rows that have a position embedding.
        standardize: whether soft tokens are shifted and scaled by learned amounts.

    Raises:
        InputError: an architecture that Gemma 4 does not have, with the value found and the value expected.
    """

    model_type: str = "gemma4_vision"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 16
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    head_dim: int = 64
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    rope_parameters: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "axial", "rope_theta": _THETA})
    pooling_kernel_size: int = 3
    patch_size: int = 16
    position_embedding_size: int = 10_240
    use_clipped_linears: bool = False
    standardize: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Gemma4VisionConfig":
        """Read the ``vision_config`` of a ``config.json``; unknown fields are left aside."""
        return cls(**known(cls, values))

    def __post_init__(self) -> None:
        _expect_model_type(self, "gemma4_vision")
        expect_counts(self, _COUNTS, of=self.model_type)
        expect_types(self, of=self.model_type)
        self._expect(self.num_hidden_layers <= MOST_LAYERS, "num_hidden_layers", f"at most {MOST_LAYERS}")
        expect_small(self, (*_COUNTS, "head_dim"), WIDEST, of=self.model_type)
        _expect_small_patches(self)
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        divides, divisor = heads % kv_heads == 0, f"a divisor of num_attention_heads, {heads}"
        self._expect(divides, "num_key_value_heads", divisor)
        self._expect(is_count(self.head_dim) and self.head_dim % 4 == 0, "head_dim", "a multiple of 4")
        self._expect(self.hidden_activation == "gelu_pytorch_tanh", "hidden_activation", "gelu_pytorch_tanh")
        self._expect(not self.attention_bias, "attention_bias", "false")
        self._expect(self.rms_norm_eps >= 0, "rms_norm_eps", "0 or more")
        self._validate_rope()

    def _validate_rope(self) -> None:
        # Older checkpoints write "default" for the only kind that there is.
        axial = self.rope_parameters.get("rope_type", "axial") in ("axial", "default")
        self._expect(axial, "rope_parameters", "rope_type axial")
        theta = self.rope_parameters.get("rope_theta", _THETA)
        self._expect(is_number(theta) and theta > 0, "rope_parameters", "a positive rope_theta")

    def _expect(self, right: bool, name: str, expected: str) -> None:
        expect(right, f"{name} of {self.model_type}", vars(self)[name], expected)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary embedding's periods."""
        theta: float = self.rope_parameters.get("rope_theta", _THETA)
        return theta


@dataclass(frozen=True)
class Gemma4UnifiedVisionConfig:
    """The embedder of the 12B (transformers' ``Gemma4UnifiedVisionConfig``): no tower, one soft token per large patch.

    Attributes:
        patch_size, pooling_kernel_size: their product is a patch's side in pixels.
        mm_embed_dim: width of the embedder.
        mm_posemb_size: columns and rows that have a position embedding.
        output_proj_dims: what the projection into the text network starts from.

    Raises:
        InputError: as ``Gemma4VisionConfig``.
    """

    model_type: str = "gemma4_unified_vision"
    patch_size: int = 16
    pooling_kernel_size: int = 3
    mm_embed_dim: int = 3840
    mm_posemb_size: int = 1120
    output_proj_dims: int = 3840
    rms_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Gemma4UnifiedVisionConfig":
        """Read the ``vision_config`` of a ``config.json``; unknown fields are left aside."""
        return cls(**known(cls, values))

    def __post_init__(self) -> None:
        _expect_model_type(self, "gemma4_unified_vision")
        names = ("patch_size", "pooling_kernel_size", "mm_embed_dim", "mm_posemb_size", "output_proj_dims")
        expect_counts(self, names, of=self.model_type)
        expect_types(self, of=self.model_type)
        expect_small(self, names, WIDEST, of=self.model_type)
        _expect_small_patches(self)

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: three colours of a square."""
        return 3 * (self.patch_size * self.pooling_kernel_size) ** 2


@dataclass(frozen=True)
class Gemma4UnifiedAudioConfig:
    """The 12B's way to hear (transformers' ``Gemma4UnifiedAudioConfig``): frames of raw samples, projected.

    Raises:
        InputError: as ``Gemma4VisionConfig``.
    """

    model_type: str = "gemma4_unified_audio"
    audio_embed_dim: int = 640
    rms_norm_eps: float = 1e-6

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Gemma4UnifiedAudioConfig":
        """Read the ``audio_config`` of a ``config.json``; unknown fields are left aside."""
        return cls(**known(cls, values))

    def __post_init__(self) -> None:
        _expect_model_type(self, "gemma4_unified_audio")
        expect_counts(self, ("audio_embed_dim",), of=self.model_type)
        expect_types(self, of=self.model_type)
        expect_small(self, ("audio_embed_dim",), WIDEST, of=self.model_type)


def _expect_model_type(
    config: Gemma4VisionConfig | Gemma4UnifiedVisionConfig | Gemma4UnifiedAudioConfig, model_type: str
) -> None:
    expect(config.model_type == model_type, f"model_type of {config.model_type}", config.model_type, model_type)


def _expect_small_patches(config: Gemma4VisionConfig | Gemma4UnifiedVisionConfig) -> None:
    side = config.patch_size * config.pooling_kernel_size
    name = f"patch_size times pooling_kernel_size of {config.model_type}"
    expect(side <= _LARGEST_PATCH, name, side, f"at most {_LARGEST_PATCH}")
