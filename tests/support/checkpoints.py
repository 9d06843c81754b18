"""Small checkpoints with random weights, in the layouts that exist in the wild."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import processors

from mlx_gemma4_assist.models.config import read_assistant_config, read_target_config
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from support.byte_tokenizer import OF_TEXT, SPECIAL, byte_tokenizer

SLIDING, FULL = "sliding_attention", "full_attention"
SMALL = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 16,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
}
TEXT = {
    # As E2B: per-layer inputs, and layers that share keys and values.
    "E2B": SMALL
    | {
        "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": 96,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    },
    # As 26B-A4B: experts, and keys that serve as values.
    "26B-A4B": SMALL
    | {
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 64,
    },
    "31B": SMALL | {"num_key_value_heads": 2},
}
ASSISTANT = {
    "model_type": "gemma4_assistant",
    "backbone_hidden_size": 128,
    "use_ordered_embeddings": True,
    "num_centroids": 32,
    "centroid_intermediate_top_k": 4,
    "text_config": SMALL | {"model_type": "gemma4_text", "num_kv_shared_layers": 4},
}

Weights = dict[str, mx.array]


def text_config(family: str) -> dict[str, Any]:
    return {"model_type": "gemma4_text"} | TEXT[family]


def full_config(family: str) -> dict[str, Any]:
    return {"model_type": "gemma4", "text_config": text_config(family)}


def target(family: str) -> Gemma4ForCausalLM:
    return Gemma4ForCausalLM(read_target_config(text_config(family)))


def assistant() -> Gemma4AssistantForCausalLM:
    model = Gemma4AssistantForCausalLM(read_assistant_config(ASSISTANT))
    model.masked_embedding.token_ordering = mx.random.permutation(96).astype(mx.int32)
    return model


def parameters(model) -> Weights:
    return dict(tree_flatten(model.parameters()))


def randomize(model, dtype: mx.Dtype = mx.float32) -> Weights:
    """Give every floating-point parameter random values; return all parameters."""
    for name, value in tree_flatten(model.parameters()):
        if mx.issubdtype(value.dtype, mx.floating):
            model.load_weights([(name, mx.random.normal(value.shape).astype(dtype))], strict=False)
    mx.eval(model.parameters())
    return parameters(model)


def as_google_text(weights: Weights) -> Weights:
    """Text only, as transformers saves it: experts stacked, gate over up."""
    out = {}
    for name, value in weights.items():
        if ".switch_glu." not in name:
            out[name] = value
        elif ".gate_proj." in name:
            up = weights[name.replace("gate_proj", "up_proj")]
            out[name.replace("switch_glu.gate_proj.weight", "gate_up_proj")] = mx.concatenate([value, up], axis=-2)
        elif ".down_proj." in name:
            out[name.replace("switch_glu.down_proj.weight", "down_proj")] = value
    return out


def as_google_full(weights: Weights) -> Weights:
    """With towers, and what else published checkpoints carry besides the text network."""
    out = {f"model.language_{name}": value for name, value in as_google_text(weights).items()}
    other = mx.zeros((3, 3))
    extras = (
        "model.vision_tower.encoder.layers.0.self_attn.k_proj.linear.weight",
        "model.audio_tower.layers.0.norm.weight",
        "model.embed_vision.embedding_projection.weight",
        "model.embed_audio.embedding_projection.weight",
        "model.language_model.rotary_emb.inv_freq",
        "lm_head.weight",
    )
    return out | dict.fromkeys(extras, other)


def as_mlx_community(weights: Weights) -> Weights:
    return {f"language_model.{name}": value for name, value in weights.items()}


def save(folder: Path, config: dict[str, Any], weights: Weights, file: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / file), weights, metadata={"format": "mlx"})
    return folder


WORDS = ("▁", "a", "b", "c", "d", "e", "h", "i", "l", "n", "o", "r", "s", "t", "u", "w", "\n")
MERGES = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "w"), ("t", "h"))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|turn>' + m.role + '\n' + (m.content if m.content is string else m.content[0].text) + '<turn|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def save_tokenizer(
    folder: Path, *, template: str | None = TEMPLATE, special: Sequence[str] = SPECIAL, words: Sequence[str] = WORDS
) -> Path:
    """A byte-fallback BPE in the manner of Gemma's: special tokens, 256 bytes, a few letters and merges."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer([*words, *("".join(pair) for pair in MERGES)], MERGES, special)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizer"} | OF_TEXT))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def save_sentencepiece(folder: Path) -> Path:
    """A tokenizer.model and no tokenizer.json; sentencepiece has to be installed."""
    from sentencepiece import SentencePieceTrainer

    pieces = {f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the llama and the wall", "hello to the llama"] * 10),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<|turn>", "<turn|>"],
        minloglevel=9,
        **{f"{name}_id": i for i, name in enumerate(("pad", "eos", "bos", "unk"))},
        **pieces,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(OF_TEXT))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
