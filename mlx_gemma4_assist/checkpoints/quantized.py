"""Giving a model the quantized layers that its checkpoint was saved with."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from ..errors import InputError
from ..files import read_part
from .weights import Tensor

FLOAT_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""The formats that exist in one form only: bits and group size."""
_AFFINE_BITS = (2, 3, 4, 5, 6, 8)
_AFFINE_GROUPS = (32, 64, 128)


@runtime_checkable
class Quantizable(Protocol):
    """What ``nn.quantize`` can replace: linear layers, embeddings, mlx-lm's experts."""

    def to_quantized(self, group_size: int, bits: int, mode: str) -> nn.Module: ...


@dataclass(frozen=True)
class Quantization:
    """How a layer's weights are packed; the fields of ``nn.quantize``."""

    group_size: int
    bits: int
    mode: str = "affine"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Quantization":
        """Read one entry of config.json; what it leaves out has MLX's default for its mode.

        Raises:
            InputError: a format that MLX does not have.
        """
        mode = values.get("mode", "affine")
        if mode not in ("affine", *FLOAT_MODES):  # a tuple, for what a file has here need not be hashable
            raise InputError(
                f"config.json: quantization mode is {mode!r:.100}, expected affine, {', '.join(FLOAT_MODES)}"
            )
        bits, group_size = FLOAT_MODES.get(mode, (4, 64))
        found = cls(values.get("group_size") or group_size, values.get("bits") or bits, mode)
        integers = isinstance(found.bits, int) and isinstance(found.group_size, int)
        if not integers or not found.exists():
            raise InputError(
                f"config.json: no {mode} quantization has {found.bits!r:.50} bits in groups of {found.group_size!r:.50}"
            )
        return found

    def exists(self) -> bool:
        if self.mode == "affine":
            return self.bits in _AFFINE_BITS and self.group_size in _AFFINE_GROUPS
        return FLOAT_MODES[self.mode] == (self.bits, self.group_size)


def read_quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The MLX ``quantization`` of a config.json, top level or in its text_config; None for a checkpoint without.

    Raises:
        InputError: the checkpoint was quantized by another library.
    """
    foreign: Mapping[str, Any] = {}
    for part in (config, read_part(config, "text_config")):
        for key in ("quantization", "quantization_config"):  # the second is a copy for the Hub's pages
            values = read_part(part, key)
            if values and "quant_method" not in values and {"group_size", "bits"} & values.keys():
                return values
            foreign = foreign or values
    if foreign:
        method = foreign.get("quant_method", "an unknown method")
        raise InputError(
            f"the checkpoint is quantized by {method!s:.100}, not by MLX: convert the unquantized one instead"
        )
    return None


def quantize_layers(
    model: nn.Module,
    quantization: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    parameter_name: Callable[[str], str | None],
) -> None:
    """Replace each layer whose weights are packed by its quantized kind, in place; nothing is evaluated.

    Packed is a layer with ``.scales`` among the weights. Its format is its own entry in ``quantization``; without one
    what the shapes of the stored tensors say, because published mixed checkpoints do not name every layer; failing that
    the general one.

    Args:
        quantization: ``group_size``, ``bits``, ``mode``, and entries by module path as the checkpoint spells it: a
            dictionary of the same three, or false.
        weights: the checkpoint's tensors, or what its headers say about them, under the model's parameter names.
        parameter_name: from the checkpoint's spelling to the model's; None for what the model does not have.

    Raises:
        InputError: an unknown format.
    """
    general = Quantization.from_dict(quantization)
    own: dict[str, Mapping[str, Any] | bool] = {
        name.removesuffix(".weight"): values
        for path, values in quantization.items()
        if isinstance(values, dict | bool) and (name := parameter_name(f"{path}.weight"))
    }

    def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        entry = own.get(path)
        if f"{path}.scales" not in weights or entry is False or not isinstance(module, Quantizable):
            return False
        if isinstance(entry, Mapping):
            return asdict(Quantization.from_dict(entry))
        return asdict(_from_shapes(module, weights[f"{path}.weight"], weights[f"{path}.scales"]) or general)

    nn.quantize(model, class_predicate=predicate)


def _from_shapes(module: nn.Module, packed: Tensor, scales: Tensor) -> Quantization | None:
    """The format that packs a weight (..., in) into (..., in * bits / 32) and scales (..., in / group size)."""
    size = module.weight.shape[-1]
    bits, group_size = packed.shape[-1] * 32 // size, size // max(scales.shape[-1], 1)
    modes = ("affine",) if scales.dtype != mx.uint8 else FLOAT_MODES
    fitting = (Quantization(group_size, bits, mode) for mode in modes)
    return next((found for found in fitting if found.exists()), None)
