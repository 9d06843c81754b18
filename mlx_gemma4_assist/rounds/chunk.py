"""A piece of a prompt into the cache: a pure function, as a round is."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from ..cache.block import Block
from ..cache.layout import CacheLayout
from ..cache.soft_tokens import SoftTokens
from ..cache.spans import Spans
from ..cache.store import Buffers
from .state import Target


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
