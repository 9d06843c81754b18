"""The layout of what is written, names of tensors and config.json: the one that we, mlx-lm and mlx-vlm all load.

A target becomes ``language_model.model...`` and its towers, as mlx-vlm and mlx-community write it. So does one saved as
a text model: mlx-vlm drafts for the multimodal class only, and mlx-lm does not know every text model. Assistants keep
their names. Towers are laid out for MLX's convolutions, channels last.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..checkpoints.quantized import Quantization, quantize_layers, read_quantization
from ..checkpoints.weights import check_fit
from ..models.config import ASSISTANT_MODEL_TYPES, Gemma4TextConfig, read_assistant_config, read_target_config
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.names import text_name
from .tensors import Rows, Stored

_CONV2D, _CONV1D = (0, 2, 3, 1), (0, 2, 1)
PACKED = ("weight", "scales", "biases")
"""The tensors of a quantized layer."""
_QUANTIZATION = ("quantization", "quantization_config")
_TOWERS = ("vision_config", "audio_config")
_ARCHITECTURES = {
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
}
_OF_BOTH = (
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "vocab_size",
)
"""Fields of a text model's config.json that a multimodal one has at its top."""

Model = Gemma4ForCausalLM | Gemma4AssistantForCausalLM


# Tensors


@dataclass(frozen=True)
class Part:
    """What a tensor that is written is made of.

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
    """A checkpoint, sorted; all names and paths are those that are written.

    Attributes:
        is_assistant: otherwise it is a target.
        text: the tensors of the text network, or of the assistant.
        towers: the others that are kept.
        layers: the modules of the text network, not quantized, by path.
        packed: the formats of the layers that are quantized already, by path.
        quantization: of config.json; None for a checkpoint without.
        text_size, towers_size: how many numbers their weights stand for.
    """

    is_assistant: bool
    text: Mapping[str, Part]
    towers: Mapping[str, Part]
    layers: Mapping[str, nn.Module]
    packed: Mapping[str, Quantization]
    quantization: Mapping[str, Any] | None
    text_size: int
    towers_size: int


def read_network(folder: Path, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> Network:
    """Sort a checkpoint's tensors, and check that they are all that its config.json asks for.

    Raises:
        InputError: not a Gemma 4, quantized by another library, or tensors that do not fit its config.json.
    """
    is_assistant = config.get("model_type") in ASSISTANT_MODEL_TYPES
    model = _model(config, is_assistant)
    prefix = "" if is_assistant else "language_model."
    text = _text_parts(model, stored)
    towers = {} if is_assistant else _tower_parts(stored)
    text_size = _size(model)
    layers = _modules(model, prefix)
    quantization = read_quantization(config)
    if quantization:
        quantize_layers(model, quantization, text, model.parameter_name)
    check_fit(model, text, folder)
    packed_towers = _packed_towers(towers, quantization or {})
    return Network(
        is_assistant,
        text={prefix + name: part for name, part in text.items()},
        towers=towers,
        layers=layers,
        packed=_packed_layers(_modules(model, prefix)) | packed_towers,
        quantization=quantization and _renamed(quantization, model, prefix),
        text_size=text_size,
        towers_size=_towers_size(towers, packed_towers),
    )


def _model(config: Mapping[str, Any], is_assistant: bool) -> Model:
    if is_assistant:
        return Gemma4AssistantForCausalLM(read_assistant_config(config))
    return Gemma4ForCausalLM(read_target_config(config))


def _size(model: nn.Module) -> int:
    """How many numbers a network's weights stand for; to be asked before its layers are quantized."""
    return sum(array.size for array in dict(tree_flatten(model.parameters())).values())


def _towers_size(towers: Mapping[str, Part], packed: Mapping[str, Quantization]) -> int:
    """The same of towers, whose packed weights hold several numbers in each of theirs, and scales none."""
    size = 0
    for name, part in towers.items():
        path, _, last = name.rpartition(".")
        if path not in packed or last not in PACKED:
            size += prod(part.shape)
        elif last == "weight":
            size += prod(part.shape) * 32 // packed[path].bits
    return size


def _modules(model: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """All modules of a network, by the paths that are written."""
    return {prefix + path: module for path, module in model.named_modules()}


def _text_parts(model: Model, stored: Mapping[str, Stored]) -> dict[str, Part]:
    """The tensors of the text network, or of an assistant, under the network's own names."""
    parts: dict[str, Part] = {}
    for name, tensor in stored.items():
        if (own := model.parameter_name(name)) is not None:
            parts |= _split(own, tensor)
    return parts


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


def _tower_parts(stored: Mapping[str, Stored]) -> dict[str, Part]:
    """The tensors of the towers, under the names that are written. Rotary buffers are left out: they are constants."""
    parts = {}
    for name, tensor in stored.items():
        if text_name(name) is None and ".rotary_emb." not in name:
            own = name.removeprefix("model.")
            parts[own] = Part.whole(tensor, _axes(own, tensor.shape))
    return parts


def _axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """From PyTorch's order of a convolution's axes to MLX's; None where it is MLX's already, or no convolution."""
    if "subsample_conv_projection" in name and name.endswith("conv.weight") and len(shape) == 4:
        # (out, in, 3, 3) or (out, 3, 3, in): the two that are alike are the kernel's.
        return _CONV2D if shape[2] == shape[3] != shape[1] else None
    if name.endswith("depthwise_conv1d.weight") and len(shape) == 3:
        return _CONV1D if shape[1] == 1 != shape[2] else None
    return None


def _packed_layers(modules: Mapping[str, nn.Module]) -> dict[str, Quantization]:
    """The formats of the text network's packed layers."""
    packed = {path: module for path, module in modules.items() if "scales" in module}
    return {path: Quantization(layer.group_size, layer.bits, layer.mode) for path, layer in packed.items()}


def _packed_towers(towers: Mapping[str, Part], quantization: Mapping[str, Any]) -> dict[str, Quantization]:
    """The formats of packed layers beside the text network: their own entries in config.json, else the general one."""
    packed = {}
    for path in (name.removesuffix(".scales") for name in towers if name.endswith(".scales")):
        own = quantization.get(path)
        packed[path] = Quantization.from_dict(own if isinstance(own, dict) else quantization)
    return packed


def _renamed(quantization: Mapping[str, Any], model: Model, prefix: str) -> dict[str, Any]:
    """A source's ``quantization``, its entries under the paths that are written."""
    entries = {}
    for path, value in quantization.items():
        own = model.parameter_name(f"{path}.weight") if isinstance(value, dict | bool) else None
        entries[path if own is None else prefix + own.removesuffix(".weight")] = value
    return entries


# config.json


def output_config(source: Mapping[str, Any], *, dtype: str | None, text_only: bool) -> dict[str, Any]:
    """A copy of a config.json that describes the same network, without quantization.

    A text model's becomes the ``text_config`` of a multimodal one without towers. Fields of the text network that are
    left to defaults are spelled out, because mlx-lm and mlx-vlm have other defaults than transformers: both would give
    a 12B per-layer inputs.

    Args:
        dtype: of the floating-point tensors; None where they stay as they are.
        text_only: whether towers are left out.
    """
    config = {name: value for name, value in source.items() if name not in _QUANTIZATION}
    is_assistant = source["model_type"] in ASSISTANT_MODEL_TYPES
    if is_assistant:
        network = read_assistant_config(source).text_config
    else:
        network = read_target_config(source)
        if source["model_type"].endswith("_text"):
            config = _around(config)
    text = {name: value for name, value in config["text_config"].items() if name not in _QUANTIZATION}
    _spell_out(text, network)
    config["text_config"] = text
    if not is_assistant:
        config.setdefault("vocab_size", network.vocab_size)  # mlx-lm reads it here only
    if text_only:
        for name in _TOWERS:
            config.pop(name, None)
    elif config["model_type"] == "gemma4_unified" and isinstance(config.get("vision_config"), dict):
        config["vision_config"] = _with_patch_size(config["vision_config"])
    if dtype is not None:
        _name_dtype(config, dtype)
    return config


def _around(text: Mapping[str, Any]) -> dict[str, Any]:
    """A multimodal config.json without towers around a text model's."""
    config = {name: value for name, value in text.items() if name in _OF_BOTH}
    model_type = text["model_type"].removesuffix("_text")
    config |= {"model_type": model_type, "architectures": [_ARCHITECTURES[model_type]]}
    inner = {name: value for name, value in text.items() if name not in ("architectures", "transformers_version")}
    return config | {"text_config": inner}


def _spell_out(text: dict[str, Any], network: Gemma4TextConfig) -> None:
    for name, value in asdict(network).items():
        text.setdefault(name, list(value) if isinstance(value, tuple) else value)
    if text.get("per_layer_config"):  # null where a field stands beside it
        text["global_head_dim"] = network.global_head_dim
        text["num_global_key_value_heads"] = network.num_global_key_value_heads


def _with_patch_size(vision: Mapping[str, Any]) -> dict[str, Any]:
    """mlx-vlm wants to read what transformers computes."""
    size, pooled = vision.get("patch_size"), vision.get("pooling_kernel_size")
    if isinstance(size, int) and isinstance(pooled, int):
        return {"model_patch_size": size * pooled} | dict(vision)
    return dict(vision)


def _name_dtype(config: dict[str, Any], dtype: str) -> None:
    """Wherever a type is named it is this one; at the top in any case."""
    config["dtype"] = dtype
    parts = [config, *(value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict))]
    for part in parts:
        for name in ("dtype", "torch_dtype"):
            if part.get(name):
                part[name] = dtype


def with_quantization(config: Mapping[str, Any], quantization: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``quantization``, and its copy that the Hub reads."""
    return dict(config) | dict.fromkeys(_QUANTIZATION, quantization)
