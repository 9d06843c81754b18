"""The rows of a batch, whose keys and values in layers of full attention lie on shelves.

The arrays of such a layer are those of the first shelf, then those of the second, and so on; in each, rows are axis 0
and slots are axis 2. Rings have one size for all rows: they lie in order.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..models.config import FULL
from .layout import Bound
from .rows import KVCache
from .shelves import Places, Shelf, arranged, is_dense, places_of
from .store import Layer, placed

SlotsOf = Callable[[int], Sequence[int]]
"""How many slots each array of a full layer has where there is room for so many positions."""


class BatchCache(KVCache):
    """The rows of a batch: others come and go, each with as many slots as it needs.

    Rows are emptied one by one; a batch that failed is let go as a whole.

    Args:
        first: of one row, which becomes the batch's first, and should be used no longer.
        rows: how many sequences there is room for.
    """

    def __init__(self, first: KVCache, rows: int):
        self.layout, self.fingerprint, self._holder = first.layout, first.fingerprint, None
        self._tokens, self._written = [list(first.tokens[0])], list(first.written)
        self._buffers = first.buffers
        self._shelves: tuple[Shelf, ...] = (Shelf(first.size, (0,)),)
        self._places: Places | None = None
        self.extend(rows)

    def extend(self, rows: int) -> None:
        """Have so many rows; those that come behind the others are empty, and lie nowhere in full layers."""
        more = rows - len(self._tokens)
        self._buffers = tuple(
            layer if kind == FULL else tuple(_with_more(array, more) for array in layer)
            for kind, layer in zip(self.layout.kinds, self._buffers, strict=True)
        )
        self._tokens += [[] for _ in range(more)]
        self._written += [0] * more
        self._settled = False  # whether rows lie as they should

    def keep(self, kept: Sequence[int], rows: int) -> None:
        """Have so many rows: first these of the ones there were, in this order, then empty ones."""
        picks = mx.array([*kept, *[kept[0]] * (rows - len(kept))])
        now = {row: place for place, row in enumerate(kept)}
        self._buffers = tuple(
            layer if kind == FULL else tuple(array[picks] for array in layer)
            for kind, layer in zip(self.layout.kinds, self._buffers, strict=True)
        )
        self._shelves = tuple(
            shelf._replace(rows=tuple(None if row is None else now.get(row) for row in shelf.rows))
            for shelf in self._shelves
        )
        more = rows - len(kept)
        self._tokens = [self._tokens[row] for row in kept] + [[] for _ in range(more)]
        self._written = [self._written[row] for row in kept] + [0] * more
        self._settled = False

    @property
    def size(self) -> int:
        """Slots of the largest shelf."""
        return max(shelf.capacity for shelf in self._shelves)

    def capacity(self, row: int) -> int:
        return next((shelf.capacity for shelf in self._shelves if row in shelf.rows), 0)

    @property
    def places(self) -> Places | None:
        return self._places

    @property
    def shelves(self) -> tuple[Shelf, ...]:
        """Who lies where."""
        return self._shelves

    def reserve(self, positions: int) -> None:
        held = self._held
        self.reserve_each([positions if row in held else 0 for row in range(len(self._tokens))])

    @property
    def _held(self) -> set[int]:
        return {row for shelf in self._shelves for row in shelf.held}

    def reserve_each(self, needs: Sequence[int]) -> None:
        has_room = all(needs[row] <= shelf.capacity for shelf in self._shelves for row in shelf.held)
        if self._settled and has_room and self._held == {row for row, need in enumerate(needs) if need}:
            return
        self._put_on(arranged(self._shelves, needs))

    def bound(self, lengths: Sequence[int]) -> Bound:
        if self._places is None:
            return max(lengths)
        return tuple(max(lengths[row] for row in shelf.held) for shelf in self._shelves)

    def place(self, row: int, other: KVCache) -> None:
        """Put the row of another cache of this layout, which has one, into a row: on a shelf of its own, as it is."""
        self.forget(row)
        alone = Shelf(other.size, (row,))
        self._written[row] = other.written[0]
        self._buffers = tuple(
            layer + new
            if kind == FULL
            else tuple(placed(array, row, one) for array, one in zip(layer, new, strict=True))
            for kind, layer, new in zip(self.layout.kinds, self._buffers, other.buffers, strict=True)
        )
        self._shelves = (*(_without(shelf, row) for shelf in self._shelves), alone)
        self._tokens[row] = list(other.tokens[0])
        self._settled = False

    def take(self, row: int) -> KVCache:
        """A row as a cache of its own, in memory of its own."""
        shelf = next(shelf for shelf in self._shelves if row in shelf.rows)
        alone = Shelf(shelf.capacity, (row,))
        buffers = tuple(
            moved(layer, self._shelves, (alone,), self._slots)
            if kind == FULL
            else tuple(mx.contiguous(array[row : row + 1]) for array in layer)
            for kind, layer in zip(self.layout.kinds, self._buffers, strict=True)
        )
        return KVCache.of(self.layout, self.fingerprint, buffers, [self._tokens[row]], [self._written[row]])

    def _slots(self, capacity: int) -> tuple[int, ...]:
        """Of each array of a full layer that has room for so many positions."""
        layer = self.layout.kinds.index(FULL)
        return tuple(part.shape[2] for part in self.layout.parts(layer, 1, capacity))

    def _put_on(self, shelves: tuple[Shelf, ...]) -> None:
        buffers = tuple(
            moved(layer, self._shelves, shelves, self._slots) if kind == FULL else layer
            for kind, layer in zip(self.layout.kinds, self._buffers, strict=True)
        )
        rows = len(self._tokens)
        self._buffers, self._shelves = buffers, shelves
        self._places = None if is_dense(shelves, rows) else places_of(shelves, rows)
        self._settled = True


def _without(shelf: Shelf, row: int) -> Shelf:
    return shelf._replace(rows=tuple(None if other == row else other for other in shelf.rows))


def _with_more(array: mx.array, rows: int) -> mx.array:
    return mx.concatenate([array, mx.zeros((rows, *array.shape[1:]), array.dtype)])


def moved(layer: Layer, old: Sequence[Shelf], new: Sequence[Shelf], slots: SlotsOf) -> Layer:
    """The arrays of a layer for other shelves; every row of the new ones lies on one of the old.

    A shelf that some old one becomes by few rows more or less, or by another capacity, is that one with these changes.
    Else it is made anew, and nothing of an old one's memory is held.

    Args:
        slots: of each array of a shelf, by its capacity.
    """
    width = len(layer) // len(old)
    parts = [layer[part::width] for part in range(width)]
    return tuple(
        _shelf_of(arrays, old, shelf, count)
        for shelf in new
        for arrays, count in zip(parts, slots(shelf.capacity), strict=True)
    )


def _shelf_of(arrays: Sequence[mx.array], old: Sequence[Shelf], shelf: Shelf, slots: int) -> mx.array:
    """One array of a new shelf, with so many slots, from that of each old one."""
    where = {row: (i, place) for i, each in enumerate(old) for place, row in enumerate(each.rows) if row is not None}
    wanted = {place: where[row] for place, row in enumerate(shelf.rows) if row is not None}
    base = _base(wanted, old, shelf)
    if base is not None:
        array = _fitted(arrays[base], slots)
        for place, (i, at) in wanted.items():
            if (i, at) != (base, place):
                array = placed(array, place, _fitted(arrays[i][at : at + 1], slots))
        return array
    rows = {place: _fitted(arrays[i][at : at + 1], slots) for place, (i, at) in wanted.items()}
    nothing = mx.zeros_like(next(iter(rows.values())))
    return mx.contiguous(mx.concatenate([rows.get(place, nothing) for place in range(len(shelf.rows))]))


def _base(wanted: dict[int, tuple[int, int]], old: Sequence[Shelf], shelf: Shelf) -> int | None:
    """The old shelf of as many places in which most of the new one's rows lie in their places already."""
    counts = [sum(at == (i, place) for place, at in wanted.items()) for i in range(len(old))]
    best = max(range(len(old)), key=lambda i: counts[i] if len(old[i].rows) == len(shelf.rows) else -1)
    fits = len(old[best].rows) == len(shelf.rows) and counts[best] > 0
    return best if fits else None


def _fitted(array: mx.array, slots: int) -> mx.array:
    """An array (P, G, S, D) with ``slots`` in the place of S."""
    P, G, S, D = array.shape
    if slots <= S:
        return array if slots == S else mx.contiguous(array[:, :, :slots])
    return mx.concatenate([array, mx.zeros((P, G, slots - S, D), array.dtype)], axis=2)
