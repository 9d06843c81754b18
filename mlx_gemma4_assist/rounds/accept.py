"""Which drafts stand, and what follows them: exact for any way of drafting (Leviathan et al. 2023, Chen et al. 2023).

Shapes: B rows, K drafts, V vocabulary.
"""

import mlx.core as mx

from .sampling import ACCEPT, CHOOSE, RESIDUAL, Sampling, Settings, choose, log_probabilities, uniform
from .state import Drafts, Round, RoundState


def accept(sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array) -> Round:
    """Decide how many drafts stand, and what follows them, in each row by its own settings."""
    rows, count = state.rows, drafts.tokens.shape[1]
    limit = None if rows is None else rows.limit
    if sampling.greedy:
        return accept_matching(drafts.tokens, _likeliest(logits), limit)
    log_p = log_probabilities(logits, sampling.temperature if rows is None else rows.temperature, sampling, rows)
    positions = state.length[:, None] + mx.arange(1, count + 2)
    drawn = None
    if drafts.log_q is not None:
        rule = accept_block if sampling.block_verification and count > 0 else accept_tokens
        drawn = rule(drafts.tokens, drafts.log_q, log_p, state.keys, positions, limit)
        if rows is None:
            return drawn
    choices = choose(log_p, state.keys, positions, CHOOSE)
    if rows is not None:
        choices = mx.where((rows.temperature == 0)[:, None], _likeliest(logits), choices)
    matching = accept_matching(drafts.tokens, choices, limit)
    return matching if drawn is None or rows is None else _where(_draws(rows), drawn, matching)


def _likeliest(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1).astype(mx.int32)


def _draws(rows: Settings) -> mx.array:
    """Which rows have drafts that were drawn: (B,) bool. A row none of whose drafts count has none."""
    return (rows.temperature > 0) & (rows.draft_temperature > 0) & (rows.limit > 0)


def _where(condition: mx.array, one: Round, other: Round) -> Round:
    return Round(
        mx.where(condition[:, None], one.tokens, other.tokens), mx.where(condition, one.accepted, other.accepted)
    )


def accept_matching(drafts: mx.array, choices: mx.array, limit: mx.array | None = None) -> Round:
    """Drafts stand while they equal the target's own choices (B, K + 1), which are what is emitted.

    Exact for greedy decoding, and for sampling with drafts that are point masses: a draft d stands with probability
    p(d), and what replaces it, given that it is not d, is distributed as the residual max(p - q, 0). Drafts behind the
    first ``limit`` (B,) never stand; None lets all.
    """
    if drafts.shape[1] == 0:
        return Round(choices, mx.zeros((choices.shape[0],), mx.int32))
    matches = choices[:, :-1] == drafts
    if limit is not None:
        matches = matches & (mx.arange(drafts.shape[1]) < limit[:, None])
    return Round(choices, _leading(matches))


def _leading(stands: mx.array) -> mx.array:
    """How many of the first drafts stand: (B, K) bool -> (B,) int32."""
    return mx.cumprod(stands.astype(mx.int32), axis=1).sum(axis=1).astype(mx.int32)


def accept_tokens(
    drafts: mx.array,
    log_q: mx.array,
    log_p: mx.array,
    keys: mx.array,
    positions: mx.array,
    limit: mx.array | None = None,
) -> Round:
    """Leviathan et al. 2023, algorithm 1: accept d with probability min(1, p(d) / q(d)), else draw from max(p - q, 0).

    drafts: (B, K) int32; log_q: (B, K, V), which they were drawn from; log_p: (B, K + 1, V); positions: (B, K + 1)
    int32, of the tokens that the distributions are for; limit: (B,) int32, how many drafts count, None for all: behind
    them q is 0, as past the last.
    """
    p, q = mx.exp(log_p), mx.exp(log_q)
    p_of, q_of = _of_drafts(drafts, p, q)
    stands = uniform(keys, positions[:, :-1], ACCEPT) * q_of < p_of
    if limit is not None:
        stands = stands & (mx.arange(drafts.shape[1]) < limit[:, None])
    return _with_residual(drafts, _leading(stands), p, _ended(q, limit), keys, positions)


def accept_block(
    drafts: mx.array,
    log_q: mx.array,
    log_p: mx.array,
    keys: mx.array,
    positions: mx.array,
    limit: mx.array | None = None,
) -> Round:
    """Sun et al. 2024, "Block verification accelerates speculative decoding", algorithm 2.

    Exact as well, and never accepts less on average: a draft that falls by itself may stand for the sake of a likely
    continuation. Arguments as for :func:`accept_tokens`; the draft at the limit is decided as the block's last.
    """
    p, q = mx.exp(log_p), mx.exp(log_q)
    p_of, q_of = _of_drafts(drafts, p, q)
    K = drafts.shape[1]
    last = K if limit is None else mx.minimum(limit, K)[:, None]
    factors = [mx.ones_like(log_p[:, 0, 0])]
    for i in range(K):
        factors.append(mx.minimum(factors[-1] * p_of[:, i] / q_of[:, i], 1))
    joint = mx.stack(factors, axis=1)  # of the first i drafts, how likely p holds them against q, at most 1
    excess = mx.maximum(joint[:, 1:K, None] * p[:, 1:K] - q[:, 1:K], 0).sum(axis=-1)
    missing = excess + 1 - joint[:, 1:K]
    reach = mx.where(missing > 0, excess / mx.maximum(missing, 1e-30), 1)
    reach = mx.concatenate([reach, joint[:, K:]], axis=1)
    place = mx.arange(1, K + 1)
    if limit is not None:
        reach = mx.where(place == last, joint[:, 1:], reach)
    stops = (uniform(keys, positions[:, :-1], ACCEPT) < reach) & (place <= last)
    accepted = mx.max(mx.where(stops, place, 0), axis=1).astype(mx.int32)
    weight = mx.where(mx.arange(K + 1) < last, joint, 1)
    return _with_residual(drafts, accepted, p * weight[..., None], _ended(q, limit), keys, positions)


def _of_drafts(drafts: mx.array, p: mx.array, q: mx.array) -> tuple[mx.array, mx.array]:
    """p and q of the drafted tokens, (B, K) each."""
    chosen = drafts[..., None]
    return mx.take_along_axis(p[:, :-1], chosen, axis=-1)[..., 0], mx.take_along_axis(q, chosen, axis=-1)[..., 0]


def _ended(q: mx.array, limit: mx.array | None) -> mx.array:
    """q (B, K, V) with zeros for the place past the last draft, and for those behind the limit: (B, K + 1, V)."""
    q = mx.concatenate([q, mx.zeros((q.shape[0], 1, q.shape[2]), q.dtype)], axis=1)
    return q if limit is None else mx.where((mx.arange(q.shape[1]) < limit[:, None])[..., None], q, 0)


def _with_residual(
    drafts: mx.array, accepted: mx.array, p: mx.array, q: mx.array, keys: mx.array, positions: mx.array
) -> Round:
    """The accepted drafts, and a token from max(p - q, 0) after them; p and q: (B, K + 1, V)."""
    at = accepted[:, None]
    residual = mx.maximum(mx.take_along_axis(p - q, at[..., None], axis=1), 0)
    next_position = mx.take_along_axis(positions, at, axis=1)
    following = choose(mx.log(residual), keys, next_position, RESIDUAL)
    padded = mx.concatenate([drafts, following], axis=1)
    return Round(mx.where(mx.arange(padded.shape[1]) < at, padded, following), accepted)
