"""Examples that peers are compared with: synthetic checkpoints, oracle assistants, the comparison itself."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import oracle
import pytest
import synthetic
from support.decoding import random_pair, run
from support.paths import ROOT, TOOLS

from mlx_gemma4_assist import InputError, load, load_assistant, stream_generate
from mlx_gemma4_assist.models.config import FULL, check_pair, read_assistant_config, read_target_config

PUBLISHED = {  # hidden, intermediate, layers, layers that own keys, head dims, KV heads of sliding and full layers
    "e2b": (1536, 6144, 35, 15, 256, 512, 1, 1),
    "e4b": (2560, 10240, 42, 24, 256, 512, 2, 2),
    "12b": (3840, 15360, 48, 48, 256, 512, 8, 1),
    "26b-a4b": (2816, 2112, 30, 30, 256, 512, 8, 2),
    "31b": (5376, 21504, 60, 60, 256, 512, 16, 4),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_shapes_are_the_published_ones(family):
    target, assistant = synthetic.configs(family, 1.0)
    target, assistant = read_target_config(target), read_assistant_config(assistant)
    check_pair(target, assistant)
    assert PUBLISHED[family] == (
        target.hidden_size,
        target.intermediate_size,
        target.num_hidden_layers,
        target.num_kv_layers,
        target.head_dim,
        target.global_head_dim,
        target.kv_heads("sliding_attention"),
        target.kv_heads(FULL),
    )
    assert target.vocab_size == 262_144
    assert (assistant.use_ordered_embeddings, assistant.num_centroids) == (family in ("e2b", "e4b"), 2048)


@pytest.mark.parametrize("family", PUBLISHED)
@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_scaled_pairs_still_fit(family, scale):
    target, assistant = synthetic.configs(family, scale, layers=12)
    target, assistant = read_target_config(target), read_assistant_config(assistant)
    check_pair(target, assistant)
    assert target.num_hidden_layers == 12
    assert target.hidden_size % 64 == target.intermediate_size % 64 == 0


@pytest.mark.parametrize("wrong", [("7b", 1.0), ("e2b", 0.0), ("e2b", 2.0), ("e2b", 0.1, 3)])
def test_nonsense_is_refused(wrong):
    with pytest.raises(InputError):
        synthetic.configs(*wrong)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return synthetic.write_pair(tmp_path_factory.mktemp("pairs") / "e2b", "e2b", 0.02, layers=10)


def test_the_walk_is_far_from_any_tie(written):
    """bfloat16, float32, and blocks instead of single tokens: the same text, and no token twice."""
    assistant = load_assistant(written[1])
    texts = []
    for dtype in ("bfloat16", "float32"):
        target, processor = load(written[0], dtype=dtype)
        made = list(stream_generate(target, processor, "Hello", max_tokens=24, compile=False))
        assert len({response.token for response in made}) == 24
        texts.append([response.token for response in made])
    assert target.config.num_kv_shared_layers == 5
    drafted = stream_generate(target, processor, "Hello", assistant, max_tokens=24, compile=False)
    texts.append([response.token for response in drafted])
    assert texts[0] == texts[1] == texts[2]


def test_experts_walk_too(tmp_path):
    written = synthetic.write_pair(tmp_path / "26b", "26b-a4b", 0.02, layers=12, dtype="float32")
    target, processor = load(written[0])
    made = [r.token for r in stream_generate(target, processor, "Hi", max_tokens=12, compile=False)]
    assert len(set(made)) == 12


def test_a_copied_pair_is_the_same_pair(written, tmp_path):
    target, processor = load(written[0], dtype="float32")
    folder, beside = synthetic.copy_pair(tmp_path / "copy", target, load_assistant(written[1], dtype="float32"))
    synthetic.write_tokenizer(folder)
    copy, processor = load(folder)
    assert copy.config == target.config
    assert load_assistant(beside).config == load_assistant(written[1]).config
    texts = [
        [r.token for r in stream_generate(model, processor, "Hello", max_tokens=8, compile=False)]
        for model in (target, copy)
    ]
    assert texts[0] == texts[1]


PROMPT, BUDGET = [3, 1, 4, 1, 5, 9, 2, 6], 36


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


@pytest.fixture(scope="module")
def plain(pair):
    return run(pair[0], None, PROMPT, BUDGET)[0]


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
def test_an_oracle_is_right_where_it_is_told_to_be(pair, plain, acceptance):
    answers = oracle.answers(PROMPT + plain, 64, acceptance, seed=3)
    right = (answers[: len(PROMPT + plain)] == mx.array(PROMPT + plain)).tolist()
    tokens, rounds = run(pair[0], oracle.OracleAssistant(pair[1], answers), PROMPT, BUDGET, drafts=3)
    assert tokens == plain
    at = len(PROMPT)  # the newest token's position
    for made in rounds[1:]:
        expected = right[at + 1 : at + 1 + made.drafted]
        assert made.accepted == [[*expected, False].index(False)]
        at += made.accepted[0] + 1


def test_an_oracle_costs_what_its_assistant_costs(pair, plain):
    """The real forward is part of the graph of its token."""
    calls = []

    class Counted:
        config = pair[1].config

        def __call__(self, *inputs):
            calls.append("forward")
            return pair[1](*inputs)

        def argmax(self, hidden):
            calls.append("head")
            return pair[1].argmax(hidden)

    made = oracle.OracleAssistant(Counted(), oracle.answers(PROMPT + plain, 64, 1.0))
    run(pair[0], made, PROMPT, 9, drafts=3)
    assert calls.count("forward") == calls.count("head") > 3


def test_compare_peers(tmp_path):
    """Peers that are not installed are left out, and said to be."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = "--synthetic e2b --scale 0.02 --layers 10 --engines ours,transformers --turns 1 --max-tokens 8"
    options += " --prompts list --compile off --acceptance 0.8 --python transformers=/nowhere/python"
    command = [sys.executable, str(TOOLS / "compare_peers.py"), *options.split(), "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "All 3 wrote the same tokens." in done.stdout
    assert "Left out: transformers" in done.stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert [case["case"] for case in result["cases"]] == [
        "ours plain",
        "ours assisted, 3 drafts",
        "ours assisted, auto drafts",
    ]
    assert len(result["runs"]) == 3
