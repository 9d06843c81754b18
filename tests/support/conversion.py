"""Checkpoints to convert, and what to compare what comes of them with."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.conversion.options import NONE, ConversionOptions
from mlx_gemma4_assist.conversion.pair import Conversion, plan_pair
from mlx_gemma4_assist.conversion.writing import write_pair
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from support import checkpoints as helpers

TOKENS = [2, 9, 30, 41, 17, 8, 60, 61, 62, 33, 5, 90]
AFFINE = [{"q_bits": bits, "q_group_size": size} for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
FLOATING = [{"q_mode": mode} for mode in ("mxfp4", "mxfp8", "nvfp4")]
FORMATS = [*AFFINE, *FLOATING]


def convert(
    source: str | Path, folder: Path, *, assistant_model: str | Path | None = NONE, **options: Any
) -> Conversion:
    """As on a machine without Metal, neither compared nor described; without an assistant unless one is named."""
    asked = ConversionOptions(hf_path=source, mlx_path=folder, assistant_model=assistant_model, **options)
    conversion = plan_pair(asked, generation=None)
    write_pair(conversion)
    return conversion


def small_checkpoint(folder: Path, family: str = "E2B", dtype: mx.Dtype = mx.float32) -> Path:
    """Random, with towers, as Google publishes it."""
    mx.random.seed(0)
    weights = helpers.randomize(helpers.target(family), dtype)
    weights = {name: value * 0.1 if value.ndim > 1 else value for name, value in weights.items()}
    config = helpers.full_config(family) | {"dtype": str(dtype).rpartition(".")[2]}
    helpers.save_tokenizer(folder)
    return helpers.save(folder, config, helpers.as_google_full(weights))


def small_assistant(folder: Path) -> Path:
    return helpers.save(folder, helpers.ASSISTANT, helpers.randomize(helpers.assistant()))


def tensors(folder: Path) -> dict[str, mx.array]:
    """All of a checkpoint's, whatever files they are in."""
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in mx.load(str(path)).items()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def logits(folder: Path, tokens: list[int] = TOKENS) -> mx.array:
    """Of the package's own network, (1, L, V) float32."""
    return logits_of(load_model(folder), tokens)


def logits_of(model: Gemma4ForCausalLM, tokens: list[int] = TOKENS) -> mx.array:
    """Of a network that is loaded."""
    floating = (array.dtype for _, array in tree_flatten(model.parameters()) if mx.issubdtype(array.dtype, mx.floating))
    layout = CacheLayout(model.config, 4, next(floating))
    block = Block(layout, KVCache(layout).buffers, mx.array([0], mx.int32), len(tokens), 0, exact=True)
    return model.logits(model(mx.array([tokens]), block)).astype(mx.float32)


def mlx_lm_logits(folder: Path, tokens: list[int] = TOKENS) -> mx.array:
    """Of mlx-lm's."""
    from mlx_lm.utils import load_model as mlx_lm_load

    model, _ = mlx_lm_load(folder)
    return model(mx.array([tokens])).astype(mx.float32)


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


def largest_difference(one: mx.array, other: mx.array) -> float:
    return mx.abs(one - other).max().item()
