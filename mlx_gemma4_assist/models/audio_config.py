"""The audio tower's configuration: Hugging Face's names and defaults, and a validation that says what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .validation import LARGEST, MOST_LAYERS, WIDEST, expect, expect_counts, expect_small, expect_types, is_count, known

_COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "conv_kernel_size",
    "attention_chunk_size",
    "attention_context_left",
    "output_proj_dims",
)
_FRAMES = ("attention_chunk_size", "attention_context_left", "attention_context_right")
_MOST_FRAMES = 4096  # a table of positions is made for them before a weight is read


@dataclass(frozen=True)
class Gemma4AudioConfig:
    """The conformer of E2B and E4B (transformers' ``Gemma4AudioConfig``). 12B unified has no audio tower.

    Attributes:
        subsampling_conv_channels: of the two convolutions; the first is also how many mel bins a frame has.
        attention_context_left: how many frames back a query's positions reach, itself included; it sees one less.
        attention_context_right: the same towards later frames.
        output_proj_dims: size of a soft token.

    Raises:
        InputError: an architecture that Gemma 4 does not have, with the value found and the value expected.
    """

    model_type: str = "gemma4_audio"
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "silu"
    subsampling_conv_channels: tuple[int, ...] = (128, 32)
    conv_kernel_size: int = 5
    residual_weight: float = 0.5
    attention_chunk_size: int = 12
    attention_context_left: int = 13
    attention_context_right: int = 0
    attention_logit_cap: float = 50.0
    attention_invalid_logits_value: float = -1.0e9
    use_clipped_linears: bool = True
    rms_norm_eps: float = 1e-6
    gradient_clipping: float = 1e10
    output_proj_dims: int = 1536

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Gemma4AudioConfig":
        """Read the ``audio_config`` of a ``config.json``; unknown fields are left aside."""
        found = known(cls, values)
        channels = found.get("subsampling_conv_channels")
        if isinstance(channels, list):
            found["subsampling_conv_channels"] = tuple(channels)
        return cls(**found)

    def __post_init__(self) -> None:
        self._expect(self.model_type == "gemma4_audio", "model_type", "gemma4_audio")
        expect_counts(self, _COUNTS, of="audio_config")
        self._expect(is_count(self.attention_context_right, 0), "attention_context_right", "an integer of at least 0")
        self._expect(self.num_hidden_layers <= MOST_LAYERS, "num_hidden_layers", f"at most {MOST_LAYERS}")
        self._validate_channels()
        expect_small(self, _COUNTS, WIDEST, of="audio_config")
        expect_small(self, _FRAMES, _MOST_FRAMES, of="audio_config")
        expect_types(self, of="audio_config")
        self._expect(self.hidden_size % 2 == 0, "hidden_size", "an even number: half sines, half cosines")
        divides = self.hidden_size % self.num_attention_heads == 0
        self._expect(divides, "num_attention_heads", f"a divisor of hidden_size, {self.hidden_size}")
        self._expect(self.hidden_act == "silu", "hidden_act", "silu")
        for name in ("attention_logit_cap", "gradient_clipping", "rms_norm_eps"):
            value = vars(self)[name]
            self._expect(value > 0, name, "a positive number")

    def _validate_channels(self) -> None:
        channels = self.subsampling_conv_channels
        right = isinstance(channels, tuple) and len(channels) == 2 and all(is_count(count) for count in channels)
        self._expect(right and channels[0] >= 4, "subsampling_conv_channels", "two counts, the first of at least 4")
        width = channels[0] // 4 * channels[1]
        self._expect(width <= LARGEST, "subsampling_conv_channels", f"counts whose product is at most {LARGEST}")

    def _expect(self, right: bool, name: str, expected: str) -> None:
        expect(right, f"{name} of audio_config", vars(self)[name], expected)

    @property
    def bins_left(self) -> int:
        """Mel bins after subsampling, a quarter of them: 32. transformers takes the number from the channels."""
        return self.subsampling_conv_channels[0] // 4

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def frames_back(self) -> int:
        """How many frames before its first one a block of queries has among its keys."""
        return self.attention_context_left - 1

    @property
    def keys_per_block(self) -> int:
        """The keys that a block of ``attention_chunk_size`` queries is multiplied with."""
        return self.frames_back + self.attention_chunk_size + self.attention_context_right
