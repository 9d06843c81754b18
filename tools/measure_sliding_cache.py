"""Which buffer for a sliding layer: a ring written by scatter, or a linear window compacted now and then?

    python tools/measure_sliding_cache.py

Times one layer's share of a round (write ``block`` keys and values, attend to what the window needs) in milliseconds,
interleaved, medians. The ring attends to ``window + slack`` slots; the linear window to ``window + room`` of them on
average half full, and moves its last ``window`` entries to the front once every ``room`` tokens.
"""

import argparse
import statistics
import time

import mlx.core as mx
from command_line import parser_for, run_tool

SHAPES = {"E2B": (8, 1, 256, 512), "31B": (32, 16, 256, 1024)}  # query heads, KV heads, head dim, window
BLOCK, SLACK, ROOM, REPEATS = 4, 32, 256, 60


def attend(queries, keys, values):
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0)


def ring(queries, new, buffers, position):
    slots = (position + mx.arange(BLOCK)) % buffers[0].shape[2]
    index = mx.broadcast_to(slots[None, None, :, None], new.shape)
    buffers = [mx.put_along_axis(b, index, new, axis=2) for b in buffers]
    return attend(queries, *buffers), buffers


def ring_by_rows(queries, new, buffers, position):
    """The same scatter with one index per row instead of one per number."""
    slots = (position + mx.arange(BLOCK)) % buffers[0].shape[2]
    for b in buffers:
        b[:, :, slots] = new
    return attend(queries, *buffers), buffers


def linear(queries, new, buffers, position):
    size = buffers[0].shape[2]
    start = position % (size - BLOCK)
    buffers = [mx.slice_update(b, new, start, axes=(2,)) for b in buffers]
    return attend(queries, *buffers), buffers


def compact(buffers, window):
    moved = [mx.slice_update(b, b[:, :, -window:] + 0, mx.array([0]), axes=(2,)) for b in buffers]
    mx.eval(moved)
    return moved


def measure(name, dtype):
    heads, kv_heads, dim, window = SHAPES[name]
    queries = mx.random.normal((1, heads, BLOCK, dim)).astype(dtype)
    new = mx.random.normal((1, kv_heads, BLOCK, dim)).astype(dtype)
    sizes = {ring: window + SLACK, ring_by_rows: window + SLACK, linear: window + ROOM // 2}
    buffers = {f: [mx.zeros((1, kv_heads, size, dim), dtype)] * 2 for f, size in sizes.items()}
    times = {f: [] for f in sizes} | {compact: []}
    moving = [mx.zeros((1, kv_heads, window + ROOM, dim), dtype)] * 2
    mx.eval(queries, new, list(buffers.values()), moving)
    for step in range(REPEATS):
        position = mx.array([step * BLOCK])
        for f in sizes:
            start = time.perf_counter()
            out, buffers[f] = f(queries, new, buffers[f], position)
            mx.eval(out, buffers[f])
            times[f].append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        moving = compact(moving, window)
        times[compact].append(1e3 * (time.perf_counter() - start))
    medians = {f: statistics.median(t[5:]) for f, t in times.items()}
    whole = medians[linear] + medians[compact] * BLOCK / ROOM
    print(
        f"{name:4s} {dtype!s:22s} ring {medians[ring]:.3f}  ring by rows {medians[ring_by_rows]:.3f}  "
        f"linear {whole:.3f} (of which compaction {medians[compact]:.3f} / {ROOM // BLOCK})"
    )


def measure_all(args: argparse.Namespace) -> None:
    for name in SHAPES:
        for dtype in (mx.float32, mx.bfloat16):
            measure(name, dtype)


if __name__ == "__main__":
    run_tool(parser_for(__doc__), measure_all)
