"""The five published sizes of Gemma 4, text networks only: for what can be told before anything is downloaded."""

from typing import Any, NamedTuple

from .config import FULL, SLIDING, Gemma4AssistantConfig, Gemma4TextConfig


class Family(NamedTuple):
    """A size of Gemma 4, with its assistant."""

    target: Gemma4TextConfig
    assistant: Gemma4AssistantConfig


_PER_LAYER_INPUTS = {"hidden_size_per_layer_input": 256, "max_position_embeddings": 131_072}
_KEYS_AS_VALUES = {
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "sliding_window": 1024,
    "max_position_embeddings": 262_144,
}
_EXPERTS = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
_SMALL_ASSISTANT = {"hidden_size": 256, "intermediate_size": 2048, "num_attention_heads": 4}
_LARGE_ASSISTANT = {"hidden_size": 1024, "intermediate_size": 8192, "num_attention_heads": 16}


def families() -> dict[str, Family]:
    """By name, smallest first."""
    shared = {"num_kv_shared_layers": 20, "use_double_wide_mlp": True}
    e2b = _sizes(1536, 6144, layers=35, full_every=5, heads=8, kv_heads=1) | _PER_LAYER_INPUTS | shared
    e4b = _sizes(2560, 10_240, layers=42, full_every=6, heads=8, kv_heads=2) | _PER_LAYER_INPUTS
    e4b |= {"num_kv_shared_layers": 18}
    unified = _sizes(3840, 15_360, layers=48, full_every=6, heads=16, kv_heads=8, full_kv_heads=1) | _KEYS_AS_VALUES
    experts = _sizes(2816, 2112, layers=30, full_every=6, heads=16, kv_heads=8, full_kv_heads=2) | _KEYS_AS_VALUES
    dense = _sizes(5376, 21_504, layers=60, full_every=6, heads=32, kv_heads=16, full_kv_heads=4) | _KEYS_AS_VALUES
    return {
        "E2B": _family(e2b, _SMALL_ASSISTANT, use_ordered_embeddings=True),
        "E4B": _family(e4b, _SMALL_ASSISTANT, use_ordered_embeddings=True),
        "12B": _family(unified, _LARGE_ASSISTANT),
        "26B-A4B": _family(experts | _EXPERTS, _LARGE_ASSISTANT),
        "31B": _family(dense, _LARGE_ASSISTANT | {"num_attention_heads": 32}),
    }


def _sizes(
    hidden: int, intermediate: int, *, layers: int, full_every: int, heads: int, kv_heads: int, full_kv_heads: int = 0
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "layer_types": [FULL if (i + 1) % full_every == 0 else SLIDING for i in range(layers)],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": full_kv_heads or None,
    }


def _family(target: dict[str, Any], assistant: dict[str, Any], *, use_ordered_embeddings: bool = False) -> Family:
    same = ("num_key_value_heads", "num_global_key_value_heads", "attention_k_eq_v", "sliding_window")
    text = {name: target[name] for name in same if name in target} | assistant
    text |= {"num_hidden_layers": 4, "layer_types": [SLIDING, SLIDING, SLIDING, FULL]}
    values = {
        "backbone_hidden_size": target["hidden_size"],
        "use_ordered_embeddings": use_ordered_embeddings,
        "text_config": text,
    }
    return Family(Gemma4TextConfig.from_dict(target), Gemma4AssistantConfig.from_dict(values))
