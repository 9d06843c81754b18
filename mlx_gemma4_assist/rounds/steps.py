"""The steps that an engine takes, as they are: eager. ``compiled.CompiledSteps`` are the same, traced."""

from typing import Protocol

from ..cache.layout import Bound, CacheLayout
from ..cache.store import Buffers
from .chunk import Chunk, fill
from .round import speculate
from .state import Decoder, Round, RoundState, Target


class Steps(Protocol):
    """What an engine submits: rounds, and chunks of prompts."""

    def reach(self, end: int) -> int:
        """How many slots of the cache a round needs that ends at this position."""

    def round(
        self, decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound
    ) -> tuple[Round, RoundState, Buffers]:
        """``round.speculate``: what a round of ``count`` drafts emits, and the state and buffers after it."""

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

    def fill(self, target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
        return fill(target, layout, chunk)


EAGER = EagerSteps()
