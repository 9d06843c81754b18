"""A prompt into the cache, chunk by chunk."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..cache.rows import KVCache
from ..cache.soft_tokens import SoftTokens, chunk_ends, within
from ..options import GenerationOptions
from ..rounds.chunk import Chunk
from ..rounds.state import Target
from ..rounds.steps import EAGER, Steps

Progress = Callable[[int, int], None]
"""Called with (tokens computed, tokens to compute), as mlx-lm's ``prompt_progress_callback``."""


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


def prefill(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: int = GenerationOptions.prefill_step_size,
    *,
    steps: Steps = EAGER,
    media: Sequence[SoftTokens] = (),
    progress: Progress = no_progress,
) -> None:
    """Append the keys and values of ``tokens`` to a cache of one row.

    ``media`` are the soft tokens among them, by positions in the whole text; ``tokens`` has their keys, which are
    negative, in their places. A chunk never ends within them.

    Only the cache is evaluated: layers that share other layers' keys and values, the last owning layer's attention and
    MLP, and the head are never run here. The prompt's last token is left to the first round, which runs them for it.
    Memory is bounded by one chunk's activations, since each chunk is evaluated before the next is built.
    """
    (first,) = cache.lengths
    begin, last = first, first + len(tokens)
    cache.reserve(last)
    padding = cache.layout.config.pad_token_id
    for end in chunk_ends(first, last, step_size, media):
        progress(begin - first, len(tokens))
        chunk = list(tokens[begin - first : end - first])
        ids = mx.array([[padding if token < 0 else token for token in chunk]], mx.int32)
        where = mx.array([begin], mx.int32)
        soft = within(media, begin, end)
        cache.store(steps.fill(target, cache.layout, Chunk(ids, where, cache.buffers, begin, soft)), [end])
        mx.eval(cache.buffers)
        mx.clear_cache()
        cache.append(0, chunk)
        begin = end
    progress(len(tokens), len(tokens))
