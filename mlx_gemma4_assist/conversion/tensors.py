"""Reading tensors of a checkpoint a few rows at a time: no more of a file is ever in memory.

MLX reads a tensor whole, and a mapped file counts as resident memory; hence plain reads here. The largest tensor of an
E4B, its table of per-layer inputs, has 5.6 GB.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..checkpoints.weights import checked_files
from ..errors import InputError

CHUNK_BYTES = 32 << 20
DTYPES = {
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
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = 8  # bytes before a header, which say how long it is


@dataclass(frozen=True)
class Stored:
    """What a file says about a tensor.

    Attributes:
        path: the file; ``offset``: of the first byte in it.
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
            header: Mapping = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in DTYPES:
                raise InputError(f"{name} in {path} has the data type {entry['dtype']}, which cannot be converted")
            start = _LENGTH + length + entry["data_offsets"][0]
            found[name] = Stored(path, start, DTYPES[entry["dtype"]], tuple(entry["shape"]))
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
    def nbytes(self) -> int:
        return sum(last - first for first, last in self.ranges) * self.row_bytes

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
