"""parity: what it says of a right decoder, of wrong ones, and of near ties."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import GREEDY, filled, layout_for, random_pair, run
from support.paths import ASSETS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, SpeculationStats
from mlx_gemma4_assist.commands import parity as command
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.evaluation import frequencies, parity
from mlx_gemma4_assist.evaluation.frequencies import Frequencies, chi_square_p, count_p, evenness_p, first_tokens
from mlx_gemma4_assist.evaluation.parity import Divergence, TextComparison, Verdict, compare_texts, tie_tolerance
from mlx_gemma4_assist.media.prepared import PreparedPrompt
from mlx_gemma4_assist.rounds import accept as acceptance
from mlx_gemma4_assist.rounds import round as speculative
from mlx_gemma4_assist.rounds.accept import accept, accept_matching
from mlx_gemma4_assist.rounds.round import verify
from mlx_gemma4_assist.rounds.sampling import DRAFT, Sampling, choose
from mlx_gemma4_assist.rounds.state import Decoder, Round

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


@pytest.fixture(scope="module")
def pair():
    """The assistant is untrained and made undecided: a rule that favours what it likes is then far off."""
    target, assistant = random_pair(1)
    assistant.model.norm.weight = assistant.model.norm.weight * 0.02
    return Pair(target, assistant, LetterProcessor())


def accept_always(drafts, choices, limit=None):
    """What a rule must not do: the first draft always stands."""
    right = accept_matching(drafts, choices)
    wrong = mx.concatenate([drafts[:, :1], choices[:, 1:]], axis=1)
    return Round(wrong if drafts.shape[1] else choices, mx.maximum(right.accepted, min(drafts.shape[1], 1)))


def argmax_drafts(log_p, keys, positions, purpose):
    """transformers' inexact rule: the likeliest token is drafted, and accepted by p / q of the full q."""
    if purpose == DRAFT:
        return mx.argmax(log_p, axis=-1).astype(mx.int32)
    return choose(log_p, keys, positions, purpose)


# Texts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_right_decoder_is_identical(pair, temperature):
    found = compare_texts(pair, PROMPT, GenerationOptions(max_tokens=30, temperature=temperature, seed=5))
    assert (found.verdict, found.compared, found.divergence) == (Verdict.IDENTICAL, 30, None)
    assert found.stats.drafted > 30


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_wrong_decoder_is_different(pair, monkeypatch, temperature):
    monkeypatch.setattr(acceptance, "accept_matching", accept_always)
    found = compare_texts(pair, PROMPT, GenerationOptions(max_tokens=12, temperature=temperature, seed=5))
    assert found.verdict is Verdict.DIFFERENT
    assert found.divergence.gap > 0
    assert found.divergence.tolerance == 0
    assert found.compared == found.divergence.place < 12


@pytest.mark.parametrize("where", ["model.norm", "model.layers.0.mlp.down_proj"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_not_identical(where, temperature):
    target, assistant = random_pair(1)
    weight = dict(target.named_modules())[where].weight
    weight[..., 0] = math.nan
    options = GenerationOptions(max_tokens=6, temperature=temperature, seed=5)
    with pytest.raises(InputError, match=r"the target's logits after \d+ tokens are NaN"):
        compare_texts(Pair(target, assistant, LetterProcessor()), PROMPT, options)


def test_one_token_that_is_no_number_is_found():
    """A row of the embedding that no text reads is the head's too."""
    target, assistant = random_pair(1)
    target.model.embed_tokens.weight[-1] = math.nan
    with pytest.raises(InputError, match="NaN"):
        compare_texts(Pair(target, assistant, LetterProcessor()), PROMPT, GenerationOptions(max_tokens=6))


def logits_after(pair, tokens):
    """(V,) from one forward over all tokens."""
    layout = replace(layout_for(pair.target, 0), dtype=pair.dtype)
    cache = filled(pair.target, layout, tokens)
    cache.reserve(len(tokens) + 1)
    decoder = Decoder(pair.target, None, layout, GREEDY, accept)
    state = start(decoder, cache, tokens[-1:], 0)
    return verify(decoder, state, cache.buffers, mx.zeros((1, 0), mx.int32), len(tokens) - 1)[1][0, 0]


@pytest.mark.parametrize("rank", [2, 5])
def test_gap_is_that_of_the_worse_token(pair, monkeypatch, rank):
    """The right text against one whose seventh token is another: its gap is read off plain decoding's logits."""
    plain, _ = run(pair.target, None, PROMPT, 10)
    logits = np.array(logits_after(pair, PROMPT + plain[:6]))
    other = int(np.argsort(-logits)[rank - 1])
    texts = iter([plain, [*plain[:6], other, *plain[7:]]])
    monkeypatch.setattr(parity, "_tokens", lambda *_: (next(texts), SpeculationStats()))
    parting = compare_texts(pair, PROMPT, GenerationOptions(max_tokens=10)).divergence
    assert (parting.place, parting.plain, parting.assisted) == (6, plain[6], other)
    assert parting.gap == pytest.approx(logits.max() - logits[other], abs=1e-4)


def test_sampled_scores_are_what_plain_sampling_chooses_by(pair):
    plain, _ = run(pair.target, None, PROMPT, 12, sampling=Sampling(temperature=0.7), seed=3)
    for place in (0, 1, 11):
        scores, largest = parity._scores(pair, PROMPT, place, GenerationOptions(temperature=0.7, seed=3))
        assert scores.argmax() == plain[place]
        logits = logits_after(pair, PROMPT + plain[:place])
        assert largest == pytest.approx(mx.abs(logits).max().item(), abs=1e-4)


def test_a_text_that_ends_early_is_different(pair, monkeypatch):
    texts = iter([[1, 2, 3], [1, 2]])
    monkeypatch.setattr(parity, "_tokens", lambda *_: (next(texts), SpeculationStats()))
    found = compare_texts(pair, PROMPT, GenerationOptions(max_tokens=3))
    assert found.divergence == Divergence(2, 3, None, math.inf, 0.0)
    assert found.verdict is Verdict.DIFFERENT


def test_tolerance_is_a_few_spacings():
    assert tie_tolerance(20.0, mx.float32) == 0
    assert tie_tolerance(20.0, mx.bfloat16) == parity.TIE_SPACINGS * 0.125
    assert tie_tolerance(15.9, mx.bfloat16) == parity.TIE_SPACINGS * 0.0625
    for value in (0.3, 1.0, 20.0, 32.0):
        assert tie_tolerance(value, mx.float16) == parity.TIE_SPACINGS * np.spacing(np.float16(value))
    assert Divergence(0, 1, 2, 0.49, 0.5).near_tie
    assert not Divergence(0, 1, 2, 0.5, 0.5).near_tie
    assert not Divergence(0, 1, 2, 0.0, 0.0).near_tie


@pytest.mark.parametrize(("spacings", "verdict"), [(3, Verdict.NEAR_TIES), (60, Verdict.DIFFERENT)])
def test_rounding_is_told_from_errors(monkeypatch, spacings, verdict):
    """bfloat16, where forwards over several tokens are made to round otherwise: by a few spacings, by many."""
    target, assistant = random_pair(1)
    for network in (target, assistant):
        network.set_dtype(mx.bfloat16)
    inexact = Pair(target, assistant, LetterProcessor())
    spacing = tie_tolerance(mx.abs(logits_after(inexact, PROMPT)).max().item(), mx.bfloat16) / parity.TIE_SPACINGS

    def inexact_verify(decoder, state, buffers, drafts, bound):
        hidden, logits, buffers = verify(decoder, state, buffers, drafts, bound)
        best = mx.max(logits, axis=-1, keepdims=True)
        lowered = (logits.astype(mx.float32) - spacings * spacing).astype(logits.dtype)
        return hidden, mx.where((logits == best) & (drafts.shape[1] > 0), lowered, logits), buffers

    monkeypatch.setattr(speculative, "verify", inexact_verify)
    found = [compare_texts(inexact, PROMPT[i:], GenerationOptions(max_tokens=20)) for i in range(4)]
    assert max(text.verdict for text in found) is verdict


# Frequencies


def drawn(draft_temperature):
    return GenerationOptions(temperature=1.0, draft_temperature=draft_temperature)


@pytest.mark.parametrize("draft_temperature", [0.0, 1.0])
def test_right_frequencies(pair, draft_temperature):
    found = first_tokens(pair, [PROMPT, PROMPT[:4]], drawn(draft_temperature), samples=24)
    assert [f.place for f in found] == [2, 3]
    assert all(f.samples == 24 and f.verdict is Verdict.IDENTICAL for f in found)
    if draft_temperature:
        assert found[0].from_draft > 2


def test_transformers_rule_is_found_out(pair, monkeypatch):
    monkeypatch.setattr(speculative, "choose", argmax_drafts)
    found = first_tokens(pair, [PROMPT], drawn(1.0), samples=40)
    assert max(f.verdict for f in found) is Verdict.DIFFERENT


def damage_norm(assistant):
    assistant.model.norm.weight[...] = math.nan


def test_an_assistant_that_computes_no_numbers_changes_no_text():
    """Not even where its drafts are drawn, and what replaces them comes from the difference of two distributions."""
    target, assistant = random_pair(1)
    damage_norm(assistant)
    broken = Pair(target, assistant, LetterProcessor())
    found = first_tokens(broken, [PROMPT[:4]], drawn(1.0), samples=20)
    assert max(f.verdict for f in found) is Verdict.IDENTICAL


class OneDistribution:
    """Stands in for the reference: the same distribution everywhere."""

    def __init__(self, p, log_q):
        self._shares = frequencies._divide(np.log(p), log_q)

    def shares(self, tokens):
        return [self._shares] * len(tokens)


def test_tokens_lie_evenly_whatever_the_distribution():
    """Drawn from p itself: a token's place in any order is uniform, and the favourites are as many as p says."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(50, 0.3))
    reference = OneDistribution(p, rng.normal(size=50) + 2 * np.log(p))
    runs = [((0, False), (int(rng.choice(50, p=p)), False)) for _ in range(3000)]
    tokens = list(frequencies._tokens_at_places(reference, runs, rng))
    found = frequencies._frequencies(1.0, 2, tokens)
    assert found.samples == 3000
    assert found.p_value > 0.01
    low, high = np.sort([t.lies for t in tokens if t.lies is not None])[[0, -1]]
    assert 0 <= low < 0.01
    assert 0.99 < high < 1


def test_tests_of_frequencies():
    # R: pchisq(18.307, 10, lower.tail = FALSE), pchisq(9.488, 4, lower.tail = FALSE)
    assert chi_square_p(18.307, 10) == pytest.approx(0.05, abs=1e-5)
    assert chi_square_p(9.488, 4) == pytest.approx(0.05, abs=1e-4)
    assert chi_square_p(0, 4) == 1
    # R: binom.test(2, 20, 0.5): twice the lower tail
    assert count_p(2, [0.5] * 20) == pytest.approx(2 * sum(math.comb(20, k) for k in range(3)) / 2**20)
    assert count_p(10, [0.5] * 20) == 1
    assert count_p(1, [0.0]) == 0
    assert count_p(0, []) == 1
    assert evenness_p(np.linspace(0, 0.999, 100)) > 0.99
    assert evenness_p([0.05] * 100) < 1e-10
    assert evenness_p([0.05] * 14) == 1
    assert Frequencies(1.0, 2, 0, 0, (), ()).p_value == 1


# The command


@pytest.fixture
def tell(pair, monkeypatch, tmp_path, capsys):
    """Runs the command on the pair; returns its exit code and standard output."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("31415926\n\n2718281828\n\n\n")
    opened = SimpleNamespace(prepare=lambda text, chat: PreparedPrompt(pair.encode(text, chat=chat)))
    monkeypatch.setattr(command, "open_checkpoint", lambda *_, **__: opened)
    monkeypatch.setattr(command, "load_pair", lambda *_: pair)

    def run(**options):
        code = command.parity(**{"prompt_file": prompts, "max_tokens": 8, "num_samples": 0} | options)
        return code, capsys.readouterr().out

    return run


def test_command_identical(tell):
    code, out = tell()
    assert code == 0
    assert out.splitlines()[-1] == "identical"
    assert "greedy: 2 of 2 texts identical, 16 tokens compared" in out


def test_command_says_who_answers(tell, monkeypatch):
    """The embedded pair, where no other was named."""
    said = []
    monkeypatch.setattr(command, "note", said.append)
    assert tell()[0] == 0
    assert said[0].startswith("The embedded tiny pair answers; --model ")
    said.clear()
    assert tell(model="other")[0] == 0
    assert not any("tiny" in each for each in said)


def test_command_different(tell, monkeypatch):
    monkeypatch.setattr(acceptance, "accept_matching", accept_always)
    code, out = tell()
    assert code == 1
    assert out.splitlines()[-1] == "DIFFERENT"
    assert "parts after" in out


def test_command_near_ties(tell, monkeypatch):
    found = TextComparison(10, 3, Divergence(3, 5, 6, 0.25, 0.5), SpeculationStats())
    monkeypatch.setattr(parity, "compare_texts", lambda *_, **__: found)
    code, out = tell()
    assert code == 0
    assert out.splitlines()[-1] == "near ties only (gap below 0.5)"


def test_command_wrong_frequencies(tell, monkeypatch):
    wrong = Frequencies(1.0, 2, 100, 100, (0.1,) * 100, ())
    monkeypatch.setattr(frequencies, "first_tokens", lambda *_, **__: [wrong])
    code, out = tell(num_samples=100)
    assert code == 1
    assert out.splitlines()[-1] == "DIFFERENT"


def test_command_json(tell):
    code, out = tell(as_json=True, num_prompts=1, num_samples=4)
    content = json.loads(out)
    assert code == 0
    assert content["verdict"] == "identical"
    assert content["dtype"] == "float32"
    assert [text["compared"] for text in content["greedy"] + content["sampled"]] == [8, 8]
    assert [f["samples"] for f in content["frequencies"]] == [4] * 4


def test_command_speaks_of_an_assistant_that_computes_no_numbers(tell, pair, monkeypatch):
    target, assistant = random_pair(1)
    damage_norm(assistant)
    code, out = tell(num_prompts=1)
    assert "Problem" not in out
    monkeypatch.setattr(command, "load_pair", lambda *_: Pair(target, assistant, pair.processor))
    code, out = tell(num_prompts=1)
    assert code == 0
    said, verdict = out.splitlines()[-2:]
    assert said.startswith("Problem: the assistant's logits are NaN: its weights are damaged or overflow")
    assert verdict == "identical"
    _, out = tell(num_prompts=1, as_json=True)
    (problem,) = json.loads(out)["problems"]
    assert said == f"Problem: {problem}."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prompts": 0}, "--num-prompts is 0"),
        ({"num_samples": -1}, "--num-samples is -1"),
        ({"num_assistant_tokens": 0}, "--num-assistant-tokens is 0"),
        ({"prompt_file": None, "ignore_chat_template": True}, "belongs to --prompt-file"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_command_refuses_nonsense(tell, options, message):
    with pytest.raises(InputError, match=message):
        tell(**options)


def test_command_prompt_files(tell, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        tell(prompt_file=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="has no prompts"):
        tell(prompt_file=tmp_path / "empty.txt")


def test_command_needs_an_assistant(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_pair", lambda *_: pytest.fail("reads weights"))
    alone = shutil.copytree(ASSETS / "tiny", tmp_path / "alone")
    with pytest.raises(InputError, match="none is known for .*alone, and assistant_model names one, so there is"):
        command.parity(model=str(alone))
