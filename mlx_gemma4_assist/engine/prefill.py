"""A prompt into the cache, chunk by chunk."""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

from ..cache.rows import KVCache
from ..cache.soft_tokens import SoftTokens, chunk_end, within
from ..options import GenerationOptions
from ..rounds.chunk import Chunk
from ..rounds.round import verify
from ..rounds.state import Decoder, Target
from ..rounds.steps import EAGER, Steps
from .loop import start

Progress = Callable[[int, int], None]
"""Called with (tokens computed, tokens to compute), as mlx-lm's ``prompt_progress_callback``."""


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


def chunks(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: Callable[[], int],
    *,
    steps: Steps = EAGER,
    media: Sequence[SoftTokens] = (),
    progress: Progress = no_progress,
) -> Iterator[None]:
    """Append the keys and values of ``tokens`` to a cache of one row, a chunk with each step of the iteration.

    ``step_size`` is asked before each chunk for its size. ``media`` are the soft tokens among them, by positions in the
    whole text; ``tokens`` has their keys, which are negative, in their places. A chunk never ends within them.

    Only the cache is evaluated: layers that share other layers' keys and values, the last owning layer's attention and
    MLP, and the head are never run here. The prompt's last token is left to the first round, which runs them for it.
    Memory is bounded by one chunk's activations, since each chunk is evaluated before the next is built.
    """
    (first,) = cache.lengths
    begin, last = first, first + len(tokens)
    cache.reserve(last)
    padding = cache.layout.config.pad_token_id
    progress(0, len(tokens))
    while begin < last:
        end = chunk_end(begin, last, step_size(), media)
        chunk = list(tokens[begin - first : end - first])
        ids = mx.array([[padding if token < 0 else token for token in chunk]], mx.int32)
        where = mx.array([begin], mx.int32)
        soft = within(media, begin, end)
        cache.store(steps.fill(target, cache.layout, Chunk(ids, where, cache.buffers, begin, soft)), [end])
        mx.eval(cache.buffers)
        mx.clear_cache()
        cache.append(0, chunk)
        begin = end
        progress(begin - first, len(tokens))
        if end < last:
            yield


def prefill(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: int = GenerationOptions.prefill_step_size,
    *,
    steps: Steps = EAGER,
    media: Sequence[SoftTokens] = (),
) -> None:
    """All of :func:`chunks`, one after the other."""
    for _ in chunks(target, cache, tokens, lambda: step_size, steps=steps, media=media):
        pass


def last_hidden(decoder: Decoder, cache: KVCache, token: int) -> mx.array:
    """Append one token's keys and values to a cache of one row, and return its hidden state (1, 1, H).

    With it a request drafts from its first round on.
    """
    (length,) = cache.lengths
    cache.reserve(length + 1)
    state = start(decoder, cache, [token], 0)
    hidden, _, buffers = verify(decoder, state, cache.buffers, mx.zeros((1, 0), mx.int32), length)
    cache.store(buffers, [length + 1])
    mx.eval(hidden, cache.buffers)
    cache.append(0, [token])
    return hidden
