"""Rounds and prompt chunks under ``mx.compile``: traced once per draft length and bucket, then run without Python.

A round is compiled whole; where acceptance needs the host, all that comes before. What is not asked for again, such as
a draft length that is only probed or the end of a prompt, is not traced: that takes as long as many rounds. Attention
over a linear buffer ends where a bucket of positions ends, which is when a run traces anew: seldom enough for that to
cost nothing, close enough for attending to the padding to cost nothing (figures in the README).
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx

from ..backend import can_compile
from ..cache.layout import BUCKET, Buffers, CacheLayout, round_up
from ..engine.prefill import Chunk, fill
from ..errors import InputError
from ..models.config import Gemma4TextConfig
from ..models.cost import attention_multiplications, weight_multiplications
from .round import (
    Drafts,
    Engine,
    Plan,
    Proposal,
    Round,
    RoundState,
    Target,
    accept,
    propose,
    settle,
    speculate,
)

LEAST_BUCKET, MOST_BUCKET = 192, 1024  # positions
PADDING_PERCENT = 2  # multiplications with keys and values in vain, of those with weights
GROWTH_SHARE = 8  # in a long text a bucket is up to this part of it, so that it traces as seldom as it doubles
RECENT = 16  # rounds, over which the share of a draft length is taken
WORTH_TRACING = 0.2  # share of the recent rounds
KEPT = 8  # settings per target: sampling options are constants of a trace


def check_compiler() -> None:
    """Refuse to compile on the CPU backend without a C++ compiler.

    Raises:
        InputError: there is none on the path.
    """
    if not can_compile():
        raise InputError("compile needs the C++ compiler g++ on this backend, and there is none on the path")


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
    """The steps of a run, compiled; they serve all runs with the same networks, layout and sampling.

    The networks are held weakly, since these steps are kept for as long as the networks live. What is compiled has
    their weights as constants: a network must not be changed after its first run.
    """

    def __init__(self, engine: Engine):
        self._engine = engine._replace(
            target=weakref.proxy(engine.target),
            assistant=None if engine.assistant is None else weakref.proxy(engine.assistant),
            accept=accept,
        )
        self._compiled: dict[tuple[Callable, int, int], Callable] = {}
        self._bucket = bucket_size(engine.layout.config)
        self._shares: dict[int, float] = {}
        self._asked: set[tuple[Callable, int, int]] = set()

    def reach(self, end: int) -> int:
        """How many slots a round that ends at this position attends to, and writes to."""
        return bucket_end(end, self._bucket)

    def carry_out(self, plan: Plan) -> Plan:
        """The same plan with compiled rounds."""
        return replace(plan, step=self.round, reach=self.reach)

    def round(self, engine: Engine, state: RoundState, count: int, bound: int) -> tuple[Round, RoundState]:
        """``speculative.speculate``, compiled; ``engine`` is the run's own, whose acceptance may be on the host."""
        bound = self.reach(bound + count + 1) - (count + 1)
        if not self._is_worth_tracing(_whole if engine.accept is accept else _proposal, count, bound):
            return speculate(engine, state, count, bound)
        if engine.accept is accept:
            emitted, after = self._get(_whole, count, bound)(tuple(state))
            return Round(*emitted), RoundState(*after)
        drafts, log_q, hidden, logits, buffers = self._get(_proposal, count, bound)(tuple(state))
        return settle(engine, state, Proposal(Drafts(drafts, log_q), hidden, logits, buffers))

    def fill(self, target: Target, layout: CacheLayout, chunk: Chunk) -> Buffers:
        """``prefill.fill``, compiled from the second chunk of a size and place on; with pictures or sound never."""
        where = chunk.tokens.shape[1], chunk.bound
        if chunk.media or not self._asked_before((_fill, *where)):
            return fill(target, layout, chunk)
        return self._get(_fill, *where)((chunk.tokens, chunk.length, chunk.buffers))

    def _is_worth_tracing(self, build: Callable, count: int, bound: int) -> bool:
        """Whether a round of this draft length will be asked for again, because it was lately. Plain rounds, which all
        others are compared with, are traced from the second on; the first is the one that gives the first token."""
        self._shares = {other: share * (1 - 1 / RECENT) for other, share in self._shares.items()}
        self._shares[count] = self._shares.get(count, 0.0) + 1 / RECENT
        key = build, count, bound
        if key in self._compiled or self._shares[count] >= WORTH_TRACING:
            return True
        return count == 0 and self._asked_before(key)

    def _asked_before(self, key: tuple[Callable, int, int]) -> bool:
        before = key in self._asked
        self._asked.add(key)
        return before

    def _get(self, build: Callable, count: int, bound: int) -> Callable:
        key = build, count, bound
        if key not in self._compiled:
            self._compiled[key] = mx.compile(build(self._engine, count, bound))
        return self._compiled[key]


def _whole(engine: Engine, count: int, bound: int) -> Callable:
    def run(state):
        emitted, after = speculate(engine, RoundState(*state), count, bound)
        return tuple(emitted), tuple(after)

    return run


def _proposal(engine: Engine, count: int, bound: int) -> Callable:
    def run(state):
        drafts, hidden, logits, buffers = propose(engine, RoundState(*state), count, bound)
        return drafts.tokens, drafts.log_q, hidden, logits, buffers

    return run


def _fill(engine: Engine, count: int, bound: int) -> Callable:
    def run(arrays):
        tokens, length, buffers = arrays
        return fill(engine.target, engine.layout, Chunk(tokens, length, buffers, bound))

    return run


_kept: dict[int, OrderedDict[tuple, CompiledSteps]] = {}


def compiled_steps(engine: Engine) -> CompiledSteps:
    """The steps for an engine, kept from the last time that it was asked for while its networks live."""
    target = id(engine.target)
    if target not in _kept:
        _kept[target] = OrderedDict()
        weakref.finalize(engine.target, _kept.pop, target, None)
    settings = _kept[target]
    key = id(engine.assistant), engine.layout.slack, engine.layout.dtype, engine.sampling
    if key not in settings:
        settings[key] = CompiledSteps(engine)
        if engine.assistant is not None:
            weakref.finalize(engine.assistant, settings.pop, key, None)
    settings.move_to_end(key)
    while len(settings) > KEPT:
        settings.popitem(last=False)
    return settings[key]
