"""The buffers of a cache's layers: made, lengthened, written to, and their rows taken apart and put together.

Buffers are dense arrays, a pair of keys and values (B, G, S, D) for each layer that owns them. All functions are pure:
they return new arrays, and MLX reuses the memory of those that nobody holds any more.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..models.config import FULL
from .layout import CacheLayout, ring_positions

Layer = tuple[mx.array, ...]
Buffers = tuple[tuple[mx.array, mx.array], ...]


def empty(layout: CacheLayout, rows: int, size: int) -> Buffers:
    """Zeros for each owning layer: (rows, G, size, D), rings (rows, G, ring, D)."""

    def zeros(kind: str) -> mx.array:
        return mx.zeros(layout.shape(kind, rows, size), layout.dtype)

    return tuple((zeros(kind), zeros(kind)) for kind in layout.kinds)


def lengthened(layout: CacheLayout, buffers: Buffers, size: int) -> Buffers:
    """Linear buffers with ``size`` slots; rings as they are."""

    def longer(buffer: mx.array) -> mx.array:
        B, G, S, D = buffer.shape
        return mx.concatenate([buffer, mx.zeros((B, G, size - S, D), buffer.dtype)], axis=2)

    return tuple(
        (longer(keys), longer(values)) if kind == FULL else (keys, values)
        for kind, (keys, values) in zip(layout.kinds, buffers, strict=True)
    )


def joined(parts: Sequence[Buffers]) -> Buffers:
    """Buffers of one layout and one size, as the rows of larger ones."""
    return tuple(
        (mx.concatenate([keys for keys, _ in layer]), mx.concatenate([values for _, values in layer]))
        for layer in zip(*parts, strict=True)
    )


def taken(buffers: Buffers, row: int) -> Buffers:
    """One row, as buffers of a batch of one."""
    return tuple((keys[row : row + 1], values[row : row + 1]) for keys, values in buffers)


def placed(array: mx.array, row: int, new: mx.array) -> mx.array:
    """An array (B, ...) with one row, (1, ...), in another's place."""
    return mx.slice_update(array, new, mx.array([row]), axes=(0,))


def with_row(buffers: Buffers, row: int, new: Buffers) -> Buffers:
    """Buffers with those of one row in another's place; both of one size."""
    return tuple(
        (placed(keys, row, new_keys), placed(values, row, new_values))
        for (keys, values), (new_keys, new_values) in zip(buffers, new, strict=True)
    )


def positions_of(layout: CacheLayout, layer: int, arrays: Layer, begin: int, end: int) -> Layer:
    """What a layer holds of positions ``begin`` to ``end`` - 1, in their order; of a ring at most all it has."""
    ranges = _slot_ranges(layout, layer, begin, end)
    return tuple(mx.concatenate([array[:, :, first:last] for first, last in ranges], axis=2) for array in arrays)


def with_positions(layout: CacheLayout, layer: int, arrays: Layer, begin: int, end: int, new: Layer) -> Layer:
    """A layer's arrays with what :func:`positions_of` has taken from others."""
    written = []
    for array, part in zip(arrays, new, strict=True):
        at = 0
        for first, last in _slot_ranges(layout, layer, begin, end):
            piece = part[:, :, at : at + last - first]
            array = mx.slice_update(array, piece, mx.array([first]), axes=(2,))
            at += last - first
        written.append(array)
    return tuple(written)


def _slot_ranges(layout: CacheLayout, layer: int, begin: int, end: int) -> list[tuple[int, int]]:
    """The slots, first and last + 1, of positions; in a ring they may be two pieces."""
    if layout.kinds[layer] == FULL:
        return [(begin, end)]
    first = begin % layout.ring
    last = first + end - begin
    return [(first, last)] if last <= layout.ring else [(first, layout.ring), (0, last - layout.ring)]


def moved_to_ring(buffer: mx.array, lengths: Sequence[int], ring: int) -> mx.array:
    """A smaller ring's keys or values (B, G, R, D) in a ring of ``ring`` slots, as if it had never been smaller.

    Slots of positions that the smaller one no longer held are given something, which must not be seen.

    Args:
        lengths: of each row, counted in positions.
    """
    B, G, R, D = buffer.shape
    positions = ring_positions(ring, mx.array(list(lengths), mx.int32) - 1, ring)
    slots = mx.broadcast_to((positions % R)[:, None, :, None], (B, G, ring, D))
    return mx.take_along_axis(buffer, slots, axis=2)


class Slots:
    """Where a block's new keys and values go. It lives as long as its block.

    Args:
        positions: (B, L) int32, of the block's tokens.
        ring: slots of a sliding layer.
    """

    def __init__(self, positions: mx.array, ring: int):
        self._positions = positions
        self._ring = ring
        self._places: dict[tuple[int, ...], mx.array] = {}

    def write(self, buffer: mx.array, new: mx.array, ring: bool) -> mx.array:
        """``buffer`` (B, G, S, D) with the block's last (B, G, L, D), as a new array.

        One row's new slots lie side by side, unless they wrap in a ring; a contiguous update is cheaper than a scatter.
        """
        contiguous = new.shape[0] == 1 and (new.shape[2] == 1 or not ring)
        place = self._place(new, ring, contiguous)
        if contiguous:
            return mx.slice_update(buffer, new, place, axes=(2,))
        return mx.put_along_axis(buffer, place, new, axis=2)

    def _place(self, new: mx.array, ring: bool, contiguous: bool) -> mx.array:
        """The first slot (1,), or a slot for each number of ``new``; the same for all layers of a shape."""
        key = (ring, contiguous, *(() if contiguous else new.shape))
        if key not in self._places:
            slots = self._positions[:, -new.shape[2] :] % self._ring if ring else self._positions
            self._places[key] = slots[0, :1] if contiguous else mx.broadcast_to(slots[:, None, :, None], new.shape)
        return self._places[key]
