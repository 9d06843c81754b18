"""The manifest of a bundle: what lies where, and what a runner has to know. docs/bundle.md describes each entry."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..backend import dtype_name
from ..cache.layout import BUCKET, GROWTH, CacheLayout
from ..checkpoints.sampling import sampling_of
from ..errors import InputError
from ..files import read_json
from ..rounds.compiled import GROWTH_SHARE, bucket_size
from ..rounds.export import least_end
from ..text.processor import Processor
from .chat_form import chat_form

FORMAT, VERSION = "mlx_gemma4_assist bundle", 1
MANIFEST = "manifest.json"
CONSTANTS = "constants.safetensors"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Kept:
    """A weight of a bundle: in which file it is, by what name there."""

    name: str
    file: int
    tensor: str
    dtype: mx.Dtype
    shape: tuple[int, ...]


def of_layout(layout: CacheLayout) -> dict[str, Any]:
    """Keys and values, and how far attention goes."""
    config = layout.config
    return {
        "layers": [
            {"kind": kind, "heads": config.kv_heads(kind), "width": config.head_dim_of(kind)} for kind in layout.kinds
        ],
        "dtype": dtype_name(layout.dtype),
        "window": layout.window,
        "slack": layout.slack,
        "ring": layout.ring,
        "growth": GROWTH,
        "end_step": BUCKET,
        "least_end": least_end(layout),
        "bucket": bucket_size(config),
        "bucket_growth_share": GROWTH_SHARE,
    }


def of_text(processor: Processor, folder: Path) -> dict[str, Any]:
    """How text begins, ends and is drawn, and what turns look like."""
    markers = processor.markers
    return {
        "bos": processor.bos_token_id,
        "stops": sorted(processor.eos_token_ids),
        "suppressed": list(processor.suppress_tokens),
        "sampling": sampling_of(folder),
        "markers": {name: value for name, value in vars(markers).items() if value is not None},
        "chat": chat_form(processor),
    }


def header() -> dict[str, Any]:
    """What a manifest begins with."""
    return {"format": FORMAT, "version": VERSION, "made_by": f"mlx_gemma4_assist {__version__}", "mlx": version("mlx")}


def of_weights(kept: Sequence[Kept]) -> list[list[Any]]:
    return [[each.name, each.file, each.tensor, dtype_name(each.dtype), list(each.shape)] for each in kept]


def written(content: Mapping[str, Any]) -> str:
    """A manifest as JSON: an entry a line, and a weight a line, so that it can be read and compared."""
    lines = []
    for name, value in content.items():
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if name == "weights":
            text = "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in value) + "\n]"
        lines.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest, of this format and version.

    Raises:
        InputError: it is another format's or version's, or none.
    """
    content = read_json(folder / MANIFEST)
    if content.get("format") != FORMAT:
        raise InputError(f"{folder} is no bundle of mlx_gemma4_assist")
    if content.get("version") != VERSION:
        raise InputError(
            f"{folder} is of version {content.get('version')!r:.50} of the format, expected {VERSION}: export it anew"
        )
    return content
