"""Write tiny vision networks and what transformers computes with them.

    python make_vision_goldens.py [--out DIR] [--seed N]

Each network gets a folder with `config.json` and `model.safetensors`, named as in a full checkpoint but without the
text network, and with `golden.json` and `golden.safetensors`, the reference's inputs and outputs. Pictures are stored
as bytes; both sides divide them by 255. Without options this rewrites the stored goldens. To compare live, write fresh
ones elsewhere, here, and read them where the package is installed:

    python make_vision_goldens.py --out DIR --seed 7
    GOLDENS_DIR=DIR python -m pytest tests/test_vision_goldens.py

This side's environment is in requirements.txt; it takes a few seconds.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
    Gemma4VisionConfig,
)

from training import shorten_mantissas

STORED = Path(__file__).resolve().parent.parent / "goldens"
TEXT = {"vocab_size": 8, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
TEXT |= {"num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 8}
TEXT |= {"layer_types": ["sliding_attention", "full_attention"]}
PER_LAYER = {"vocab_size_per_layer_input": 8, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 0}
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 2, "head_dim": 16, "patch_size": 2, "position_embedding_size": 24}
TOWERS = {
    # All switches as in the published E2B, and bounds that bind.
    "vision-clipped": TINY | {"use_clipped_linears": True},
    # Every switch otherwise: standardized, no bounds, fewer keys than queries, heads wider than the width, another
    # pooling square, faster rotation, norms whose eps shows.
    "vision-standardized": TINY
    | {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "pooling_kernel_size": 2,
        "rms_norm_eps": 0.1,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 7.0},
        "standardize": True,
    },
}
UNIFIED = {"patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 20, "output_proj_dims": 20}
UNIFIED |= {"mm_posemb_size": 24, "rms_norm_eps": 0.1}
# Columns and rows, in pooling squares: a wide picture beside a tall one, both padded. The frames are all alike.
PICTURES, FRAMES, PADDED = ((4, 2), (1, 6)), ((2, 3), (2, 3)), 10


def networks() -> dict[str, nn.Module]:
    """Untrained networks by the folder's name, with text networks as small as can be."""
    made = {}
    for name, values in TOWERS.items():
        config = Gemma4Config(
            text_config=Gemma4TextConfig(**TEXT, **PER_LAYER), vision_config=Gemma4VisionConfig(**values)
        )
        made[name] = Gemma4ForConditionalGeneration(config)
    config = Gemma4UnifiedConfig(
        text_config=Gemma4UnifiedTextConfig(**TEXT), vision_config=Gemma4UnifiedVisionConfig(**UNIFIED)
    )
    made["vision-unified"] = Gemma4UnifiedForConditionalGeneration(config)
    return made


def randomize(network: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep activations of order 1, and bounds that cut off some of them."""
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("_min", "_max")):
            value = (1.2 + 0.2 * noise.abs()) * (-1 if name.endswith("_min") else 1)
        elif name.endswith("std_scale"):
            value = 0.2 * (0.3 * noise).exp()  # what comes from the pooling is sqrt(hidden size) times as large
        elif name.endswith("std_bias"):
            value = 3 * noise
        elif "norm" in name or "_ln" in name:
            value = 0.2 * noise + (1 if name.endswith("weight") else 0)
        elif name.endswith(("pos_embedding", "position_embedding_table")):
            value = 0.7 * noise
        elif tensor.ndim < 2:
            value = 0.5 * noise
        else:
            value = noise * tensor.shape[-1] ** -0.5
        if "down_proj" in name and tensor.ndim == 0:
            value = 0.3 * value  # what comes in is a product of two small numbers
        tensor.copy_(value)


def patches(
    shapes: tuple[tuple[int, int], ...], side: int, size: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Bytes (n, P, size) of pictures of these squares of `side` patches, padded, and positions (n, P, 2)."""
    values = torch.zeros(len(shapes), PADDED * side**2, size, dtype=torch.uint8)
    positions = torch.full((len(shapes), PADDED * side**2, 2), -1)
    for i, (columns, rows) in enumerate(shapes):
        count = columns * rows * side**2
        values[i, :count] = torch.randint(0, 256, (count, size), generator=generator, dtype=torch.uint8)
        grid = torch.cartesian_prod(torch.arange(rows * side), torch.arange(columns * side))
        positions[i, :count] = grid.flip(-1)
    return values, positions


def observe(network: nn.Module, values: Tensor, positions: Tensor, frames: int | None) -> dict[str, Tensor]:
    """Soft tokens of all pictures or frames, one after another: out of the tower, and in the text network's space."""
    pixels = values.float() / 255
    model = network.model
    if frames is None:
        found = model.get_image_features(pixels, positions)
    else:
        found = model.get_video_features(pixels, positions, torch.tensor([frames]))
    features = found.last_hidden_state
    if features.ndim == 3:  # the unified network's, which are not stripped of padding
        features = features[positions[..., 0] >= 0]
    return {"features": features, "embeddings": torch.cat(list(found.pooler_output))}


def save(network: nn.Module, folder: Path) -> None:
    """As transformers saves a checkpoint, without the text network."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        network.save_pretrained(scratch)
        weights = load_file(Path(scratch) / "model.safetensors")
        config = json.loads((Path(scratch) / "config.json").read_text())
    weights = {name: value for name, value in weights.items() if "language_model" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def write_network(name: str, network: nn.Module, folder: Path, seed: int) -> None:
    """Save a network with random weights, and what it makes of pictures and frames."""
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    randomize(network.model, generator)
    shorten_mantissas(network.model)
    half = copy.deepcopy(network).to(torch.bfloat16)
    vision = network.config.vision_config
    unified = network.config.model_type == "gemma4_unified"
    side = 1 if unified else vision.pooling_kernel_size
    size = 3 * (vision.model_patch_size if unified else vision.patch_size) ** 2
    tensors, facts = {}, {"seed": seed, "torch": torch.__version__, "transformers": transformers.__version__}
    errors = []
    for label, shapes, frames in (("pictures", PICTURES, None), ("video", FRAMES, len(FRAMES))):
        values, positions = patches(shapes, side, size, generator)
        found = observe(network, values, positions, frames)
        rough = observe(half, values, positions, frames)
        errors.append((rough["embeddings"] - found["embeddings"]).abs())
        observed: dict[str, Any] = {"levels": values, "position_ids": positions.to(torch.int32)} | found
        tensors |= {f"{label}.{key}": value.contiguous() for key, value in observed.items()}
        facts[label] = [columns * rows for columns, rows in shapes]
        print(f"{name} {label}: {[f'{key} {tuple(x.shape)} {x.std():.2f}' for key, x in found.items()]}")
    facts["bfloat16_error"] = float(torch.cat(errors).mean())
    save(network, folder)
    save_file(tensors, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """Parse the options and write each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STORED, help="folder for the networks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, network in networks().items():
        write_network(name, network, options.out / name, options.seed)


if __name__ == "__main__":
    main()
