"""What a conversion costs: figures against plain numpy, and against what is known of them beforehand."""

import math
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from support.decoding import GREEDY, layout_for, random_pair, run
from support.oracles import OracleAssistant

from mlx_gemma4_assist import load, load_assistant
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.checkpoints.quantized import Quantizable
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.engine.pair import Pair
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.evaluation import acceptance, quality
from mlx_gemma4_assist.evaluation.acceptance import (
    Acceptance,
    Passage,
    accepted_from_each,
    continuations,
    measure_acceptance,
)
from mlx_gemma4_assist.evaluation.quality import Quality, QualityOptions, bundled_text, measure_quality
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.state import Decoder

SMALL = QualityOptions(window=32, prompts=2, prompt_tokens=10, new_tokens=10)
FORMATS = {
    "affine, 8 bits, groups of 64": (64, 8, "affine"),
    "affine, 4 bits, groups of 32": (32, 4, "affine"),
    "affine, 2 bits, groups of 32": (32, 2, "affine"),
    "mxfp4": (32, 4, "mxfp4"),
}


@pytest.fixture(scope="module")
def tiny():
    target, processor = load("tiny")
    return Pair(target, load_assistant("tiny-assistant")), processor


@pytest.fixture(scope="module")
def tokens(tiny):
    return tiny[1].encode(bundled_text(), chat=False)


def quantized(model: nn.Module, group_size: int, bits: int, mode: str) -> nn.Module:
    """The network itself, its layers replaced."""
    nn.quantize(
        model,
        group_size=group_size,
        bits=bits,
        mode=mode,
        class_predicate=lambda _, module: isinstance(module, Quantizable) and module.weight.shape[-1] % 64 == 0,
    )
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def two_bits():
    form = FORMATS["affine, 2 bits, groups of 32"]
    return Pair(*(quantized(model, *form) for model in (load_model("tiny"), load_assistant("tiny-assistant"))))


def naive_logits(target, tokens):
    """Logits after each token of a text (L, V), one plain step for each; numpy does the rest."""
    layout = layout_for(target, 0)
    cache = KVCache(layout)
    cache.reserve(len(tokens))
    decoder = Decoder(target, None, layout, GREEDY, accept)
    state = start(decoder, cache, tokens[:1], 0)
    rows, buffers = [], cache.buffers
    for length, token in enumerate(tokens):
        state = state._replace(length=mx.array([length]), token=mx.array([[token]]))
        proposal = propose(decoder, state, buffers, 0, length)
        buffers = proposal.buffers
        rows.append(np.array(proposal.logits.astype(mx.float32), np.float64)[0, 0])
    return np.stack(rows)


def naive_figures(original, converted, windows):
    """KL, agreement and both perplexities, in float64."""
    kl, same, losses = [], [], [[], []]
    for window in windows:
        log_probabilities = []
        for target in (original, converted):
            logits = naive_logits(target, window[:-1])
            log_probabilities.append(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
        p, q = log_probabilities
        kl += list((np.exp(p) * (p - q)).sum(axis=-1))
        same += list(p.argmax(axis=-1) == q.argmax(axis=-1))
        for loss, which in zip(losses, (p, q), strict=True):
            loss += [-which[place, token] for place, token in enumerate(window[1:])]
    return np.mean(kl), np.mean(same), [math.exp(np.mean(loss)) for loss in losses]


@pytest.mark.parametrize("logits", [quality.LOGITS, 5 * 1024])
def test_figures_of_the_text(tiny, two_bits, tokens, monkeypatch, logits):
    """Windows of 16 with BOS before each, the last one shorter; the head in one piece, and five positions at a time."""
    monkeypatch.setattr(quality, "LOGITS", logits)
    text = tokens[:40]
    bos = text[0]
    windows = [[bos, *text[1:17]], [bos, *text[17:33]], [bos, *text[33:40]]]
    kl, same, perplexity = naive_figures(tiny[0].target, two_bits.target, windows)
    found = measure_quality(Pair(tiny[0].target), Pair(two_bits.target), text, options=QualityOptions(window=16))
    assert found.tokens == 39
    np.testing.assert_allclose(found.kl, kl, rtol=1e-3)
    np.testing.assert_allclose(found.perplexity, perplexity, rtol=1e-3)
    assert found.top1 == same
    assert found.acceptance == (None, None)


def test_logits_are_never_held_for_a_whole_window(tiny, tokens, monkeypatch):
    """Of a real vocabulary, 262,144, 32 positions at a time."""
    assert quality.LOGITS // 262144 == 32
    seen = []
    logits = Gemma4ForCausalLM.logits

    def remember(self, hidden):
        seen.append(hidden.shape[1])
        return logits(self, hidden)

    monkeypatch.setattr(Gemma4ForCausalLM, "logits", remember)
    monkeypatch.setattr(quality, "LOGITS", 8 * 1024)
    measure_quality(Pair(tiny[0].target), Pair(tiny[0].target), tokens[:41], options=QualityOptions(window=20))
    assert seen == [8, 8, 8, 8, 4, 4] * 2  # both targets, two windows


def test_a_window_beyond_the_sliding_one(tiny, tokens):
    """120 tokens over a sliding window of 64: the perplexity is that of decoding step by step."""
    text = tokens[:120]
    logits = naive_logits(tiny[0].target, text[:-1])
    losses = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(119), text[1:]]
    found = measure_quality(Pair(tiny[0].target), Pair(tiny[0].target), text)
    np.testing.assert_allclose(found.perplexity[0], math.exp(losses.mean()), rtol=1e-4)


def test_a_model_is_like_itself(tiny, tokens):
    found = measure_quality(tiny[0], tiny[0], tokens[:130], options=SMALL)
    assert (found.kl, found.top1) == (0, 1)
    assert found.perplexity[0] == found.perplexity[1] > 1
    assert found.acceptance[0] == found.acceptance[1]
    assert found.acceptance[0].rounds > 5


@pytest.mark.parametrize("broken", ["original", "converted"])
def test_targets_that_compute_no_numbers_are_not_alike(tiny, tokens, broken):
    target = load_model("tiny")
    target.model.norm.weight[0] = math.nan
    pairs = {"original": tiny[0], "converted": tiny[0]} | {broken: Pair(target)}
    with pytest.raises(InputError, match=f"the {broken} target's logits are NaN"):
        measure_quality(**pairs, tokens=tokens[:130], options=SMALL)


@pytest.mark.parametrize("where", ["model.norm", "post_projection"])
@pytest.mark.parametrize("broken", ["original", "converted"])
def test_assistants_that_compute_no_numbers_say_nothing_of_a_format(tiny, tokens, broken, where):
    assistant = load_assistant("tiny-assistant")
    dict(assistant.named_modules())[where].weight[0] = math.nan
    pairs = {"original": tiny[0], "converted": tiny[0]} | {broken: Pair(tiny[0].target, assistant)}
    with pytest.raises(InputError, match=f"the {broken} assistant's logits are NaN"):
        measure_quality(**pairs, tokens=tokens[:130], options=SMALL)


def test_two_bits_are_worse(tiny, two_bits, tokens):
    pairs = Pair(tiny[0].target), Pair(two_bits.target)
    found = measure_quality(*pairs, tokens[:257], options=QualityOptions(window=128))
    assert found.kl > 0.3
    assert found.top1 < 0.8
    assert found.perplexity[1] > 1.1 * found.perplexity[0]


def test_half_precision_is_computed_in_float32(tokens):
    """bfloat16 logits: two equal models agree exactly, and a float32 one differs from them by little."""
    target = load_model("tiny", dtype="bfloat16")
    found = measure_quality(Pair(target), Pair(target), tokens[:65], options=SMALL)
    assert (found.kl, found.top1) == (0, 1)
    exact = measure_quality(Pair(load_model("tiny")), Pair(target), tokens[:65], options=SMALL)
    assert 0 < exact.kl < 0.01
    assert exact.perplexity[1] == found.perplexity[0]


# Acceptance


@pytest.mark.parametrize("wrong_every", [3, 7])
def test_acceptance_of_an_oracle(wrong_every):
    """An assistant whose errors are known: the counts are those of a few lines of Python."""
    drafts, new_tokens, prompt = 3, 40, [2, 5, 7, 11]
    target, assistant = random_pair()
    text = [*prompt, *run(target, None, prompt, new_tokens + drafts)[0]]

    def wrong(position):
        return position % wrong_every == 0

    stood = []
    for place in range(len(prompt), len(prompt) + new_tokens):
        stood.append(next((i for i in range(drafts) if wrong(place + 1 + i)), drafts))
    oracle = OracleAssistant(text, 64, wrong)
    oracle.config = assistant.config
    pair = Pair(target, oracle)
    passages = continuations(pair, [prompt], new_tokens)
    assert passages == [(text[: len(prompt) + new_tokens], len(prompt))]
    assert accepted_from_each(pair, passages, drafts) == [stood]
    found = measure_acceptance(pair, passages * 2, drafts)
    assert found == Acceptance(2 * new_tokens, tuple(2 * sum(n > i for n in stood) for i in range(drafts)))


def test_rounds_are_those_of_decoding(tiny, tokens):
    """Of the rounds from each token some are made when the text is generated: they accept as many drafts."""
    pair, _ = tiny
    for prompt in (tokens[:30], tokens[500:570]):  # within the sliding window, and beyond it
        text, made = run(pair.target, pair.assistant, prompt, 32, drafts=3)
        passage = Passage([*prompt, *text], len(prompt))
        (accepted,) = accepted_from_each(pair, [passage], 3)
        assert len(accepted) == 32
        place, compared = 0, 0
        for emitted in made[1:]:
            if emitted.drafted == 3:
                assert accepted[place] == emitted.accepted[0]
                compared += 1
            place += len(emitted.tokens[0])
        assert compared > 5


def test_both_pairs_draft_in_the_original_text(tiny, two_bits, tokens):
    prompts = [tokens[:20]]
    found = measure_quality(tiny[0], two_bits, tokens[:40], 2, prompts=prompts, options=QualityOptions(new_tokens=20))
    passages = continuations(Pair(tiny[0].target), prompts, 20)
    assert found.acceptance == tuple(measure_acceptance(pair, passages, 2) for pair in (tiny[0], two_bits))
    assert [one.rounds for one in found.acceptance] == [20, 20]
    assert found.acceptance[0].accepted_at[0] > found.acceptance[1].accepted_at[0]


def test_rows_of_a_batch_are_independent(tiny, tokens, monkeypatch):
    """Prompts and continuations of many lengths, at once and one by one."""
    pair = tiny[0]
    prompts = [tokens[:1], tokens[:30], tokens[90:160], tokens[300:310]]
    passages = continuations(pair, prompts, 12)
    assert all(len(tokens) == begin + 12 for tokens, begin in passages)
    passages = [Passage(tokens[: len(tokens) - 3 * i], begin) for i, (tokens, begin) in enumerate(passages)]
    together = accepted_from_each(pair, passages, 3)
    assert [len(row) for row in together] == [12, 9, 6, 3]
    assert together == [accepted_from_each(pair, [passage], 3)[0] for passage in passages]
    found = measure_acceptance(pair, passages)
    monkeypatch.setattr(acceptance, "CACHE_BYTES", 1)
    assert measure_acceptance(pair, passages) == found
    assert [p.tokens[: len(q.tokens)] for p, q in zip(continuations(pair, prompts, 12), passages, strict=True)] == [
        passage.tokens for passage in passages
    ]


def test_continuations_end_with_the_text(tiny, tokens):
    pair, prompt = tiny[0], tokens[:30]
    text = continuations(pair, [prompt], 20)[0].tokens[30:]
    assert len(text) == 20
    end = next(token for token in text[2:] if token not in text[:2])
    kept = text[: text.index(end)]
    assert continuations(pair, [prompt], 20, {end}) == [([*prompt, *kept], 30)]
    assert continuations(Pair(pair.target), [prompt], 20, {end}) == [([*prompt, *kept], 30)]
    everything = set(range(1024))
    empty = continuations(pair, [prompt], 20, everything)
    assert empty == [(prompt, 30)]
    assert measure_acceptance(pair, empty) is None


def test_shares():
    found = Acceptance(8, (6, 3, 0, 0))
    assert found.rates == (0.75, 0.375, 0, 0)
    assert found.given == (0.75, 0.5, 0, None)
    assert found.tokens_per_round == 2.125


def test_one_pair_without_assistant(tiny, tokens):
    found = measure_quality(tiny[0], Pair(tiny[0].target), tokens[:40], options=SMALL)
    assert found.acceptance[0] is not None
    assert found.acceptance[1] is None
    rows = {row[0]: row[1:] for row in found.table()}
    assert rows["draft 1 accepted"][0].endswith("%")
    assert rows["draft 1 accepted"][1] == ""


# What is measured, and how it is told


def test_prompts_come_from_all_of_the_text(tiny, tokens, monkeypatch):
    seen = []

    def remember(pair, prompts, *_):
        seen.append(prompts)
        return []

    monkeypatch.setattr(quality, "continuations", remember)
    text = tokens[:101]
    measure_quality(*(tiny[0],) * 2, text, options=QualityOptions(window=100, prompts=4, prompt_tokens=10))
    assert seen[0] == [[text[0], *text[begin : begin + 10]] for begin in (1, 26, 51, 76)]
    measure_quality(*(tiny[0],) * 2, text[:31], options=QualityOptions(prompts=16, prompt_tokens=10))
    assert [len(prompt) for prompt in seen[1]] == [11, 11, 11]
    measure_quality(*(tiny[0],) * 2, text[:4], options=QualityOptions(prompts=16, prompt_tokens=10))
    assert seen[2] == [text[:4]]
    measure_quality(*(tiny[0],) * 2, text[:4], prompts=[[2, 9]])
    assert seen[3] == [[2, 9]]
    measure_quality(*(Pair(tiny[0].target),) * 2, text[:4], prompts=[[2, 9]])
    assert seen[4] == []  # nobody drafts


def test_progress(tiny, tokens):
    seen = []
    measure_quality(
        *(tiny[0],) * 2, tokens[:50], options=SMALL, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 8) for done in range(9)]  # two windows, two prompts continued, and drafted by each pair


def test_bundled_text():
    assert 7_000 < len(bundled_text()) < 9_000
    assert all(name in bundled_text() for name in ("Fanny", "Catherine", "Elizabeth", "Elinor"))  # of many novels


def test_table():
    both = Acceptance(100, (70, 40)), Acceptance(50, (30, 10))
    found = Quality(1000, 0.00004321, 0.98765, (9.87654, 10.0), both)
    assert found.table() == [
        ("KL divergence, nats per token", "", "4.3e-05"),
        ("same likeliest token", "", "98.8%"),
        ("perplexity", "9.88", "10.00"),
        ("draft 1 accepted", "70.0%", "60.0%"),
        ("draft 2 accepted", "40.0%", "20.0%"),
        ("tokens per round", "2.10", "1.80"),
    ]
    assert Quality(1, 0.0, 1.0, (1.0, 1.0)).table()[0][2] == "0"


def test_what_is_refused(tiny, tokens):
    pair = tiny[0]
    other = Pair(*random_pair())
    for text in ([], tokens[:1]):
        with pytest.raises(InputError, match="the text to compare over is empty"):
            measure_quality(pair, pair, text)
    with pytest.raises(InputError, match="token id 1024, but the vocabulary ends at 1023"):
        measure_quality(pair, pair, [2, 1024])
    with pytest.raises(InputError, match="vocabularies of 1024 and 64 tokens"):
        measure_quality(pair, other, tokens)
    with pytest.raises(InputError, match="backbone_hidden_size"):
        measure_quality(pair, Pair(pair.target, other.assistant), tokens)
    with pytest.raises(InputError, match="max_drafts is 0"):
        measure_acceptance(pair, [], 0)
    with pytest.raises(InputError, match="a prompt to continue is empty"):
        measure_quality(pair, pair, tokens, prompts=[[2], []])
    with pytest.raises(InputError, match="window is 0"):
        QualityOptions(window=0)


def test_fewer_bits_cost_more(tiny, two_bits, tokens):
    """The embedded target by format; ``convert --check`` tells the same over more text, and what drafts are worth."""
    target = Pair(tiny[0].target)
    found = {}
    for name, form in FORMATS.items():
        other = two_bits.target if form[1] == 2 else quantized(load_model("tiny"), *form)
        found[name] = measure_quality(target, Pair(other), tokens[:193], options=QualityOptions(window=64))
    kl = [
        found[f"affine, {bits}"].kl for bits in ("8 bits, groups of 64", "4 bits, groups of 32", "2 bits, groups of 32")
    ]
    assert all(fewer > 10 * more > 0 for more, fewer in pairwise(kl))
    assert kl[1] < found["mxfp4"].kl < kl[2]
    assert found["affine, 8 bits, groups of 64"].top1 > 0.97
