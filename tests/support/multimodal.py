"""A tiny multimodal pair with random weights, complete as the published ones: it takes real pictures and sounds."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gemma4_assist.models.config import FULL, SLIDING, read_assistant_config, read_target_config
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.models.towers import towers_of
from support.paths import GOLDENS

PROCESSORS = GOLDENS / "media"
PLACEHOLDERS = {
    "image_token_id": 8,
    "boi_token_id": 6,
    "eoi_token_id": 7,
    "audio_token_id": 11,
    "video_token_id": 12,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": [1, 5],
}
VOCABULARY = 384
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 64,
    "max_position_embeddings": 16_384,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 256,
    "use_clipped_linears": True,
}
AUDIO = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [128, 4],
    "output_proj_dims": 32,
}


def configs(unified: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two ``config.json``, as E2B or as the 12B."""
    kind = "gemma4_unified" if unified else "gemma4"
    text = SIZES | {"model_type": f"{kind}_text", "num_hidden_layers": 4, "layer_types": [SLIDING, FULL] * 2}
    if unified:
        vision: dict[str, Any] = {"mm_embed_dim": 64, "mm_posemb_size": 256, "output_proj_dims": 64}
        audio: dict[str, Any] = {}
    else:
        text |= {"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 2}
        vision, audio = VISION, AUDIO
    target = PLACEHOLDERS | {
        "model_type": kind,
        "architectures": ["Gemma4UnifiedForConditionalGeneration" if unified else "Gemma4ForConditionalGeneration"],
        "dtype": "float32",
        "text_config": text,
        "vision_config": {"model_type": f"{kind}_vision"} | vision,
        "audio_config": {"model_type": f"{kind}_audio"} | audio,
    }
    assistant = {
        "model_type": f"{kind}_assistant",
        "backbone_hidden_size": SIZES["hidden_size"],
        "use_ordered_embeddings": not unified,
        "num_centroids": 32,
        "centroid_intermediate_top_k": 4,
        "text_config": SIZES
        | {
            "model_type": f"{kind}_text",
            "num_hidden_layers": 2,
            "layer_types": [SLIDING, FULL],
            "num_kv_shared_layers": 2,
        },
    }
    return target, assistant


def write_pair(folder: Path, *, unified: bool = False) -> Path:
    """Write ``folder`` and ``folder-assistant``; returns the first."""
    target, assistant = configs(unified)
    mx.random.seed(7)
    text, towers = Gemma4ForCausalLM(read_target_config(target)), towers_of(target)
    drafter = Gemma4AssistantForCausalLM(read_assistant_config(assistant))
    if not unified:
        drafter.masked_embedding.token_ordering = mx.random.permutation(VOCABULARY).astype(mx.int32)
        bounds = {
            name: mx.array(8.0 if "max" in name else -8.0)
            for name, _ in tree_flatten(towers.parameters())
            if name[-4:] in ("_min", "_max")
        }
        towers.load_weights(list(bounds.items()), strict=False)
    shutil.copytree(
        PROCESSORS / ("gemma4_unified" if unified else "gemma4"), folder, ignore=shutil.ignore_patterns("golden*")
    )
    (folder / "config.json").write_text(json.dumps(target))
    ends = {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    weights = {f"model.language_{name}": value for name, value in tree_flatten(text.parameters())}
    weights |= {f"model.{name}": value for name, value in tree_flatten(towers.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    beside = folder.with_name(f"{folder.name}-assistant")
    beside.mkdir()
    (beside / "config.json").write_text(json.dumps(assistant))
    mx.save_safetensors(str(beside / "model.safetensors"), dict(tree_flatten(drafter.parameters())))
    return folder
