"""Speculative decoding with a drafter that reads the target's cache (Leviathan et al. 2023, Chen et al. 2023).

A round starts from ``length`` verified positions and the newest ``token``, whose keys are not in the cache yet:

    draft    the assistant proposes K tokens, one after the other, all from position ``length``;
    verify   the target reads the token and the drafts in one forward: K + 1 distributions;
    accept   the longest prefix of drafts that the target would have produced, and one token of its own;
    advance  ``length += accepted + 1``. What was written for rejected drafts lies beyond the length: invisible.

Plain decoding is a round with K = 0. Lengths are arrays of one entry per row, so a round is a pure function of arrays:
nothing here is read back to the host, and rows of a batch accept independently.

Shapes: B rows, K drafts, V vocabulary, H the target's hidden size. All token ids are int32.
"""

import mlx.core as mx

from ..cache.block import Block
from ..cache.shared import shared_kv_states
from ..cache.store import Buffers
from .sampling import DRAFT, choose, log_probabilities, suppress
from .state import Decoder, Drafts, Proposal, Round, RoundState


def speculate(
    decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: int
) -> tuple[Round, RoundState, Buffers]:
    """One round of ``count`` drafts. ``bound`` is an upper bound of ``length``, known to the host."""
    proposal = propose(decoder, state, buffers, count, bound)
    return *settle(decoder, state, proposal), proposal.buffers


def propose(decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: int) -> Proposal:
    """The first half of a round: draft and verify."""
    drafts = draft(decoder, state, buffers, count, bound)
    return Proposal(drafts, *verify(decoder, state, buffers, drafts.tokens, bound))


def settle(decoder: Decoder, state: RoundState, proposal: Proposal) -> tuple[Round, RoundState]:
    """The second half: accept and advance."""
    emitted = decoder.accept(decoder.sampling, state, proposal.drafts, proposal.logits)
    return emitted, advance(state, emitted, proposal.hidden)


def draft_position(state: RoundState) -> mx.array:
    """The position all drafts of a round are made from, (B,): the newest token's, as in transformers'
    ``SinglePositionMultiTokenCandidateGenerator``. Others use one less; only acceptance is at stake."""
    return state.length


def draft(decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: int) -> Drafts:
    """``count`` tokens, each from the target's embedding of the one before and the assistant's own projected state."""
    if count == 0:
        return Drafts(mx.zeros((state.token.shape[0], 0), mx.int32), None)
    sampling, assistant = decoder.sampling, decoder.assistant
    as_point_mass = sampling.greedy or sampling.draft_temperature == 0
    states, masks = shared_kv_states(decoder.layout, buffers, state.length, bound)
    position = draft_position(state)
    token, hidden = state.token, state.hidden
    tokens, log_q = [], []
    for i in range(count):
        inputs_embeds = mx.concatenate([decoder.target.embed(token), hidden], axis=-1)
        last, hidden = assistant(inputs_embeds, position, states, masks)
        if as_point_mass:
            token = assistant.argmax(last)
        else:
            logits = suppress(assistant.logits(last), sampling)
            log_q.append(log_probabilities(logits, sampling.draft_temperature, sampling))
            token = choose(log_q[-1], state.keys, state.length[:, None] + (i + 1), DRAFT)
        tokens.append(token)
    return Drafts(mx.concatenate(tokens, axis=1), None if as_point_mass else mx.concatenate(log_q, axis=1))


def verify(
    decoder: Decoder, state: RoundState, buffers: Buffers, drafts: mx.array, bound: int
) -> tuple[mx.array, mx.array, Buffers]:
    """One forward over the token and its drafts: hidden states (B, K + 1, H), logits (B, K + 1, V), buffers."""
    tokens = mx.concatenate([state.token, drafts], axis=1)
    block = Block(decoder.layout, buffers, state.length, tokens.shape[1], bound)
    hidden = decoder.target(tokens, block)
    return hidden, suppress(decoder.target.logits(hidden), decoder.sampling), block.buffers


def advance(state: RoundState, emitted: Round, hidden: mx.array) -> RoundState:
    """The state after a round, of the same dtypes: the newest token, and the hidden state of the one before it."""
    if emitted.tokens.shape[1] == 1:
        return state._replace(length=state.length + 1, token=emitted.tokens, hidden=hidden)
    at = emitted.accepted[:, None]
    return state._replace(
        length=state.length + emitted.accepted + 1,
        token=mx.take_along_axis(emitted.tokens, at, axis=1),
        hidden=mx.take_along_axis(hidden, at[..., None], axis=1),
    )
