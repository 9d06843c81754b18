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

import mlx.core as mx

from ..models.config import FULL, SLIDING, Gemma4TextConfig

GROWTH = 256  # slots by which a linear buffer grows
BUCKET = 64  # attention over a linear buffer stops at a multiple of this


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(frozen=True)
class CacheLayout:
    """What is fixed for a run: which layers own keys and values, and how large the rings are.

    Attributes:
        config: the target's.
        slack: slots of a ring beyond the window; the most positions that may be written and then taken back.
        dtype: of keys and values.
    """

    config: Gemma4TextConfig
    slack: int
    dtype: mx.Dtype

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

    def shape(self, kind: str, rows: int, size: int) -> tuple[int, int, int, int]:
        """Of the keys, or the values, of a layer: (rows, G, size, D), in a sliding layer (rows, G, ring, D)."""
        slots = size if kind == FULL else self.ring
        return rows, self.config.kv_heads(kind), slots, self.config.head_dim_of(kind)

    def linear_bytes(self, size: int) -> int:
        """Of one row's full-attention layers, with so many slots."""
        return size * self._slot_bytes(FULL)

    def row_bytes(self, size: int) -> int:
        """Of one row: its full-attention layers with so many slots, and its rings."""
        return self.linear_bytes(size) + self.ring * self._slot_bytes(SLIDING)

    def _slot_bytes(self, kind: str) -> int:
        """Keys and values of one position in all layers of a kind that own some."""
        numbers = 2 * self.config.kv_heads(kind) * self.config.head_dim_of(kind)
        return self.kinds.count(kind) * numbers * self.dtype.size


def grown_size(positions: int) -> int:
    """Slots of a linear buffer that has room for so many positions; long buffers are not copied too often."""
    return round_up(positions + positions // 16, GROWTH)


def ring_positions(slots: int, last: mx.array, ring: int) -> mx.array:
    """The position that each of a ring's first slots holds, if ``last`` (B,) was written last: (B, slots) int32.

    Negative where nothing has been written yet.
    """
    last = last[:, None]
    return last - (last - mx.arange(slots)) % ring
