"""Whether a request has room: counted before anything is allocated, against what the process uses and may use.

A request that can never fit is refused when it is handed in; one that does not fit beside others waits for them. What
the engine keeps without need, such as restore points, is given up before.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import mlx.core as mx

from ..backend import readable
from ..cache.layout import CacheLayout, grown_size
from ..cache.shelves import Shelf, arranged, capacity_for
from ..drafts.batch import SLOTS
from ..errors import InputError
from ..models.cost import chunk_bytes, round_bytes
from ..rounds.compiled import bucket_end, bucket_size
from ..rounds.sampling import Sampling, in_use
from .batch import NOBODY
from .pair import Pair


class OutOfMemory(InputError):
    """There is no memory for a request, whoever else is there."""


Release = Callable[[int], object]
"""Gives up what is kept without need: so many bytes of it, or all if there are fewer."""


@dataclass(frozen=True)
class Needs:
    """What a request takes.

    Attributes:
        layout: of its cache.
        prompt: tokens that it begins with.
        budget: the most tokens that follow.
        chunk: the most tokens of the prompt that are computed at once.
        drafts: the most drafts of a round.
        sampling: how its tokens are drawn.
    """

    layout: CacheLayout
    prompt: int
    budget: int
    chunk: int
    drafts: int = 0
    sampling: Sampling = NOBODY

    @cached_property
    def first_size(self) -> int:
        """Slots of a linear buffer with the prompt and the first rounds in it."""
        return self._size(self.prompt + 1)

    @cached_property
    def last_size(self) -> int:
        """The same with all tokens in it."""
        return self._size(self.prompt + self.budget)

    @cached_property
    def prompt_bytes(self) -> int:
        """What is computed at once while the prompt is read."""
        return chunk_bytes(self.layout.config, min(self.chunk, self.prompt), self.prompt, self.layout.dtype.size)

    @cached_property
    def least(self) -> "Needs":
        """The same for the first token alone."""
        return replace(self, budget=1)

    def _size(self, positions: int) -> int:
        config = self.layout.config
        end = min(positions, config.max_position_embeddings) + self.layout.slack
        return grown_size(bucket_end(end, bucket_size(config)))


def joined_bytes(requests: Sequence[Needs], rows: int = 0, sizes: Sequence[int] = ()) -> int:
    """The most bytes that requests take at once until they have ended, the last of them joining the others.

    Slots become more by doubling, and buffers are copied as rows move to other shelves: both old and new ones are there
    then.

    Args:
        requests: at least one.
        rows: how many slots there are already.
        sizes: for how many positions each has room already; 0, as where there are fewer, for nothing.
    """
    slots = next(number for number in SLOTS if number >= max(rows, len(requests)))
    layout = _widest(requests)
    held = [*sizes, *[0] * (len(requests) - len(sizes))]
    first = [max(size, each.first_size) for size, each in zip(held, requests, strict=True)]
    last = [max(size, each.last_size) for size, each in zip(first, requests, strict=True)]
    moved = slots > max(rows, 1) or any(each.layout.slack < layout.slack for each in requests)
    joining = (2 if moved else 1) * (slots * layout.row_bytes(0) + _linear_bytes(layout, first, slots))
    growing = grown_bytes(requests, slots, last) if last > first else 0
    reading = layout.row_bytes(max(first)) if slots > 1 else 0  # as long as its prompt is read, a row is by itself
    most = max(joining + _round_bytes(requests, slots, max(first)), growing)
    return reading + max(each.prompt_bytes for each in requests) + most


def grown_bytes(requests: Sequence[Needs], rows: int, sizes: Sequence[int]) -> int:
    """The most bytes that requests take while linear buffers grow to room for ``sizes`` positions, and afterwards."""
    layout = _widest(requests)
    linear = 2 * _linear_bytes(layout, sizes, rows)
    return rows * layout.row_bytes(0) + linear + _round_bytes(requests, rows, max(sizes))


def _widest(requests: Sequence[Needs]) -> CacheLayout:
    return max((each.layout for each in requests), key=lambda layout: layout.slack)


def _linear_bytes(layout: CacheLayout, sizes: Sequence[int], slots: int) -> int:
    """Of the linear buffers of rows that have room for so many positions, in a batch of so many slots."""
    if slots == 1:
        return layout.linear_bytes(*sizes)
    needs = [*sizes, *[0] * (slots - len(sizes))]
    alone = [Shelf(capacity_for(size), (row,)) for row, size in enumerate(sizes)]
    return sum(len(shelf.rows) * layout.linear_bytes(shelf.capacity) for shelf in arranged(alone, needs))


def _round_bytes(requests: Sequence[Needs], rows: int, size: int) -> int:
    layout, places = requests[0].layout, rows * (1 + max(each.drafts for each in requests))
    numbers = _numbers(in_use([each.sampling for each in requests]))
    return round_bytes(layout.config, places, size, layout.dtype.size, numbers)


def _numbers(used: Sampling) -> int:
    """How many float32 of each id a round computes with at once in a place: at most so many were measured."""
    told = used.top_logprobs >= 0
    return 2 + 6 * (not used.greedy) + 6 * used.looks_at_likeliest + 6 * used.penalizes + 4 * told


class Admission:
    """Knows what the process may use, and whether something still fits.

    Args:
        pair: whose weights are there in any case.
        limit: bytes that MLX may use in this process.
        release: asked to give up what is kept without need, before anybody has to wait or is refused.

    Attributes:
        release: as given.
    """

    def __init__(self, pair: Pair, limit: int, release: Release):
        self.release = release
        self._pair, self._limit = pair, limit
        self._others = 0  # bytes of all but rows' caches, when last looked at

    @cached_property
    def _weights(self) -> int:
        return self._pair.nbytes

    def check(self, request: Needs) -> None:
        """Refuse a request that would not even have its first token if there were nothing but the weights.

        Raises:
            OutOfMemory: with the numbers.
        """
        least = joined_bytes([request.least])
        if mx.get_active_memory() + least > self._limit and self._weights + least > self._limit:
            raise OutOfMemory(self._refusal(request, "the weights", self._weights))

    def look(self, caches: int) -> None:
        """Measure what the process uses besides rows' caches, of which so many bytes are allocated."""
        self._others = max(0, mx.get_active_memory() - caches)

    def fits(self, needed: int) -> bool:
        """Whether rows may take so many bytes in all beside everything that there is."""
        return self._others + needed <= self._limit

    def has_room(self, needed: int) -> bool:
        """Whether rows may take so many bytes in all; what is kept without need is given up for them."""
        missing = self._others + needed - self._limit
        if missing > 0:
            before = mx.get_active_memory()
            self.release(missing)
            self._others -= before - mx.get_active_memory()
            missing = self._others + needed - self._limit
        if mx.get_cache_memory() > max(0, -missing):
            mx.clear_cache()
        return missing <= 0

    def refusal(self, request: Needs, cache: int) -> str | None:
        """Where nobody runs: why a request cannot begin, with the numbers; None if it has room for its first token.

        Args:
            request: what it takes.
            cache: bytes of its cache that are allocated already.
        """
        least = joined_bytes([request.least])
        self.look(cache)
        if self.has_room(least):
            return None
        gc.collect()
        mx.synchronize()  # what is not needed any more is free now
        self.look(cache)
        return None if self.has_room(least) else self._refusal(request, "weights and other arrays", self._others)

    def _refusal(self, request: Needs, what: str, used: int) -> str:
        return (
            f"a prompt of {request.prompt:,} tokens takes {readable(joined_bytes([request.least]))} of memory, but of "
            f"{readable(self._limit)} that may be used {what} have {readable(used)}"
        )
