"""Rounds and prompt chunks under ``mx.compile``: traced once per draft length and bucket, then run without Python.

A round is compiled whole; where acceptance needs the host, all that comes before. What is not asked for again, such as
a draft length that is only probed or the end of a prompt, is not traced: that takes as long as many rounds. Attention
over a linear buffer ends where a bucket of positions ends, which is when a run traces anew: seldom enough for that to
cost nothing, close enough for attending to the padding to cost nothing (figures in docs/measurements.md).
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from ..backend import can_compile, compiles_by_default
from ..cache.layout import BUCKET, Bound, CacheLayout, bounds_of, round_up
from ..cache.store import Buffers
from ..errors import OptionError
from ..models.config import Gemma4TextConfig
from ..models.cost import attention_multiplications, weight_multiplications
from ..models.linear import constant_weights
from .accept import accept
from .chunk import Chunk, fill
from .recent import Shares
from .round import propose, settle, speculate
from .state import Counts, Decoder, Drafts, Proposal, Round, RoundState, Target

LEAST_BUCKET, MOST_BUCKET = 192, 1024  # positions
PADDING_PERCENT = 2  # multiplications with keys and values in vain, of those with weights
GROWTH_SHARE = 8  # in a long text a bucket is up to this part of it, so that it traces as seldom as it doubles
RECENT, MOST_RECENT = 16, 512  # rounds, over which the share of a draft length is taken, at first and at most
WORTH_TRACING = 0.2  # share of the recent rounds
RECENT_SHAPES, MOST_SHAPES = 64, 256  # rounds of rows on shelves, over which the share of a shape is taken,
STAYS = 0.115  # of which this share is traced: at first that is 8 rounds
SHAPES = 64  # of shelves and of chunks, which are traced
MOST_ASKED = 1024  # chunks and plain rounds that are remembered as asked for once
WHOLE = 64  # tokens: chunks of other multiples are the ends of prompts, of which there are all lengths

Function = Callable[..., Any]
Build = Callable[[Decoder, int, Bound], Function]


class Where(NamedTuple):
    """What a trace knows of the rows' lengths.

    Attributes:
        bound: of all rows, or of those on each shelf.
        places: how many each shelf has; none where rows lie on no shelves.
    """

    bound: Bound
    places: tuple[int, ...] = ()


Key = tuple[Build, int, Where]


def check_compiler() -> None:
    """Refuse to compile on the CPU backend without a C++ compiler.

    Raises:
        InputError: there is none on the path.
    """
    if not can_compile():
        raise OptionError("{compile} needs the C++ compiler g++ on this backend, and there is none on the path")


def compiles(asked: bool | None) -> bool:
    """Whether rounds are compiled: as asked, else where that is the default.

    Raises:
        InputError: asked for where there is no compiler that MLX needs.
    """
    if asked:
        check_compiler()
    return compiles_by_default() if asked is None else asked


def bucket_size(config: Gemma4TextConfig) -> int:
    """Positions of a bucket: so many that half of them, what is attended to in vain on average, cost next to nothing
    beside the weights. A large model, whose traces take longest, has large buckets."""
    padding = PADDING_PERCENT * weight_multiplications(config) // (100 * attention_multiplications(config))
    return min(max(2 * padding // BUCKET * BUCKET, LEAST_BUCKET), MOST_BUCKET)


def bucket_end(end: int, size: int) -> int:
    """Where the bucket of position ``end`` - 1 ends. From twice ``GROWTH_SHARE * size`` positions on buckets grow."""
    doublings = max(0, (end // (GROWTH_SHARE * size)).bit_length() - 1)
    return round_up(end, size << doublings)


class CompiledSteps:
    """The steps of all runs with the same networks, layout and sampling, compiled.

    The networks are held weakly, since these steps are kept for as long as the networks live. What is compiled has
    their weights as constants: a network must not be changed after its first run.
    """

    def __init__(self, decoder: Decoder):
        networks = decoder.target, decoder.assistant
        self._networks = [None if network is None else weakref.ref(network) for network in networks]
        self._decoder = decoder._replace(
            target=weakref.proxy(decoder.target),
            assistant=None if decoder.assistant is None else weakref.proxy(decoder.assistant),
            accept=accept,
        )
        self._compiled: dict[Key, Function] = {}
        self._bucket = bucket_size(decoder.layout.config)
        self._shares = Shares(RECENT, MOST_RECENT, before=RECENT)
        self._asked: set[Key] = set()
        self._shape_shares = Shares(RECENT_SHAPES, MOST_SHAPES, before=RECENT_SHAPES)
        self._shapes: dict[Key, None] = {}  # that are traced, of rows on shelves and of chunks; the last asked for last

    def serve(self, decoder: Decoder) -> bool:
        """Whether they were made for the very networks of this one, which are still alive."""
        return all(
            held is None if network is None else held is not None and held() is network
            for held, network in zip(self._networks, (decoder.target, decoder.assistant), strict=True)
        )

    def reach(self, end: int) -> int:
        """How many slots a round that ends at this position attends to, and writes to."""
        return bucket_end(end, self._bucket)

    def round(
        self, decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound
    ) -> tuple[Round, RoundState, Buffers]:
        """``round.speculate``, compiled; ``decoder`` is the run's own, whose acceptance may be on the host."""
        where = self._where(state, count, bound)
        on_host = decoder.accept is not accept
        if not self._is_worth_tracing(_proposal if on_host else _whole, count, where):
            return speculate(decoder, state, buffers, count, where.bound)
        if not on_host:
            emitted, after, buffers = self._get(_whole, count, where)(tuple(state), buffers)
            return Round(*emitted), _again(state, after), buffers
        proposal = _proposed(self._get(_proposal, count, where)(tuple(state), buffers, None))
        return *settle(decoder, state, proposal), proposal.buffers

    def propose(self, decoder: Decoder, state: RoundState, buffers: Buffers, known: mx.array, bound: Bound) -> Proposal:
        """``round.propose``, compiled; without the assistant, if ``decoder`` has none."""
        build, count = _given if decoder.assistant is None else _proposal, known.shape[1]
        where = self._where(state, count, bound)
        if not self._is_worth_tracing(build, count, where):
            return propose(decoder, state, buffers, count, where.bound, known)
        return _proposed(self._get(build, count, where)(tuple(state), buffers, known))

    def settle(
        self, decoder: Decoder, state: RoundState, proposal: Proposal, masks: mx.array
    ) -> tuple[Round, RoundState]:
        """``round.settle``, compiled where the first half of such a round is, and acceptance does not need the host."""
        count = proposal.drafts.tokens.shape[1]
        if decoder.accept is not accept or self._shares.of(count) < WORTH_TRACING:
            return settle(decoder, state, proposal, masks)
        drafts, hidden, logits, _ = proposal
        run = self._get(_settled, count, Where(0))
        emitted, after = run(tuple(state), tuple(drafts), hidden, logits, masks)
        return Round(*emitted), _again(state, after)

    def fill(self, target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
        """``chunk.fill``, compiled from the second whole chunk of a size and place on; with pictures or sound never."""
        count, where = chunk.tokens.shape[1], Where(chunk.bound)
        key = _fill, count, where
        if chunk.media or count % WHOLE or not self._asked_before(key):
            return fill(target, layout, chunk)
        self._remember(key)
        filled: Buffers = self._get(_fill, count, where)(chunk.tokens, chunk.length, chunk.buffers)
        return filled

    def _where(self, state: RoundState, count: int, bound: Bound) -> Where:
        """The ends of the buckets that lengths are in."""
        if state.places is None or isinstance(bound, int):
            return Where(self.reach(max(bounds_of(bound)) + count + 1) - (count + 1))
        ends = tuple(self.reach(each + count + 1) - (count + 1) for each in bound)
        return Where(ends, tuple(rows.shape[0] for rows in state.places.picks))

    def _is_worth_tracing(self, build: Build, count: int, where: Where) -> bool:
        """Whether a round of this draft length will be asked for again, because it was of late. Plain rounds, which all
        others are compared with, are traced from the second on; the first is the one that gives the first token."""
        share = self._shares.add(count)
        key = build, count, where
        if where.places:
            return self._is_asked_often(key)
        if key in self._compiled or share >= WORTH_TRACING:
            return True
        return count == 0 and self._asked_before(key)

    def _is_asked_often(self, key: Key) -> bool:
        """Whether a shape of shelves stays for a while: there are many of them."""
        if self._shape_shares.add(key) < STAYS and key not in self._compiled:
            return False
        self._remember(key)
        return True

    def _remember(self, key: Key) -> None:
        """A shape is traced; the trace that was not asked for for longest goes, if there are too many."""
        self._shapes.pop(key, None)
        self._shapes[key] = None
        if len(self._shapes) > SHAPES:
            oldest = next(iter(self._shapes))
            del self._shapes[oldest]
            self._compiled.pop(oldest, None)

    def _asked_before(self, key: Key) -> bool:
        before = key in self._asked
        if len(self._asked) >= MOST_ASKED:
            self._asked.clear()
        self._asked.add(key)
        return before

    def _get(self, build: Build, count: int, where: Where) -> Function:
        key = build, count, where
        if key not in self._compiled:
            self._compiled[key] = mx.compile(_traced(build(self._decoder, count, where.bound)))
        return self._compiled[key]


def _traced(function: Function) -> Function:
    """A function to be compiled: it runs while it is traced, and only then."""

    def trace(*arguments: Any) -> Any:
        with constant_weights():
            return function(*arguments)

    return trace


def _again(state: RoundState, after: tuple[Any, ...]) -> RoundState:
    """A state with what a round has changed; the rest needs no copies."""
    length, token, hidden, counts = after
    return state._replace(length=length, token=token, hidden=hidden, counts=None if counts is None else Counts(*counts))


def _whole(decoder: Decoder, count: int, bound: Bound) -> Function:
    def run(state: tuple[mx.array, ...], buffers: Buffers) -> tuple[Any, ...]:
        emitted, after, buffers = speculate(decoder, RoundState.of(state), buffers, count, bound)
        return tuple(emitted), (after.length, after.token, after.hidden, after.counts), buffers

    return run


def _proposal(decoder: Decoder, count: int, bound: Bound) -> Function:
    def run(state: tuple[mx.array, ...], buffers: Buffers, known: mx.array | None) -> tuple[Any, ...]:
        drafts, hidden, logits, buffers = propose(decoder, RoundState.of(state), buffers, count, bound, known)
        return tuple(drafts), hidden, logits, buffers

    return run


def _given(decoder: Decoder, count: int, bound: Bound) -> Function:
    """As ``_proposal``, where all drafts are known."""
    return _proposal(decoder._replace(assistant=None), count, bound)


def _proposed(arrays: tuple[Any, ...]) -> Proposal:
    """A proposal from the plain tuples that ``mx.compile`` makes of it."""
    drafts, hidden, logits, buffers = arrays
    return Proposal(Drafts(*drafts), hidden, logits, buffers)


def _settled(decoder: Decoder, count: int, bound: Bound) -> Function:
    def run(
        state: tuple[mx.array, ...], drafts: tuple[Any, ...], hidden: mx.array, logits: mx.array, masks: mx.array
    ) -> tuple[Any, ...]:
        proposal = Proposal(Drafts(*drafts), hidden, logits, ())
        emitted, after = settle(decoder, RoundState.of(state), proposal, masks)
        return tuple(emitted), (after.length, after.token, after.hidden, after.counts)

    return run


def _fill(decoder: Decoder, count: int, bound: Bound) -> Function:
    end = max(bounds_of(bound))

    def run(tokens: mx.array, length: mx.array, buffers: Buffers) -> Buffers:
        return fill(decoder.target, decoder.layout, Chunk(tokens, length, buffers, end))

    return run
