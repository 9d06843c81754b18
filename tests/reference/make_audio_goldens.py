"""Write tiny audio towers and what transformers computes with them.

    python make_audio_goldens.py [--out DIR] [--seed N]

Each tower gets a folder with `config.json` and `model.safetensors`, named as in a full checkpoint, and with
`golden.json` and `golden.safetensors`, the reference's inputs and outputs. Without options this rewrites the stored
goldens. To compare live, write fresh ones elsewhere, here, and read them where the package is installed:

    python make_audio_goldens.py --out DIR --seed 7
    GOLDENS_DIR=DIR python -m pytest tests/test_audio.py

This side's environment is in requirements.txt; it takes a few seconds.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Gemma4AudioConfig, Gemma4AudioFeatureExtractor, Gemma4AudioModel

from training import shorten_mantissas

STORED = Path(__file__).resolve().parent.parent / "goldens"
PREFIX = "model.audio_tower."
MEL_BINS = 16
SAMPLING_RATE = 16_000
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [MEL_BINS, 4],
    "output_proj_dims": 24,
}
TOWERS = {
    # All switches as in the published checkpoints, and bounds that bind.
    "audio-published": TINY,
    # Every switch otherwise: later keys, positions that stop short of the window, a cap and a limit that bind, masked
    # keys that still count, no bounds, norms whose eps shows.
    "audio-other": TINY
    | {
        "attention_chunk_size": 5,
        "attention_context_left": 10,
        "attention_context_right": 3,
        "attention_logit_cap": 2.0,
        "attention_invalid_logits_value": -4.0,
        "conv_kernel_size": 3,
        "gradient_clipping": 1.5,
        "residual_weight": 0.7,
        "rms_norm_eps": 0.1,
        "use_clipped_linears": False,
    },
}


def randomize(tower: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep activations of order 1, and bounds that cut off some of them."""
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("_min", "_max")):
                value = (1.2 + 0.2 * noise.abs()) * (-1 if name.endswith("_min") else 1)
            elif "norm" in name:
                value = 1 + 0.2 * noise
            elif tensor.ndim < 2:
                value = 0.5 * noise
            else:
                value = noise * tensor[0].numel() ** -0.5
            if "q_proj.linear" in name or "relative_k_proj" in name:
                value *= 2
            tensor.copy_(value)


def sound(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A clip of rising and falling tones in noise, between -1 and 1."""
    time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    tones = [np.sin(2 * np.pi * f * time + 3 * np.sin(2 * np.pi * v * time)) for f, v in rng.uniform(1, 9, (4, 2)) ** 3]
    loudness = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    return (loudness * sum(tones) / 5 + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


def inputs(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Frames and masks: two clips of different lengths, and one without padding that is shorter than a block."""
    rng = np.random.default_rng(seed)
    extractor = Gemma4AudioFeatureExtractor(feature_size=MEL_BINS)
    pair = extractor([sound(1.85, rng), sound(0.71, rng)], return_tensors="pt")
    alone = extractor([sound(0.3, rng)], return_tensors="pt")
    frames = int(alone["input_features_mask"].sum())
    return {
        "pair": (pair["input_features"], pair["input_features_mask"]),
        "alone": (alone["input_features"][:, :frames], alone["input_features_mask"][:, :frames]),
    }


def write_tower(name: str, folder: Path, seed: int) -> None:
    """Save a random tower and what it makes of the inputs."""
    config = Gemma4AudioConfig(**TOWERS[name])
    tower = Gemma4AudioModel._from_config(config, attn_implementation="eager").eval()
    randomize(tower, torch.Generator().manual_seed(seed))
    shorten_mantissas(tower)
    half = copy.deepcopy(tower).to(torch.bfloat16)
    tensors, errors = {}, []
    for label, (features, mask) in inputs(seed).items():
        with torch.no_grad():
            subsampled, _ = tower.subsample_conv_projection(features, mask)
            output = tower(features, mask)
            rough = half(features.to(torch.bfloat16), mask).last_hidden_state
        valid = output.attention_mask
        errors.append((rough - output.last_hidden_state)[valid].abs())
        observed = {"input_features": features, "input_features_mask": mask, "subsampled": subsampled}
        observed |= {"features": output.last_hidden_state, "mask": valid}
        tensors |= {f"{label}.{key}": value.contiguous() for key, value in observed.items()}
        print(
            f"{name} {label}: {tuple(features.shape)} -> {output.last_hidden_state.std():.2f}, {valid.sum(-1).tolist()}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + key: value.contiguous() for key, value in tower.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_file(tensors, folder / "golden.safetensors")
    values = {"model_type": "gemma4", "audio_config": config.to_diff_dict()}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    golden = {"seed": seed, "torch": torch.__version__, "transformers": transformers.__version__}
    golden["bfloat16_error"] = float(torch.cat(errors).mean())
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def main() -> None:
    """Parse the options and write each tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STORED, help="folder for the towers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and sounds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in TOWERS:
        write_tower(name, options.out / name, options.seed)


if __name__ == "__main__":
    main()
