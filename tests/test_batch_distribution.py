"""Sampling is exact in a batch: every token of every row follows the target's distribution, whatever was drafted.

What a row draws depends on all that it drew before. So each token is turned into a number that is spread evenly from 0
to 1 if it was drawn from the target's distribution in its place: the share of the likelier tokens, and a random part of
its own share (the randomized probability integral transform). All places of a text count, those behind drafts too.
"""

import os
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import layout_for
from support.paths import GOLDENS
from support.statistics import CHI_SQUARE_P, chi_square_p

from mlx_gemma4_assist import GenerationOptions, Pair, load_assistant
from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.rounds import accept as acceptance

DRAWS = int(os.environ.get("BATCH_DRAWS", "500"))  # of each kind of row; 10,000 take some minutes
LENGTH = 125  # tokens of a text
LONG = {"max_tokens": LENGTH, "num_assistant_tokens": 2}
BINS = 20
PROMPT = [5, 9, 2, 40, 33, 17, 8]
KINDS = {
    "cold, drawn drafts": {"temperature": 0.6, "draft_temperature": 1.0},
    "cold, likeliest drafts": {"temperature": 0.6, "draft_temperature": 0},
    "hot, drawn drafts": {"temperature": 1.3, "draft_temperature": 0.8},
    "hot, filtered": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "draft_temperature": 1.0},
}


@pytest.fixture(scope="module")
def pair():
    folder = GOLDENS / "e4b"
    return Pair(load_model(folder / "target"), load_assistant(folder / "assistant"))


def texts(pair: Pair, count: int) -> dict[str, list[list[int]]]:
    """Texts of each kind, four of each side by side in batches of 16; and that drafts stood, and fell."""
    found: dict[str, list[list[int]]] = {kind: [] for kind in KINDS}
    drafted = accepted = 0
    for batch in range(-(-count // 4)):
        engine = Engine(pair, max_stall=60)
        kinds = [*KINDS] * 4
        runs = [
            engine.run(Request(MediaPrompt(PROMPT), GenerationOptions(**KINDS[kind], seed=97 * batch + place, **LONG)))
            for place, kind in enumerate(kinds)
        ]
        for run in runs:
            run.begin()
        for kind, run in zip(kinds, runs, strict=True):
            events = list(run)
            drafted += sum(event.drafted for event in events)
            accepted += sum(event.accepted for event in events)
            found[kind].append([token for event in events for token in event.tokens])
    assert 0.1 * drafted < accepted <= drafted
    return found


def logits_of(pair: Pair, text: Sequence[int]) -> np.ndarray:
    """What the target says in each place of a text behind the prompt, in one forward: (len(text), V)."""
    whole = [*PROMPT, *text]
    cache = KVCache(layout_for(pair.target, len(whole)))
    cache.reserve(len(whole))
    block = Block(cache.layout, cache.buffers, mx.array([0]), len(whole), 0, exact=True)
    logits = pair.target.logits(pair.target(mx.array([whole]), block))
    return np.array(logits[0, len(PROMPT) - 1 : -1], np.float64)


def probabilities(logits: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """What the filters leave, written as transformers' documentation says: (n, V), in the order of likelihood."""
    x = np.sort(logits / temperature, axis=-1)[:, ::-1]
    p = np.exp(x - x[:, :1])
    if top_k:
        p[:, top_k:] = 0
    p /= p.sum(-1, keepdims=True)
    p[np.cumsum(p, -1) - p >= top_p] = 0
    return p / p.sum(-1, keepdims=True)


def spread(pair: Pair, kind: str, text: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Numbers from 0 to 1, one for each token of a text."""
    logits, options = logits_of(pair, text), KINDS[kind]
    filters = {name: value for name, value in options.items() if name != "draft_temperature"}
    p = probabilities(logits, **filters)
    place = (logits > np.take_along_axis(logits, np.array(text)[:, None], -1)).sum(-1)[:, None]
    own = np.take_along_axis(p, place, -1)[:, 0]
    before = np.take_along_axis(np.cumsum(p, -1), place, -1)[:, 0] - own
    return before + own * rng.random(len(text))


def p_values(pair: Pair, draws: int) -> dict[str, tuple[float, float]]:
    """For each kind of row: of all places, and of those behind each text's first two."""
    rng, found = np.random.default_rng(0), {}
    for kind, several in texts(pair, -(-draws // LENGTH)).items():
        numbers = np.array([spread(pair, kind, text, rng) for text in several])
        found[kind] = tuple(
            chi_square_p(np.histogram(part, BINS, (0, 1 + 1e-9))[0], np.full(BINS, part.size / BINS))
            for part in (numbers, numbers[:, 2:])
        )
    return found


def test_every_row_follows_its_own_distribution(pair):
    """Two temperatures side by side, drafts drawn and not, filters in one row beside none in another."""
    for kind, values in p_values(pair, DRAWS).items():
        assert min(values) > CHI_SQUARE_P, (kind, values)


def test_a_rule_that_is_not_exact_is_found_out(pair, monkeypatch):
    """Drafts that stand whatever the target says are seen with as many draws."""
    monkeypatch.setattr(acceptance, "uniform", lambda keys, positions, purpose: mx.zeros(positions.shape))
    assert min(p_values(pair, DRAWS)["cold, drawn drafts"]) < CHI_SQUARE_P
