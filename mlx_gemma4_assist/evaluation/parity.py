"""Whether assisted text is plain decoding's own, token for token: the losslessness test, on a real checkpoint.

Greedily, and sampled with a seed: noise belongs to positions, so with argmax drafts the sampled texts are equal too.
Drafts drawn at a temperature have no such twin; ``frequencies`` tests them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import cast

import mlx.core as mx
import numpy as np

from ..api import stream
from ..drafts.fixed import DEFAULT_DRAFTS
from ..engine.pair import Pair
from ..engine.responses import SpeculationStats
from ..errors import InputError
from ..options import GenerationOptions
from ..rounds.sampling import CHOOSE, Sampling, gumbel_noise, log_probabilities, noise_keys, row_keys

TIE_SPACINGS = 4
SIGNIFICANT_BITS = {mx.bfloat16: 8, mx.float16: 11}

PROMPTS = (
    "Continue this story with one paragraph: The lighthouse keeper opened the door and saw",
    "Name an animal, any animal, and say one surprising thing about it.",
    "Write a Python function that merges two sorted lists.",
    "Translate into French, German and Japanese: The train to the coast leaves at noon.",
    "List the first thirty prime numbers, separated by commas.",
    "Explain to a child why the sky is blue.",
    "Write a limerick about a cat that studies mathematics.",
    # Longer than the sliding window of every Gemma 4.
    "This is a harbour's ledger.\n"
    + "\n".join(f"Day {day}: {37 * day % 101} boxes in, {53 * day % 89} boxes out." for day in range(1, 101))
    + "\nOn which five days did the most boxes come in?",
)
"""Prompts for checkpoints that bring none: prose, code, lists, other languages, and one beyond the window."""


class Verdict(IntEnum):
    """From best to worst; the verdict on several findings is their maximum."""

    IDENTICAL = 0
    NEAR_TIES = 1
    DIFFERENT = 2


@dataclass(frozen=True)
class Divergence:
    """Where two texts part.

    Attributes:
        place: how many tokens they share.
        plain, assisted: the next token of each; None for a text that ended.
        gap: how far below the best score the worse of the two tokens is, in plain decoding. Where they are the two
            best, the gap between these.
        tolerance: the gap below which rounding may decide; 0 in float32.
    """

    place: int
    plain: int | None
    assisted: int | None
    gap: float
    tolerance: float

    @property
    def near_tie(self) -> bool:
        return self.gap < self.tolerance


@dataclass(frozen=True)
class TextComparison:
    """One prompt's two texts.

    Attributes:
        prompt_tokens: the prompt's length.
        compared: how many tokens were compared: up to where the texts part, or all.
        divergence: where that is, None if nowhere.
        stats: what the assistant did.
    """

    prompt_tokens: int
    compared: int
    divergence: Divergence | None
    stats: SpeculationStats

    @property
    def verdict(self) -> Verdict:
        if self.divergence is None:
            return Verdict.IDENTICAL
        return Verdict.NEAR_TIES if self.divergence.near_tie else Verdict.DIFFERENT


def tie_tolerance(largest: float, dtype: mx.Dtype) -> float:
    """The gap between two logits below which their order is a matter of rounding: 0 in float32, which must be exact.

    Half-precision logits are rounded to a grid; in bfloat16 its spacing is 0.125 from 16 to 32, where Gemma 4's largest
    ones are. Two forwards over different numbers of tokens round in other places as well, and differ by a few spacings.

    Args:
        largest: the largest logit of the row in absolute value; its spacing counts, since that is where the noise of
            all logits comes from: one hidden state.
        dtype: what the logits were computed in.
    """
    if dtype not in SIGNIFICANT_BITS:
        return 0.0
    _, exponent = math.frexp(largest)
    return TIE_SPACINGS * 2.0 ** (exponent - SIGNIFICANT_BITS[dtype])


def compare_texts(pair: Pair, prompt: Sequence[int], options: GenerationOptions) -> TextComparison:
    """Plain against assisted: the same prompt (token ids), the same seed.

    Args:
        options: of both. Drafts per round are 3 unless they say how many: they are not left to be learned, since none
            would be a choice. Above temperature 0 a seed (0 unless they name one) and drafts that are the assistant's
            likeliest tokens make the sampled texts the same too.

    Raises:
        InputError: logits are NaN, with which any two texts would be the same.
    """
    drafts = DEFAULT_DRAFTS if options.num_assistant_tokens is None else options.num_assistant_tokens
    options = replace(options, seed=options.seed or 0, draft_temperature=0.0, num_assistant_tokens=drafts)
    plain_pair = replace(pair, assistant=None)
    plain, _ = _tokens(plain_pair, prompt, replace(options, num_assistant_tokens=0))
    assisted, stats = _tokens(pair, prompt, options)
    both = enumerate(itertools.zip_longest(plain, assisted))
    parting = next(((place, *tokens) for place, tokens in both if tokens[0] != tokens[1]), None)
    if parting is None:
        _logits(plain_pair, [*prompt, *plain[:-1]], 0, options)
        return TextComparison(len(prompt), len(plain), None, stats)
    place, ours, theirs = parting
    if ours is None or theirs is None:
        divergence = Divergence(place, ours, theirs, math.inf, 0.0)
    else:
        scores, largest = _scores(plain_pair, prompt, place, options)
        gap = float(scores.max() - min(scores[ours], scores[theirs]))
        tolerance = tie_tolerance(largest, pair.dtype) / (options.temperature or 1.0)
        divergence = Divergence(place, ours, theirs, gap, tolerance)
    return TextComparison(len(prompt), place, divergence, stats)


def _tokens(pair: Pair, prompt: Sequence[int], options: GenerationOptions) -> tuple[list[int], SpeculationStats]:
    responses = list(stream(pair, prompt, options))
    return [response.token for response in responses], responses[-1].stats


def _scores(pair: Pair, prompt: Sequence[int], place: int, options: GenerationOptions) -> tuple[np.ndarray, float]:
    """What plain decoding chooses the token at a place by, (V,), and the largest logit there in absolute value.

    The scores are logits, or, sampled, log-probabilities with the noise that belongs to the position.
    """
    scores = _logits(pair, prompt, place, options)
    largest = mx.max(mx.where(mx.isinf(scores), 0, mx.abs(scores))).item()
    if not options.greedy:
        positions = mx.array([[len(prompt) + place]])
        gumbel = gumbel_noise(noise_keys(row_keys(options.seed or 0, 1), positions, CHOOSE), scores.shape[-1])
        drawn = Sampling(options.temperature)
        scores = log_probabilities(scores, options.temperature, drawn) + gumbel[0]
    return np.array(scores[0]), cast(float, largest)


def _logits(pair: Pair, prompt: Sequence[int], place: int, options: GenerationOptions) -> mx.array:
    """Plain decoding's logits of the token at a place, (1, V) float32.

    Raises:
        InputError: one is NaN: equal texts then say nothing of the decoder.
    """
    seen: list[mx.array] = []

    def remember(_: mx.array, logits: mx.array) -> mx.array:
        seen[:] = [logits]
        return logits

    watched = replace(options, max_tokens=place + 1, num_assistant_tokens=0, logits_processors=[remember])
    for _ in stream(pair, prompt, watched):
        pass
    (logits,) = seen
    if mx.any(mx.isnan(logits)).item():
        raise InputError(
            f"the target's logits after {len(prompt) + place} tokens are NaN: its weights are damaged or overflow"
        )
    return logits.astype(mx.float32)
