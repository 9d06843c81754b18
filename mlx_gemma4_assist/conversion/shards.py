"""Writing safetensors while they are computed: a header needs shapes only, so that no shard is ever in memory."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path

import mlx.core as mx

from ..errors import InputError
from .plan import Plan
from .steps import Output, Step
from .tensors import NAMES

INDEX = "model.safetensors.index.json"
DEFAULT_SHARD_SIZE = "5GB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_ALIGNMENT = 8

Progress = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


def parse_size(size: str) -> int:
    """Bytes of a size such as 5GB or 500MB, as in transformers' ``max_shard_size``.

    Raises:
        InputError: no such size.
    """
    text = size.strip().upper()
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit).strip()
        if text.endswith(unit) and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            return int(float(number) * factor)
    raise InputError(f"the shard size is {size!r}, expected a number and a unit, such as {DEFAULT_SHARD_SIZE}")


def write_shards(folder: Path, plan: Plan, max_bytes: int, progress: Progress) -> int:
    """Carry out a plan: write ``model.safetensors`` or its shards, and the index, as mlx-lm names them.

    Args:
        max_bytes: of a shard; a larger tensor gets one of its own.

    Returns:
        the bytes of all tensors written.

    Raises:
        InputError: the source cannot be read.
        OSError: the shards cannot be written.
    """
    shards = list(_shards(plan.steps, max_bytes))
    weight_map: dict[str, str] = {}
    for number, steps in enumerate(shards, start=1):
        several = len(shards) > 1
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if several else "model.safetensors"
        _write_shard(folder / name, steps, progress)
        weight_map |= {output.name: name for step in steps for output in step.outputs}
    total = plan.written_bytes
    metadata = {"total_size": total, "total_parameters": plan.parameters}
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=4) + "\n", encoding="utf-8")
    return total


def _shards(steps: Sequence[Step], max_bytes: int) -> Iterator[list[Step]]:
    """A layer's packed weight stays together with its scales."""
    shard: list[Step] = []
    size = 0
    for step in steps:
        added = sum(_nbytes(output) for output in step.outputs)
        if shard and size + added > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(step)
        size += added
    if shard:
        yield shard


def _nbytes(output: Output) -> int:
    return prod(output.shape) * output.dtype.size


def _write_shard(path: Path, steps: Sequence[Step], progress: Progress) -> None:
    # Widest types first: every tensor then begins at a multiple of its element's size, without gaps.
    outputs = sorted((out for step in steps for out in step.outputs), key=lambda out: -out.dtype.size)
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    start: dict[str, int] = {}
    end = 0
    for output in outputs:
        start[output.name], end = end, end + _nbytes(output)
        header[output.name] = {
            "dtype": NAMES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [start[output.name], end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    base = 8 + len(encoded)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for step in steps:
            places = [base + start[output.name] for output in step.outputs]
            for chunk in step.chunks():
                for i, array in enumerate(chunk.arrays):
                    file.seek(places[i])
                    places[i] += file.write(memoryview(array.reshape(-1).view(mx.uint8)))
                progress(chunk.read)
            mx.clear_cache()
        file.truncate(base + end)  # an empty tensor at the end has not been written
        file.flush()
        os.fsync(file.fileno())
