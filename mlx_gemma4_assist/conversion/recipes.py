"""Which layer gets which format: the rules that always hold, named recipes, and predicates of users."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..checkpoints.quantized import FLOAT_MODES, Quantizable, Quantization
from ..errors import InputError
from ..models.names import layer_number
from .formats import AFFINE

Predicate = Callable[[str, nn.Module, Mapping[str, Any]], bool | dict[str, Any]]
"""(path, layer, config.json) -> whether it is quantized, or its own group_size, bits and mode.

The path is the one in config.json as it will be written. The layer is the network's own, not quantized: a linear layer,
an embedding or mlx-lm's experts; its weights are not there, their shape is.
"""

MIXED = {
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
}
"""mlx-lm's: v_proj and down_proj of half of the layers in the higher of two numbers of bits."""
GEMMA4 = {
    "gemma4_3_6": (3, 6),
    "gemma4_4_6": (4, 6),
    "gemma4_4_8": (4, 8),
}
"""Ours: all that is sensitive in Gemma 4 in the higher one, see ``_is_sensitive``."""
RECIPES = MIXED | GEMMA4

ROUTER_BITS = 8
_SENSITIVE = ("k_proj", "v_proj", "embed_tokens", "lm_head", "per_layer_input_gate", "per_layer_projection")


def low_bits(recipe: str) -> int:
    """The lower number of bits of a named recipe.

    Raises:
        InputError: no such recipe.
    """
    if recipe not in RECIPES:
        raise InputError(f"the recipe is {recipe!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[recipe][0]


@dataclass(frozen=True)
class Recipe:
    """How the layers of one network are quantized.

    Attributes:
        general: the format of all layers that nothing else is said about.
        rule: a name out of ``RECIPES``, a predicate, or None: all layers alike.
    """

    general: Quantization
    rule: str | Predicate | None = None

    def __post_init__(self):
        if isinstance(self.rule, str):
            if low_bits(self.rule) != self.general.bits:
                raise InputError(f"the recipe {self.rule} does not go with {self.general.bits} bits")
            _higher(self.general, RECIPES[self.rule][1], self.rule)

    def format_of(self, path: str, layer: nn.Module, config: Mapping[str, Any]) -> Quantization | None:
        """The format of a layer; None leaves it as it is.

        A router always has 8 bits unless a predicate gives it a format: it decides which experts run, and is tiny.

        Args:
            path: as config.json names it.
            layer: of the network, not quantized.
            config: of what is written.

        Raises:
            InputError: a predicate gave a format that MLX does not have.
        """
        if not isinstance(layer, Quantizable):
            return None
        if callable(self.rule):
            found = self.rule(path, layer, config)
            if isinstance(found, dict):
                return self._own(path, found)
            if not found:
                return None
        if path.endswith("router.proj"):
            return _router(layer)
        if callable(self.rule):
            return self.general
        if str(config.get("model_type")).endswith("assistant"):
            return _assistant(path, config, self.general)
        if isinstance(self.rule, str) and self._has_more_bits(path, config):
            return _higher(self.general, RECIPES[self.rule][1], self.rule)
        return self.general

    def _own(self, path: str, found: Mapping[str, Any]) -> Quantization:
        """What a predicate gave; sizes that it leaves out are the general ones, or MLX's for another mode."""
        mode = found.get("mode", AFFINE)
        sizes = FLOAT_MODES.get(mode, (4, 64))
        if mode == self.general.mode:
            sizes = (self.general.bits, self.general.group_size)
        own = Quantization(found.get("group_size", sizes[1]), found.get("bits", sizes[0]), mode)
        if mode not in (AFFINE, *FLOAT_MODES) or not own.exists():
            raise InputError(f"the predicate wants {dict(found)} for {path}, which MLX does not have")
        return own

    def _has_more_bits(self, path: str, config: Mapping[str, Any]) -> bool:
        text = config.get("text_config") or config
        chosen = _is_high_in_mlx_lm if self.rule in MIXED else _is_sensitive
        return chosen(path, text)


def _router(layer: nn.Module) -> Quantization:
    """As mlx-lm and mlx-vlm have it, in every mode."""
    return Quantization(64 if layer.weight.shape[-1] % 64 == 0 else 32, ROUTER_BITS)


def _higher(general: Quantization, bits: int, recipe: str) -> Quantization:
    """The same kind of format with more bits."""
    if general.mode == AFFINE:
        return Quantization(general.group_size, bits)
    if bits != 8:
        raise InputError(f"the recipe {recipe} exists in affine formats only: {general.mode} has none of {bits} bits")
    return Quantization(32, 8, "mxfp8")


def _is_high_in_mlx_lm(path: str, text: Mapping[str, Any]) -> bool:
    """mlx-lm's ``mixed_quant_predicate``: the first and last eighth of the layers, and every third between."""
    layers, number = text["num_hidden_layers"], layer_number(f"{path}.") or 0
    eighth = layers // 8
    chosen = number < eighth or number >= 7 * layers // 8 or (number - eighth) % 3 == 2
    return (chosen and ("v_proj" in path or "down_proj" in path)) or "lm_head" in path


def _is_sensitive(path: str, text: Mapping[str, Any]) -> bool:
    """Keys and values, the head, what per-layer inputs go through, and mlx-lm's choice of down projections.

    These gave most per bit on the embedded pair (tools/measure_recipes.py): embeddings, tied to the head, far more
    than all others. Keys and values are read by all layers that share them, and by the assistant. The large table of
    per-layer inputs gave little, and routed experts are nearly all of their model: both stay low.
    """
    if ".experts." in path:
        return False
    return path.rpartition(".")[2] in _SENSITIVE or ("down_proj" in path and _is_high_in_mlx_lm(path, text))


def _assistant(path: str, config: Mapping[str, Any], general: Quantization) -> Quantization | None:
    """An assistant's layers are alike, but for the table of a centroid head, which stays as it is.

    Of that table few rows are read per draft, so that quantizing it saves no time; mlx-vlm (0.7) cannot read it
    quantized. Nothing else stands out: tools/measure_recipes.py.
    """
    if config.get("use_ordered_embeddings") and path == "model.embed_tokens":
        return None
    return general
