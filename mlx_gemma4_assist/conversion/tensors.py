"""Tensors on their way from one checkpoint to another, a few rows at a time: no more of a file is ever in memory.

MLX reads a tensor whole, and a mapped file counts as resident memory; hence plain reads here. The largest tensor of an
E4B, its table of per-layer inputs, has 5.6 GB.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..checkpoints.quantized import Quantization
from ..checkpoints.weights import checked_files
from ..errors import InputError

CHUNK_BYTES = 32 << 20
STORED_DTYPES = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "I64": mx.int64,
    "I32": mx.int32,
    "I16": mx.int16,
    "I8": mx.int8,
    "U64": mx.uint64,
    "U32": mx.uint32,
    "U16": mx.uint16,
    "U8": mx.uint8,
    "BOOL": mx.bool_,
}
"""By their names in a safetensors file."""
_LENGTH = 8  # bytes before a header, which say how long it is


# Reading


@dataclass(frozen=True)
class Stored:
    """What a file says about a tensor.

    Attributes:
        path: the file that holds it.
        offset: where its first byte is in the file.
    """

    path: Path
    offset: int
    dtype: mx.Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint by name; only headers are read.

    Raises:
        InputError: a file that is missing, damaged or unreadable, or a data type that MLX does not have.
    """
    found: dict[str, Stored] = {}
    for path in checked_files(folder):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            header: Mapping[str, Any] = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in STORED_DTYPES:
                raise InputError(f"{name} in {path} has the data type {entry['dtype']}, which cannot be converted")
            start = _LENGTH + length + entry["data_offsets"][0]
            found[name] = Stored(path, start, STORED_DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor seen as a matrix: (all but the last axis, last axis).

    Attributes:
        ranges: first and last + 1 of each run of rows.
    """

    stored: Stored
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def all_of(cls, stored: Stored) -> "Rows":
        return cls(stored, ((0, prod(stored.shape[:-1])),))

    @property
    def columns(self) -> int:
        return self.stored.shape[-1] if self.stored.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.columns * self.stored.dtype.size

    @property
    def count(self) -> int:
        return sum(last - first for first, last in self.ranges)

    @property
    def nbytes(self) -> int:
        return self.count * self.row_bytes

    def per_chunk(self) -> int:
        """How many rows make a chunk of bounded size."""
        return max(1, CHUNK_BYTES // max(self.row_bytes, 1))

    def chunks(self, rows: int) -> Iterator[mx.array]:
        """At most so many rows at a time, (rows, columns).

        Raises:
            InputError: the file cannot be read.
        """
        for first, last in self.ranges:
            for start in range(first, last, rows):
                yield self._read(start, min(rows, last - start))

    def _read(self, start: int, rows: int) -> mx.array:
        stored, size = self.stored, rows * self.row_bytes
        try:
            with stored.path.open("rb") as file:
                file.seek(stored.offset + start * self.row_bytes)
                read = file.read(size)
        except OSError as error:
            raise InputError(f"cannot read {stored.path}: {error.strerror}") from None
        if len(read) < size:
            raise InputError(f"{stored.path} ended early: it has changed since the conversion began")
        return mx.array(np.frombuffer(read, np.uint8)).view(stored.dtype).reshape(rows, self.columns)


# Converting


class Output(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: mx.Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size


@dataclass(frozen=True)
class Step:
    """One or more tensors of the source, and what is written of them.

    Attributes:
        sources: read together, ``rows`` of each at a time.
        outputs: written together.
        convert: from some rows of each source, (rows, columns), to the same part of each output.
    """

    sources: tuple[Rows, ...]
    rows: int
    outputs: tuple[Output, ...]
    convert: Callable[..., Sequence[mx.array]]

    def chunks(self) -> Iterator[tuple[int, Sequence[mx.array]]]:
        """(bytes read, an evaluated part of each output), in the order in which they are written.

        Raises:
            InputError: the source cannot be read.
        """
        for parts in zip(*(source.chunks(self.rows) for source in self.sources), strict=True):
            read, arrays = sum(part.nbytes for part in parts), self.convert(*parts)
            mx.eval(arrays)
            del parts  # of a tuple that others hold zip keeps the first one until it ends
            yield read, arrays


def cast(source: Rows, output: Output) -> Step:
    """The same values, perhaps in another floating-point type."""
    return Step((source,), source.per_chunk(), (output,), lambda rows: (rows.astype(output.dtype),))


def transpose(source: Rows, output: Output, axes: tuple[int, ...]) -> Step:
    """A small tensor, read whole, with its axes in another order."""

    def turn(rows: mx.array) -> Sequence[mx.array]:
        turned = rows.reshape(source.stored.shape).transpose(axes)
        return (mx.contiguous(turned.astype(output.dtype)),)

    return Step((source,), max(1, source.count), (output,), turn)


def quantize(source: Rows, weight: Output, form: Quantization) -> Step:
    """A layer's weight, packed. Rows are quantized independently of each other.

    Args:
        weight: what would be written without quantization; its type is the one to quantize from.
    """
    *rows, columns = weight.shape
    groups = (*rows, columns // form.group_size)
    layer = weight.name.removesuffix(".weight")
    packed = Output(weight.name, mx.uint32, (*rows, columns * form.bits // 32))
    beside = [Output(f"{layer}.{part}", weight.dtype, groups) for part in ("scales", "biases")]
    if form.mode != "affine":
        beside = [Output(f"{layer}.scales", mx.uint8, groups)]

    def pack(values: mx.array) -> Sequence[mx.array]:
        values = values.astype(weight.dtype)
        return mx.quantize(values, group_size=form.group_size, bits=form.bits, mode=form.mode)

    return Step((source,), source.per_chunk(), (packed, *beside), pack)


def dequantize(sources: Sequence[Rows], output: Output, form: Quantization) -> Step:
    """A packed layer's weight as it was, but for rounding.

    Args:
        sources: of weight, scales and, in affine formats, biases.
    """

    def unpack(weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> Sequence[mx.array]:
        return (mx.dequantize(weight, scales, biases, form.group_size, form.bits, form.mode, dtype=output.dtype),)

    together = min(rows.per_chunk() for rows in sources)
    # Four bits become sixteen or more: smaller chunks keep the memory that a chunk takes.
    together = max(1, together * form.bits // 32)
    return Step(tuple(sources), together, (output,), unpack)
