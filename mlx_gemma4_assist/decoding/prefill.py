"""A prompt into the cache, chunk by chunk."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from .cache import Block, Buffers, CacheLayout, KVCache
from .speculative import Target

DEFAULT_STEP_SIZE = 2048

Progress = Callable[[int, int], None]
"""Called with (tokens processed, tokens in all), as mlx-lm's ``prompt_progress_callback``."""


class Chunk(NamedTuple):
    """A piece of a prompt and where it goes.

    Attributes:
        tokens: (1, L) int32.
        length: (1,) int32, how many entries the cache holds before it.
        buffers: keys and values.
        bound: ``length`` as the host knows it.
    """

    tokens: mx.array
    length: mx.array
    buffers: Buffers
    bound: int


def fill(target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
    """The buffers with a chunk's keys and values. Pure, and lazy: what only serves hidden states is never run."""
    count = chunk.tokens.shape[1]
    block = Block(layout, chunk.buffers, chunk.length, count, chunk.bound, exact=True)
    target(chunk.tokens, block)
    return block.buffers


Fill = Callable[[Target, CacheLayout, Chunk], Buffers]


def prefill(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: int = DEFAULT_STEP_SIZE,
    progress: Progress = lambda done, total: None,
    fill: Fill = fill,
) -> None:
    """Append the keys and values of ``tokens`` to a cache of one row.

    Only the cache is evaluated: layers that share other layers' keys and values, the last owning layer's attention and
    MLP, and the head are never run here. The prompt's last token is left to the first round, which runs them for it.
    Memory is bounded by one chunk's activations, since each chunk is evaluated before the next is built.
    """
    (held,) = cache.tokens
    cache.reserve(len(held) + len(tokens))
    for begin in range(0, len(tokens), step_size):
        chunk = list(tokens[begin : begin + step_size])
        progress(begin, len(tokens))
        length = len(held)
        where = mx.array([length], mx.int32)
        cache.buffers = fill(target, cache.layout, Chunk(mx.array([chunk], mx.int32), where, cache.buffers, length))
        mx.eval(cache.buffers)
        mx.clear_cache()
        held += chunk
        cache.written = max(cache.written, len(held))
    progress(len(tokens), len(tokens))
