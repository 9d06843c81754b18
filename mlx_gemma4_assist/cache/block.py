"""One forward's view of a cache: which keys each query sees, and where the new ones go."""

import mlx.core as mx

from ..models.attention import Band, KeysValues, Mask, band_size
from ..models.config import FULL, SLIDING
from .layout import BUCKET, Bound, CacheLayout, bounds_of, ring_positions, round_up
from .quantization import KVQuantization
from .quantized import QuantizedSlots, seen_of
from .shelf_view import ShelvedBlock
from .shelves import Places
from .spans import NO_SPANS, Spans
from .store import Buffers, Layer, Slots


class Block:
    """One forward's view of the caches: L new tokens at positions ``length`` to ``length + L - 1``.

    Implements ``models.layers.BlockCache``. It lives as long as its forward; what is left of it is ``buffers``.

    Args:
        layout: the cache's.
        buffers: as the block finds them.
        length: (B,) int32, how many entries of each row are valid.
        count: L.
        bound: an upper bound of ``length``; of each shelf's, if there are ``places``.
        exact: whether every row's length *is* ``bound``, as in a prompt: attention may then use ``"causal"``.
        mutual: spans of the block whose tokens see one another, later ones too; for an exact block.
        places: on which shelves rows lie in full layers; None where these have one buffer for all rows.
    """

    def __init__(
        self,
        layout: CacheLayout,
        buffers: Buffers,
        length: mx.array,
        count: int,
        bound: Bound,
        *,
        exact: bool = False,
        mutual: Spans = NO_SPANS,
        places: Places | None = None,
    ):
        bounds = bounds_of(bound)
        bound = max(bounds)
        self.layout = layout
        self.offset = length
        self._buffers = list(buffers)
        self._count = count
        self._positions = length[:, None] + mx.arange(count) if count > 1 else length[:, None]
        self._slots = Slots(self._positions, layout.ring)
        # A long block would overwrite keys that its own first queries need: it attends before it writes to the ring.
        self._before = min(bound, layout.ring) if count > layout.slack or mutual.ranges else None
        self._seen = bound + count if exact else round_up(bound + count, BUCKET)
        self._mutual = mutual
        how = layout.quantization
        shelved = None if places is None else ShelvedBlock(how, places, self._positions, bounds)
        self._shelves = shelved
        self._quantized = (
            None if how is None or shelved is not None else QuantizedSlots(how, self._positions, bound, exact)
        )
        self.masks = {FULL: self._full_mask(exact), SLIDING: self._sliding_mask(exact and bound == 0)}

    @property
    def buffers(self) -> Buffers:
        return tuple(self._buffers)

    def _full_mask(self, exact: bool) -> Mask:
        if self._shelves is not None:
            return None
        if not exact:
            return mx.arange(self._seen) <= self._positions[:, None, :, None]
        step = band_size()
        bands = [self._full_band(q0, min(q0 + step, self._count)) for q0 in range(0, self._count, step)]
        return "causal" if len(bands) == 1 and isinstance(bands[0].mask, str) else bands

    def _full_band(self, q0: int, q1: int) -> Band:
        before = self._seen - self._count
        if not self._mutual.everywhere or not self._mutual.touched(q0, q1):
            return Band((q0, q1), (0, before + q1), "causal")
        k1 = before + self._mutual.reach(q0, q1)[1]
        seen = mx.arange(k1) <= mx.arange(before + q0, before + q1)[:, None]
        return Band((q0, q1), (0, k1), (seen | self._mutual.together((q0, q1), (0, k1), before))[None, None])

    def _sliding_mask(self, fresh: bool) -> Mask:
        ring, window = self.layout.ring, self.layout.window
        if self._before is None:
            queries = self._positions[:, None, :, None]
            keys = ring_positions(min(self._seen, ring), self.offset + (self._count - 1), ring)[:, None, None, :]
            seen = (keys >= 0) & (keys > queries - window)
            return seen & (keys <= queries) if self._count > 1 else seen
        if fresh and self._count <= window and not self._mutual.ranges:
            return "causal"
        old = ring_positions(self._before, self.offset - 1, ring)
        keys = mx.concatenate([old, self._positions], axis=1)[:, None, None, :]
        step = min(band_size(), window)
        ends = [(q0, min(q0 + step, self._count)) for q0 in range(0, self._count, step)]
        return [self._sliding_band(keys, self._before, *queries) for queries in ends]

    def _sliding_band(self, keys: mx.array, before: int, q0: int, q1: int) -> Band:
        """A band's mask among ``keys`` (B, 1, 1, S), the positions of the ring's and the block's own."""
        window, mutual = self.layout.window, self._mutual
        first, end = mutual.reach(q0, q1)
        if not mutual.everywhere:
            first = q0
        # A window after the block's beginning, queries see nothing from before it; the ring's slots are in no order.
        k0, k1 = min(before + first, before + q0 - window + 1) if q0 >= window else 0, before + end
        key, query = keys[..., k0:k1], self._positions[:, None, q0:q1, None]
        earlier, near = key <= query, (key >= 0) & (key > query - window)
        if not mutual.ranges:
            return Band((q0, q1), (k0, k1), near & earlier)
        together = mutual.together((q0, q1), (k0, k1), before)
        seen = (near & earlier) | together if mutual.everywhere else near & (earlier | together)
        return Band((q0, q1), (k0, k1), seen)

    def update(self, layer: int, keys: mx.array, values: mx.array) -> KeysValues:
        """Store a block's (B, G, L, D) keys and values; return those to attend to, (B, G, S, D)."""
        if self._shelves is not None and self.layout.kinds[layer] == FULL:
            self._buffers[layer], on_shelves = self._shelves.update(self._buffers[layer], keys, values)
            return on_shelves
        how = self.layout.quantization_of(layer)
        if how is not None:
            self._buffers[layer], seen = self._store_quantized(how, self._buffers[layer], keys, values)
            return seen
        both = zip(self._buffers[layer], (keys, values), strict=True)
        store = self._store_full if self.layout.kinds[layer] == FULL else self._store_sliding
        (new_keys, seen_keys), (new_values, seen_values) = (store(buffer, new) for buffer, new in both)
        self._buffers[layer] = (new_keys, new_values)
        return seen_keys, seen_values

    def _store_quantized(
        self, how: KVQuantization, arrays: Layer, keys: mx.array, values: mx.array
    ) -> tuple[Layer, KeysValues]:
        assert self._quantized is not None
        arrays = self._quantized.write(arrays, keys.astype(self.layout.dtype), values.astype(self.layout.dtype))
        return arrays, seen_of(how, arrays, self._seen)

    def _store_full(self, buffer: mx.array, new: mx.array) -> tuple[mx.array, mx.array]:
        buffer = self._slots.write(buffer, new, ring=False)
        return buffer, buffer[:, :, : self._seen]

    def _store_sliding(self, buffer: mx.array, new: mx.array) -> tuple[mx.array, mx.array]:
        ring = self.layout.ring
        if self._before is None:
            buffer = self._slots.write(buffer, new, ring=True)
            return buffer, buffer[:, :, : min(self._seen, ring)]
        seen = mx.concatenate([buffer[:, :, : self._before], new], axis=2) if self._before else new
        kept = min(self._count, ring)
        buffer = self._slots.write(buffer, new[:, :, -kept:], ring=True)
        return buffer, seen
