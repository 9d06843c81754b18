"""What sees and hears in front of the text network: towers (E2B, E4B, 26B-A4B, 31B) or plain embedders (12B)."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..errors import InputError
from ..files import read_part
from .audio_config import Gemma4AudioConfig
from .config import read_target_config
from .gemma4_audio import Gemma4AudioModel
from .gemma4_vision import Gemma4VisionModel
from .layers import rms_norm
from .network import Module, Network
from .vision_config import Gemma4UnifiedAudioConfig, Gemma4UnifiedVisionConfig, Gemma4VisionConfig

_PARTS = re.compile(r"^(?:model\.)?((?:vision_tower|audio_tower|vision_embedder|embed_vision|embed_audio)\..*)$")


class MultimodalEmbedder(Module):
    """transformers' ``Gemma4MultimodalEmbedder``: a norm without a weight, and a projection to the text network."""

    def __init__(self, width: int, text_width: int, eps: float):
        super().__init__()
        self.embedding_projection = nn.Linear(width, text_width, bias=False)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """x: (B, S, D) -> (B, S, H)."""
        return self.embedding_projection(rms_norm(x, None, self.eps))


class UnifiedVisionEmbedder(Module):
    """transformers' ``Gemma4UnifiedVisionEmbedder`` up to its projection: each large patch is a soft token."""

    def __init__(self, config: Gemma4UnifiedVisionConfig):
        super().__init__()
        width = config.mm_embed_dim
        self.patch_ln1 = nn.LayerNorm(config.patch_values)
        self.patch_dense = nn.Linear(config.patch_values, width)
        self.patch_ln2 = nn.LayerNorm(width)
        self.pos_embedding = mx.zeros((config.mm_posemb_size, 2, width))
        self.pos_norm = nn.LayerNorm(width)

    def __call__(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        """pixel_values: (B, P, values), position_ids: (B, P, 2) int32 -> (B, P, ``mm_embed_dim``)."""
        x = self.patch_ln2(self.patch_dense(self.patch_ln1(pixel_values.astype(self.pos_embedding.dtype))))
        found = self.pos_embedding[mx.maximum(position_ids, 0), mx.arange(2)]
        positions = mx.where(position_ids[..., None] < 0, 0, found).sum(axis=-2)
        embedded: mx.array = self.pos_norm(x + positions)
        return embedded


class Towers(Protocol):
    """What a prompt's pictures and sounds go through.

    Attributes:
        steps_per_token: input steps of a sound that become one soft token.
        most_positions: columns, and rows, of patches that a picture may have.
    """

    steps_per_token: int
    most_positions: int

    def see(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        """Pictures or frames (B, P, values) with the column and row of each patch (B, P, 2) -> (B, S, H).

        Raises:
            InputError: the model cannot see, or takes patches of another size.
        """

    def hear(self, input_features: mx.array, mask: mx.array) -> mx.array:
        """Sounds (B, T, features) with the steps that are no padding (B, T) -> (B, S, H).

        Raises:
            InputError: the model cannot hear, or takes other features.
        """


class _Towers(Network):
    """What both kinds share: names in a checkpoint."""

    def parameter_name(self, name: str) -> str | None:
        """The parameter that a checkpoint's tensor (or module) belongs to; None for what is not of the towers.

        transformers' layout and mlx-vlm's. Left out are constants, and bounds that unclipped networks have no use for.
        """
        found = _PARTS.match(name)
        return found[1] if found and found[1].partition(".")[0] in self else None


class Gemma4Towers(_Towers):
    """Beside the text network of transformers' ``Gemma4Model``. 26B-A4B and 31B have no ears."""

    steps_per_token = 4

    def __init__(self, vision: Gemma4VisionConfig | None, audio: Gemma4AudioConfig | None, text_width: int):
        super().__init__()
        self.most_positions = 0 if vision is None else vision.position_embedding_size
        if vision is not None:
            self.vision_tower = Gemma4VisionModel(vision)
            self.embed_vision = MultimodalEmbedder(vision.hidden_size, text_width, vision.rms_norm_eps)
        if audio is not None:
            self.audio_tower = Gemma4AudioModel(audio)
            self.embed_audio = MultimodalEmbedder(audio.output_proj_dims, text_width, audio.rms_norm_eps)

    def see(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        _require(self, "embed_vision", "pictures")
        _expect_width(pixel_values, 3 * self.vision_tower.config.patch_size**2, "a patch of a picture")
        return self.embed_vision(self.vision_tower(pixel_values, position_ids))

    def hear(self, input_features: mx.array, mask: mx.array) -> mx.array:
        _require(self, "embed_audio", "sound")
        features, _ = self.audio_tower(input_features, mask)
        return self.embed_audio(features)

    def parameter_name(self, name: str) -> str | None:
        own = super().parameter_name(name)
        if own is None:
            return None
        if own.startswith("audio_tower."):
            inner = self.audio_tower.parameter_name(name)
            return inner and f"audio_tower.{inner}"
        unused = own.startswith("vision_tower.") and not self.vision_tower.config.use_clipped_linears
        bound = own.endswith((".input_min", ".input_max", ".output_min", ".output_max"))
        return None if (unused and bound) or ".rotary_emb." in own else own

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        heard = {}
        if "audio_tower" in self:
            inner = self.audio_tower.sanitize(weights)
            heard = {f"audio_tower.{name}": value for name, value in inner.items()}
        return super().sanitize(weights) | heard


class UnifiedTowers(_Towers):
    """Beside the text network of transformers' ``Gemma4UnifiedModel``: the 12B."""

    steps_per_token = 1

    def __init__(
        self, vision: Gemma4UnifiedVisionConfig | None, audio: Gemma4UnifiedAudioConfig | None, text_width: int
    ):
        super().__init__()
        self.most_positions = 0 if vision is None else vision.mm_posemb_size
        self.patch_values = 0 if vision is None else vision.patch_values
        self.sound_values = 0 if audio is None else audio.audio_embed_dim
        if vision is not None:
            self.vision_embedder = UnifiedVisionEmbedder(vision)
            self.embed_vision = MultimodalEmbedder(vision.output_proj_dims, text_width, vision.rms_norm_eps)
        if audio is not None:
            self.embed_audio = MultimodalEmbedder(audio.audio_embed_dim, text_width, audio.rms_norm_eps)

    def see(self, pixel_values: mx.array, position_ids: mx.array) -> mx.array:
        _require(self, "embed_vision", "pictures")
        _expect_width(pixel_values, self.patch_values, "a patch of a picture")
        return self.embed_vision(self.vision_embedder(pixel_values, position_ids))

    def hear(self, input_features: mx.array, mask: mx.array) -> mx.array:
        _require(self, "embed_audio", "sound")
        _expect_width(input_features, self.sound_values, "a step of a sound")
        return self.embed_audio(input_features)


def _require(towers: nn.Module, part: str, what: str) -> None:
    if part not in towers:
        raise InputError(f"the model takes no {what}")


def _expect_width(x: mx.array, width: int, what: str) -> None:
    if x.shape[-1] != width:
        numbers = f"{what} has {x.shape[-1]} numbers, and the model takes {width}"
        raise InputError(f"{numbers}: the checkpoint's settings for media do not fit its config.json")


def towers_of(config: Mapping[str, Any]) -> Gemma4Towers | UnifiedTowers | None:
    """Untrained towers by a target's ``config.json``; None for a text network.

    Raises:
        InputError: not a target's config, or not one of Gemma 4's networks.
    """
    text_width = read_target_config(config).hidden_size
    vision, audio = (read_part(config, name) for name in ("vision_config", "audio_config"))
    if not vision and not audio:
        return None
    if config["model_type"] == "gemma4_unified":
        return UnifiedTowers(
            Gemma4UnifiedVisionConfig.from_dict(vision) if vision else None,
            Gemma4UnifiedAudioConfig.from_dict(audio) if audio else None,
            text_width,
        )
    return Gemma4Towers(
        Gemma4VisionConfig.from_dict(vision) if vision else None,
        Gemma4AudioConfig.from_dict(audio) if audio else None,
        text_width,
    )
