"""One forward's view of layers whose rows lie on shelves: each shelf is written to, and attended to, by itself.

Shapes: B rows of a batch, P places of a shelf, L positions, N query heads, G key-value heads, D head dim, S slots.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..models.attention import KeysValues, Mask, attend
from .layout import BUCKET, round_up
from .quantization import KVQuantization
from .quantized import QuantizedSlots, layer_seen
from .shelves import Places
from .store import Layer, Slots, positions_in


class Shelved:
    """Keys and values on shelves. Implements ``models.attention.View``.

    Args:
        places: where the rows of the batch lie.
        parts: what each shelf's rows attend to.
        masks: what they may see of it, (P, 1, L, S) bool each.
    """

    def __init__(self, places: Places, parts: Sequence[KeysValues], masks: Sequence[mx.array]):
        self._places, self._parts, self._masks = places, parts, masks

    def attend(self, queries: mx.array, mask: Mask) -> mx.array:
        """Attention of scale 1: queries (B, N, L, D) -> (B, N, L, D). ``mask`` is None: each shelf has its own."""
        assert mask is None
        each = zip(self._places.picks, self._parts, self._masks, strict=True)
        found = [attend(mx.take(queries, rows, axis=0), part, seen) for rows, part, seen in each]
        return mx.take(mx.concatenate(found), self._places.back, axis=0)


class ShelvedBlock:
    """The shelves of one forward of L new tokens in each row.

    Args:
        how: keys and values are quantized; None where they are not.
        places: where the rows of the batch lie.
        positions: (B, L) int32, of the block's tokens.
        bounds: for each shelf, an upper bound of its rows' lengths.
    """

    def __init__(self, how: KVQuantization | None, places: Places, positions: mx.array, bounds: Sequence[int]):
        count = positions.shape[1]
        self._how, self._places = how, places
        of_shelves = [mx.take(positions, rows, axis=0) for rows in places.picks]
        self._writers = [_writer(how, each, bound) for each, bound in zip(of_shelves, bounds, strict=True)]
        self._seen = [round_up(bound + count, BUCKET) for bound in bounds]
        self._masks = [
            mx.arange(seen) <= each[:, None, :, None] for seen, each in zip(self._seen, of_shelves, strict=True)
        ]

    def update(self, layer: Layer, keys: mx.array, values: mx.array) -> tuple[Layer, Shelved]:
        """A layer's arrays with the block's keys and values (B, G, L, D), and what is to be attended to."""
        written: Layer = ()
        parts: list[KeysValues] = []
        for arrays, rows, write, seen in zip(
            shelves_of(layer, len(self._seen)), self._places.picks, self._writers, self._seen, strict=True
        ):
            arrays = write(arrays, *(mx.take(each, rows, axis=0) for each in (keys, values)))
            written += arrays
            parts.append(layer_seen(self._how, arrays, seen))
        return written, Shelved(self._places, parts, self._masks)


def _writer(
    how: KVQuantization | None, positions: mx.array, bound: int
) -> Callable[[Layer, mx.array, mx.array], Layer]:
    """Writes keys and values (P, G, L, D) at positions (P, L) to a shelf's arrays."""
    if how is not None:
        return QuantizedSlots(how, positions, bound, exact=False).write
    slots = Slots(positions)

    def write(layer: Layer, keys: mx.array, values: mx.array) -> Layer:
        return tuple(slots.write(*pair) for pair in zip(layer, (keys, values), strict=True))

    return write


def shelves_of(layer: Layer, count: int) -> list[Layer]:
    """The arrays of each of so many shelves."""
    width = len(layer) // count
    return [layer[begin : begin + width] for begin in range(0, len(layer), width)]


def verified(
    how: KVQuantization | None, layer: Layer, places: Places, length: mx.array, bounds: Sequence[int]
) -> Shelved:
    """What an assistant sees of a layer: exactly the first ``length`` (B,) positions of each row."""
    parts, masks = [], []
    for arrays, rows, bound in zip(shelves_of(layer, len(bounds)), places.picks, bounds, strict=True):
        seen = min(round_up(bound, BUCKET), positions_in(how, arrays))
        parts.append(layer_seen(how, arrays, seen))
        masks.append((mx.arange(seen) < mx.take(length, rows)[:, None])[:, None, None, :])
    return Shelved(places, parts, masks)
