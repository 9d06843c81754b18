"""The embedded pair, as it is shipped: exact, useful, quantizable."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from accepted import accepted_by, prompts_of
from mlx.utils import tree_flatten
from support.decoding import GREEDY, filled, layout_for
from support.paths import ASSETS, TOOLS
from support.statistics import CHI_SQUARE_P, chi_square_p

from mlx_gemma4_assist import Pair, generate, load, load_assistant, stream_generate
from mlx_gemma4_assist.cache.rows import join
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.loop import Plan, rounds, start
from mlx_gemma4_assist.evaluation.acceptance import Passage, accepted_from_each
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.sampling import Sampling, log_probabilities
from mlx_gemma4_assist.rounds.state import Decoder

DRAFTS = 3
LIKELIEST = Sampling(temperature=1.0, top_k=4)


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


@pytest.fixture(scope="module")
def passages():
    """Text that neither training saw."""
    return (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8").strip().split("\n\n")


def test_it_computes_in_float32(tiny):
    """Its files hold bfloat16, its config asks for float32."""
    dtypes = {a.dtype for model in (tiny[0], tiny[2]) for _, a in tree_flatten(model.parameters())}
    assert dtypes <= {mx.float32, mx.int32}


@pytest.fixture(scope="module")
def plain_texts(tiny, passages):
    """(prompt, text) of 80 tokens each, from prompts shorter and longer than the window of 64."""
    target, processor, _ = tiny
    cut = [processor.encode(text, chat=False)[:length] for length, text in zip((10, 60, 110), passages, strict=False)]
    return [(prompt, generate(target, processor, prompt, max_tokens=80)) for prompt in cut]


@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_assisted_equals_plain_on_held_out_text(tiny, plain_texts, drafts):
    """Greedy."""
    target, processor, assistant = tiny
    for prompt, plain in plain_texts:
        assert generate(target, processor, prompt, assistant, max_tokens=80, num_assistant_tokens=drafts) == plain
        assert len(plain) > 100


def test_a_message_is_answered(tiny):
    target, processor, assistant = tiny
    responses = list(stream_generate(target, processor, "It was a fine morning, and", assistant, max_tokens=400))
    assert responses[-1].finish_reason == "stop"
    assert "".join(r.text for r in responses) == processor.decode([r.token for r in responses])


def test_the_first_draft_is_accepted_half_the_time(tiny, passages):
    target, processor, assistant = tiny
    found = accepted_by((target, assistant), prompts_of(processor, passages[:8]), 32, DRAFTS, GREEDY)
    assert found.accepted[0] / found.drafted[0] >= 0.5
    assert all(len(row) >= 32 for row in found.tokens)


def test_agreement_of_first_drafts_is_what_a_round_accepts(tiny, passages, monkeypatch):
    """The model card's figure, computed in one forward over a text; here by rounds from each of its tokens."""
    monkeypatch.syspath_prepend(TOOLS / "tiny_pair")
    from agreement import agreement

    target, processor, assistant = tiny
    text = processor.encode(passages[0], chat=False)[:40]
    counted, agreed = agreement(target, assistant, text, DRAFTS)
    (accepted,) = accepted_from_each(Pair(target, assistant), [Passage(text, 1)], DRAFTS)
    assert counted[0] == len(text) - 1 - DRAFTS
    assert agreed[0] == sum(drafts > 0 for drafts in accepted[: counted[0]])
    assert 0 < counted[2] < counted[1] < counted[0]


def quantized_copy(source: Path, folder: Path, model: nn.Module) -> Path:
    """A 4-bit checkpoint of an embedded network, written as MLX's own converters write it."""
    shutil.copytree(source, folder)
    nn.quantize(model, group_size=32, bits=4)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 32, "bits": 4, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_quantized_pair_accepts_as_the_float_one(tiny, passages, tmp_path):
    """4-bit target with 4-bit assistant, centroid head included: acceptance per draft within 10 points.

    Greedy on continuations and answers, and sampled, where text does not loop and flatter either side.
    """
    target_folder = quantized_copy(ASSETS / "tiny", tmp_path / "target", load("tiny")[0])
    assistant_folder = quantized_copy(
        ASSETS / "tiny-assistant", tmp_path / "assistant", load_assistant("tiny-assistant")
    )
    small = load(target_folder)[0], load_assistant(assistant_folder)
    assert isinstance(small[1].masked_embedding.centroids, nn.QuantizedLinear)
    assert isinstance(small[1].model.embed_tokens, nn.QuantizedEmbedding)
    starts = prompts_of(tiny[1], passages[:4]) + [tiny[1].encode(text[:100]) for text in passages[20:24]]
    for sampling in (GREEDY, Sampling(temperature=0.8)):
        pairs = (tiny[0], tiny[2]), small
        exact, rounded = (accepted_by(pair, starts, 24, DRAFTS, sampling).share for pair in pairs)
        assert abs(exact - rounded) <= 0.10


@pytest.fixture(scope="module")
def joint(tiny, passages):
    """P of the next three tokens by one plain forward per prefix."""
    target, processor, _ = tiny
    prompt, layout = processor.encode(passages[3], chat=False)[:30], layout_for(target, 2)
    joint = {(): 1.0}
    for _ in range(3):
        longer = {}
        for prefix, weight in joint.items():
            tokens = [*prompt, *prefix]
            cache = filled(target, layout, tokens)
            decoder = Decoder(target, None, layout, GREEDY, accept)
            logits = propose(decoder, start(decoder, cache, [tokens[-1]], 0), cache.buffers, 0, len(tokens) - 1).logits
            p = np.exp(np.array(log_probabilities(logits, LIKELIEST.temperature, LIKELIEST), np.float64))[0, 0]
            longer |= {(*prefix, int(t)): weight * p[t] for t in np.flatnonzero(p)}
        joint = longer
    return joint


@pytest.mark.parametrize("draft_temperature", [0, 0.5, 1])
def test_sampled_text_follows_the_target(tiny, passages, joint, draft_temperature):
    """Chi-square over 400 rows: the joint distribution of the first three tokens among the target's four likeliest."""
    target, processor, assistant = tiny
    rows = 400
    sampling = LIKELIEST._replace(draft_temperature=draft_temperature)
    prompt = processor.encode(passages[3], chat=False)[:30]
    layout = layout_for(target, 2)
    decoder = Decoder(target, assistant, layout, sampling, accept)
    one = filled(target, layout, prompt)
    cache = join([one] * rows)
    counts: dict[tuple[int, ...], int] = {}
    tokens = [[] for _ in range(rows)]
    accepted = 0
    for emitted in rounds(decoder, cache, [prompt[-1]] * rows, Plan(3, FixedDraftLength(2), 1, seed=17)):
        accepted += sum(emitted.accepted)
        for row, new in zip(tokens, emitted.tokens, strict=True):
            row += new
    for row in tokens:
        counts[tuple(row[:3])] = counts.get(tuple(row[:3]), 0) + 1
    assert set(counts) <= set(joint)
    order = sorted(joint)
    observed = np.array([counts.get(key, 0) for key in order])
    assert chi_square_p(observed, rows * np.array([joint[key] for key in order])) > CHI_SQUARE_P
    assert accepted > 60  # drafts did take part


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_drawn_drafts_stand_more_often_than_the_likeliest(tiny, passages, temperature):
    """What is drawn without a seed against what is drafted with one; tools/tiny_pair/measure.py prints the table."""
    starts = prompts_of(tiny[1], passages[:8])
    drawn, likeliest = (
        accepted_by((tiny[0], tiny[2]), starts, 20, DRAFTS, sampling, seed=5).per_round
        for sampling in (
            Sampling(temperature, draft_temperature=1.0, block_verification=True),
            Sampling(temperature, draft_temperature=0, block_verification=False),
        )
    )
    assert drawn > 1.2 * likeliest
