"""Whether assisted sampling follows the target's distribution, tested on the first tokens of many short runs.

The test knows nothing of how drafts are accepted: it looks at what ``stream_generate`` emits, and at plain forwards.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..api import stream
from ..cache.rows import KVCache
from ..drafts.fixed import DEFAULT_DRAFTS
from ..engine.engine import Engine
from ..engine.loop import start
from ..engine.pair import Pair
from ..engine.prefill import prefill
from ..options import GenerationOptions
from ..rounds.accept import accept
from ..rounds.round import draft, verify
from ..rounds.sampling import Sampling, log_probabilities
from ..rounds.state import Decoder
from .parity import Verdict

PLACES = (2, 3)
MOST_CELLS, LEAST_PER_CELL = 21, 5
P_THRESHOLD = 1e-4


@dataclass(frozen=True)
class Frequencies:
    """The tokens at one place of many runs, held against the target's distributions there.

    Attributes:
        draft_temperature: how drafts were drawn.
        place: of the token in the generated text, from 1.
        from_draft: how many of the tokens were drafts that stood.
        favourites: how many were the token that the assistant likes best there.
        probabilities: of that token under the target, for each run.
        others: where each other token lies in the target's distribution of the others, which is laid out on [0, 1) in
            the assistant's order; evenly spread if the rule is right.
    """

    draft_temperature: float
    place: int
    from_draft: int
    favourites: int
    probabilities: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def samples(self) -> int:
        return len(self.probabilities)

    @property
    def p_value(self) -> float:
        """How probable frequencies at least as far off are if the rule is right; 1 where there is nothing to test.

        Two tests, of the favourites' number and of the others' spread; the smaller result counts twice (Bonferroni).
        """
        return min(1.0, 2 * min(count_p(self.favourites, self.probabilities), evenness_p(self.others)))

    @property
    def verdict(self) -> Verdict:
        return Verdict.IDENTICAL if self.p_value >= P_THRESHOLD else Verdict.DIFFERENT


def count_p(count: int, probabilities: Sequence[float]) -> float:
    """The chance of a number of successes at least as far out as ``count``, each with its own probability; exact."""
    chances = np.ones(1)
    for p in probabilities:
        chances = np.append(chances * (1 - p), 0) + np.append(0, chances * p)
    return min(1.0, 2 * float(min(chances[: count + 1].sum(), chances[count:].sum())))


def evenness_p(points: Sequence[float]) -> float:
    """The p-value of a chi-square test that points in [0, 1) are evenly spread; 1 for too few of them."""
    cells = min(MOST_CELLS, len(points) // LEAST_PER_CELL)
    cells -= 1 - cells % 2  # an even number of degrees of freedom has a closed form
    if cells < 3:
        return 1.0
    counts, _ = np.histogram(points, cells, (0, 1))
    expected = len(points) / cells
    return chi_square_p(float(((counts - expected) ** 2).sum() / expected), cells - 1)


def chi_square_p(statistic: float, freedom: int) -> float:
    """The chance that a chi-square variable of an even number of degrees of freedom is at least ``statistic``."""
    half = statistic / 2
    return math.exp(-half) * sum(half**k / math.factorial(k) for k in range(freedom // 2))


Progress = Callable[[int, int], None]
"""Called with (runs done, runs in all)."""


def first_tokens(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    samples: int,
    progress: Progress = lambda done, total: None,
) -> list[Frequencies]:
    """Run many times at temperature 1, and hold the tokens at ``PLACES`` against the target's distribution.

    The first token comes from a round without drafts; those after it are accepted or replaced. What a token is compared
    with is the target's distribution given the tokens before it, so runs with different beginnings count together.
    Where a token lies in it follows the assistant's ranking: what it likes best is where a wrong rule shows.

    Args:
        prompts: token ids; the runs, with seeds 0, 1, ..., are divided among them.
        options: of each run; its draft temperature, 0 unless they say one, is what is tested: at 0 drafts are the
            assistant's likeliest tokens, above it they are drawn. Drafts per round are 3 unless they say how many.
        samples: runs in all.
    """
    drafts = DEFAULT_DRAFTS if options.num_assistant_tokens is None else options.num_assistant_tokens
    options = replace(
        options,
        max_tokens=max(drafts + 2, PLACES[-1]),  # room for a first token and a whole round
        temperature=1.0,
        draft_temperature=options.draft_temperature or 0.0,
        num_assistant_tokens=drafts,
    )
    split = np.random.default_rng(0)
    done = 0
    found: list[_Token] = []
    for number, prompt in enumerate(prompts):
        cache = Engine(pair).new_cache(drafts)
        runs = []
        for seed in range(number, samples, len(prompts)):
            runs.append(_run(pair, prompt, replace(options, seed=seed), cache))
            done += 1
            progress(done, samples)
        found += _tokens_at_places(_Reference(pair, prompt), runs, split)
    return [
        _frequencies(options.draft_temperature or 0.0, place, [token for token in found if token.place == place])
        for place in PLACES
    ]


Run = tuple[tuple[int, bool], ...]
"""The first tokens of a run, each with whether it was a draft."""


class _Token(NamedTuple):
    """One token: whether it was a draft, how likely the favourite was there, where it lies (None: it is that)."""

    place: int
    drafted: bool
    probability: float
    lies: float | None


def _frequencies(draft_temperature: float, place: int, tokens: Sequence[_Token]) -> Frequencies:
    others = tuple(token.lies for token in tokens if token.lies is not None)
    return Frequencies(
        draft_temperature=draft_temperature,
        place=place,
        from_draft=sum(token.drafted for token in tokens),
        favourites=len(tokens) - len(others),
        probabilities=tuple(token.probability for token in tokens),
        others=others,
    )


def _run(pair: Pair, prompt: Sequence[int], options: GenerationOptions, cache: KVCache) -> Run:
    responses = stream(pair, prompt, options, prompt_cache=cache)
    return tuple((response.token, response.from_draft) for response in responses)[: PLACES[-1]]


def _tokens_at_places(reference: "_Reference", runs: Sequence[Run], split: np.random.Generator) -> Iterator[_Token]:
    def beginning(run: Run) -> tuple[int, ...]:
        return tuple(token for token, _ in run[: PLACES[-1] - 1])

    for tokens, alike in itertools.groupby(sorted(runs, key=beginning), key=beginning):
        shares = reference.shares(tokens)
        for run in alike:
            for place, (token, drafted) in enumerate(run, start=1):
                if place not in PLACES:
                    continue
                share = shares[place - 2]
                low, high = share.low[token], share.high[token]
                # Anywhere within the token's share, so that all points are equally likely.
                within = (low + (high - low) * split.random() - share.probability) / (1 - share.probability or 1)
                yield _Token(place, drafted, share.probability, None if token == share.favourite else within)


class _Shares(NamedTuple):
    """[0, 1) divided among all tokens by their probability: begin and end by id, (V,); the favourite comes first."""

    low: np.ndarray
    high: np.ndarray
    favourite: int
    probability: float


class _Reference:
    """The target's distributions after a prompt, from plain forwards, laid out in the order of the assistant's."""

    def __init__(self, pair: Pair, prompt: Sequence[int]):
        cache = Engine(pair).new_cache()
        prefill(pair.target, cache, prompt[:-1])
        cache.reserve(len(prompt) + PLACES[-1])
        suppressed = () if pair.processor is None else pair.processor.suppress_tokens
        sampling = Sampling(temperature=1.0, draft_temperature=1.0, suppress_tokens=suppressed)
        self._decoder = Decoder(pair.target, pair.assistant, cache.layout, sampling, accept)
        self._state, self._buffers = start(self._decoder, cache, [prompt[-1]], 0), cache.buffers
        self._bound = len(prompt) - 1

    def shares(self, tokens: Sequence[int]) -> list[_Shares]:
        """The distributions after the first of ``tokens``, after the first two, and so on."""
        following = mx.array([tokens], mx.int32)
        hidden, logits, buffers = verify(self._decoder, self._state, self._buffers, following, self._bound)
        log_p = np.array(log_probabilities(logits[0, 1:], 1.0, self._decoder.sampling))
        found = []
        for i, log_p_here in enumerate(log_p):
            state = self._state._replace(
                length=self._state.length + i + 1,
                token=following[:, i : i + 1],
                hidden=hidden[:, i : i + 1],
            )
            log_q = draft(self._decoder, state, buffers, 1, self._bound + i + 1).log_q
            assert log_q is not None  # drawn at the draft temperature above
            found.append(_divide(log_p_here, np.array(log_q[0, 0])))
        return found


def _divide(log_p: np.ndarray, log_q: np.ndarray) -> _Shares:
    """By p, in the order of falling q, of falling p where q does not tell."""
    order = np.lexsort((-log_p, -log_q))
    p = np.exp(log_p[order].astype(np.float64))
    ends = np.append(0.0, np.cumsum(p / p.sum()))
    low, high = np.empty(len(order)), np.empty(len(order))
    low[order], high[order] = ends[:-1], ends[1:]
    return _Shares(low, high, int(order[0]), float(ends[1]))
