"""The embedded pair, as it is shipped: exact, useful, quantizable; and what it accepts, in tables."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.decoding import GREEDY, filled, layout_for
from support.paths import ASSETS
from support.statistics import CHI_SQUARE_P, chi_square_p

from mlx_gemma4_assist import generate, load, load_assistant, stream_generate
from mlx_gemma4_assist.cache.rows import join
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.loop import Plan, rounds, start
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.sampling import Sampling, log_probabilities
from mlx_gemma4_assist.rounds.state import Decoder

DRAFTS = 3


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


@pytest.fixture(scope="module")
def passages():
    """Text that neither training saw."""
    return (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8").strip().split("\n\n")


def prompts(processor, passages, count, length=40):
    """The first tokens of held-out passages, with BOS, ragged so that rows of a batch differ."""
    return [processor.encode(text, chat=False)[: length - i % 7] for i, text in enumerate(passages[:count])]


def batch(target, assistant, prompts, budget, drafts, sampling, seed=0):
    """Rows of one run: tokens of each, and (drafted, accepted) by place."""
    layout = layout_for(target, drafts)
    cache = join([filled(target, layout, prompt) for prompt in prompts])
    decoder = Decoder(target, assistant, layout, sampling, accept)
    tokens = [[] for _ in prompts]
    drafted_at, accepted_at = np.zeros(drafts, int), np.zeros(drafts, int)
    for emitted in rounds(decoder, cache, [p[-1] for p in prompts], Plan(budget, FixedDraftLength(drafts), 1, seed)):
        for row, new in zip(tokens, emitted.tokens, strict=True):
            row += new
        for accepted in emitted.accepted:
            drafted_at[: emitted.drafted] += 1
            accepted_at[:accepted] += 1
    return tokens, drafted_at, accepted_at


def test_it_computes_in_float32(tiny):
    """Its files hold bfloat16, its config asks for float32."""
    dtypes = {a.dtype for model in (tiny[0], tiny[2]) for _, a in tree_flatten(model.parameters())}
    assert dtypes <= {mx.float32, mx.int32}


@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_assisted_equals_plain_on_held_out_text(tiny, passages, drafts):
    """Greedy, 120 tokens from prompts shorter and longer than the window of 64."""
    target, processor, assistant = tiny
    for length, text in zip((10, 60, 110), passages, strict=False):
        prompt = processor.encode(text, chat=False)[:length]
        plain = generate(target, processor, prompt, max_tokens=120)
        assert generate(target, processor, prompt, assistant, max_tokens=120, num_assistant_tokens=drafts) == plain
        assert len(plain) > 100


def test_a_message_is_answered(tiny):
    target, processor, assistant = tiny
    responses = list(stream_generate(target, processor, "It was a fine morning, and", assistant, max_tokens=400))
    assert responses[-1].finish_reason == "stop"
    assert "".join(r.text for r in responses) == processor.decode([r.token for r in responses])


def test_the_first_draft_is_accepted_half_the_time(tiny, passages, report):
    target, processor, assistant = tiny
    tokens, drafted, accepted = batch(target, assistant, prompts(processor, passages, 12), 64, DRAFTS, GREEDY)
    given = accepted / np.array([drafted[0], *accepted[:-1]])
    report(
        f"embedded pair, greedy, held-out prompts, {DRAFTS} drafts: accepted at place 1 to {DRAFTS} "
        + ", ".join(f"{a:.0%}" for a in accepted / drafted)
        + "; given that the ones before stood "
        + ", ".join(f"{a:.0%}" for a in given)
        + f"; {1 + accepted.sum() / drafted[0]:.2f} tokens per round"
    )
    assert accepted[0] / drafted[0] >= 0.5
    assert all(len(row) >= 64 for row in tokens)


def quantized_copy(source: Path, folder: Path, model: nn.Module) -> Path:
    """A 4-bit checkpoint of an embedded network, written as MLX's own converters write it."""
    shutil.copytree(source, folder)
    nn.quantize(model, group_size=32, bits=4)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 32, "bits": 4, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_quantized_pair_accepts_as_the_float_one(tiny, passages, tmp_path, report):
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
    starts = prompts(tiny[1], passages, 8) + [tiny[1].encode(text[:100]) for text in passages[20:28]]
    for name, sampling in (("greedy", GREEDY), ("temperature 0.8", Sampling(temperature=0.8))):
        rates = []
        for target, assistant in ((tiny[0], tiny[2]), small):
            _, drafted, accepted = batch(target, assistant, starts, 40, DRAFTS, sampling)
            rates.append(accepted.sum() / drafted.sum())
        report(f"embedded pair, {name}, {DRAFTS} drafts: accepted {rates[0]:.1%} in float32, {rates[1]:.1%} in 4 bits")
        assert abs(rates[0] - rates[1]) <= 0.10


@pytest.mark.parametrize("draft_temperature", [0, 0.5, 1])
def test_sampled_text_follows_the_target(tiny, passages, draft_temperature):
    """Chi-square over 400 rows: the joint distribution of the first three tokens among the target's four likeliest."""
    target, processor, assistant = tiny
    rows, width = 400, 4
    sampling = Sampling(temperature=1.0, top_k=width, draft_temperature=draft_temperature)
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
    expected = exact_joint(target, layout, prompt, sampling, places=3)
    assert set(counts) <= set(expected)
    order = sorted(expected)
    observed = np.array([counts.get(key, 0) for key in order])
    assert chi_square_p(observed, rows * np.array([expected[key] for key in order])) > CHI_SQUARE_P
    assert accepted > 60  # drafts did take part


def exact_joint(target, layout, prompt, sampling, places):
    """P of the next tokens by one plain forward per prefix."""
    joint = {(): 1.0}
    for _ in range(places):
        longer = {}
        for prefix, weight in joint.items():
            tokens = [*prompt, *prefix]
            cache = filled(target, layout, tokens)
            decoder = Decoder(target, None, layout, GREEDY, accept)
            logits = propose(decoder, start(decoder, cache, [tokens[-1]], 0), cache.buffers, 0, len(tokens) - 1).logits
            p = np.exp(np.array(log_probabilities(logits, sampling.temperature, sampling), np.float64))[0, 0]
            longer |= {(*prefix, int(t)): weight * p[t] for t in np.flatnonzero(p)}
        joint = longer
    return joint


def test_acceptance_by_draft_temperature(tiny, passages, report):
    """The table behind the default: argmax drafts against sampled ones, token by token and as a block."""
    target, processor, assistant = tiny
    starts = prompts(processor, passages, 8)
    lines = ["embedded pair, held-out prompts, 3 drafts: drafts accepted per round by draft temperature"]
    lines.append("temperature   argmax      0.35       0.7        1.0     (one by one / as a block)")
    table = {}
    for temperature in (0.7, 1.0):
        cells = []
        for draft_temperature in (0, 0.35, 0.7, 1.0):
            for block in (False, True):
                if draft_temperature == 0 and block:
                    continue
                sampling = Sampling(
                    temperature=temperature, draft_temperature=draft_temperature, block_verification=block
                )
                _, drafted, accepted = batch(target, assistant, starts, 28, DRAFTS, sampling, seed=5)
                table[temperature, draft_temperature, block] = accepted.sum() / drafted[0]
            one, blocks = (table.get((temperature, draft_temperature, b)) for b in (False, True))
            cells.append(f"{one:.2f}" if blocks is None else f"{one:.2f}/{blocks:.2f}")
        lines.append(f"{temperature:<13} " + "  ".join(f"{cell:9s}" for cell in cells))
    report("\n".join(lines))
    for temperature in (0.7, 1.0):  # what is drawn without a seed stands more often than what is drafted with one
        assert table[temperature, 1.0, True] > 1.2 * table[temperature, 0, False]
