"""Speculative decoding with a drafter that reads the target's cache (Leviathan et al. 2023, Chen et al. 2023).

A round starts from ``length`` verified positions and the newest ``token``, whose keys are not in the cache yet:

    draft    the assistant proposes K tokens, one after the other, all from position ``length``;
    verify   the target reads the token and the drafts in one forward: K + 1 distributions;
    accept   the longest prefix of drafts that the target would have produced, and one token of its own;
    advance  ``length += accepted + 1``. What was written for rejected drafts lies beyond the length: invisible.

Plain decoding is a round with K = 0. Lengths are arrays of one entry per row, so a round is a pure function of arrays:
nothing in ``speculate`` and what it calls is read back to the host, and rows of a batch accept independently. The host
reads in ``read`` only, a round late: ``rounds`` submits the next round before it reads the one before.

Shapes: B rows, K drafts, V vocabulary, H the target's hidden size. All token ids are int32.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mlx.core as mx

from ..cache.layout import Block, Buffers, CacheLayout, KVCache, shared_kv_states
from ..drafts.clock import RoundClock
from ..drafts.draft_length import DraftLength
from ..models.attention import KeysValues
from ..models.layers import BlockCache
from .sampling import ACCEPT, CHOOSE, DRAFT, RESIDUAL, Sampling, choose, log_probabilities, row_keys, suppress, uniform


class Target(Protocol):
    """What a round needs of a target: ``models.gemma4_text.Gemma4ForCausalLM``."""

    def embed(self, tokens: mx.array) -> mx.array: ...
    def __call__(self, tokens: mx.array, cache: BlockCache, inputs_embeds: mx.array | None = None) -> mx.array: ...
    def logits(self, hidden: mx.array) -> mx.array: ...


class Assistant(Protocol):
    """What a round needs of a drafter: ``models.gemma4_assistant.Gemma4AssistantForCausalLM``."""

    def __call__(
        self,
        inputs_embeds: mx.array,
        position_ids: mx.array,
        shared_kv_states: dict[str, KeysValues],
        masks: dict[str, mx.array],
    ) -> tuple[mx.array, mx.array]: ...
    def argmax(self, hidden: mx.array) -> mx.array: ...
    def logits(self, hidden: mx.array) -> mx.array: ...


class RoundState(NamedTuple):
    """What one round hands to the next.

    Attributes:
        length: (B,) int32, verified positions: entries of the cache that are valid.
        token: (B, 1) int32, the newest token, at position ``length``.
        hidden: (B, 1, H), the target's hidden state, after its final norm, at position ``length - 1``.
        keys: (B, 2) uint32, random keys; constant, since noise depends on the position.
        buffers: keys and values.
    """

    length: mx.array
    token: mx.array
    hidden: mx.array
    keys: mx.array
    buffers: Buffers


class Round(NamedTuple):
    """What one round emits: row b's tokens are ``tokens[b, : accepted[b] + 1]``.

    Attributes:
        tokens: (B, K + 1) int32.
        accepted: (B,) int32, how many of them were drafted.
    """

    tokens: mx.array
    accepted: mx.array


class Drafts(NamedTuple):
    """K drafted tokens (B, K), and the distributions they were drawn from, (B, K, V) float32; None for point masses."""

    tokens: mx.array
    log_q: mx.array | None


class Engine(NamedTuple):
    """The networks and settings of a run.

    Attributes:
        target, assistant: the networks; no assistant is plain decoding.
        layout: of the cache that the run works on.
        sampling: how tokens are drawn.
        accept: :func:`accept`, or what stands in for it where acceptance needs the host.
    """

    target: Target
    assistant: Assistant | None
    layout: CacheLayout
    sampling: Sampling
    accept: "Accept"


class Proposal(NamedTuple):
    """Drafts and what the target says to them: hidden (B, K + 1, H), logits (B, K + 1, V), and the buffers after it."""

    drafts: Drafts
    hidden: mx.array
    logits: mx.array
    buffers: Buffers


def speculate(engine: Engine, state: RoundState, count: int, bound: int) -> tuple[Round, RoundState]:
    """One round of ``count`` drafts. ``bound`` is an upper bound of ``length``, known to the host."""
    return settle(engine, state, propose(engine, state, count, bound))


def propose(engine: Engine, state: RoundState, count: int, bound: int) -> Proposal:
    """The first half of a round: draft and verify."""
    drafts = draft(engine, state, count, bound)
    return Proposal(drafts, *verify(engine, state, drafts.tokens, bound))


def settle(engine: Engine, state: RoundState, proposal: Proposal) -> tuple[Round, RoundState]:
    """The second half: accept and advance."""
    emitted = engine.accept(engine.sampling, state, proposal.drafts, proposal.logits)
    return emitted, advance(state, emitted, proposal.hidden, proposal.buffers)


def draft_position(state: RoundState) -> mx.array:
    """The position all drafts of a round are made from, (B,): the newest token's, as in transformers'
    ``SinglePositionMultiTokenCandidateGenerator``. Others use one less; only acceptance is at stake."""
    return state.length


def draft(engine: Engine, state: RoundState, count: int, bound: int) -> Drafts:
    """``count`` tokens, each from the target's embedding of the one before and the assistant's own projected state."""
    if count == 0:
        return Drafts(mx.zeros((state.token.shape[0], 0), mx.int32), None)
    sampling, assistant = engine.sampling, engine.assistant
    as_point_mass = sampling.greedy or sampling.draft_temperature == 0
    states, masks = shared_kv_states(engine.layout, state.buffers, state.length, bound)
    position = draft_position(state)
    token, hidden = state.token, state.hidden
    tokens, log_q = [], []
    for i in range(count):
        inputs_embeds = mx.concatenate([engine.target.embed(token), hidden], axis=-1)
        last, hidden = assistant(inputs_embeds, position, states, masks)
        if as_point_mass:
            token = assistant.argmax(last)
        else:
            logits = suppress(assistant.logits(last), sampling)
            log_q.append(log_probabilities(logits, sampling.draft_temperature, sampling))
            token = choose(log_q[-1], state.keys, state.length[:, None] + (i + 1), DRAFT)
        tokens.append(token)
    return Drafts(mx.concatenate(tokens, axis=1), None if as_point_mass else mx.concatenate(log_q, axis=1))


def verify(engine: Engine, state: RoundState, drafts: mx.array, bound: int) -> tuple[mx.array, mx.array, Buffers]:
    """One forward over the token and its drafts: hidden states (B, K + 1, H), logits (B, K + 1, V), buffers."""
    tokens = mx.concatenate([state.token, drafts], axis=1)
    block = Block(engine.layout, state.buffers, state.length, tokens.shape[1], bound)
    hidden = engine.target(tokens, block)
    return hidden, suppress(engine.target.logits(hidden), engine.sampling), block.buffers


def accept(sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array) -> Round:
    """Decide how many drafts stand, and what follows them."""
    if sampling.greedy:
        return accept_matching(drafts.tokens, mx.argmax(logits, axis=-1).astype(mx.int32))
    log_p = log_probabilities(logits, sampling.temperature, sampling)
    positions = state.length[:, None] + mx.arange(1, logits.shape[1] + 1)
    if drafts.log_q is None:
        return accept_matching(drafts.tokens, choose(log_p, state.keys, positions, CHOOSE))
    rule = accept_block if sampling.block_verification else accept_tokens
    return rule(drafts, log_p, state.keys, positions)


Accept = Callable[[Sampling, RoundState, Drafts, mx.array], Round]
Step = Callable[[Engine, RoundState, int, int], tuple[Round, RoundState]]


def accept_matching(drafts: mx.array, choices: mx.array) -> Round:
    """Drafts stand while they equal the target's own choices (B, K + 1), which are what is emitted.

    Exact for greedy decoding, and for sampling with drafts that are point masses: a draft d stands with probability
    p(d), and what replaces it, given that it is not d, is distributed as the residual max(p - q, 0).
    """
    if drafts.shape[1] == 0:
        return Round(choices, mx.zeros((choices.shape[0],), mx.int32))
    matches = (choices[:, :-1] == drafts).astype(mx.int32)
    return Round(choices, mx.cumprod(matches, axis=1).sum(axis=1).astype(mx.int32))


def accept_tokens(drafts: Drafts, log_p: mx.array, keys: mx.array, positions: mx.array) -> Round:
    """Leviathan et al. 2023, algorithm 1: accept d with probability min(1, p(d) / q(d)), else draw from max(p - q, 0).

    log_p: (B, K + 1, V); positions: (B, K + 1) int32, of the tokens that the distributions are for.
    """
    p, q = mx.exp(log_p), mx.exp(drafts.log_q)
    p_of, q_of = _of_drafts(drafts, p, q)
    stands = uniform(keys, positions[:, :-1], ACCEPT) * q_of < p_of
    accepted = mx.cumprod(stands.astype(mx.int32), axis=1).sum(axis=1).astype(mx.int32)
    return _with_residual(drafts, accepted, p, q, keys, positions)


def accept_block(drafts: Drafts, log_p: mx.array, keys: mx.array, positions: mx.array) -> Round:
    """Sun et al. 2024, "Block verification accelerates speculative decoding", algorithm 2.

    Exact as well, and never accepts less on average: a draft that falls by itself may stand for the sake of a likely
    continuation. Shapes as for :func:`accept_tokens`.
    """
    p, q = mx.exp(log_p), mx.exp(drafts.log_q)
    p_of, q_of = _of_drafts(drafts, p, q)
    K = drafts.tokens.shape[1]
    joint = [mx.ones_like(log_p[:, 0, 0])]  # of the first i drafts, how likely p holds them against q, at most 1
    for i in range(K):
        joint.append(mx.minimum(joint[-1] * p_of[:, i] / q_of[:, i], 1))
    joint = mx.stack(joint, axis=1)
    excess = mx.maximum(joint[:, 1:K, None] * p[:, 1:K] - q[:, 1:K], 0).sum(axis=-1)
    missing = excess + 1 - joint[:, 1:K]
    reach = mx.where(missing > 0, excess / mx.maximum(missing, 1e-30), 1)
    reach = mx.concatenate([reach, joint[:, K:]], axis=1)
    stops = uniform(keys, positions[:, :-1], ACCEPT) < reach
    accepted = mx.max(mx.where(stops, mx.arange(1, K + 1), 0), axis=1).astype(mx.int32)
    weight = mx.concatenate([joint[:, :K], mx.ones_like(joint[:, :1])], axis=1)
    return _with_residual(drafts, accepted, p * weight[..., None], q, keys, positions)


def _of_drafts(drafts: Drafts, p: mx.array, q: mx.array) -> tuple[mx.array, mx.array]:
    """p and q of the drafted tokens, (B, K) each."""
    chosen = drafts.tokens[..., None]
    return tuple(mx.take_along_axis(x, chosen, axis=-1).squeeze(-1) for x in (p[:, :-1], q))


def _with_residual(
    drafts: Drafts, accepted: mx.array, p: mx.array, q: mx.array, keys: mx.array, positions: mx.array
) -> Round:
    """The accepted drafts, and a token from max(p - q, 0) after them; past the last draft q is 0 and that is p."""
    at = accepted[:, None]
    q = mx.concatenate([q, mx.zeros_like(p[:, :1])], axis=1)
    residual = mx.maximum(mx.take_along_axis(p - q, at[..., None], axis=1), 0)
    next_position = mx.take_along_axis(positions, at, axis=1)
    following = choose(mx.log(residual), keys, next_position, RESIDUAL)
    padded = mx.concatenate([drafts.tokens, following], axis=1)
    return Round(mx.where(mx.arange(padded.shape[1]) < at, padded, following), accepted)


def advance(state: RoundState, emitted: Round, hidden: mx.array, buffers: Buffers) -> RoundState:
    """The state after a round, of the same dtypes: the newest token, and the hidden state of the one before it."""
    if emitted.tokens.shape[1] == 1:
        return state._replace(length=state.length + 1, token=emitted.tokens, hidden=hidden, buffers=buffers)
    at = emitted.accepted[:, None]
    return state._replace(
        length=state.length + emitted.accepted + 1,
        token=mx.take_along_axis(emitted.tokens, at, axis=1),
        hidden=mx.take_along_axis(hidden, at[..., None], axis=1),
        buffers=buffers,
    )


class Emitted(NamedTuple):
    """A round as the host reads it: for each row its tokens, and how many of them were drafts."""

    tokens: list[list[int]]
    accepted: list[int]
    drafted: int


def read(emitted: Round) -> Emitted:
    """Wait for a round. The only place in this module where the host does."""
    accepted = emitted.accepted.tolist()
    tokens = [row[: n + 1] for row, n in zip(emitted.tokens.tolist(), accepted, strict=True)]
    return Emitted(tokens, accepted, emitted.tokens.shape[1] - 1)


@dataclass(frozen=True)
class Plan:
    """How a run proceeds.

    Attributes:
        budget: tokens to emit per row; the last round may emit more.
        draft_length: how many drafts the next round makes.
        ahead: rounds submitted beyond the one that is read; 0 to wait for each, as acceptance on the host must.
        seed: of all noise.
        step: :func:`speculate`, or the same compiled.
        reach: how many slots of the cache a round needs that ends at a position.
    """

    budget: int
    draft_length: DraftLength
    ahead: int = 1
    seed: int = 0
    step: Step = speculate
    reach: Callable[[int], int] = lambda end: end


def start(engine: Engine, cache: KVCache, tokens: list[int], seed: int) -> RoundState:
    """The state before the first round, from each row's newest token. It has no hidden state to draft from."""
    token = mx.array(tokens, mx.int32)[:, None]
    hidden = mx.zeros_like(engine.target.embed(token))
    return RoundState(mx.array(cache.lengths, mx.int32), token, hidden, row_keys(seed, len(tokens)), cache.buffers)


def rounds(engine: Engine, cache: KVCache, tokens: list[int], plan: Plan) -> Iterator[Emitted]:
    """Run rounds until every row has emitted its budget, yielding each as soon as the next one is under way.

    Only the first is yielded before: it gives the first token, and has no drafts to wait for.

    Args:
        engine: networks and settings.
        cache: filled up to, not including, ``tokens``; kept up to date as rounds are read.
        tokens: the newest token of each row.
        plan: how far, and how.
    """
    state = start(engine, cache, tokens, plan.seed)
    newest = list(tokens)
    flight: deque[Round] = deque()
    clock = RoundClock()
    done = 0  # tokens that every row has emitted, as far as the host has read
    bound = max(cache.lengths)
    while done < plan.budget:
        ahead, drafts = (plan.ahead, engine.assistant is not None) if done else (0, False)
        while len(flight) <= ahead and (left := plan.budget - done - len(flight)) > 0:
            count = min(plan.draft_length.choose(), left - 1) if drafts else 0
            cache.reserve(plan.reach(bound + count + 1))
            emitted, state = plan.step(engine, state._replace(buffers=cache.buffers), count, bound)
            cache.buffers = state.buffers
            bound += count + 1
            cache.written = max(cache.written, bound)
            mx.async_eval(emitted, state)
            flight.append(emitted)
        result = read(flight.popleft())
        plan.draft_length.observe(result.drafted, result.accepted, clock.round_was_read())
        for row, (emitted_row, held) in enumerate(zip(result.tokens, cache.tokens, strict=True)):
            held += [newest[row], *emitted_row[:-1]]
            newest[row] = emitted_row[-1]
        done += min(len(row) for row in result.tokens)
        bound = max(cache.lengths) + sum(r.tokens.shape[1] for r in flight)
        clock.leave()
        yield result
        clock.come_back()
