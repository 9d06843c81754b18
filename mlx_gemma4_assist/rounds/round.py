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
from ..cache.layout import Bound
from ..cache.shared import shared_kv_states
from ..cache.store import Buffers
from .adjust import adjusted, counts_after, masked, with_log_probs
from .sampling import DRAFT, Sampling, choose, log_probabilities, suppress
from .state import Decoder, Drafts, Proposal, Round, RoundState


def speculate(
    decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound
) -> tuple[Round, RoundState, Buffers]:
    """One round of ``count`` drafts. ``bound`` is an upper bound of ``length``."""
    proposal = propose(decoder, state, buffers, count, bound)
    return *settle(decoder, state, proposal), proposal.buffers


def propose(
    decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound, known: mx.array | None = None
) -> Proposal:
    """The first half of a round: draft and verify. ``known``: see :func:`draft`."""
    drafts = draft(decoder, state, buffers, count, bound, known)
    return Proposal(drafts, *verify(decoder, state, buffers, drafts.tokens, bound))


def settle(
    decoder: Decoder, state: RoundState, proposal: Proposal, masks: mx.array | None = None
) -> tuple[Round, RoundState]:
    """The second half: accept and advance.

    ``masks``: (B, K + 1, ceil(V / 32)) uint32, which ids may come in each place if the drafts before it stand; see
    ``adjust.masked``. Log-probabilities do not know of them.
    """
    sampling, drafts = decoder.sampling, proposal.drafts
    logits = adjusted(proposal.logits, sampling, state, drafts.tokens)
    emitted = decoder.accept(sampling, state, drafts, logits if masks is None else masked(logits, masks))
    if sampling.top_logprobs >= 0:
        emitted = with_log_probs(emitted, logits, sampling.top_logprobs)
    return emitted, advance(state, emitted, proposal.hidden)


def draft_position(state: RoundState) -> mx.array:
    """The position all drafts of a round are made from, (B,): the newest token's, as in transformers'
    ``SinglePositionMultiTokenCandidateGenerator``. Others use one less; only acceptance is at stake."""
    return state.length


def draft(
    decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: Bound, known: mx.array | None = None
) -> Drafts:
    """``count`` tokens, each from the target's embedding of the one before and the assistant's own projected state.

    ``known``: (B, count) int32, ids that take the places of the assistant's drafts; negative leaves them. Without an
    assistant there are no others: those that are not known are ids that do not count.
    """
    sampling, assistant = decoder.sampling, decoder.assistant
    as_point_mass = not sampling.draws_drafts
    if assistant is None and known is not None:
        given = mx.maximum(known, 0)
        return Drafts(given, None if as_point_mass else _points(given, decoder.layout.config.vocab_size))
    if count == 0 or assistant is None:
        return Drafts(mx.zeros((state.token.shape[0], 0), mx.int32), None)
    states, masks = shared_kv_states(decoder.layout, buffers, state.length, bound, state.places)
    position = draft_position(state)
    token, hidden = state.token, state.hidden
    tokens, log_q = [], []
    for i in range(count):
        inputs_embeds = mx.concatenate([decoder.target.embed(token), hidden], axis=-1)
        last, hidden = assistant(inputs_embeds, position, states, masks)
        if as_point_mass:
            token = assistant.argmax(last)
        else:
            token, drawn_from = _drawn(sampling, state, suppress(assistant.logits(last), sampling, state.rows), i + 1)
            log_q.append(drawn_from)
        if known is not None:
            token = mx.where(known[:, i : i + 1] < 0, token, known[:, i : i + 1])
        tokens.append(token)
    drawn = None if as_point_mass else mx.concatenate(log_q, axis=1)
    return Drafts(mx.concatenate(tokens, axis=1), drawn if known is None else certain(drawn, known))


def certain(log_q: mx.array | None, known: mx.array) -> mx.array | None:
    """log_q (B, K, V) as it is where ``known`` (B, K) is negative, and a point mass on the known id elsewhere."""
    if log_q is None:
        return None
    return mx.where((known < 0)[..., None], log_q, _points(known, log_q.shape[-1]))


def _points(tokens: mx.array, vocabulary: int) -> mx.array:
    """The logarithms of point masses (B, K, V) on tokens (B, K)."""
    return mx.where(mx.arange(vocabulary) == tokens[..., None], 0.0, -mx.inf)


def _drawn(sampling: Sampling, state: RoundState, logits: mx.array, place: int) -> tuple[mx.array, mx.array]:
    """The draft ``place`` positions behind the length, (B, 1), and what it is drawn from, (B, 1, V).

    A row that drafts its assistant's likeliest token does so beside others that draw.
    """
    rows = state.rows
    temperature = sampling.draft_temperature if rows is None else rows.draft_temperature
    log_q = log_probabilities(logits, temperature, sampling, rows)
    token = choose(log_q, state.keys, state.length[:, None] + place, DRAFT)
    if rows is None:
        return token, log_q
    return mx.where((rows.draft_temperature == 0)[:, None], mx.argmax(logits, axis=-1).astype(mx.int32), token), log_q


def verify(
    decoder: Decoder, state: RoundState, buffers: Buffers, drafts: mx.array, bound: Bound
) -> tuple[mx.array, mx.array, Buffers]:
    """One forward over the token and its drafts: hidden states (B, K + 1, H), logits (B, K + 1, V), buffers."""
    tokens = mx.concatenate([state.token, drafts], axis=1)
    block = Block(decoder.layout, buffers, state.length, tokens.shape[1], bound, places=state.places)
    hidden = decoder.target(tokens, block)
    return hidden, suppress(decoder.target.logits(hidden), decoder.sampling, state.rows), block.buffers


def advance(state: RoundState, emitted: Round, hidden: mx.array) -> RoundState:
    """The state after a round, of the same dtypes: the newest token, and the hidden state of the one before it.

    A row without a request, whose limit is negative, stays where it is: what it writes is overwritten.
    """
    made = 1 if emitted.tokens.shape[1] == 1 else emitted.accepted + 1
    if state.counts is not None:
        state = state._replace(counts=counts_after(state.counts, emitted))
    length = state.length + (made if state.rows is None else mx.where(state.rows.limit < 0, 0, made))
    if emitted.tokens.shape[1] == 1:
        return state._replace(length=length, token=emitted.tokens, hidden=hidden)
    at = emitted.accepted[:, None]
    return state._replace(
        length=length,
        token=mx.take_along_axis(emitted.tokens, at, axis=1),
        hidden=mx.take_along_axis(hidden, at[..., None], axis=1),
    )
