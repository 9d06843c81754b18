"""From logits to tokens, on the device: temperature, top-k, top-p, min-p, and noise that depends on the position only.

Filters come in transformers' order: temperature, top-k, top-p, min-p (mlx-lm divides by the temperature last).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ..options import GenerationOptions

# One stream of noise for each purpose; all are keyed by seed, row and position.
CHOOSE, DRAFT, ACCEPT, RESIDUAL = range(4)

DEFAULT_DRAFT_TEMPERATURE = 1.0  # accepted most on the embedded pair, by the table of tools/tiny_pair/measure.py


class Sampling(NamedTuple):
    """How a token is drawn: the options that a round is traced with, checked already.

    Attributes:
        temperature: 0 is greedy.
        top_k, top_p, min_p: filters; 0, 1 (or 0) and 0 keep all.
        draft_temperature: of the assistant; 0 drafts its likeliest token. The output is exact whatever it is.
        suppress_tokens: ids that are never drawn.
        block_verification: how drafts that are no point masses are accepted: as a block (Sun et al. 2024) or one by
            one (Leviathan et al. 2023). Both are exact.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    draft_temperature: float = 0.0
    suppress_tokens: tuple[int, ...] = ()
    block_verification: bool = True

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def sampling_of(options: GenerationOptions, suppress_tokens: tuple[int, ...] = ()) -> Sampling:
    """How tokens are drawn. Drafts are drawn too, unless a seed asks for text that does not depend on them."""
    drawn = options.draft_temperature
    if drawn is None:
        drawn = 0.0 if options.greedy or options.seed is not None else DEFAULT_DRAFT_TEMPERATURE
    return Sampling(options.temperature, options.top_k, options.top_p, options.min_p, drawn, suppress_tokens)


def suppress(logits: mx.array, sampling: Sampling) -> mx.array:
    """logits (..., V) with the suppressed ids at -inf."""
    if not sampling.suppress_tokens:
        return logits
    ids = mx.array(sampling.suppress_tokens, dtype=mx.int32)
    index = mx.broadcast_to(ids, (*logits.shape[:-1], len(sampling.suppress_tokens)))
    return mx.put_along_axis(logits, index, mx.array(-mx.inf, logits.dtype), axis=-1)


def log_probabilities(logits: mx.array, temperature: float, sampling: Sampling) -> mx.array:
    """logits: (..., V) -> log-probabilities (..., V) float32 after the filters; what they drop is at -inf.

    Of NaN, an infinite logit, or nothing but -inf, all ids are equally likely: drafts of a damaged or overflowing
    assistant are drawn from a distribution too, without which what replaces them would not be the target's.
    """
    x = logits.astype(mx.float32) / temperature
    if 0 < sampling.top_k < x.shape[-1]:
        x = mx.where(x < mx.min(mx.topk(x, sampling.top_k, axis=-1), axis=-1, keepdims=True), -mx.inf, x)
    if 0 < sampling.top_p < 1:
        x = _nucleus(x, sampling.top_p)
    if sampling.min_p > 0:
        x = mx.where(x < mx.max(x, axis=-1, keepdims=True) + mx.log(mx.array(sampling.min_p)), -mx.inf, x)
    total = mx.logsumexp(x, axis=-1, keepdims=True)
    return mx.where(mx.abs(total) < mx.inf, x - total, -math.log(x.shape[-1]))


def _nucleus(x: mx.array, top_p: float) -> mx.array:
    """Holtzman et al. 2020: drop what comes after the first tokens that together reach ``top_p``."""
    falling = -mx.sort(-x, axis=-1)
    probabilities = mx.softmax(falling, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    smallest = mx.min(mx.where(before < top_p, falling, mx.inf), axis=-1, keepdims=True)
    return mx.where(x < smallest, -mx.inf, x)


def row_keys(seed: int, rows: int) -> mx.array:
    """A random key for each row, (rows, 2) uint32; a row's key does not depend on how many rows there are."""
    base = mx.random.split(mx.random.key(seed))[0]
    return mx.stack([mx.random.split(base ^ mx.array([0, row], mx.uint32))[0] for row in range(rows)])


def noise(draw: Callable[[mx.array], mx.array], keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """Independent noise for each position of each row, the same whichever round or batch asks for it.

    Args:
        draw: a random key (2,) uint32 -> an array of any shape.
        keys: (B, 2) uint32, from :func:`row_keys`.
        positions: (B, L) int32.
        purpose: one of the module's streams.

    Returns:
        (B, L, ...) of what ``draw`` gives.
    """
    stream = keys ^ mx.array([0x9E3779B9 * (purpose + 1) % 2**32, 0], mx.uint32)
    counters = stream[:, 1:] ^ positions.astype(mx.uint32)
    each = mx.stack([mx.broadcast_to(stream[:, :1], counters.shape), counters], axis=-1)
    return mx.vmap(mx.vmap(draw))(each)


def uniform(keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """(B, L) float32 in [0, 1); L may be 0."""
    if positions.shape[1] == 0:
        return mx.zeros(positions.shape)
    return noise(lambda key: mx.random.uniform(key=key), keys, positions, purpose)


def choose(log_p: mx.array, keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """Draw from log-probabilities (B, L, V) by the Gumbel maximum: (B, L) int32.

    The noise belongs to the position: what is drawn there does not depend on how many positions are drawn at once.
    """
    vocabulary = log_p.shape[-1]
    gumbel = noise(lambda key: mx.random.gumbel((vocabulary,), key=key), keys, positions, purpose)
    return mx.argmax(log_p + gumbel, axis=-1).astype(mx.int32)
