"""Where a tensor belongs in what is written: the layout that this package, mlx-lm and mlx-vlm all load.

A target becomes ``language_model.model...`` and its towers, as mlx-vlm and mlx-community write it. So does one saved as
a text model: mlx-vlm drafts for the multimodal class only, and mlx-lm does not know every text model. Assistants keep
their names. Towers are laid out for MLX's convolutions, channels last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..checkpoints.quantized import quantize_layers, read_quantization
from ..checkpoints.weights import check_fit
from ..models.config import ASSISTANT_MODEL_TYPES, read_assistant_config, read_target_config
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.names import text_name
from .tensors import Rows, Stored

_CONV2D, _CONV1D = (0, 2, 3, 1), (0, 2, 1)


@dataclass(frozen=True)
class Part:
    """What a parameter or a tower's tensor is made of.

    Attributes:
        shape: its own; of an expert projection split in two, half of what is stored.
        axes: the order in which a tower's convolution wants its axes; None leaves it.
    """

    rows: Rows
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    @property
    def dtype(self) -> mx.Dtype:
        return self.rows.stored.dtype

    @classmethod
    def whole(cls, stored: Stored, axes: tuple[int, ...] | None = None) -> "Part":
        return cls(Rows.all_of(stored), stored.shape, axes)


@dataclass(frozen=True)
class Network:
    """A checkpoint, sorted.

    Attributes:
        model: the network without weights; its layers are quantized where the checkpoint's are.
        layers: the same layers, unquantized, by path in the network.
        text: the checkpoint's tensors under the network's names.
        towers: the others that are kept, under the names they will have.
        parameters: how many numbers the weights stand for.
        quantization: of config.json, or None.
        is_assistant: otherwise it is a target.
    """

    model: Gemma4ForCausalLM | Gemma4AssistantForCausalLM
    layers: Mapping[str, nn.Module]
    text: Mapping[str, Part]
    towers: Mapping[str, Part]
    parameters: int
    quantization: Mapping[str, Any] | None
    is_assistant: bool

    def written(self, name: str) -> str:
        """The name of a parameter, or path of a layer, in what is written."""
        return name if self.is_assistant else f"language_model.{name}"


def read_network(folder: Path, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> Network:
    """Sort a checkpoint's tensors, and check that they are all that its config.json asks for.

    Raises:
        InputError: not a Gemma 4, quantized by another library, or tensors that do not fit its config.json.
    """
    assistant = config.get("model_type") in ASSISTANT_MODEL_TYPES
    model: Any = (
        Gemma4AssistantForCausalLM(read_assistant_config(config))
        if assistant
        else Gemma4ForCausalLM(read_target_config(config))
    )
    quantization = read_quantization(config)
    text: dict[str, Part] = {}
    towers: dict[str, Part] = {}
    for name, tensor in stored.items():
        if (own := model.parameter_name(name)) is not None:
            text |= _split(own, tensor)
        elif not assistant and (tower := _tower_name(name)):
            towers[tower] = Part.whole(tensor, _axes(tower, tensor.shape))
    layers = dict(model.named_modules())
    parameters = sum(array.size for _, array in tree_flatten(model.parameters()))
    parameters += sum(prod(part.shape) for part in towers.values())
    if quantization:
        quantize_layers(model, quantization, text, model.parameter_name)
    check_fit(model, text, folder)
    return Network(model, layers, text, towers, parameters, quantization, assistant)


def _split(name: str, tensor: Stored) -> dict[str, Part]:
    """transformers' stacked experts become mlx-lm's, which hold gate and up projections apart."""
    base, _, last = name.rpartition(".")
    if not base.endswith(".experts") or last not in ("gate_up_proj", "down_proj") or len(tensor.shape) != 3:
        return {name: Part.whole(tensor)}
    if last == "down_proj":
        return {f"{base}.switch_glu.down_proj.weight": Part.whole(tensor)}
    experts, both, columns = tensor.shape
    size = both // 2
    halves = {}
    for half, start in (("gate_proj", 0), ("up_proj", size)):
        ranges = tuple((e * both + start, e * both + start + size) for e in range(experts))
        halves[f"{base}.switch_glu.{half}.weight"] = Part(Rows(tensor, ranges), (experts, size, columns))
    return halves


def _tower_name(name: str) -> str | None:
    """The name of a tower's tensor; None for others that the text network does not have."""
    if text_name(name) is not None or ".rotary_emb." in name:
        return None
    return name.removeprefix("model.")


def _axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """From PyTorch's order of a convolution's axes to MLX's; None where it is MLX's already, or no convolution."""
    if "subsample_conv_projection" in name and name.endswith("conv.weight") and len(shape) == 4:
        # (out, in, 3, 3) or (out, 3, 3, in): the two that are alike are the kernel's.
        return _CONV2D if shape[2] == shape[3] != shape[1] else None
    if name.endswith("depthwise_conv1d.weight") and len(shape) == 3:
        return _CONV1D if shape[1] == 1 != shape[2] else None
    return None
