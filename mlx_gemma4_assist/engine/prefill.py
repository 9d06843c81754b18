"""A prompt into the cache, chunk by chunk."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from ..cache.layout import Block, Buffers, CacheLayout, KVCache
from ..cache.soft_tokens import SoftTokens, chunk_ends, within
from ..cache.spans import Spans
from ..rounds.round import Target

DEFAULT_STEP_SIZE = 2048

Progress = Callable[[int, int], None]
"""Called with (tokens processed, tokens in all), as mlx-lm's ``prompt_progress_callback``."""


class Chunk(NamedTuple):
    """A piece of a prompt and where it goes.

    Attributes:
        tokens: (1, L) int32; padding in the place of soft tokens.
        length: (1,) int32, how many entries the cache holds before it.
        buffers: keys and values.
        bound: ``length`` as the host knows it.
        media: soft tokens, their positions counted from the chunk's first.
    """

    tokens: mx.array
    length: mx.array
    buffers: Buffers
    bound: int
    media: Sequence[SoftTokens] = ()


def fill(target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
    """The buffers with a chunk's keys and values. Pure, and lazy: what only serves hidden states is never run."""
    count = chunk.tokens.shape[1]
    ranges = tuple((each.start, each.end) for each in chunk.media if each.mutual)
    mutual = Spans(ranges, layout.config.mutual_everywhere)
    block = Block(layout, chunk.buffers, chunk.length, count, chunk.bound, exact=True, mutual=mutual)
    target(chunk.tokens, block, merged(target, chunk) if chunk.media else None)
    return block.buffers


def merged(target: Target, chunk: Chunk) -> mx.array:
    """Embeddings (1, L, H) of a chunk, soft tokens in their places."""
    embeds = target.embed(chunk.tokens)
    pieces, at = [], 0
    for each in chunk.media:
        pieces += [embeds[:, at : each.start], each.embeddings[None].astype(embeds.dtype)]
        at = each.end
    return mx.concatenate([*pieces, embeds[:, at:]], axis=1)


Fill = Callable[[Target, CacheLayout, Chunk], Buffers]


def prefill(
    target: Target,
    cache: KVCache,
    tokens: Sequence[int],
    step_size: int = DEFAULT_STEP_SIZE,
    progress: Progress = lambda done, total: None,
    fill: Fill = fill,
    media: Sequence[SoftTokens] = (),
) -> None:
    """Append the keys and values of ``tokens`` to a cache of one row.

    ``media`` are the soft tokens among them, by positions in the whole text; ``tokens`` has their keys, which are
    negative, in their places. A chunk never ends within them.

    Only the cache is evaluated: layers that share other layers' keys and values, the last owning layer's attention and
    MLP, and the head are never run here. The prompt's last token is left to the first round, which runs them for it.
    Memory is bounded by one chunk's activations, since each chunk is evaluated before the next is built.
    """
    (held,) = cache.tokens
    first = length = len(held)
    cache.reserve(first + len(tokens))
    padding = cache.layout.config.pad_token_id
    for end in chunk_ends(first, first + len(tokens), step_size, media):
        progress(length - first, len(tokens))
        chunk = list(tokens[length - first : end - first])
        ids = mx.array([[padding if token < 0 else token for token in chunk]], mx.int32)
        where = mx.array([length], mx.int32)
        soft = within(media, length, end)
        cache.buffers = fill(target, cache.layout, Chunk(ids, where, cache.buffers, length, soft))
        mx.eval(cache.buffers)
        mx.clear_cache()
        held += chunk
        length = end
        cache.written = max(cache.written, length)
    progress(len(tokens), len(tokens))
