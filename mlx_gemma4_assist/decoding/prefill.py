"""A prompt into the cache, chunk by chunk."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from .cache import Block, KVCache
from .speculative import Target

DEFAULT_STEP_SIZE = 2048

Progress = Callable[[int, int], None]
"""Called with (tokens processed, tokens in all), as mlx-lm's ``prompt_progress_callback``."""


def prefill(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: int = DEFAULT_STEP_SIZE,
    progress: Progress = lambda done, total: None,
) -> None:
    """Append the keys and values of ``tokens`` to a cache of one row.

    Only the cache is evaluated: layers that share other layers' keys and values, the last owning layer's attention and
    MLP, and the head are never run here. The prompt's last token is left to the first round, which runs them for it.
    Memory is bounded by one chunk's activations, since each chunk is evaluated before the next is built.
    """
    (held,) = cache.tokens
    for begin in range(0, len(tokens), step_size):
        chunk = list(tokens[begin : begin + step_size])
        progress(begin, len(tokens))
        length = len(held)
        cache.reserve(length + len(chunk))
        block = Block(cache.layout, cache.buffers, mx.array([length], mx.int32), len(chunk), length, exact=True)
        target(mx.array([chunk], mx.int32), block)
        cache.buffers = block.buffers
        mx.eval(cache.buffers)
        mx.clear_cache()
        held += chunk
        cache.written = max(cache.written, len(held))
    progress(len(tokens), len(tokens))
