"""Keys and values whose valid length is an array, so that rolling back a rejected draft costs nothing.

A full-attention layer has a linear buffer: slot s holds position s. A sliding layer has a ring of ``window + slack``
slots: position p lies in slot ``p % ring``. Which position a slot holds follows from the length alone, so masks are
computed from positions, entries beyond the length are invisible, and the next round overwrites them.

Why the slack suffices: a round of L tokens over ``length`` verified ones overwrites positions below
``length + L - ring``. A later query, after any roll-back of at most ``slack`` positions in all, still finds its whole
window. The slack therefore covers the rounds in flight, each of drafts + 1 tokens; how it was chosen against a linear
window that is compacted now and then is in ``tools/measure_sliding_cache.py``: the ring attends to fewer keys (0.81
to 0.92 of the time per layer in five of six measurements on a CPU) and has no moments that the host must know of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..models.attention import Band, KeysValues, Mask, band_size
from ..models.config import FULL, SLIDING, Gemma4TextConfig
from .spans import NO_SPANS, Spans

Buffers = tuple[KeysValues, ...]

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

    @property
    def kinds(self) -> tuple[str, ...]:
        """The layer type of each layer that owns keys and values."""
        return self.config.layer_types[: self.config.num_kv_layers]

    @property
    def window(self) -> int:
        return self.config.sliding_window

    @property
    def ring(self) -> int:
        return self.window + self.slack

    def allocate(self, rows: int, size: int) -> Buffers:
        """Empty buffers: (rows, G, size or ring, D) for each owning layer's keys and values."""

        def empty(kind: str) -> mx.array:
            slots = size if kind == FULL else self.ring
            return mx.zeros((rows, self.config.kv_heads(kind), slots, self.config.head_dim_of(kind)), self.dtype)

        return tuple((empty(kind), empty(kind)) for kind in self.kinds)

    def grow(self, buffers: Buffers, size: int) -> Buffers:
        """Linear buffers lengthened to ``size`` slots; rings as they are."""

        def longer(buffer: mx.array) -> mx.array:
            B, G, S, D = buffer.shape
            return mx.concatenate([buffer, mx.zeros((B, G, size - S, D), buffer.dtype)], axis=2)

        return tuple(
            (longer(keys), longer(values)) if kind == FULL else (keys, values)
            for kind, (keys, values) in zip(self.kinds, buffers, strict=True)
        )


def ring_positions(slots: int, last: mx.array, ring: int) -> mx.array:
    """The position that each of a ring's first slots holds, if ``last`` (B,) was written last: (B, slots) int32.

    Negative where nothing has been written yet.
    """
    last = last[:, None]
    return last - (last - mx.arange(slots)) % ring


class Block:
    """One forward's view of the caches: L new tokens at positions ``length`` to ``length + L - 1``.

    Implements ``models.layers.BlockCache``. It lives as long as its forward; what is left of it is ``buffers``.

    Args:
        layout: the cache's.
        buffers: as the block finds them.
        length: (B,) int32, how many entries of each row are valid.
        count: L.
        bound: an upper bound of ``length``, known to the host.
        exact: whether every row's length *is* ``bound``, as in a prompt: attention may then use ``"causal"``.
        mutual: spans of the block whose tokens see one another, later ones too; for an exact block.
    """

    def __init__(
        self,
        layout: CacheLayout,
        buffers: Buffers,
        length: mx.array,
        count: int,
        bound: int,
        *,
        exact: bool = False,
        mutual: Spans = NO_SPANS,
    ):
        self.layout = layout
        self.offset = length
        self._buffers = list(buffers)
        self._count = count
        self._positions = length[:, None] + mx.arange(count) if count > 1 else length[:, None]
        self._places: dict[tuple[int, ...], mx.array] = {}
        # A long block would overwrite keys that its own first queries need: it attends before it writes to the ring.
        self._before = min(bound, layout.ring) if count > layout.slack or mutual.ranges else None
        self._seen = bound + count if exact else round_up(bound + count, BUCKET)
        self._mutual = mutual
        self.masks = {FULL: self._full_mask(exact), SLIDING: self._sliding_mask(exact and bound == 0)}

    @property
    def buffers(self) -> Buffers:
        return tuple(self._buffers)

    def _full_mask(self, exact: bool) -> Mask:
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
        return [self._sliding_band(keys, q0, min(q0 + step, self._count)) for q0 in range(0, self._count, step)]

    def _sliding_band(self, keys: mx.array, q0: int, q1: int) -> Band:
        """A band's mask among ``keys`` (B, 1, 1, S), the positions of the ring's and the block's own."""
        window, mutual, before = self.layout.window, self._mutual, self._before
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
        both = zip(self._buffers[layer], (keys, values), strict=True)
        store = self._store_full if self.layout.kinds[layer] == FULL else self._store_sliding
        (new_keys, seen_keys), (new_values, seen_values) = (store(buffer, new) for buffer, new in both)
        self._buffers[layer] = (new_keys, new_values)
        return seen_keys, seen_values

    def _store_full(self, buffer: mx.array, new: mx.array) -> tuple[mx.array, mx.array]:
        buffer = self._write(buffer, new, ring=False)
        return buffer, buffer[:, :, : self._seen]

    def _store_sliding(self, buffer: mx.array, new: mx.array) -> tuple[mx.array, mx.array]:
        ring = self.layout.ring
        if self._before is None:
            buffer = self._write(buffer, new, ring=True)
            return buffer, buffer[:, :, : min(self._seen, ring)]
        seen = mx.concatenate([buffer[:, :, : self._before], new], axis=2) if self._before else new
        kept = min(self._count, ring)
        buffer = self._write(buffer, new[:, :, -kept:], ring=True)
        return buffer, seen

    def _write(self, buffer: mx.array, new: mx.array, ring: bool) -> mx.array:
        """``buffer`` (B, G, S, D) with the block's last (B, G, L, D), as a new array.

        One row's new slots lie side by side, unless they wrap in a ring; a contiguous update is cheaper than a scatter.
        """
        B, _, L, _ = new.shape
        contiguous = B == 1 and (L == 1 or not ring)
        key = (ring, contiguous, *(() if contiguous else new.shape))
        if key not in self._places:  # the same for keys and values, and for all layers of a shape
            slots = self._positions[:, -L:] % self.layout.ring if ring else self._positions
            self._places[key] = slots[0, :1] if contiguous else mx.broadcast_to(slots[:, None, :, None], new.shape)
        place = self._places[key]
        if contiguous:
            return mx.slice_update(buffer, new, place, axes=(2,))
        return mx.put_along_axis(buffer, place, new, axis=2)


def shared_kv_states(
    layout: CacheLayout, buffers: Buffers, length: mx.array, bound: int
) -> tuple[dict[str, KeysValues], dict[str, mx.array]]:
    """What an assistant sees: the target's last keys and values of each layer type, and exactly the verified ones.

    Departs from transformers' ``SinglePositionMultiTokenCandidateGenerator``, which after a rejection leaves stale keys
    visible. The arrays are the target's own, not copies.

    Returns:
        By layer type, keys and values (B, G, S, D) and masks (B, 1, 1, S) bool.
    """
    seen = round_up(bound, BUCKET)
    last = length - 1
    states, masks = {}, {}
    for kind in set(layout.kinds):
        keys, values = buffers[layout.config.last_kv_layer(kind)]
        slots = min(seen, keys.shape[2])
        states[kind] = (keys[:, :, :slots], values[:, :, :slots])
        if kind == FULL:
            visible = mx.arange(slots) < length[:, None]
        else:
            positions = ring_positions(slots, last, layout.ring)
            visible = (positions >= 0) & (positions >= length[:, None] - layout.window)
        masks[kind] = visible[:, None, None, :]
    return states, masks


class KVCache:
    """The keys and values of a conversation, kept between calls: the one mutable thing in decoding.

    Attributes:
        layout: fixed at construction.
        tokens: for each row, the ids whose keys and values are valid. The last token that was emitted is not among
            them: its keys are computed by the forward that follows it.
        buffers: arrays, possibly not yet evaluated.
        written: an upper bound of the positions ever written, which decides how far a row can be rewound.
    """

    def __init__(self, layout: CacheLayout, rows: int = 1):
        self.layout = layout
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.written = 0
        self.size = GROWTH
        self.buffers = layout.allocate(rows, self.size)

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.tokens]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for pair in self.buffers for array in pair)

    def reserve(self, positions: int) -> None:
        """Make room for ``positions`` entries per row."""
        if positions > self.size:
            self.size = round_up(positions + positions // 16, GROWTH)  # long buffers are not copied too often
            self.buffers = self.layout.grow(self.buffers, self.size)

    def can_rewind(self, row: int, length: int) -> bool:
        """Whether the window before ``length`` is still whole in every ring."""
        if length > len(self.tokens[row]):
            return False
        has_rings = SLIDING in self.layout.kinds
        return not has_rings or max(0, length - self.layout.window) >= self.written - self.layout.ring

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` entries of a row; the others become invisible.

        Raises:
            ValueError: where :meth:`can_rewind` says no.
        """
        if not self.can_rewind(row, length):
            raise ValueError(f"row {row} holds {len(self.tokens[row])} entries and cannot go back to {length}")
        del self.tokens[row][length:]

    def reset(self) -> None:
        """Forget everything; the buffers stay."""
        self.tokens = [[] for _ in self.tokens]
        self.written = 0


def stack(caches: Sequence[KVCache]) -> KVCache:
    """Caches of one layout as the rows of a new one, each with its own length."""
    rows = sum(len(cache.tokens) for cache in caches)
    together = KVCache(caches[0].layout, rows)
    size = max(cache.size for cache in caches)
    for cache in caches:
        cache.reserve(size)
    together.size = size
    together.written = max(cache.written for cache in caches)
    together.tokens = [list(row) for cache in caches for row in cache.tokens]
    layers = zip(*(cache.buffers for cache in caches), strict=True)
    together.buffers = tuple(
        tuple(mx.concatenate(parts, axis=0) for parts in zip(*layer, strict=True)) for layer in layers
    )
    return together
