"""Checkpoints as transformers writes them, then spelled as the published ones are."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from families import BOS, EOS, PAD, STOP_TOKENS, UNKNOWN, VOCAB_SIZE, Family

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95}


def generation_config(family: Family, **extra: Any) -> GenerationConfig:
    """The published sampling settings and stop tokens; the unified model suppresses two of its markers as well."""
    config = GenerationConfig(bos_token_id=BOS, pad_token_id=PAD, eos_token_id=STOP_TOKENS, **SAMPLING, **extra)
    if family.name == "12b":
        target = family.target_config
        config.suppress_tokens = [target.eoa_token_index, target.eoi_token_id]
    return config


def tokenizer() -> PreTrainedTokenizerFast:
    """One word per id, apart from Gemma's special tokens; enough to load a checkpoint by the front door."""
    special = {PAD: "<pad>", EOS: "<eos>", BOS: "<bos>", UNKNOWN: "<unk>", 106: "<turn|>", 50: "<|tool_response>"}
    assert set(STOP_TOKENS) <= set(special)
    vocabulary = {special.get(i, f"w{i}"): i for i in range(VOCAB_SIZE)}
    words = Tokenizer(WordLevel(vocabulary, unk_token=special[UNKNOWN]))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens(list(special.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=special[PAD],
        eos_token=special[EOS],
        bos_token=special[BOS],
        unk_token=special[UNKNOWN],
    )


def published_text_config(text: dict[str, Any]) -> None:
    """Replace `per_layer_config` by the two fields of the published files, in place."""
    (override, *others) = text.pop("per_layer_config").values()
    assert all(other == override for other in others), "full layers must be alike"
    text["global_head_dim"] = override["head_dim"]
    text["num_global_key_value_heads"] = override.get("num_key_value_heads")


def publish_spelling(path: Path) -> None:
    """Rewrite config.json in `path` as published: global head fields, `eoa_token_id`, zeros spelled out."""
    file = path / "config.json"
    config = json.loads(file.read_text())
    published_text_config(config.get("text_config", config))
    if "eoa_token_index" in config:
        config["eoa_token_id"] = config.pop("eoa_token_index")
    if config["model_type"] == "gemma4_unified_assistant":
        config["text_config"] |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def add_unused_projections(path: Path, config: Any, generator: torch.Generator) -> None:
    """Add random key and value weights to the layers that share their keys, as the published files have them."""
    file = path / "model.safetensors"
    weights = load_file(file)
    owning = config.num_hidden_layers - config.num_kv_shared_layers
    twins = {kind: config.layer_types[:owning].index(kind) for kind in set(config.layer_types)}
    prefix = next(name for name in weights if name.endswith("embed_tokens.weight")).removesuffix("embed_tokens.weight")
    for layer in range(owning, config.num_hidden_layers):
        for part in ("k_proj", "v_proj", "k_norm"):
            twin = weights[f"{prefix}layers.{twins[config.layer_types[layer]]}.self_attn.{part}.weight"]
            noise = torch.randn(twin.shape, generator=generator)
            weights[f"{prefix}layers.{layer}.self_attn.{part}.weight"] = noise
    save_file(weights, file, metadata={"format": "pt"})


def reload(path: Path, model_class: type, expected: nn.Module) -> nn.Module:
    """Load `path` with transformers; assert that nothing is missing, unexpected or changed."""
    model, report = model_class.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), f"{path} does not load cleanly: {report}"
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), f"{name} changed on the way through {path}"
    before, after = (m.config.get_text_config().to_dict() for m in (expected, model))
    changed = {key for key in before if before[key] != after[key]} - {"_name_or_path", "dtype"}
    assert not changed, f"config.json in {path} reads back differently: {changed}"
    return model.eval()


def write_pair(
    family: Family, folder: Path, target: nn.Module, assistant: nn.Module, generator: torch.Generator
) -> tuple[nn.Module, nn.Module]:
    """Save both networks below `folder`, the target with a tokenizer; returns what transformers reads back."""
    target.generation_config = generation_config(family)
    assistant.generation_config = generation_config(
        family, num_assistant_tokens=3, num_assistant_tokens_schedule="constant"
    )
    tokenizer().save_pretrained(folder / "target")
    loaded = []
    for name, model in (("target", target), ("assistant", assistant)):
        path = folder / name
        model.save_pretrained(path)
        if family.published_spelling:
            publish_spelling(path)
        if name == "target" and family.unused_shared_projections:
            add_unused_projections(path, model.config.get_text_config(), generator)
        loaded.append(reload(path, type(model), model))
    return loaded[0], loaded[1]
