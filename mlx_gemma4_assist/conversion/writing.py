"""Carrying out a conversion: two folders that appear together, when both are finished.

Safetensors are written while they are computed. A header needs shapes only, so that no shard is ever in memory.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from .pair import Conversion
from .plan import Plan
from .staging import staged
from .tensors import STORED_DTYPES, Step

INDEX = "model.safetensors.index.json"
CARRIED_OVER = ("*.json", "*.jinja", "*.model", "*.tiktoken", "LICENSE*", "additional_chat_templates")
"""Tokenizer, templates, generation and processor settings: copied byte for byte."""
_WRITTEN_ANEW = ("config.json", "*.index.json")
_FOR_TOWERS = ("processor_config.json", "*preprocessor_config.json")
_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}
_ALIGNMENT = 8

Progress = Callable[[int, int], None]
"""Called with what is done so far, and all that is to be done."""


def no_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""


def write_pair(conversion: Conversion, progress: Progress = no_progress) -> None:
    """Write all checkpoints of a conversion; until all are finished nothing that loads is there.

    Args:
        progress: called with (bytes read, bytes to read).

    Raises:
        InputError: the source cannot be read, or the destination cannot be written: one sentence that says why.
    """
    plans, total, done = conversion.plans, conversion.source_bytes, 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        progress(done, total)

    with staged([plan.folder for plan in plans], conversion.bytes) as folders:
        for plan, folder in zip(plans, folders, strict=True):
            write_shards(folder, plan.steps, plan.parameters, conversion.options.max_shard_bytes, count)
        # Last, because without a config.json nothing loads.
        for plan, folder in zip(plans, folders, strict=True):
            _carry_over(plan, folder)
            _write_config(plan, folder)


def _carry_over(plan: Plan, folder: Path) -> None:
    left_out = (*_WRITTEN_ANEW, *_FOR_TOWERS) if plan.text_only else _WRITTEN_ANEW
    for path in sorted(plan.source.iterdir()):
        if not any(path.match(pattern) for pattern in CARRIED_OVER) or any(path.match(name) for name in left_out):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)


def _write_config(plan: Plan, folder: Path) -> None:
    text = json.dumps(dict(sorted(plan.config.items())), indent=4, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def write_shards(
    folder: Path, steps: Sequence[Step], parameters: int, max_bytes: int, count: Callable[[int], None]
) -> None:
    """Write ``model.safetensors`` or its shards, and the index, as mlx-lm names them.

    Args:
        parameters: how many numbers the weights stand for.
        max_bytes: of a shard; a larger tensor gets one of its own.
        count: called with the number of bytes read since the last call.

    Raises:
        InputError: the source cannot be read.
        OSError: the shards cannot be written.
    """
    shards = list(_shards(steps, max_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        several = len(shards) > 1
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if several else "model.safetensors"
        _write_shard(folder / name, shard, count)
        weight_map |= {output.name: name for step in shard for output in step.outputs}
    total = sum(output.nbytes for step in steps for output in step.outputs)
    index = {
        "metadata": {"total_size": total, "total_parameters": parameters},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=4) + "\n", encoding="utf-8")


def _shards(steps: Sequence[Step], max_bytes: int) -> Iterator[list[Step]]:
    """A layer's packed weight stays together with its scales."""
    shard: list[Step] = []
    size = 0
    for step in steps:
        added = sum(output.nbytes for output in step.outputs)
        if shard and size + added > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(step)
        size += added
    if shard:
        yield shard


def _write_shard(path: Path, steps: Sequence[Step], count: Callable[[int], None]) -> None:
    header, offsets, end = _header(steps)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    begin = 8 + len(encoded)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for step in steps:
            positions = [begin + offsets[output.name] for output in step.outputs]
            for read, arrays in step.chunks():
                for i, array in enumerate(arrays):
                    file.seek(positions[i])
                    positions[i] += file.write(_bytes_of(array))
                count(read)
            mx.clear_cache()
        file.truncate(begin + end)  # an empty tensor at the end has not been written
        file.flush()
        os.fsync(file.fileno())


def _header(steps: Sequence[Step]) -> tuple[dict[str, Any], dict[str, int], int]:
    """A shard's header, the offset of each tensor after it, and where the last one ends."""
    # Widest types first: every tensor then begins at a multiple of its element's size, without gaps.
    outputs = sorted((out for step in steps for out in step.outputs), key=lambda out: -out.dtype.size)
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offsets: dict[str, int] = {}
    end = 0
    for output in outputs:
        offsets[output.name], end = end, end + output.nbytes
        header[output.name] = {
            "dtype": _NAMES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [offsets[output.name], end],
        }
    return header, offsets, end


def _bytes_of(array: mx.array) -> memoryview:
    return memoryview(array.reshape(-1).view(mx.uint8))  # type: ignore[arg-type]  # the stubs lack the buffer protocol
