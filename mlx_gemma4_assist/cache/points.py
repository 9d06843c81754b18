"""What a row remembers, taken out of its cache at one position, and a cache made of it.

A row can go on from a position P if it has the keys and values of all positions before P in full layers, and those of
the last ``window`` in sliding layers. The first are taken in parts, which texts with the same beginning share; the
second are copied whole at each position that is to be gone back to.

Nothing here knows what the arrays of a layer are, only that there may be several, and that axis 2 counts slots.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..backend import dtype_name
from ..models.config import FULL, SLIDING
from .layout import CacheLayout, grown_size
from .layout import Part as LayoutPart
from .rows import KVCache
from .store import Layer, empty, positions_of, with_positions

Part = tuple[Layer, ...]
"""For each layer of one kind, what its arrays have of some positions, see ``store.positions_of``."""


def form(layout: CacheLayout) -> str:
    """How caches of a layout store keys and values, whatever their rings' slack: parts fit those of the same form."""
    layers = enumerate(layout.kinds)
    forms = "; ".join(f"{kind} {', '.join(map(_form, layout.parts(layer, 1, 1)))}" for layer, kind in layers)
    return forms if layout.quantization is None else f"{forms}; {layout.quantization}"


def _form(part: LayoutPart) -> str:
    """The type of an array, and its sizes but rows and slots."""
    return f"{dtype_name(part.dtype)} {part.shape[1]}x{part.shape[3]}"


def full_bytes(layout: CacheLayout, begin: int, end: int) -> int:
    """Bytes of positions ``begin`` to ``end`` - 1 of a row in all full layers."""
    how = layout.quantization
    (first, last), (packed_first, packed_last) = ((begin, end), (0, 0)) if how is None else how.ranges(begin, end)
    slots = (last - first, last - first, *[packed_last - packed_first] * 6)
    full = [layer for layer, kind in enumerate(layout.kinds) if kind == FULL]
    each = [zip(layout.parts(layer, 1, 1), slots, strict=False) for layer in full]
    return sum(part.slot_bytes * count for parts in each for part, count in parts)


def window_bytes(layout: CacheLayout, positions: int) -> int:
    """Bytes of so many positions of a row in all sliding layers."""
    sliding = [layer for layer, kind in enumerate(layout.kinds) if kind == SLIDING]
    return positions * sum(part.slot_bytes for layer in sliding for part in layout.parts(layer, 1, 1))


def part_bytes(part: Part) -> int:
    return sum(array.nbytes for layer in part for array in layer)


def full_part(cache: KVCache, begin: int, end: int) -> Part:
    """Copies of what full layers of a cache of one row hold for positions ``begin`` to ``end`` - 1; lazy."""
    return _part(cache, FULL, begin, end)


def window_part(cache: KVCache, end: int) -> Part:
    """Copies of what sliding layers of a cache of one row hold for the last ``window`` positions before ``end``; lazy.

    The row must be able to go on from there: ``KVCache.can_rewind``.
    """
    return _part(cache, SLIDING, max(0, end - cache.layout.window), end)


def restored(
    layout: CacheLayout, fingerprint: str | None, tokens: Sequence[int], parts: Sequence[Part], window: Part
) -> KVCache:
    """A cache of one row that goes on where parts and window were taken; lazy.

    It cannot be gone back in, unless it is shorter than a window: earlier positions are in no ring.

    Args:
        layout: of the new cache; its slack may be another than where they were taken.
        fingerprint: of the target.
        tokens: all that the row is to hold.
        parts: what full layers hold for these, one part behind the other.
        window: what sliding layers hold for the last of them.
    """
    end = len(tokens)
    blank = empty(layout, 1, grown_size(end))
    full, sliding = iter([_whole(pieces) for pieces in zip(*parts, strict=True)]), iter(window)
    layers = [
        with_positions(layout, layer, arrays, 0, end, next(full))
        if kind == FULL
        else with_positions(layout, layer, arrays, max(0, end - layout.window), end, next(sliding))
        for layer, (kind, arrays) in enumerate(zip(layout.kinds, blank, strict=True))
    ]
    written = end if end <= layout.window else end + layout.slack
    return KVCache.of(layout, fingerprint, tuple(layers), [list(tokens)], [written])


def _part(cache: KVCache, kind: str, begin: int, end: int) -> Part:
    """Copies, so that a part does not keep a whole cache alive."""
    layers = enumerate(zip(cache.layout.kinds, cache.buffers, strict=True))
    return tuple(
        tuple(map(mx.contiguous, positions_of(cache.layout, layer, arrays, begin, end)))
        for layer, (one, arrays) in layers
        if one == kind
    )


def _whole(pieces: Sequence[Layer]) -> Layer:
    """What one layer has of some positions, and of those that follow."""
    return tuple(mx.concatenate(list(arrays), axis=2) for arrays in zip(*pieces, strict=True))
