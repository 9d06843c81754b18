"""Miniature configurations of the five Gemma 4 families, each a target and its assistant.

Every architectural switch of the published configuration is set as it is there (see the model cards and transformers'
conversion script); only the sizes shrink. Hidden sizes are multiples of 64, so that every text layer can be quantized
with group size 64.
"""

from dataclasses import dataclass
from typing import Any

from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4AudioConfig,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4UnifiedAssistantConfig,
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedAudioConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
    Gemma4VisionConfig,
    PretrainedConfig,
)

HIDDEN_SIZE = 64
HEAD_DIM = 16
GLOBAL_HEAD_DIM = 32
VOCAB_SIZE = 128
PAD, EOS, BOS, UNKNOWN = 0, 1, 2, 3
STOP_TOKENS = [EOS, 106, 50]
# Placeholders sit inside the vocabulary, as they do in the published one; the text never contains them.
SPECIAL_TOKENS = {
    "boi_token_id": 120,
    "eoi_token_id": 121,
    "image_token_id": 122,
    "video_token_id": 123,
    "boa_token_id": 124,
    "eoa_token_index": 125,
    "audio_token_id": 126,
}
NUM_CENTROIDS = 16
CENTROID_TOP_K = 4


@dataclass(frozen=True)
class Family:
    """One family: how its two networks are built and how its config.json is spelled.

    `published_spelling` asks for `global_head_dim` and `num_global_key_value_heads`, as the published files have them;
    otherwise config.json keeps the `per_layer_config` that transformers 5.22 writes. `unused_shared_projections` adds
    the key and value projections that published E2B and E4B files carry for layers that share their keys.
    """

    name: str
    target_class: type
    target_config: PretrainedConfig
    assistant_class: type
    assistant_config: PretrainedConfig
    published_spelling: bool
    unused_shared_projections: bool = False


def layer_types(count: int, full_every: int) -> list[str]:
    """`count` layers of which every `full_every`-th attends to the full context."""
    return ["sliding_attention" if (i + 1) % full_every else "full_attention" for i in range(count)]


def text_settings(**overrides: Any) -> dict[str, Any]:
    """Settings shared by all text networks, with `overrides` on top."""
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "sliding_window": 16,
        "max_position_embeddings": 4096,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    } | overrides


def target_settings(full_every: int, **overrides: Any) -> dict[str, Any]:
    """Settings of a target: soft-capped logits, and a full layer after every `full_every - 1` sliding ones."""
    kinds = layer_types(overrides["num_hidden_layers"], full_every)
    return text_settings(layer_types=kinds, final_logit_softcapping=30.0, **overrides)


def assistant_settings(**overrides: Any) -> dict[str, Any]:
    """Settings of an assistant: three sliding layers and a full one, all reading the target's keys."""
    return text_settings(num_hidden_layers=4, num_kv_shared_layers=4, layer_types=layer_types(4, 4), **overrides)


def per_layer_inputs(size: int = 64) -> dict[str, int]:
    """Per-layer input embeddings of `size`; 0 switches them off."""
    return {"hidden_size_per_layer_input": size, "vocab_size_per_layer_input": VOCAB_SIZE if size else 0}


def gemma4_assistant(centroid_head: bool = False, **overrides: Any) -> Gemma4AssistantConfig:
    """Assistant configuration. Dense ones list the centroids too, as the published files do."""
    return Gemma4AssistantConfig(
        text_config=Gemma4TextConfig(**assistant_settings(**per_layer_inputs(0), **overrides)),
        backbone_hidden_size=HIDDEN_SIZE,
        use_ordered_embeddings=centroid_head,
        num_centroids=NUM_CENTROIDS,
        centroid_intermediate_top_k=CENTROID_TOP_K,
    )


def e2b() -> Family:
    """Per-layer inputs, shared keys with doubled MLPs, one kv head, centroid head; saved with both towers."""
    text = Gemma4TextConfig(
        **target_settings(
            full_every=3,
            num_hidden_layers=6,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
            num_key_value_heads=1,
            **per_layer_inputs(),
        )
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=4,
        pooling_kernel_size=2,
        position_embedding_size=64,
        use_clipped_linears=True,
    )
    audio = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        subsampling_conv_channels=[8, 4],
        output_proj_dims=32,
    )
    return Family(
        name="e2b",
        target_class=Gemma4ForConditionalGeneration,
        target_config=Gemma4Config(text_config=text, vision_config=vision, audio_config=audio, **SPECIAL_TOKENS),
        assistant_class=Gemma4AssistantForCausalLM,
        assistant_config=gemma4_assistant(centroid_head=True, num_key_value_heads=1, num_attention_heads=2),
        published_spelling=True,
        unused_shared_projections=True,
    )


def e4b() -> Family:
    """As E2B with two kv heads and MLPs of one width; text only. Two full layers own keys, and the last one counts."""
    settings = target_settings(full_every=2, num_hidden_layers=6, num_kv_shared_layers=2, **per_layer_inputs())
    return Family(
        name="e4b",
        target_class=Gemma4ForCausalLM,
        target_config=Gemma4TextConfig(**settings),
        assistant_class=Gemma4AssistantForCausalLM,
        assistant_config=gemma4_assistant(centroid_head=True),
        published_spelling=False,
    )


def unified_12b() -> Family:
    """The unified model: no towers, values equal to keys and one kv head in full layers, dense assistant."""
    heads = {"num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 24}
    text = Gemma4UnifiedTextConfig(**target_settings(full_every=3, num_hidden_layers=6, intermediate_size=128, **heads))
    vision = Gemma4UnifiedVisionConfig(
        patch_size=4, pooling_kernel_size=2, mm_embed_dim=HIDDEN_SIZE, mm_posemb_size=16, output_proj_dims=HIDDEN_SIZE
    )
    audio = Gemma4UnifiedAudioConfig(audio_embed_dim=64)
    return Family(
        name="12b",
        target_class=Gemma4UnifiedForConditionalGeneration,
        target_config=Gemma4UnifiedConfig(text_config=text, vision_config=vision, audio_config=audio, **SPECIAL_TOKENS),
        assistant_class=Gemma4UnifiedAssistantForCausalLM,
        assistant_config=Gemma4UnifiedAssistantConfig(
            text_config=Gemma4UnifiedTextConfig(**assistant_settings(**heads)),
            backbone_hidden_size=HIDDEN_SIZE,
            num_centroids=NUM_CENTROIDS,
            centroid_intermediate_top_k=CENTROID_TOP_K,
        ),
        published_spelling=True,
    )


def moe_26b_a4b() -> Family:
    """Routed experts beside a dense MLP in every layer, values equal to keys in full layers, dense assistant."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_global_key_value_heads": 2}
    settings = target_settings(
        full_every=2,
        num_hidden_layers=4,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=64,
        attention_k_eq_v=True,
        use_bidirectional_attention="vision",
        **per_layer_inputs(0),
        **heads,
    )
    return Family(
        name="26b-a4b",
        target_class=Gemma4ForCausalLM,
        target_config=Gemma4TextConfig(**settings),
        assistant_class=Gemma4AssistantForCausalLM,
        assistant_config=gemma4_assistant(attention_k_eq_v=True, **heads),
        published_spelling=False,
    )


def dense_31b() -> Family:
    """The large dense model: values equal to keys and fewer kv heads in full layers, dense assistant."""
    heads = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "sliding_window": 24,
    }
    settings = target_settings(
        full_every=2,
        num_hidden_layers=4,
        intermediate_size=128,
        use_bidirectional_attention="vision",
        **per_layer_inputs(0),
        **heads,
    )
    return Family(
        name="31b",
        target_class=Gemma4ForCausalLM,
        target_config=Gemma4TextConfig(**settings),
        assistant_class=Gemma4AssistantForCausalLM,
        assistant_config=gemma4_assistant(**heads),
        published_spelling=True,
    )


FAMILIES = {"e2b": e2b, "e4b": e4b, "12b": unified_12b, "26b-a4b": moe_26b_a4b, "31b": dense_31b}
