"""The config.json of what is written: the source's, with what changed and what other programs would assume wrongly."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..checkpoints.quantized import Quantization
from ..models.config import (
    ASSISTANT_MODEL_TYPES,
    Gemma4TextConfig,
    read_assistant_config,
    read_target_config,
)

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


def output_config(source: Mapping[str, Any], *, dtype: str | None, text_only: bool) -> dict[str, Any]:
    """A copy of a config.json that describes the same network, without quantization.

    A text model's becomes the ``text_config`` of a multimodal one without towers, see ``layout``. Fields of the text
    network that are left to defaults are spelled out, because mlx-lm and mlx-vlm have other defaults than transformers:
    both would give a 12B per-layer inputs.

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
    sizes = vision.get("patch_size"), vision.get("pooling_kernel_size")
    known = all(isinstance(size, int) for size in sizes)
    return ({"model_patch_size": sizes[0] * sizes[1]} if known else {}) | dict(vision)


def _name_dtype(config: dict[str, Any], dtype: str) -> None:
    """Wherever a type is named it is this one; at the top in any case."""
    config["dtype"] = dtype
    parts = [config, *(value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict))]
    for part in parts:
        for name in ("dtype", "torch_dtype"):
            if part.get(name):
                part[name] = dtype


def with_quantization(
    config: Mapping[str, Any], general: Quantization, layers: Mapping[str, Quantization]
) -> dict[str, Any]:
    """``config`` with ``quantization``, and its copy that the Hub reads.

    Args:
        layers: by path, what differs from ``general``.
    """
    quantization = asdict(general) | {path: asdict(form) for path, form in layers.items()}
    return dict(config) | dict.fromkeys(_QUANTIZATION, quantization)
