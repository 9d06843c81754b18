"""The geometry of a cache: which layers own keys and values, how large their buffers are, and what a slot holds.

A full-attention layer has a linear buffer: slot s holds position s. A sliding layer has a ring of ``window + slack``
slots: position p lies in slot ``p % ring``. Which position a slot holds follows from the length alone, so masks are
computed from positions, entries beyond the length are invisible, and the next round overwrites them.

Why the slack suffices: a round of L tokens over ``length`` verified ones overwrites positions below
``length + L - ring``. A later query, after any roll-back of at most ``slack`` positions in all, still finds its whole
window. The slack therefore covers the rounds in flight, each of drafts + 1 tokens; how it was chosen against a linear
window that is compacted now and then is in ``tools/measure_sliding_cache.py``: the ring attends to fewer keys (0.81
to 0.92 of the time per layer in five of six measurements on a CPU) and has no moments that the host must know of.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import mlx.core as mx

from ..models.config import FULL, SLIDING, Gemma4TextConfig
from .quantization import KVQuantization

GROWTH = 256  # slots by which a linear buffer grows
BUCKET = 64  # attention over a linear buffer stops at a multiple of this

Bound = int | tuple[int, ...]
"""An upper bound of lengths, known to the host: of all rows, or, where they lie on shelves, of the rows of each."""


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def bounds_of(bound: Bound) -> tuple[int, ...]:
    """The bounds of each shelf, or the one of all rows."""
    return (bound,) if isinstance(bound, int) else bound


class Part(NamedTuple):
    """One of a layer's arrays: (rows, G, slots, width)."""

    name: str
    shape: tuple[int, int, int, int]
    dtype: mx.Dtype

    @property
    def slot_bytes(self) -> int:
        """Of one slot of one row."""
        return self.shape[1] * self.shape[3] * self.dtype.size


@dataclass(frozen=True)
class CacheLayout:
    """What is fixed for a run: which layers own keys and values, and how large the rings are.

    Attributes:
        config: the target's.
        slack: slots of a ring beyond the window; the most positions that may be written and then taken back.
        dtype: of keys and values.
        quantization: of keys and values in layers with full attention; None where they are dense.
    """

    config: Gemma4TextConfig
    slack: int
    dtype: mx.Dtype
    quantization: KVQuantization | None = None

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The layer type of each layer that owns keys and values."""
        return self.config.layer_types[: self.config.num_kv_layers]

    @cached_property
    def window(self) -> int:
        return self.config.sliding_window

    @cached_property
    def ring(self) -> int:
        return self.window + self.slack

    @cached_property
    def first_full(self) -> int | None:
        """The first layer with full attention that owns keys and values."""
        return self.kinds.index(FULL) if FULL in self.kinds else None

    def quantization_of(self, layer: int) -> KVQuantization | None:
        """How a layer's keys and values are quantized; None where they are dense, as in all sliding layers."""
        return self.quantization if self.kinds[layer] == FULL else None

    def parts(self, layer: int, rows: int, size: int) -> tuple[Part, ...]:
        """The arrays of a layer, where there is room for ``size`` positions.

        Keys and values have ``size`` slots, in a sliding layer ``ring``. In a quantized layer they are those of the
        first positions, and words, scales and biases of the later ones follow them.
        """
        kind, how = self.kinds[layer], self.quantization_of(layer)
        heads, width = self.config.kv_heads(kind), self.config.head_dim_of(kind)
        slots, quantized = (size if kind == FULL else self.ring, 0) if how is None else how.slots(size)
        dense = tuple(Part(name, (rows, heads, slots, width), self.dtype) for name in ("keys", "values"))
        if how is None:
            return dense
        words, scales = (
            (rows, heads, quantized, width * how.bits // 32),
            (rows, heads, quantized, width // how.group_size),
        )
        packed = [("words", words, mx.uint32), ("scales", scales, self.dtype), ("biases", scales, self.dtype)]
        return dense + tuple(
            Part(f"{part.name}.{name}", shape, dtype) for part in dense for name, shape, dtype in packed
        )

    def linear_bytes(self, size: int) -> int:
        """Of one row's full-attention layers, with room for so many positions."""
        return self._nbytes(FULL, size)

    def row_bytes(self, size: int) -> int:
        """Of one row: its full-attention layers with room for so many positions, and its rings."""
        return self.linear_bytes(size) + self._nbytes(SLIDING, size)

    def _nbytes(self, kind: str, size: int) -> int:
        layers = [layer for layer, each in enumerate(self.kinds) if each == kind]
        return sum(part.slot_bytes * part.shape[2] for layer in layers for part in self.parts(layer, 1, size))


def grown_size(positions: int) -> int:
    """Slots of a linear buffer that has room for so many positions; long buffers are not copied too often."""
    return round_up(positions + positions // 16, GROWTH)


def ring_positions(slots: int, last: mx.array, ring: int) -> mx.array:
    """The position that each of a ring's first slots holds, if ``last`` (B,) was written last: (B, slots) int32.

    Negative where nothing has been written yet.
    """
    last = last[:, None]
    return last - (last - mx.arange(slots)) % ring
