"""The buffers of a cache's layers: made, lengthened, written to, and their rows taken apart and put together.

A layer that owns keys and values has a tuple of arrays (B, G, slots, width): keys and values, and where they are
quantized more (``CacheLayout.parts``). All functions are pure: they return new arrays, and MLX reuses the memory of
those that nobody holds any more.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..models.config import FULL
from .layout import CacheLayout, ring_positions
from .quantization import KVQuantization

Layer = tuple[mx.array, ...]
"""Keys and values (B, G, S, D), and what quantized layers have beside them; where rows of a batch lie on shelves, the
arrays of each shelf, one after the other."""

Buffers = tuple[Layer, ...]


def empty(layout: CacheLayout, rows: int, size: int) -> Buffers:
    """Zeros for each owning layer, with room for ``size`` positions."""
    return tuple(
        tuple(mx.zeros(part.shape, part.dtype) for part in layout.parts(layer, rows, size))
        for layer in range(len(layout.kinds))
    )


def size_of(layout: CacheLayout, buffers: Buffers) -> int:
    """For how many positions there is room in linear buffers; 0 without any."""
    if not buffers or layout.first_full is None:
        return 0
    return positions_in(layout.quantization, buffers[layout.first_full])


def positions_in(how: KVQuantization | None, layer: Layer) -> int:
    """For how many positions there is room in a linear buffer."""
    return layer[0].shape[2] if how is None else how.size(layer[0].shape[2], layer[-1].shape[2])


def lengthened(layout: CacheLayout, buffers: Buffers, size: int) -> Buffers:
    """Linear buffers with room for ``size`` positions; rings as they are."""
    return tuple(
        tuple(
            padded(array, part.shape[2])
            for array, part in zip(arrays, layout.parts(layer, arrays[0].shape[0], size), strict=True)
        )
        for layer, arrays in enumerate(buffers)
    )


def padded(array: mx.array, slots: int) -> mx.array:
    """An array (B, G, S, D) with zeros behind it, if it has fewer slots."""
    B, G, S, D = array.shape
    return array if slots == S else mx.concatenate([array, mx.zeros((B, G, slots - S, D), array.dtype)], axis=2)


def joined(parts: Sequence[Buffers]) -> Buffers:
    """Buffers of one layout and one size, as the rows of larger ones."""
    return tuple(
        tuple(mx.concatenate(list(arrays)) for arrays in zip(*layers, strict=True))
        for layers in zip(*parts, strict=True)
    )


def taken(buffers: Buffers, row: int) -> Buffers:
    """One row, as buffers of a batch of one."""
    return tuple(tuple(array[row : row + 1] for array in layer) for layer in buffers)


def placed(array: mx.array, row: int, new: mx.array) -> mx.array:
    """An array (B, ...) with one row, (1, ...), in another's place."""
    return mx.slice_update(array, new, mx.array([row]), axes=(0,)) if new.size else array


def positions_of(layout: CacheLayout, layer: int, arrays: Layer, begin: int, end: int) -> Layer:
    """What a layer holds of positions ``begin`` to ``end`` - 1, in their order; of a ring at most all it has.

    Where keys are quantized, dense arrays have the positions before that begins, quantized ones the others.
    """
    pieces = _slot_ranges(layout, layer, len(arrays), begin, end)
    return tuple(
        mx.concatenate([array[:, :, first:last] for first, last in ranges], axis=2)
        for array, ranges in zip(arrays, pieces, strict=True)
    )


def with_positions(layout: CacheLayout, layer: int, arrays: Layer, begin: int, end: int, new: Layer) -> Layer:
    """A layer's arrays with what :func:`positions_of` has taken from others."""
    pieces = _slot_ranges(layout, layer, len(arrays), begin, end)
    written = []
    for array, ranges, part in zip(arrays, pieces, new, strict=True):
        at = 0
        for first, last in ranges:
            if first < last:
                piece = part[:, :, at : at + last - first]
                array = mx.slice_update(array, piece, mx.array([first]), axes=(2,))
            at += last - first
        written.append(array)
    return tuple(written)


def _slot_ranges(
    layout: CacheLayout, layer: int, arrays: int, begin: int, end: int
) -> Sequence[Sequence[tuple[int, int]]]:
    """For each of a layer's arrays the slots, first and last + 1, of positions; in a ring they may be two pieces."""
    how = layout.quantization_of(layer)
    if how is not None:
        dense, quantized = how.ranges(begin, end)
        return [[dense]] * 2 + [[quantized]] * (arrays - 2)
    if layout.kinds[layer] == FULL:
        return [[(begin, end)]] * arrays
    first = begin % layout.ring
    last = first + end - begin
    return [[(first, last)] if last <= layout.ring else [(first, layout.ring), (0, last - layout.ring)]] * arrays


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


def with_wider_rings(layout: CacheLayout, buffers: Buffers, lengths: Sequence[int], ring: int) -> Buffers:
    """Buffers of a layout with rings of ``ring`` slots, see :func:`moved_to_ring`; linear ones as they are."""
    return tuple(
        layer if kind == FULL else (moved_to_ring(layer[0], lengths, ring), moved_to_ring(layer[1], lengths, ring))
        for kind, layer in zip(layout.kinds, buffers, strict=True)
    )


class Slots:
    """Where a block's new keys and values go. It lives as long as its block.

    Args:
        positions: (B, L) int32, of the block's tokens.
        ring: slots of a sliding layer; not needed for others.
    """

    def __init__(self, positions: mx.array, ring: int = 0):
        self._positions = positions
        self._ring = ring
        self._places: dict[tuple[int, ...], mx.array] = {}

    def write(self, buffer: mx.array, new: mx.array, ring: bool = False) -> mx.array:
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
