"""Which format each layer is quantized to: the general one, recipes that mix two, and predicates of users."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.nn as nn

from ..checkpoints.quantized import FLOAT_MODES, Quantizable, Quantization
from ..errors import InputError, OptionError
from ..machine.chip import FormatChoice, has_small_batch_kernel, recommended_format
from ..models.names import layer_number

AFFINE = "affine"
AUTO = "auto"
Q_MODES = (AFFINE, *FLOAT_MODES, AUTO)
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 4, 64
AFFINE_SIZES = "affine has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128"
ROUTER_BITS = 8
ASSISTANT_BITS = 4
"""Fewer save little, since an assistant is small, and cost acceptance: tools/measure_recipes.py."""

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
HIGH_FLOAT = Quantization(32, 8, "mxfp8")
"""The only floating format of more than 4 bits: recipes with another higher number exist in affine formats only."""

_SENSITIVE = ("k_proj", "v_proj", "embed_tokens", "lm_head", "per_layer_input_gate", "per_layer_projection")


# The general format


def choose_format(
    q_mode: str = AFFINE,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    generation: int | None = None,
    recipe: str | None = None,
) -> FormatChoice:
    """The format of all layers that no rule says otherwise about, and why it was chosen.

    Args:
        q_mode: affine, mxfp4, mxfp8 or nvfp4, as in mlx-lm; or auto, which chooses among them.
        q_bits, q_group_size: None leaves them to the recipe and the mode: affine has 4 bits in groups of 64.
        generation: of the Apple GPU, from ``chip_generation``; None is a machine without Metal.
        recipe: a name out of ``RECIPES``, whose lower number of bits this is.

    Raises:
        OptionError: a format that MLX does not have, or no such recipe, or not in this format.
    """
    if q_mode not in Q_MODES:
        raise OptionError("{q_mode} is {value!r}, expected " + ", ".join(Q_MODES), value=q_mode)
    if recipe is not None:
        return _choose_for_recipe(recipe, q_mode, q_bits, q_group_size, generation)
    if q_mode != AUTO:
        return _existing(q_mode, q_bits, q_group_size, "as asked for")
    if q_bits is None and q_group_size is None:
        return recommended_format(generation)
    bits = DEFAULT_BITS if q_bits is None else q_bits
    # nvfp4 before mxfp4: it rounds less.
    floating = [(mode, *FLOAT_MODES[mode]) for mode in ("nvfp4", "mxfp4", "mxfp8")]
    floating = [form for form in floating if form[1] == bits and q_group_size in (None, form[2])]
    if generation is None or has_small_batch_kernel(AFFINE, generation) or not floating:
        why = "no other format has these sizes" if not floating else "the most common format"
        return _existing(AFFINE, q_bits, q_group_size, why)
    return FormatChoice(*floating[0], "before M3 affine formats lack the small-batch kernel that makes drafts pay")


def _choose_for_recipe(
    recipe: str, q_mode: str, q_bits: int | None, q_group_size: int | None, generation: int | None
) -> FormatChoice:
    if recipe not in RECIPES:
        raise OptionError("{quant_predicate} is {value!r}, expected one of " + ", ".join(RECIPES), value=recipe)
    low, high = RECIPES[recipe]
    if q_bits not in (None, low):
        raise OptionError("{quant_predicate} {recipe} does not go with {q_bits} {bits}", recipe=recipe, bits=q_bits)
    affine_only = high != HIGH_FLOAT.bits
    if q_mode == AUTO and affine_only:
        reason = f"the recipe {recipe} exists in affine formats only"
        return _existing(AFFINE, q_bits, q_group_size, reason, default_bits=low)
    if q_mode == AUTO:
        return choose_format(AUTO, None if q_group_size is None else low, q_group_size, generation)
    if q_mode != AFFINE and affine_only:
        raise OptionError("{quant_predicate} {recipe} exists in affine formats only", recipe=recipe)
    return _existing(q_mode, q_bits, q_group_size, "as asked for", default_bits=low)


def _existing(
    q_mode: str, q_bits: int | None, q_group_size: int | None, reason: str, default_bits: int | None = None
) -> FormatChoice:
    """The format asked for, if MLX has it."""
    own_bits, own_group_size = FLOAT_MODES.get(q_mode, (DEFAULT_BITS, DEFAULT_GROUP_SIZE))
    bits = (own_bits if default_bits is None else default_bits) if q_bits is None else q_bits
    group_size = own_group_size if q_group_size is None else q_group_size
    if Quantization(group_size, bits, q_mode).exists():
        return FormatChoice(q_mode, bits, group_size, reason)
    given = {"{q_mode}": None if q_mode == AFFINE else q_mode, "{q_bits}": q_bits, "{q_group_size}": q_group_size}
    asked = ", ".join(f"{name} is {value}" for name, value in given.items() if value is not None)
    exists = AFFINE_SIZES if q_mode == AFFINE else f"{q_mode} has {own_bits} bits in groups of {own_group_size}"
    raise OptionError(f"{asked}, but no {q_mode} quantization has {bits} bits in groups of {group_size}: {exists}")


def advice(q_mode: str, generation: int | None) -> str | None:
    """A word to those who chose a format that drafts gain little from on their chip."""
    if generation is None or has_small_batch_kernel(q_mode, generation):
        return None
    better = recommended_format(generation)
    return f"on this chip {q_mode} weights are read once per token of a block; {better.mode} ones once per block"


def described(quantization: Quantization) -> str:
    """A format in words."""
    return f"{quantization.mode}, {quantization.bits} bits in groups of {quantization.group_size}"


# Layer by layer


@dataclass(frozen=True)
class Recipe:
    """How the layers of one network are quantized.

    Attributes:
        general: the format of all layers that nothing else is said about.
        rule: a name out of ``RECIPES``, a predicate, or None: all layers alike.
    """

    general: Quantization
    rule: str | Predicate | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rule, str):
            choose_format(self.general.mode, self.general.bits, self.general.group_size, recipe=self.rule)

    def for_assistant(self) -> "Recipe":
        """For an assistant: all layers alike, in at least ``ASSISTANT_BITS``, unless a predicate says otherwise."""
        general = replace(self.general, bits=max(self.general.bits, ASSISTANT_BITS))
        return Recipe(general, None if isinstance(self.rule, str) else self.rule)

    def describe(self) -> str:
        """The formats in words, such as "affine, 4 bits in groups of 64; the recipe gemma4_4_6"."""
        text = described(self.general)
        if callable(self.rule):
            return f"{text}; some layers by a predicate"
        return text if self.rule is None else f"{text}; the recipe {self.rule}"

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
        if self.rule is not None and _has_more_bits(self.rule, path, config):
            return _higher(self.general, self.rule)
        return self.general

    def _own(self, path: str, found: Mapping[str, Any]) -> Quantization:
        """What a predicate gave; sizes that it leaves out are the general ones, or MLX's for another mode."""
        mode = found.get("mode", AFFINE)
        sizes = FLOAT_MODES.get(mode, (DEFAULT_BITS, DEFAULT_GROUP_SIZE))
        if mode == self.general.mode:
            sizes = (self.general.bits, self.general.group_size)
        own = Quantization(found.get("group_size", sizes[1]), found.get("bits", sizes[0]), mode)
        if mode not in (AFFINE, *FLOAT_MODES) or not own.exists():
            raise InputError(f"the predicate wants {dict(found)} for {path}, which MLX does not have")
        return own


def _router(layer: nn.Module) -> Quantization:
    """As mlx-lm and mlx-vlm have it, in every mode."""
    return Quantization(64 if layer.weight.shape[-1] % 64 == 0 else 32, ROUTER_BITS)


def _higher(general: Quantization, recipe: str) -> Quantization:
    """The same kind of format with the recipe's higher number of bits."""
    return Quantization(general.group_size, RECIPES[recipe][1]) if general.mode == AFFINE else HIGH_FLOAT


def _has_more_bits(recipe: str, path: str, config: Mapping[str, Any]) -> bool:
    text = config.get("text_config") or config
    return _is_high_in_mlx_lm(path, text) if recipe in MIXED else _is_sensitive(path, text)


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
