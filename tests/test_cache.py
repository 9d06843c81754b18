"""Rings, masks and bands against naive bookkeeping."""

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import filled, layout_for, random_pair

from mlx_gemma4_assist.cache import block as cache_module
from mlx_gemma4_assist.cache.layout import ring_positions
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.models.attention import Band, attend


@pytest.mark.parametrize("last", [0, 3, 9, 10, 11, 25])
def test_ring_positions(last):
    """Write position after position into a ring, and look what lies where."""
    ring = [-1] * 10
    for position in range(last + 1):
        ring[position % 10] = position
    found = ring_positions(10, mx.array([last]), 10)[0].tolist()
    assert [max(p, -1) for p in found] == ring


@pytest.mark.parametrize("step_size", [100, 40])
def test_bands_change_nothing(monkeypatch, step_size):
    """A prompt in bands of 7 queries gives the keys and values that it gives in one piece."""
    target, _ = random_pair()
    prompt = [(7 * i * i + i) % 64 for i in range(101)]
    whole = filled(target, layout_for(target, 3), prompt, step_size)
    monkeypatch.setattr(cache_module, "band_size", lambda: 7)
    in_bands = filled(target, layout_for(target, 3), prompt, step_size)
    for (keys, values), (other_keys, other_values) in zip(whole.buffers, in_bands.buffers, strict=True):
        np.testing.assert_allclose(np.array(keys), np.array(other_keys), atol=1e-5)
        np.testing.assert_allclose(np.array(values), np.array(other_values), atol=1e-5)


def test_bands_are_attention_row_by_row():
    """Each query of a band against numpy's attention over the keys that its mask shows."""
    mx.random.seed(0)
    queries, keys, values = (mx.random.normal((1, 2, n, 4)) for n in (6, 9, 9))
    shown = np.tril(np.ones((6, 9), bool), 3) & ~np.tril(np.ones((6, 9), bool), -1)
    bands = [Band((q0, q0 + 3), (q0, q0 + 6), mx.array(shown[None, None, q0 : q0 + 3, q0 : q0 + 6])) for q0 in (0, 3)]
    found = np.array(attend(queries, (keys, values), bands))
    scores = np.where(shown, np.array(queries) @ np.array(keys).swapaxes(-1, -2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ np.array(values)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rewinding_as_far_as_the_rings_reach():
    """Within the slack every length can be gone back to; beyond it only while nothing has been overwritten."""
    target, _ = random_pair()
    layout = layout_for(target, 3)  # a window of 16 and a slack of 8
    cache = filled(target, layout, list(range(61)))
    assert [cache.can_rewind(0, n) for n in (60, 52, 51, 0, 61)] == [True, True, False, False, False]
    short = filled(target, layout, list(range(21)))
    assert all(short.can_rewind(0, n) for n in range(21))
    with pytest.raises(ValueError, match="cannot go back"):
        cache.rewind(0, 10)


def test_buffers_grow_and_keep_what_they_hold():
    target, _ = random_pair()
    cache = filled(target, layout_for(target, 3), list(range(60)))
    before = [np.array(keys[:, :, :24]) for keys, _ in cache.buffers]
    nbytes = cache.nbytes
    cache.reserve(1000)
    assert cache.nbytes > nbytes
    assert cache.size >= 1000
    for (keys, _), old in zip(cache.buffers, before, strict=True):
        np.testing.assert_array_equal(np.array(keys[:, :, :24]), old)
    cache.reset()
    assert cache.lengths == [0]
    assert isinstance(cache, KVCache)
