"""Pairs that are small in every way, and bundles of them."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import synthetic
from mlx.utils import tree_flatten

from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.bundle.checking import Findings, check
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.models.config import FULL, SLIDING, read_assistant_config, read_target_config
from support.conversion import convert

FAMILIES = tuple(synthetic.FAMILIES)
WINDOW = 48  # wider than the longest piece that is written before it attends
TOKENS = 6  # of a text that is compared
LAYERS = {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, FULL], "sliding_window": WINDOW}
DRAFTING = {
    "num_hidden_layers": 2, "layer_types": [SLIDING, FULL], "sliding_window": WINDOW, "num_kv_shared_layers": 2
}  # fmt: skip
FEW = ExportOptions(drafts=2)
FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "affine": {"q_bits": 4, "q_group_size": 32},
    "mxfp4": {"q_mode": "mxfp4"},
    "mxfp8": {"q_mode": "mxfp8"},
    "nvfp4": {"q_mode": "nvfp4"},
}


def pair_of(folder: Path, family: str, dtype: str = "float32", **quantized: Any) -> Path:
    """A target that walks through tokens, and its assistant beside it, quantized if told how."""
    plain = folder / f"{family}-plain" if quantized else folder / family
    beside = plain.with_name(f"{plain.name}-assistant")
    target, assistant = synthetic.configs(family, 0.02)
    target["text_config"] |= LAYERS | {"num_kv_shared_layers": 2 if family.startswith("e") else 0}
    if target["text_config"]["enable_moe_block"]:
        target["text_config"]["num_experts"] = 16
    assistant["text_config"] |= DRAFTING
    mx.random.seed(0)
    network = synthetic.random_target(read_target_config(target), DTYPES[dtype])
    synthetic.write_model(plain, target | {"dtype": dtype}, synthetic.target_tensors(network))
    synthetic.write_tokenizer(plain)
    drafter = synthetic.random_assistant(read_assistant_config(assistant), DTYPES[dtype])
    synthetic.write_model(beside, assistant | {"dtype": dtype}, dict(tree_flatten(drafter.parameters())))
    if quantized:
        convert(plain, folder / family, assistant_model=beside, quantize=True, **quantized)
    return folder / family


def exported(model: Path | str, out: Path, options: ExportOptions = FEW, tokens: int = TOKENS) -> Findings:
    """A bundle, once it has been compared with the package, and what was found."""
    checkpoint = Checkpoint.open(model)
    found: list[Findings] = []
    export(checkpoint, out, options, lambda folder: found.append(check(folder, checkpoint.load(), tokens)))
    return found[0]
