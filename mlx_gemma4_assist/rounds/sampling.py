"""From logits to tokens, on the device: temperature, top-k, top-p, min-p, and noise that depends on the position only.

Filters come in transformers' order: temperature, top-k, top-p, min-p (mlx-lm divides by the temperature last).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx

from ..options import MAX_DRAFTS, MAX_LOGPROBS, GenerationOptions

# One stream of noise for each purpose; all are keyed by seed, row and position.
CHOOSE, DRAFT, ACCEPT, RESIDUAL = range(4)

CANDIDATES = (64, 256, 1024)  # how many of the likeliest tokens are looked at, where top-k bounds them
LIKELIEST = (-1, 0, 5, MAX_LOGPROBS)  # how many likeliest tokens are told of; rows take what they want
LEAST_BIASES = 8
MOST_K = 2**31 - 1
OF_EACH_ROW = -1
RUN = 64
DEFAULT_DRAFT_TEMPERATURE = 1.0  # accepted most on the embedded pair, by the table of tools/tiny_pair/measure.py


class Sampling(NamedTuple):
    """How a token is drawn: the options of a request that a round computes with, checked already.

    A round is traced for what of these is in use; the values themselves are numbers of its state, ``Settings``, so that
    requests of any settings share a trace and a batch.

    Attributes:
        temperature: 0 is greedy.
        top_k, top_p, min_p: filters; 0, 1 (or 0) and 0 keep all.
        draft_temperature: of the assistant; 0 drafts its likeliest token. The output is exact whatever it is.
        suppress_tokens: ids that are never drawn. Where rows of a round have others each, theirs are settings, and as
            many of ``OF_EACH_ROW`` stand here.
        block_verification: how drafts that are no point masses are accepted: as a block (Sun et al. 2024) or one by
            one (Leviathan et al. 2023). Both are exact.
        repetition_penalty, presence_penalty, frequency_penalty, logit_bias: see ``adjust``; 1, 0, 0 and () change
            nothing. The bias is (id, what is added to its logit).
        top_logprobs: of how many of the likeliest tokens log-probabilities are told, besides those of what is emitted;
            -1 tells none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    draft_temperature: float = 0.0
    suppress_tokens: tuple[int, ...] = ()
    block_verification: bool = True
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int = -1

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalizes(self) -> bool:
        """Whether what has been said changes what follows."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def has_values(self) -> bool:
        """Whether a round computes with any of the numbers, and not only with what is in use."""
        return not self.greedy or self.penalizes or self.logit_bias != ()

    @property
    def draws_drafts(self) -> bool:
        return not self.greedy and self.draft_temperature > 0

    @property
    def filters(self) -> bool:
        """Whether any filter is in use."""
        return self.looks_at_likeliest or self.min_p > 0

    @property
    def looks_at_likeliest(self) -> bool:
        """Whether a filter is in use that takes the likeliest tokens in order."""
        return self.top_k > 0 or 0 < self.top_p < 1

    def candidates(self, vocabulary: int) -> int:
        """How many of the likeliest tokens the filters look at: all, where top-k does not bound them."""
        enough = (size for size in CANDIDATES if 0 < self.top_k <= size)
        return min(next(enough, vocabulary), vocabulary)


class Settings(NamedTuple):
    """How the tokens of each row are drawn: arrays (B,), or (1,) for all rows.

    Attributes:
        temperature, top_p, min_p, draft_temperature, repetition_penalty, presence_penalty, frequency_penalty: float32.
        biased, bias: (B, n) int32 and float32, what is added to which logits; a row with fewer repeats its first.
        suppressed, suppression: the same for ids that are never drawn, where rows have others each: -inf is added.
        top_k: int32.
        limit: int32, how many of a round's drafts count; those behind them are as if they had not been made. A row of
            a negative limit has no request: it stays where it is.
    """

    temperature: mx.array
    top_k: mx.array
    top_p: mx.array
    min_p: mx.array
    draft_temperature: mx.array
    repetition_penalty: mx.array
    presence_penalty: mx.array
    frequency_penalty: mx.array
    biased: mx.array
    bias: mx.array
    suppressed: mx.array
    suppression: mx.array
    limit: mx.array


def settings_of(rows: Sequence[Sampling], limits: Sequence[int] | None = None) -> Settings:
    """The settings of rows, and how many drafts of a round count in each; all of them unless told."""

    def numbers(values: Iterable[float], dtype: mx.Dtype = mx.float32) -> mx.array:
        return mx.array(list(values), dtype)

    bias = _summands([row.logit_bias for row in rows])
    never = (
        [row.suppress_tokens for row in rows] if len({row.suppress_tokens for row in rows}) > 1 else [()] * len(rows)
    )
    suppressed = _summands([tuple((token, -math.inf) for token in tokens) for tokens in never])
    return Settings(
        temperature=numbers(row.temperature for row in rows),
        top_k=numbers((row.top_k for row in rows), mx.int32),
        top_p=numbers(row.top_p for row in rows),
        min_p=numbers(row.min_p for row in rows),
        draft_temperature=numbers(row.draft_temperature for row in rows),
        repetition_penalty=numbers(row.repetition_penalty for row in rows),
        presence_penalty=numbers(row.presence_penalty for row in rows),
        frequency_penalty=numbers(row.frequency_penalty for row in rows),
        biased=bias[0],
        bias=bias[1],
        suppressed=suppressed[0],
        suppression=suppressed[1],
        limit=numbers([MAX_DRAFTS] * len(rows) if limits is None else limits, mx.int32),
    )


def _summands(rows: Sequence[tuple[tuple[int, float], ...]]) -> tuple[mx.array, mx.array]:
    """What is added to which logits of each row: (B, n) int32 and float32."""
    most = _bias_size(max(map(len, rows)))
    each = [_repeated(row or ((0, 0.0),), most) for row in rows]
    ids, values = ([[pair[place] for pair in row] for row in each] for place in range(2))
    return mx.array(ids, mx.int32).reshape(len(rows), -1), mx.array(values, mx.float32).reshape(len(rows), -1)


def added(logits: mx.array, ids: mx.array, values: mx.array) -> mx.array:
    """logits (B, L, V) with numbers (B, n) added to those of ids (B, n)."""
    places = mx.broadcast_to(ids[:, None], (*logits.shape[:2], ids.shape[-1]))
    changed = mx.take_along_axis(logits, places, axis=-1) + values[:, None].astype(logits.dtype)
    return mx.put_along_axis(logits, places, changed, axis=-1)


def _bias_size(most: int) -> int:
    """How many biases a trace has room for: none, 8, or the next power of two."""
    return max(LEAST_BIASES, 1 << (most - 1).bit_length()) if most else 0


def _repeated(bias: tuple[tuple[int, float], ...], count: int) -> tuple[tuple[int, float], ...]:
    return (bias + bias[:1] * count)[:count]


def in_use(rows: Sequence[Sampling]) -> Sampling:
    """What rows need together, the same for all values of what is in use: what a round of them is traced for."""
    first = rows[0]
    adjusted = Sampling(
        suppress_tokens=_never_drawn(rows),
        block_verification=first.block_verification,
        repetition_penalty=2.0 if any(row.penalizes for row in rows) else 1.0,
        logit_bias=((0, 0.0),) * _bias_size(max(len(row.logit_bias) for row in rows)),
        top_logprobs=next(count for count in LIKELIEST if count >= max(row.top_logprobs for row in rows)),
    )
    sampled = [row for row in rows if not row.greedy]
    return adjusted if not sampled else _with_filters(adjusted, sampled)


def _never_drawn(rows: Sequence[Sampling]) -> tuple[int, ...]:
    """The ids that no row draws, or, where rows have others each, how many there is room for."""
    sets = {row.suppress_tokens for row in rows}
    return sets.pop() if len(sets) == 1 else (OF_EACH_ROW,) * _bias_size(max(map(len, sets)))


def _with_filters(used: Sampling, sampled: Sequence[Sampling]) -> Sampling:
    ordered = [row for row in sampled if row.looks_at_likeliest]
    return used._replace(
        temperature=0.5,
        top_k=_enough_for(ordered),
        top_p=0.5 if any(0 < row.top_p < 1 for row in sampled) else 1.0,
        min_p=0.5 if any(row.min_p > 0 for row in sampled) else 0.0,
        draft_temperature=0.5 if any(row.draws_drafts for row in sampled) else 0.0,
    )


def _enough_for(rows: Sequence[Sampling]) -> int:
    """A top-k that stands for those of all rows."""
    if not any(row.top_k for row in rows):
        return 0
    most = max(row.top_k or MOST_K for row in rows)
    return next((size for size in CANDIDATES if most <= size), MOST_K)


def sampling_of(options: GenerationOptions, suppress_tokens: tuple[int, ...] = ()) -> Sampling:
    """How tokens are drawn. Drafts are drawn too, unless a seed asks for text that does not depend on them."""
    drawn = options.draft_temperature
    if drawn is None:
        drawn = 0.0 if options.greedy or options.seed is not None else DEFAULT_DRAFT_TEMPERATURE
    return Sampling(
        options.temperature,
        options.top_k,
        options.top_p,
        options.min_p,
        drawn,
        suppress_tokens,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        logit_bias=options.logit_bias,
        top_logprobs=-1 if options.top_logprobs is None else options.top_logprobs,
    )


def suppress(logits: mx.array, sampling: Sampling, rows: Settings | None = None) -> mx.array:
    """logits (..., V) with the suppressed ids at -inf; (B, L, V) where each row has its own."""
    if not sampling.suppress_tokens:
        return logits
    if rows is not None and sampling.suppress_tokens[0] == OF_EACH_ROW:
        return added(logits, rows.suppressed, rows.suppression)
    ids = mx.array(sampling.suppress_tokens, dtype=mx.int32)
    index = mx.broadcast_to(ids, (*logits.shape[:-1], len(sampling.suppress_tokens)))
    return mx.put_along_axis(logits, index, mx.array(-mx.inf, logits.dtype), axis=-1)


def log_probabilities(
    logits: mx.array, temperature: float | mx.array, sampling: Sampling, rows: Settings | None = None
) -> mx.array:
    """logits: (..., V) -> log-probabilities (..., V) float32 after the filters; what they drop is at -inf.

    Of NaN, an infinite logit, or nothing but -inf, all ids are equally likely: drafts of a damaged or overflowing
    assistant are drawn from a distribution too, without which what replaces them would not be the target's.

    Args:
        temperature: above 0, for all rows, or (B,) for logits (B, L, V); rows of 0, which are greedy, count as 1.
        sampling: which filters are in use; also their values where ``rows`` is None.
        rows: the filters of each row of logits (B, L, V).
    """
    divisor = temperature if isinstance(temperature, float | int) else _each(mx.where(temperature == 0, 1, temperature))
    x = logits.astype(mx.float32) / divisor
    if sampling.filters:
        least = _least_kept(x, sampling, settings_of([sampling]) if rows is None else rows)
        x = mx.where(x < least, -mx.inf, x)
    total = mx.logsumexp(x, axis=-1, keepdims=True)
    return mx.where(mx.abs(total) < mx.inf, x - total, -math.log(x.shape[-1]))


def _each(setting: mx.array) -> mx.array:
    """A number of each row, (B,), beside logits (B, L, V); of one for all, beside logits of any shape."""
    return setting[:, None, None] if setting.shape[0] > 1 else setting


def _least_kept(x: mx.array, sampling: Sampling, rows: Settings) -> mx.array:
    """The smallest of the scaled logits (..., V) that the filters in use keep: (..., 1)."""
    least = mx.array(-mx.inf)
    if sampling.looks_at_likeliest:
        likeliest = largest(x, sampling.candidates(x.shape[-1]))
        least = _top_k(likeliest, _each(rows.top_k))
        if 0 < sampling.top_p < 1:
            least = mx.maximum(least, _nucleus(mx.where(likeliest < least, -mx.inf, likeliest), _each(rows.top_p)))
    if sampling.min_p > 0:
        fraction = mx.max(x, axis=-1, keepdims=True) + mx.log(_each(rows.min_p))
        least = mx.maximum(least, fraction)
    return least


def _top_k(likeliest: mx.array, k: mx.array) -> mx.array:
    """The k-th of numbers in falling order (..., C): (..., 1). -inf where k is 0, which keeps all."""
    C = likeliest.shape[-1]
    place = mx.broadcast_to(mx.where(k > 0, mx.minimum(k, C), C) - 1, (*likeliest.shape[:-1], 1))
    return mx.where(k > 0, mx.take_along_axis(likeliest, place, axis=-1), -mx.inf)


def _nucleus(falling: mx.array, p: mx.array) -> mx.array:
    """Holtzman et al. 2020: the last of the first numbers that together reach p of their softmax, (..., 1).

    falling: (..., C), in falling order. -inf where p is 0 or 1, which keep all.
    """
    probabilities = mx.softmax(falling, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    smallest = mx.min(mx.where(before < p, falling, mx.inf), axis=-1, keepdims=True)
    return mx.where((p > 0) & (p < 1), smallest, -mx.inf)


def largest(x: mx.array, count: int) -> mx.array:
    """The largest ``count`` numbers of the last axis, in falling order: (..., V) -> (..., count)."""
    return -mx.sort(-x, axis=-1) if count >= x.shape[-1] else mx.take_along_axis(x, places_of_largest(x, count), -1)


def places_of_largest(x: mx.array, count: int) -> mx.array:
    """Where the largest ``count`` numbers of the last axis are, in falling order: (..., V) -> (..., count) uint32.

    Where there are many, only the runs of ``RUN`` numbers with the largest maxima are looked at, which hold them all:
    MLX partitions by sorting on a GPU (from its source, not measured), and on a CPU this takes a tenth of the time
    (measured: 64 of 262,144).
    """
    V = x.shape[-1]
    if V % RUN != 0 or count >= V // RUN:
        return mx.argsort(-x, axis=-1)[..., :count]
    runs = x.reshape(*x.shape[:-1], V // RUN, RUN)
    best = mx.argpartition(-mx.max(runs, axis=-1), kth=count - 1, axis=-1)[..., :count]
    found = mx.take_along_axis(runs, best[..., None], axis=-2).reshape(*x.shape[:-1], count * RUN)
    among = mx.argpartition(-found, kth=count - 1, axis=-1)[..., :count]
    among = mx.take_along_axis(among, mx.argsort(-mx.take_along_axis(found, among, axis=-1), axis=-1), axis=-1)
    return mx.take_along_axis(best, among // RUN, axis=-1) * RUN + among % RUN


def row_keys(seed: int, rows: int) -> mx.array:
    """A random key for each row, (rows, 2) uint32; a row's key does not depend on how many rows there are."""
    base = mx.random.split(mx.random.key(seed))[0]
    return mx.stack([mx.random.split(base ^ mx.array([0, row], mx.uint32))[0] for row in range(rows)])


def noise_keys(keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """A random key for each position of each row, the same whichever round or batch asks for it.

    Args:
        keys: (B, 2) uint32, from :func:`row_keys`.
        positions: (B, L) int32.
        purpose: one of the module's streams.

    Returns:
        (B, L, 2) uint32.
    """
    stream = keys ^ mx.array([0x9E3779B9 * (purpose + 1) % 2**32, 0], mx.uint32)
    counters = stream[:, 1:] ^ positions.astype(mx.uint32)
    return mx.stack([mx.broadcast_to(stream[:, :1], counters.shape), counters], axis=-1)


def uniform_noise(keys: mx.array) -> mx.array:
    """A number in [0, 1) for each random key: (B, L, 2) uint32 -> (B, L) float32."""
    drawn: mx.array = mx.vmap(mx.vmap(lambda key: mx.random.uniform(key=key)))(keys)
    return drawn


def gumbel_noise(keys: mx.array, count: int) -> mx.array:
    """So many numbers of the Gumbel distribution for each random key: (B, L, 2) uint32 -> (B, L, count) float32."""
    drawn: mx.array = mx.vmap(mx.vmap(lambda key: mx.random.gumbel((count,), key=key)))(keys)
    return drawn


def uniform(keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """(B, L) float32 in [0, 1); L may be 0."""
    if positions.shape[1] == 0:
        return mx.zeros(positions.shape)
    return uniform_noise(noise_keys(keys, positions, purpose))


def choose(log_p: mx.array, keys: mx.array, positions: mx.array, purpose: int) -> mx.array:
    """Draw from log-probabilities (B, L, V) by the Gumbel maximum: (B, L) int32.

    The noise belongs to the position: what is drawn there does not depend on how many positions are drawn at once.
    """
    gumbel = gumbel_noise(noise_keys(keys, positions, purpose), log_p.shape[-1])
    return mx.argmax(log_p + gumbel, axis=-1).astype(mx.int32)
