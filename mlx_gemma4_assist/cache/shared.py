"""What an assistant sees of its target's cache."""

import mlx.core as mx

from ..models.attention import KeysValues
from ..models.config import FULL
from .layout import BUCKET, CacheLayout, ring_positions, round_up
from .quantized import seen_of
from .store import Buffers, size_of


def shared_kv_states(
    layout: CacheLayout, buffers: Buffers, length: mx.array, bound: int
) -> tuple[dict[str, KeysValues], dict[str, mx.array | None]]:
    """What an assistant sees: the target's last keys and values of each layer type, and exactly the verified ones.

    Departs from transformers' ``SinglePositionMultiTokenCandidateGenerator``, which after a rejection leaves stale keys
    visible. The arrays are the target's own, not copies.

    Returns:
        By layer type, keys and values (B, G, S, D), or quantized ones, and masks (B, 1, 1, S) bool.
    """
    seen = round_up(bound, BUCKET)
    last = length - 1
    states: dict[str, KeysValues] = {}
    masks: dict[str, mx.array | None] = {}
    for kind in set(layout.kinds):
        layer = layout.config.last_kv_layer(kind)
        how = layout.quantization_of(layer)
        slots = min(seen, size_of(layout, buffers) if kind == FULL else layout.ring)
        if how is None:
            keys, values = buffers[layer]
            states[kind] = keys[:, :, :slots], values[:, :, :slots]
        else:
            states[kind] = seen_of(how, buffers[layer], slots)
        if kind == FULL:
            visible = mx.arange(slots) < length[:, None]
        else:
            positions = ring_positions(slots, last, layout.ring)
            visible = (positions >= 0) & (positions >= length[:, None] - layout.window)
        masks[kind] = visible[:, None, None, :]
    return states, masks
