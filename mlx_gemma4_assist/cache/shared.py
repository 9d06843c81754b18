"""What an assistant sees of its target's cache."""

import mlx.core as mx

from ..models.attention import KeysValues
from ..models.config import FULL
from .layout import BUCKET, Bound, CacheLayout, bounds_of, ring_positions, round_up
from .quantized import layer_seen
from .shelf_view import verified
from .shelves import Places
from .store import Buffers, size_of


def shared_kv_states(
    layout: CacheLayout, buffers: Buffers, length: mx.array, bound: Bound, places: Places | None = None
) -> tuple[dict[str, KeysValues], dict[str, mx.array | None]]:
    """What an assistant sees: the target's last keys and values of each layer type, and exactly the verified ones.

    Departs from transformers' ``SinglePositionMultiTokenCandidateGenerator``, which after a rejection leaves stale keys
    visible. The arrays are the target's own, not copies.

    Args:
        bound: of ``length`` (B,); of each shelf's, if there are ``places``.
        places: on which shelves rows lie in full layers, None if on none.

    Returns:
        By layer type, keys and values (B, G, S, D), or quantized ones, and masks (B, 1, 1, S) bool; shelves have masks
        of their own.
    """
    bounds = bounds_of(bound)
    seen = round_up(max(bounds), BUCKET)
    last = length - 1
    states: dict[str, KeysValues] = {}
    masks: dict[str, mx.array | None] = {}
    for kind in set(layout.kinds):
        layer = layout.config.last_kv_layer(kind)
        how = layout.quantization_of(layer)
        if kind == FULL and places is not None:
            states[kind], masks[kind] = verified(how, buffers[layer], places, length, bounds), None
            continue
        slots = min(seen, size_of(layout, buffers) if kind == FULL else layout.ring)
        states[kind] = layer_seen(how, buffers[layer], slots)
        if kind == FULL:
            visible = mx.arange(slots) < length[:, None]
        else:
            positions = ring_positions(slots, last, layout.ring)
            visible = (positions >= 0) & (positions >= length[:, None] - layout.window)
        masks[kind] = visible[:, None, None, :]
    return states, masks
