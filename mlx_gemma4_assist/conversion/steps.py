"""What becomes of a tensor on its way: kept, cast, quantized, dequantized, or laid out anew; a few rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mlx.core as mx

from ..checkpoints.quantized import Quantization
from .tensors import Rows


class Output(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: mx.Dtype
    shape: tuple[int, ...]


class Chunk(NamedTuple):
    """Some rows of a step's outputs.

    Attributes:
        read: how many bytes were read for them.
        arrays: one for each output, in order.
    """

    read: int
    arrays: tuple[mx.array, ...]


class Step(Protocol):
    """One or more tensors of the source, and what is written of them."""

    @property
    def outputs(self) -> tuple[Output, ...]: ...

    @property
    def sources(self) -> tuple[Rows, ...]: ...

    def chunks(self) -> Iterator[Chunk]:
        """Evaluated, in the order in which they are written."""


@dataclass(frozen=True)
class Keep:
    """The same values, perhaps in another floating-point type."""

    source: Rows
    output: Output

    @property
    def outputs(self) -> tuple[Output, ...]:
        return (self.output,)

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (self.source,)

    def chunks(self) -> Iterator[Chunk]:
        for rows in self.source.chunks(self.source.per_chunk()):
            yield _evaluated(rows.nbytes, (rows.astype(self.output.dtype),))


@dataclass(frozen=True)
class Transpose:
    """A small tensor with its axes in another order."""

    source: Rows
    output: Output
    axes: tuple[int, ...]

    @property
    def outputs(self) -> tuple[Output, ...]:
        return (self.output,)

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (self.source,)

    def chunks(self) -> Iterator[Chunk]:
        whole = mx.concatenate(list(self.source.chunks(self.source.per_chunk())))
        turned = whole.reshape(self.source.stored.shape).transpose(self.axes).astype(self.output.dtype)
        yield _evaluated(whole.nbytes, (mx.contiguous(turned),))


@dataclass(frozen=True)
class Quantize:
    """A layer's weight, packed. Rows are quantized independently of each other."""

    source: Rows
    layer: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    quantization: Quantization

    @property
    def outputs(self) -> tuple[Output, ...]:
        *rows, columns = self.shape
        q = self.quantization
        packed = Output(f"{self.layer}.weight", mx.uint32, (*rows, columns * q.bits // 32))
        groups = (*rows, columns // q.group_size)
        if q.mode != "affine":
            return packed, Output(f"{self.layer}.scales", mx.uint8, groups)
        return packed, *(Output(f"{self.layer}.{part}", self.dtype, groups) for part in ("scales", "biases"))

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (self.source,)

    def chunks(self) -> Iterator[Chunk]:
        q = self.quantization
        for rows in self.source.chunks(self.source.per_chunk()):
            packed = mx.quantize(rows.astype(self.dtype), group_size=q.group_size, bits=q.bits, mode=q.mode)
            yield _evaluated(rows.nbytes, tuple(packed))


@dataclass(frozen=True)
class Dequantize:
    """A packed layer's weight as it was, but for rounding.

    Attributes:
        sources: of weight, scales and, in affine formats, biases.
    """

    sources: tuple[Rows, ...]
    output: Output
    quantization: Quantization

    @property
    def outputs(self) -> tuple[Output, ...]:
        return (self.output,)

    def chunks(self) -> Iterator[Chunk]:
        q = self.quantization
        together = min(rows.per_chunk() for rows in self.sources)
        # Four bits become sixteen or more: smaller chunks keep the memory that a chunk takes.
        together = max(1, together * q.bits // 32)
        for parts in zip(*(rows.chunks(together) for rows in self.sources), strict=True):
            packed, scales, *biases = parts
            weight = mx.dequantize(
                packed, scales, *biases, group_size=q.group_size, bits=q.bits, mode=q.mode, dtype=self.output.dtype
            )
            yield _evaluated(sum(part.nbytes for part in parts), (weight,))


def _evaluated(read: int, arrays: tuple[mx.array, ...]) -> Chunk:
    mx.eval(arrays)
    return Chunk(read, arrays)
