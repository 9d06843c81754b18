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
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from command_line import parser_for, run_tool
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
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

IDS_PER_CENTROID = 128
WALK = 512  # tokens
FIRST_ID = 512  # of them; lower ones are bytes, stop tokens and what the tokenizer wants
ROOM = 0.05  # weight of all that is added to the residual stream, the walk excepted
MEMORY = 4.0  # weight of the walk; a token's own embedding has 1
MOST_AT_ONCE = 1 << 27  # random numbers
TOLD_APART = 16  # entries of a row of the embedding


FAMILIES = {name.lower(): family for name, family in families().items()}
"""The published sizes: ``e2b``, ``e4b``, ``12b``, ``26b-a4b``, ``31b``."""
SOFTCAP = 30.0  # of all targets' logits


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
    target, assistant = FAMILIES[family]
    if layers is not None:
        target = _with_layers(target, layers)
    target = replace(_scaled(target, scale), final_logit_softcapping=SOFTCAP)
    assistant = replace(
        assistant,
        text_config=_scaled(assistant.text_config, scale),
        backbone_hidden_size=target.hidden_size,
        num_centroids=_centroids(scale),
        centroid_intermediate_top_k=max(1, round(assistant.centroid_intermediate_top_k * scale)),
    )
    return target_file(target), assistant_file(assistant)


def _with_layers(target: Gemma4TextConfig, layers: int) -> Gemma4TextConfig:
    full_every = target.layer_types.index(FULL) + 1
    if layers < 2 * full_every:
        raise InputError(f"a target of this family needs at least {2 * full_every} layers, not {layers}")
    shared = round(target.num_kv_shared_layers * layers / target.num_hidden_layers)
    return replace(
        target,
        num_hidden_layers=layers,
        layer_types=layer_types(layers, full_every),
        num_kv_shared_layers=min(shared, layers - full_every),  # a full layer has to own keys
    )


def _scaled(text: Gemma4TextConfig, scale: float) -> Gemma4TextConfig:
    def scaled(size: int, step: int = 64) -> int:
        return max(step, round(size * scale / step) * step) if size else 0

    vocabulary = _centroids(scale) * IDS_PER_CENTROID
    return replace(
        text,
        vocab_size=vocabulary,
        hidden_size=scaled(text.hidden_size),
        intermediate_size=scaled(text.intermediate_size),
        head_dim=scaled(text.head_dim, 32),
        global_head_dim=2 * scaled(text.head_dim, 32),
        hidden_size_per_layer_input=scaled(text.hidden_size_per_layer_input),
        vocab_size_per_layer_input=vocabulary if text.hidden_size_per_layer_input else 0,
        moe_intermediate_size=scaled(text.moe_intermediate_size),
    )


def _centroids(scale: float) -> int:
    return max(32, round(Gemma4AssistantConfig.num_centroids * scale / 32) * 32)


def layer_types(layers: int, full_every: int) -> tuple[str, ...]:
    """The last layer is full in any case, as transformers wants it."""
    kinds = [FULL if (i + 1) % full_every == 0 else SLIDING for i in range(layers)]
    return (*kinds[:-1], FULL)


def target_file(target: Gemma4TextConfig) -> dict[str, Any]:
    """A target's ``config.json``: mlx-lm and mlx-vlm's drafting know the multimodal model only."""
    text = asdict(target) | {"model_type": "gemma4_text", "bos_token_id": 2, "eos_token_id": 1}
    return {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "vocab_size": target.vocab_size,
        "tie_word_embeddings": target.tie_word_embeddings,
        "text_config": text,
    }


def assistant_file(assistant: Gemma4AssistantConfig) -> dict[str, Any]:
    """An assistant's ``config.json``."""
    config = asdict(assistant) | {"model_type": "gemma4_assistant", "architectures": ["Gemma4AssistantForCausalLM"]}
    config["text_config"]["model_type"] = "gemma4_text"
    return config


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
    write_model(folder, target_file(target.config) | {"dtype": dtype}, target_tensors(target))
    parameters = dict(tree_flatten(assistant.parameters()))
    write_model(beside, assistant_file(assistant.config) | {"dtype": dtype}, parameters)
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


def walk_of(folder: Path) -> list[int]:
    """The ids that the target in this folder walks through: each is followed by the next, the last by the first."""
    tensors = mx.load(str(folder / "model.safetensors"))
    embedding = tensors["model.language_model.embed_tokens.weight"]
    remembered = tensors["model.language_model.layers.0.mlp.gate_proj.weight"]
    count = min(WALK, remembered.shape[0] // 2)
    ids = {row: token for token, row in enumerate(_bytes_of(embedding))}
    return [ids[row] for row in _bytes_of(remembered[1 : count + 1])]  # the first is a line break


def _bytes_of(matrix: mx.array) -> list[bytes]:
    """The beginning of each row, by which rows are told apart."""
    return [bytes(row) for row in np.array(matrix[:, :TOLD_APART].view(mx.uint8))]


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


def random_weights(
    model: Gemma4ForCausalLM | Gemma4AssistantForCausalLM, dtype: mx.Dtype, added: float = ROOM
) -> dict[str, mx.array]:
    """Matrices that keep the size of what goes through them; norms of 1, of ``added`` before residual additions."""
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if value.dtype == mx.int32:
            weights[name] = value
        elif value.ndim > 1:
            weights[name] = random_matrix(value.shape, dtype)
        elif ".post_" in name and "norm" in name:
            weights[name] = mx.full(value.shape, added, dtype)
        elif ".q_norm." in name:  # attention has the scale 1: scores would be as large as the root of the head dim
            weights[name] = mx.full(value.shape, value.shape[0] ** -0.5, dtype)
        else:
            weights[name] = mx.ones(value.shape, dtype)
        mx.eval(weights[name])
    return weights


def random_matrix(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Normal values with a deviation of 1 over the root of the last dimension; of a large matrix, made in place, some
    rows at a time."""
    at_once = max(1, MOST_AT_ONCE // prod(shape[1:]))
    if shape[0] <= at_once:
        return (mx.random.normal(shape) * shape[-1] ** -0.5).astype(dtype)
    matrix = mx.zeros(shape, dtype)
    for begin in range(0, shape[0], at_once):
        rows = min(at_once, shape[0] - begin)
        matrix[begin : begin + rows] = random_matrix((rows, *shape[1:]), dtype)
        mx.eval(matrix)
    return matrix


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


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def write(args: argparse.Namespace) -> None:
    for folder in write_pair(args.out, args.family, args.scale, args.layers, args.dtype, args.seed):
        print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    run_tool(arguments(), write)
