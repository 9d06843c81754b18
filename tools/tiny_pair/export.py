"""Write a model as the package ships it: bfloat16 values on disk, computed in float32."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel


def save(model: PreTrainedModel, folder: Path, global_head_dim: int) -> None:
    """Weights rounded to bfloat16; the config names float32, the type that both models were trained in."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        weights[name] = value.to(torch.bfloat16) if value.is_floating_point() else value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config.get("text_config", {})):
        if "layer_types" in part:  # published checkpoints spell it so; transformers drops it when it saves
            part["global_head_dim"] = global_head_dim
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_target(model: PreTrainedModel, folder: Path) -> None:
    """The model ends its text with <eos> and its turn with <turn|> (id 5)."""
    save(model, folder, global_head_dim=96)
    GenerationConfig(bos_token_id=2, eos_token_id=[1, 5], pad_token_id=0, do_sample=False).save_pretrained(folder)


def save_assistant(model: PreTrainedModel, folder: Path) -> None:
    save(model, folder, global_head_dim=96)
