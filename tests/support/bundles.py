"""Pairs that are small in every way, and bundles of them."""

from pathlib import Path
from typing import Any

import synthetic

from mlx_gemma4_assist.bundle.checking import Findings, check
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.engine.pair import Checkpoint
from support.conversion import convert

WINDOW = 48  # wider than the longest piece that is written before it attends
LAYERS = {"e2b": 10, "e4b": 12, "12b": 12, "26b-a4b": 12, "31b": 12}
"""As few as there can be."""
TOKENS = 24  # of a text that is compared


def pair_of(folder: Path, family: str, dtype: str = "float32", **quantized: Any) -> Path:
    """A target that walks through tokens, and its assistant beside it, quantized if told how."""
    plain = folder / f"{family}-plain" if quantized else folder / family
    beside = synthetic.write_pair(plain, family, 0.02, LAYERS[family], dtype, window=WINDOW)[1]
    if quantized:
        convert(plain, folder / family, assistant_model=beside, quantize=True, **quantized)
    return folder / family


def exported(model: Path, out: Path, options: ExportOptions = ExportOptions(), tokens: int = TOKENS) -> Findings:  # noqa: B008
    """A bundle, once it has been compared with the package, and what was found."""
    checkpoint = Checkpoint.open(model)
    found: list[Findings] = []
    export(checkpoint, out, options, lambda folder: found.append(check(folder, checkpoint.load(), tokens)))
    return found[0]
