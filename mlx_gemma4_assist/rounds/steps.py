"""The steps that an engine takes, as they are: eager. ``compiled.CompiledSteps`` are the same, traced."""

from typing import Protocol

import mlx.core as mx

from ..cache.layout import Bound, CacheLayout
from ..cache.store import Buffers
from .chunk import Chunk, fill
from .round import propose, settle, speculate
from .state import Decoder, Proposal, Round, RoundState, Target


class Steps(Protocol):
    """What an engine submits: rounds, whole or in halves, and chunks of prompts."""

    def reach(self, end: int) -> int:
        """How many slots of the cache a round needs that ends at this position."""

    def round(
        self, decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound
    ) -> tuple[Round, RoundState, Buffers]:
        """``round.speculate``: what a round of ``count`` drafts emits, and the state and buffers after it."""

    def propose(self, decoder: Decoder, state: RoundState, buffers: Buffers, known: mx.array, bound: Bound) -> Proposal:
        """``round.propose``, of a round of as many drafts as ``known`` (B, K) has places."""

    def settle(
        self, decoder: Decoder, state: RoundState, proposal: Proposal, masks: mx.array
    ) -> tuple[Round, RoundState]:
        """``round.settle``, where masks say which ids may come."""

    def fill(self, target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
        """``chunk.fill``: the buffers with a chunk's keys and values."""


class EagerSteps:
    """Each step builds its graph anew."""

    def reach(self, end: int) -> int:
        return end

    def round(
        self, decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound
    ) -> tuple[Round, RoundState, Buffers]:
        return speculate(decoder, state, buffers, count, bound)

    def propose(self, decoder: Decoder, state: RoundState, buffers: Buffers, known: mx.array, bound: Bound) -> Proposal:
        return propose(decoder, state, buffers, known.shape[1], bound, known)

    def settle(
        self, decoder: Decoder, state: RoundState, proposal: Proposal, masks: mx.array
    ) -> tuple[Round, RoundState]:
        return settle(decoder, state, proposal, masks)

    def fill(self, target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
        return fill(target, layout, chunk)


EAGER = EagerSteps()
