"""Whether assisted text is plain decoding's own, token for token: the losslessness test, on a real checkpoint.

Greedily, and sampled with a seed: noise belongs to positions, so with argmax drafts the sampled texts are equal too.
Drafts drawn at a temperature have no such twin; ``frequencies`` tests them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import mlx.core as mx
import numpy as np

from ..api import stream_generate
from ..drafts.draft_length import DEFAULT_DRAFTS
from ..engine.responses import SpeculationStats
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..rounds.sampling import CHOOSE, Sampling, log_probabilities, noise, row_keys
from ..text.processor import Processor

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
class Pair:
    """What is tested: a target with its processor, and the assistant that must not change its output.

    Attributes:
        compile: whether rounds run under ``mx.compile``, as for ``stream_generate``.
    """

    model: Gemma4ForCausalLM
    processor: Processor
    assistant: Gemma4AssistantForCausalLM
    compile: bool | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """What the networks compute in."""
        return self.model.embed(mx.array([[0]])).dtype


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


def compare_texts(
    pair: Pair,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    num_assistant_tokens: int = DEFAULT_DRAFTS,
    temperature: float = 0.0,
    seed: int = 0,
) -> TextComparison:
    """Plain against assisted: the same prompt (token ids), the same seed.

    Args:
        num_assistant_tokens: drafts per round, which are not left to be learned: none would be a choice.
        temperature: 0 compares greedy decoding. Above it drafts are still the assistant's likeliest tokens, for which
            the sampled texts are the same too.
    """
    plain, _ = _tokens(pair, prompt, 0, max_tokens, temperature, seed)
    assisted, stats = _tokens(pair, prompt, num_assistant_tokens, max_tokens, temperature, seed)
    both = enumerate(itertools.zip_longest(plain, assisted))
    parting = next(((place, *tokens) for place, tokens in both if tokens[0] != tokens[1]), None)
    if parting is None:
        return TextComparison(len(prompt), len(plain), None, stats)
    place, ours, theirs = parting
    if ours is None or theirs is None:
        divergence = Divergence(place, ours, theirs, math.inf, 0.0)
    else:
        scores, largest = _scores(pair, prompt, place, temperature, seed)
        gap = float(scores.max() - min(scores[ours], scores[theirs]))
        divergence = Divergence(place, ours, theirs, gap, tie_tolerance(largest, pair.dtype) / (temperature or 1.0))
    return TextComparison(len(prompt), place, divergence, stats)


def _tokens(
    pair: Pair,
    prompt: Sequence[int],
    num_assistant_tokens: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[list[int], SpeculationStats]:
    responses = list(
        stream_generate(
            pair.model,
            pair.processor,
            prompt,
            pair.assistant if num_assistant_tokens else None,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            num_assistant_tokens=num_assistant_tokens,
            compile=pair.compile,
        )
    )
    return [response.token for response in responses], responses[-1].stats


def _scores(pair: Pair, prompt: Sequence[int], place: int, temperature: float, seed: int) -> tuple[np.ndarray, float]:
    """What plain decoding chooses the token at a place by, (V,), and the largest logit there in absolute value.

    The scores are logits, or, sampled, log-probabilities with the noise that belongs to the position.
    """
    seen: list[mx.array] = []

    def remember(_: mx.array, logits: mx.array) -> mx.array:
        seen[:] = [logits]
        return logits

    responses = stream_generate(
        pair.model,
        pair.processor,
        prompt,
        max_tokens=place + 1,
        temperature=temperature,
        seed=seed,
        logits_processors=[remember],
        compile=pair.compile,
    )
    for _ in responses:
        pass
    (logits,) = seen
    scores = logits.astype(mx.float32)
    largest = mx.max(mx.where(mx.isinf(scores), 0, mx.abs(scores))).item()
    if temperature > 0:
        vocabulary = scores.shape[-1]
        positions = mx.array([[len(prompt) + place]])
        gumbel = noise(lambda key: mx.random.gumbel((vocabulary,), key=key), row_keys(seed, 1), positions, CHOOSE)
        scores = log_probabilities(scores, temperature, Sampling(temperature)) + gumbel[0]
    return np.array(scores[0]), largest
