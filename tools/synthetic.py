"""A random checkpoint with the shape of a Gemma 4 family, and its assistant: something to time without a download.

    python tools/synthetic.py e2b --scale 0.25 --out work/e2b

writes ``work/e2b`` and ``work/e2b-assistant``. All widths are scaled, layers and the number of heads are not: so many
kernels run as in the real model. What comes out loads in this package, mlx-lm, mlx-vlm and transformers.

A random network's two likeliest tokens often lie so close that a bfloat16 rounding swaps them, and then no two programs
write the same text. Here the first layer's MLP remembers a walk through a few hundred tokens (rows of ``gate_proj`` and
``up_proj`` are a token's embedding, the column of ``down_proj`` its successor's) and all else adds little to it. What
follows is certain by a wide margin, and still no two positions of a block have the same token, or the same experts.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.models.config import (
    FULL,
    SLIDING,
    Gemma4AssistantConfig,
    Gemma4TextConfig,
    read_assistant_config,
    read_target_config,
)
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

IDS_PER_CENTROID = 128
WALK = 512  # tokens
FIRST_ID = 512  # of them; lower ones are bytes, stop tokens and what the tokenizer wants
ROOM = 0.05  # weight of all that is added to the residual stream, the walk excepted
MEMORY = 4.0  # weight of the walk; a token's own embedding has 1


@dataclass(frozen=True)
class Family:
    """The published sizes, as far as they shape the networks."""

    layers: int
    full_every: int
    hidden: int
    intermediate: int
    heads: tuple[int, int, int]  # query, KV, KV of full layers
    window: int
    assistant_hidden: int
    assistant_heads: int
    shared_layers: int = 0
    per_layer: int = 0
    double_wide: bool = False
    keys_are_values: bool = False
    expert_size: int = 0

    @property
    def centroid_head(self) -> bool:
        return self.per_layer > 0


FAMILIES = {
    "e2b": Family(35, 5, 1536, 6144, (8, 1, 1), 512, 256, 4, shared_layers=20, per_layer=256, double_wide=True),
    "e4b": Family(42, 6, 2560, 10240, (8, 2, 2), 512, 256, 4, shared_layers=18, per_layer=256),
    "12b": Family(48, 6, 3840, 15360, (16, 8, 1), 1024, 1024, 16, keys_are_values=True),
    "26b": Family(30, 6, 2816, 2112, (16, 8, 2), 1024, 1024, 16, keys_are_values=True, expert_size=704),
    "31b": Family(60, 6, 5376, 21504, (32, 16, 4), 1024, 1024, 32, keys_are_values=True),
}
EXPERTS, CHOSEN_EXPERTS = 128, 8


def configs(family: str, scale: float, layers: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two ``config.json`` of a family, spelled as the published ones are.

    Args:
        family: a key of ``FAMILIES``.
        scale: of all widths and the vocabulary, which are rounded to what kernels and quantization like.
        layers: instead of the family's own; the share of layers without keys of their own stays.

    Raises:
        InputError: no such family, or a scale or number of layers that makes no model.
    """
    if family not in FAMILIES:
        raise InputError(f"the family is {family!r}, expected one of {', '.join(FAMILIES)}")
    if not 0 < scale <= 1:
        raise InputError(f"the scale is {scale}, expected above 0 and at most 1")
    sizes = FAMILIES[family]
    if layers is not None:
        if layers < 2 * sizes.full_every:
            raise InputError(f"{family} needs at least {2 * sizes.full_every} layers, not {layers}")
        shared = round(sizes.shared_layers * layers / sizes.layers)
        shared = min(shared, layers - sizes.full_every)  # a full layer has to own keys
        sizes = replace(sizes, layers=layers, shared_layers=shared)

    def scaled(size: int, step: int = 64) -> int:
        return max(step, round(size * scale / step) * step)

    centroids = scaled(2048, 32)
    shared = {
        "model_type": "gemma4_text",
        "vocab_size": centroids * IDS_PER_CENTROID,
        "head_dim": scaled(256, 32),
        "global_head_dim": 2 * scaled(256, 32),
        "num_key_value_heads": sizes.heads[1],
        "num_global_key_value_heads": sizes.heads[2] if sizes.keys_are_values else None,
        "attention_k_eq_v": sizes.keys_are_values,
        "sliding_window": sizes.window,
        "max_position_embeddings": 131_072,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": Gemma4TextConfig().rope_parameters,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    target = shared | {
        "hidden_size": scaled(sizes.hidden),
        "intermediate_size": scaled(sizes.intermediate),
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads[0],
        "num_kv_shared_layers": sizes.shared_layers,
        "layer_types": layer_types(sizes.layers, sizes.full_every),
        "final_logit_softcapping": 30.0,
        "hidden_size_per_layer_input": scaled(sizes.per_layer) if sizes.per_layer else 0,
        "vocab_size_per_layer_input": centroids * IDS_PER_CENTROID if sizes.per_layer else 0,
        "use_double_wide_mlp": sizes.double_wide,
        "enable_moe_block": sizes.expert_size > 0,
        "num_experts": EXPERTS if sizes.expert_size else None,
        "top_k_experts": CHOSEN_EXPERTS if sizes.expert_size else None,
        "moe_intermediate_size": scaled(sizes.expert_size) if sizes.expert_size else None,
    }
    assistant = shared | {
        "hidden_size": scaled(sizes.assistant_hidden),
        "intermediate_size": scaled(8 * sizes.assistant_hidden),
        "num_hidden_layers": 4,
        "num_attention_heads": sizes.assistant_heads,
        "num_kv_shared_layers": 4,
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
        "final_logit_softcapping": None,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "use_double_wide_mlp": False,
        "enable_moe_block": False,
    }
    return target_file(target), {
        "model_type": "gemma4_assistant",
        "architectures": ["Gemma4AssistantForCausalLM"],
        "backbone_hidden_size": target["hidden_size"],
        "use_ordered_embeddings": sizes.centroid_head,
        "num_centroids": centroids,
        "centroid_intermediate_top_k": max(1, round(32 * scale)),
        "tie_word_embeddings": True,
        "text_config": assistant,
    }


def layer_types(layers: int, full_every: int) -> list[str]:
    """The last layer is full in any case, as transformers wants it."""
    kinds = [FULL if (i + 1) % full_every == 0 else SLIDING for i in range(layers)]
    return [*kinds[:-1], FULL]


def target_file(text_config: dict[str, Any]) -> dict[str, Any]:
    """The ``config.json`` around a text configuration: mlx-lm and mlx-vlm's drafting know the multimodal model only."""
    return {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "vocab_size": text_config["vocab_size"],
        "tie_word_embeddings": text_config["tie_word_embeddings"],
        "text_config": text_config,
    }


def write_pair(
    folder: Path, family: str, scale: float, layers: int | None = None, dtype: str = "bfloat16", seed: int = 0
) -> tuple[Path, Path]:
    """Write a target, with a tokenizer of bytes, and beside it its assistant, ``NAME-assistant``.

    Raises:
        InputError: as :func:`configs`.
    """
    target_config, assistant_config = configs(family, scale, layers)
    mx.random.seed(seed)
    beside = folder.with_name(f"{folder.name}-assistant")
    target = random_target(read_target_config(target_config), DTYPES[dtype])
    write_model(folder, target_config | {"dtype": dtype}, target_tensors(target))
    write_tokenizer(folder)
    del target
    assistant = random_assistant(read_assistant_config(assistant_config), DTYPES[dtype])
    write_model(beside, assistant_config | {"dtype": dtype}, dict(tree_flatten(assistant.parameters())))
    return folder, beside


def copy_pair(folder: Path, target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM) -> tuple[Path, Path]:
    """Write a pair in memory as all programs read it; without a tokenizer.

    Raises:
        InputError: a pair that is quantized.
    """
    if any(isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding) for module in target.modules()):
        raise InputError("the model is quantized, which not all programs read")
    dtype = str(target.model.embed_tokens.weight.dtype).rpartition(".")[2]
    beside = folder.with_name(f"{folder.name}-assistant")
    text = asdict(target.config) | {"model_type": "gemma4_text", "bos_token_id": 2, "eos_token_id": 1}
    write_model(folder, target_file(text) | {"dtype": dtype}, target_tensors(target))
    config = asdict(assistant.config) | {"model_type": "gemma4_assistant", "dtype": dtype}
    config["text_config"]["model_type"] = "gemma4_text"
    write_model(beside, config, dict(tree_flatten(assistant.parameters())))
    return folder, beside


def random_target(config: Gemma4TextConfig, dtype: mx.Dtype) -> Gemma4ForCausalLM:
    """A target that walks through tokens, see above."""
    model = Gemma4ForCausalLM(config)
    weights = random_weights(model, dtype)
    embedding = weights["model.embed_tokens.weight"]
    count = min(WALK, config.intermediate_size // 2)
    walk = (FIRST_ID + mx.random.permutation(config.vocab_size - FIRST_ID)[:count]).tolist()
    tokens = embedding[mx.array([NEWLINE, *walk])]  # a prompt ends with a line break
    following = embedding[mx.array([*walk, walk[0]])]
    mlp = "model.layers.0.mlp"
    for name in ("gate_proj", "up_proj"):
        weights[f"{mlp}.{name}.weight"] = _with_rows(weights[f"{mlp}.{name}.weight"], tokens)
    weights[f"{mlp}.down_proj.weight"] = _with_rows(weights[f"{mlp}.down_proj.weight"].T, following).T
    dense = "model.layers.0.post_feedforward_layernorm"
    weights[f"{dense}.weight"] = mx.full((config.hidden_size,), MEMORY, dtype)
    if config.enable_moe_block:
        weights[f"{dense}_1.weight"] = mx.ones((config.hidden_size,), dtype)
    model.load_weights(list(weights.items()))
    return model


def _with_rows(matrix: mx.array, rows: mx.array) -> mx.array:
    return mx.concatenate([rows, matrix[rows.shape[0] :]], axis=0)


def random_assistant(config: Gemma4AssistantConfig, dtype: mx.Dtype) -> Gemma4AssistantForCausalLM:
    """A drafter that is hardly ever right; every id belongs to one centroid."""
    model = Gemma4AssistantForCausalLM(config)
    weights = random_weights(model, dtype)
    if config.use_ordered_embeddings:
        order = mx.random.permutation(config.text_config.vocab_size).astype(mx.int32)
        weights["masked_embedding.token_ordering"] = order
    model.load_weights(list(weights.items()))
    return model


def random_weights(model: Gemma4ForCausalLM | Gemma4AssistantForCausalLM, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Matrices that keep the size of what goes through them; norms of 1, small ones before residual additions."""
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if value.dtype == mx.int32:
            weights[name] = value
        elif value.ndim > 1:
            weights[name] = (mx.random.normal(value.shape) * value.shape[-1] ** -0.5).astype(dtype)
        elif ".post_" in name and "norm" in name:
            weights[name] = mx.full(value.shape, ROOM, dtype)
        elif ".q_norm." in name:  # attention has the scale 1: scores would be as large as the root of the head dim
            weights[name] = mx.full(value.shape, value.shape[0] ** -0.5, dtype)
        else:
            weights[name] = mx.ones(value.shape, dtype)
        mx.eval(weights[name])
    return weights


def target_tensors(model: Gemma4ForCausalLM) -> dict[str, mx.array]:
    """A target's weights under the names of published checkpoints: as a part of the multimodal model."""
    tensors = {}
    for name, value in tree_flatten(model.parameters()):
        published = name.replace("model.", "model.language_model.", 1)
        if ".switch_glu.gate_proj." in name:
            up = dict(tree_flatten(model.parameters()))[name.replace("gate_proj", "up_proj")]
            tensors[published.replace("switch_glu.gate_proj.weight", "gate_up_proj")] = mx.concatenate([value, up], 1)
        elif ".switch_glu.down_proj." in name:
            tensors[published.replace("switch_glu.down_proj.weight", "down_proj")] = value
        elif ".switch_glu." not in name:
            tensors[published] = value
    return tensors


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, mx.array]) -> None:
    """``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})


SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>")
NEWLINE = len(SPECIAL) + ord("\n")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}\n{{ message.content }}<turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def write_tokenizer(folder: Path) -> None:
    """One token for each byte; the other ids have no text."""
    vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(BPE(ids, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE} | names
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        written = write_pair(args.out, args.family, args.scale, args.layers, args.dtype, args.seed)
    except InputError as error:
        parser.error(str(error))
    for folder in written:
        print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
