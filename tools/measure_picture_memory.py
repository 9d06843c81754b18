"""What memory a picture takes, alone and within a long prompt.

    python tools/measure_picture_memory.py [--tokens 8192] [--layers 10] [--vision-layers 2] [--scale 0.15]

A random E2B, its vision tower of full width and few layers (each frees the activations of the one before), its text
network scaled; a picture of 280 soft tokens, 2,520 patches. Peaks are MLX's own count, beyond what was there before.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from command_line import parser_for, positive, run_tool
from mlx.utils import tree_map
from synthetic import configs, random_target

from mlx_gemma4_assist import make_prompt_cache
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.soft_tokens import SoftTokens
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.media.prepared import Picture, Placed, PreparedPrompt
from mlx_gemma4_assist.media.reader import encode_media
from mlx_gemma4_assist.models.config import read_target_config
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.models.towers import towers_of
from mlx_gemma4_assist.text.messages import Kind

PLACEHOLDER = 258_880
COLUMNS, ROWS = 42, 60  # patches of a picture 672 pixels wide and 960 high


def peak_of(run: Callable[[], object]) -> tuple[object, str]:
    """What a function returns, and its peak memory beyond what was in use before it, with its time."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before, began = mx.get_active_memory(), time.perf_counter()
    result = run()
    return result, f"{(mx.get_peak_memory() - before) / 1e6:8.1f} MB, {time.perf_counter() - began:.0f} s"


def picture_prompt(length: int, at: int) -> PreparedPrompt:
    """A prompt with a picture of noise somewhere."""
    patches = COLUMNS * ROWS
    soft = patches // 9
    tokens = [3 + i % 200 for i in range(length)]
    tokens[at : at + soft] = [PLACEHOLDER] * soft
    grid = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)), -1).reshape(patches, 2)
    values = np.random.default_rng(0).random((patches, 768), np.float32)
    return PreparedPrompt(tokens, (Placed(Kind.PICTURE, at, Picture(values, grid, soft)),))


def fill(target: Gemma4ForCausalLM, keys: Sequence[int], media: Sequence[SoftTokens]) -> int:
    """Bytes of the cache that a prompt has been read into."""
    cache = make_prompt_cache(target)
    prefill(target, cache, keys[:-1], media=media)
    return cache.nbytes


def measure(args: argparse.Namespace) -> None:
    dtype = DTYPES[args.dtype]
    config, _ = configs("e2b", args.scale, args.layers)
    config["vision_config"] = {"num_hidden_layers": args.vision_layers}
    target, towers = random_target(read_target_config(config), dtype), towers_of(config)
    towers.update(tree_map(lambda array: array.astype(dtype), towers.parameters()))
    mx.eval(target.parameters(), towers.parameters())
    inputs = picture_prompt(args.tokens, args.tokens // 2)
    prompt, encoding = peak_of(lambda: encode_media(towers, inputs, target.config))
    print(f"{len(inputs.tokens)} tokens in chunks of 2,048, {args.dtype}, {args.layers} layers at scale {args.scale}")
    print(f"the tower, {len(prompt.media[0].embeddings)} soft tokens of {COLUMNS * ROWS} patches: {encoding}")
    for name, keys, media in (("text only", inputs.tokens, ()), ("with the picture", prompt.keys, prompt.media)):
        keys = [min(key, 255) for key in keys]
        held, reading = peak_of(lambda keys=keys, media=media: fill(target, keys, media))
        print(f"{name}: {reading}, {held / 1e6:.1f} of them keys and values")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--tokens", type=positive, default=8192)
    parser.add_argument("--layers", type=positive, default=10, help="of the text network")
    parser.add_argument("--vision-layers", type=positive, default=2)
    parser.add_argument("--scale", type=float, default=0.15, help="of the text network's widths")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
