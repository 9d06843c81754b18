"""The arrays of a quantized layer: written to by a block, and seen by its queries.

They are keys and values of the first positions, dense; then words, scales and biases of the later keys, and of the
later values.
"""

import mlx.core as mx

from ..models.attention import KeysValues
from ..models.quantized_attention import QuantizedKeysValues
from .quantization import OVERLAP, KVQuantization
from .store import Layer, Slots


class QuantizedSlots:
    """Where a block's new keys and values go in quantized layers. It lives as long as its block.

    Args:
        how: they are quantized.
        positions: (B, L) int32, of the block's tokens.
        bound: an upper bound of the first of them in each row.
        exact: whether it is the first of them in each row. A block that is not exact has at most ``OVERLAP`` tokens.
    """

    def __init__(self, how: KVQuantization, positions: mx.array, bound: int, exact: bool):
        count = positions.shape[1]
        assert exact or count <= OVERLAP
        self._how = how
        start = min(max(0, how.start - bound), count) if exact else 0
        end = start if exact else count if how.start else 0
        # Tokens below ``end`` go to the dense arrays, those from ``start`` on to the quantized ones: some rows' go to
        # both, once to a slot that is not seen.
        self._start, self._end = start, end
        self._dense = Slots(mx.minimum(positions[:, :end], how.start)) if end else None
        quantizes = start < count and bound + count > how.start
        self._quantized = Slots(mx.maximum(positions[:, start:] - how.first, 0)) if quantizes else None

    def write(self, layer: Layer, keys: mx.array, values: mx.array) -> Layer:
        """A layer's arrays with the block's keys and values (B, G, L, D)."""
        dense, quantized = layer[:2], layer[2:]
        if self._dense is not None:
            new = keys[:, :, : self._end], values[:, :, : self._end]
            dense = tuple(self._dense.write(*each) for each in zip(dense, new, strict=True))
        if self._quantized is not None:
            packed = (*self._pack(keys[:, :, self._start :]), *self._pack(values[:, :, self._start :]))
            quantized = tuple(self._quantized.write(*each) for each in zip(quantized, packed, strict=True))
        return *dense, *quantized

    def _pack(self, new: mx.array) -> tuple[mx.array, ...]:
        return mx.quantize(new, group_size=self._how.group_size, bits=self._how.bits)


def layer_seen(how: KVQuantization | None, layer: Layer, seen: int) -> KeysValues:
    """The keys and values of the first ``seen`` positions of a layer, quantized or not."""
    if how is not None:
        return seen_of(how, layer, seen)
    keys, values = layer
    return keys[:, :, :seen], values[:, :, :seen]


def seen_of(how: KVQuantization, layer: Layer, seen: int) -> KeysValues:
    """The keys and values of a layer's first ``seen`` positions."""
    end = min(seen, how.start)
    dense = layer[0][:, :, :end], layer[1][:, :, :end]
    if seen <= how.start:
        return dense
    quantized = [array[:, :, how.start - how.first : seen - how.first] for array in layer[2:]]
    return QuantizedKeysValues(dense if end else None, quantized[:3], quantized[3:], how.group_size, how.bits)
