"""Which drafts stand, and what follows them: exact for any way of drafting (Leviathan et al. 2023, Chen et al. 2023).

Shapes: B rows, K drafts, V vocabulary.
"""

import mlx.core as mx

from .sampling import ACCEPT, CHOOSE, RESIDUAL, Sampling, choose, log_probabilities, uniform
from .state import Drafts, Round, RoundState


def accept(sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array) -> Round:
    """Decide how many drafts stand, and what follows them."""
    if sampling.greedy:
        return accept_matching(drafts.tokens, mx.argmax(logits, axis=-1).astype(mx.int32))
    log_p = log_probabilities(logits, sampling.temperature, sampling)
    positions = state.length[:, None] + mx.arange(1, logits.shape[1] + 1)
    if drafts.log_q is None:
        return accept_matching(drafts.tokens, choose(log_p, state.keys, positions, CHOOSE))
    as_block = sampling.block_verification and drafts.tokens.shape[1] > 0
    rule = accept_block if as_block else accept_tokens
    return rule(drafts, log_p, state.keys, positions)


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
