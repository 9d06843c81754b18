"""What changes the target's logits before a token is chosen, drafts or not: penalties and biases, masks; and what
they say.

Each place of a block is penalized for the drafts before it too, as if these stood: the first of them that falls ends
the block, so that what is emitted is exactly what decoding token by token would give.

Shapes: B rows, K drafts, V vocabulary.
"""

from collections.abc import Sequence

import mlx.core as mx

from .sampling import Sampling, Settings, added, places_of_largest, settings_of
from .state import Counts, Round, RoundState


def counted(text: Sequence[int], vocabulary: int) -> Counts:
    """The counts of one row before its first round: all ids so far, the newest one included, none of them generated."""
    ids = mx.array([token for token in text if token >= 0], mx.int32)
    seen = mx.zeros((1, vocabulary), mx.bool_)
    seen[0, ids] = True
    return Counts(seen, mx.zeros((1, vocabulary), mx.int32))


def nothing_counted(rows: int, vocabulary: int) -> Counts:
    """The counts of rows that no penalty is for."""
    return Counts(mx.zeros((rows, vocabulary), mx.bool_), mx.zeros((rows, vocabulary), mx.int32))


def adjusted(logits: mx.array, sampling: Sampling, state: RoundState, drafts: mx.array) -> mx.array:
    """logits (B, K + 1, V) as the settings want them; drafts: (B, K)."""
    if state.counts is None and not sampling.logit_bias:
        return logits
    rows = settings_of([sampling]) if state.rows is None else state.rows
    if state.counts is not None:
        logits = _penalized(logits, rows, state.counts, drafts)
    return added(logits, rows.biased, rows.bias) if sampling.logit_bias else logits


def _penalized(logits: mx.array, rows: Settings, counts: Counts, drafts: mx.array) -> mx.array:
    """transformers' repetition penalty, of all ids so far: a logit is divided by it, or multiplied where negative; then
    OpenAI's presence and frequency penalties, of generated ids: subtracted once, and once for each time."""
    said = _said(drafts, logits.shape[-1])
    seen, made = counts.seen[:, None] | (said > 0), counts.made[:, None] + said
    repetition, presence, frequency = (
        each[:, None, None] for each in (rows.repetition_penalty, rows.presence_penalty, rows.frequency_penalty)
    )
    wide = logits.astype(mx.float32)
    wide = mx.where(seen, mx.where(wide > 0, wide / repetition, wide * repetition), wide)
    return (wide - presence * (made > 0) - frequency * made).astype(logits.dtype)


def _said(drafts: mx.array, vocabulary: int) -> mx.array:
    """How often each id is among the drafts before a place: (B, K) -> (B, K + 1, V) int32."""
    each = (drafts[..., None] == mx.arange(vocabulary)).astype(mx.int32)
    return mx.concatenate([mx.zeros((drafts.shape[0], 1, vocabulary), mx.int32), mx.cumsum(each, axis=1)], axis=1)


LEAST = 1e30  # where nothing else is allowed, what a bias has forbidden is


def masked(logits: mx.array, masks: mx.array) -> mx.array:
    """logits (B, K + 1, V) with all at -inf that may not come in a place.

    masks: (B, K + 1, ceil(V / 32)) uint32; bit i of word w says whether the id 32 w + i may. A mask goes before biases
    and suppressed ids: where these forbid everything that it allows, that stays possible.
    """
    bits = (masks[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
    allowed = mx.flatten(bits, -2)[..., : logits.shape[-1]] != 0
    least = mx.array(max(-LEAST, mx.finfo(logits.dtype).min), logits.dtype)
    return mx.where(allowed, mx.maximum(logits, least), mx.array(-mx.inf, logits.dtype))


def counts_after(counts: Counts, emitted: Round) -> Counts:
    """The counts with what a round emits."""
    places = mx.arange(emitted.tokens.shape[1]) <= emitted.accepted[:, None]
    each = (emitted.tokens[..., None] == mx.arange(counts.made.shape[-1])) & places[..., None]
    return Counts(counts.seen | mx.any(each, axis=1), counts.made + each.sum(axis=1).astype(mx.int32))


def with_log_probs(emitted: Round, logits: mx.array, count: int) -> Round:
    """A round with the log-probabilities of what it emits and of the ``count`` likeliest tokens in each place: what
    the target says after penalties and biases, before temperature and filters."""
    wide = logits.astype(mx.float32)
    log_p = wide - mx.logsumexp(wide, axis=-1, keepdims=True)
    own = mx.take_along_axis(log_p, emitted.tokens[..., None], axis=-1)[..., 0]
    ids = places_of_largest(log_p, count) if count else mx.zeros((*own.shape, 0), mx.uint32)
    return emitted._replace(log_probs=(own, ids, mx.take_along_axis(log_p, ids, axis=-1)))
