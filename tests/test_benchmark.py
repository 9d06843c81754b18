"""The benchmark: what it makes of given times, and that what it runs is what it says."""

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.decoding import random_pair
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import GenerationOptions, InputError, Pair
from mlx_gemma4_assist.backend import branches
from mlx_gemma4_assist.commands.benchmark import _check_plot, _plot, _print, _report, _validity, benchmark
from mlx_gemma4_assist.evaluation.benchmark import (
    AUTO,
    PLAIN,
    Run,
    Spread,
    acceptance_by_place,
    bundled_prompts,
    chance_for,
    differences,
    measure,
    parse_settings,
    read_prompt,
    summarise,
)

PROMPTS = {"pi": [3, 1, 4, 1, 5, 9, 2, 6], "e": [2, 7, 1, 8, 2, 8]}


@pytest.fixture(scope="module")
def pair():
    target, assistant = random_pair(1)
    return Pair(target, assistant, LetterProcessor())


OPTIONS = GenerationOptions(max_tokens=9, temperature=1.0, seed=0, compile=False)


@pytest.fixture(scope="module")
def runs(pair):
    return measure(pair, PROMPTS, (PLAIN, 2, AUTO), OPTIONS, turns=2)


def run(setting, turn=1, *, prompt="p", tokens=(1, 2, 3, 4, 5), rest=4.0, rounds=4, drafted=(), accepted=()):
    return Run(prompt, setting, turn, tokens, 0.5, rest, rounds, drafted, accepted, 1.0)


@pytest.mark.parametrize(("chance", "drafts"), [(0.0, 3), (0.25, 1), (0.5, 4), (0.9, 8), (1.0, 5)])
def test_chance_is_the_inverse_of_tokens_per_round(chance, drafts):
    assert chance_for(sum(chance**place for place in range(drafts + 1)), drafts) == pytest.approx(chance, abs=1e-5)


def test_chance_of_rounds_that_cost_nothing_or_too_much():
    assert chance_for(0.8, 3) == 0
    assert chance_for(4.1, 3) == math.inf
    assert chance_for(1.0, 0) == 0


def test_spread():
    assert Spread.of([3.0]) == (3.0, 3.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)


def test_settings():
    assert parse_settings("1, 3,auto,3") == (PLAIN, 1, 3, AUTO)
    for text in ("", "0", "x", "1,,2", "-1", "1.5"):
        with pytest.raises(InputError, match="draft_lengths is"):
            parse_settings(text)
    with pytest.raises(InputError, match="99"):
        parse_settings("99")


def test_summary_of_given_times():
    """Plain makes a token a second; a round of two drafts costs 1.5 and gives two tokens."""
    made = [
        run(PLAIN, 1),
        run(2, 1, rest=3.0, rounds=2, drafted=(2, 2), accepted=(2, 0)),
        run(PLAIN, 2, rest=8.0),  # a turn at half the speed changes no ratio
        run(2, 2, rest=6.0, rounds=2, drafted=(2, 2), accepted=(1, 1)),
    ]
    plain, assisted = summarise(made)
    assert (plain.setting, plain.tokens_per_second.median, plain.speedup.median) == (PLAIN, 0.75, 1.0)
    assert assisted.setting == 2
    assert assisted.speedup == pytest.approx((4 / 3,) * 3)
    assert assisted.round_cost == pytest.approx((1.5,) * 3)
    assert assisted.tokens_per_round == 2
    assert assisted.accepted_at == (0.75, 0.25)
    assert assisted.break_even == pytest.approx(chance_for(1.5, 2))
    assert assisted.acceptance == pytest.approx(chance_for(2, 2))
    assert assisted.first.median == 0.5


def test_places_that_some_runs_never_reach():
    long, short = run(3, drafted=(4, 3, 2), accepted=(3, 2, 1)), run(3, drafted=(1,), accepted=(0,))
    assert acceptance_by_place([long, short]) == (3 / 5, 2 / 3, 1 / 2)


def test_differences_are_found_once():
    made = [
        run(PLAIN),
        run(1),
        run(2, 1, tokens=(1, 2, 9, 4, 5)),
        run(2, 2, tokens=(1, 2, 9, 4, 5)),
        run(3, tokens=(1,)),
    ]
    assert differences(made) == [("p", 2, 2), ("p", 3, 1)]


def test_every_setting_takes_its_turn(runs, pair):
    """And each text is the plain one, since a seed's noise belongs to the position."""
    order = [(prompt, turn, setting) for prompt in PROMPTS for turn in (1, 2) for setting in (PLAIN, 2, AUTO)]
    assert [(r.prompt, r.turn, r.setting) for r in runs] == order
    assert differences(runs) == []
    for r in runs:
        assert len(r.tokens) == 9
        assert r.first > 0
        assert r.rest > 0
        assert len(r.drafted_at) == {PLAIN: 0, 2: 2}.get(r.setting, len(r.drafted_at))
        assert 8 <= r.rounds + sum(r.accepted_at) <= 8 + 8  # what the budget cut off was accepted too


def test_warming_up_is_announced_and_not_counted(pair):
    seen = []
    made = measure(
        pair, {"pi": PROMPTS["pi"]}, (PLAIN, 1), OPTIONS, turns=1, progress=lambda prompt, setting: seen.append(setting)
    )
    assert seen == [PLAIN, 1, PLAIN, 1]
    assert len(made) == 2


def test_an_answer_of_one_token_measures_nothing(pair, runs):
    first = runs[0].tokens[0]
    with pytest.raises(InputError, match="prompt pi ends after its first token"):
        measure(replace(pair, processor=LetterProcessor([first])), PROMPTS, (PLAIN,), OPTIONS)


def test_bundled_prompts():
    prompts = bundled_prompts()
    assert list(prompts) == ["code", "prose", "list", "json", "chat"]
    assert all(isinstance(prompt, str) and len(prompt) > 100 for name, prompt in prompts.items() if name != "chat")
    assert [message["role"] for message in prompts["chat"]] == ["user", "assistant", "user"]


def test_prompt_files(tmp_path):
    (tmp_path / "a.txt").write_text("Hello\n")
    assert read_prompt(tmp_path / "a.txt") == "Hello"
    (tmp_path / "b.json").write_text("[{]")
    with pytest.raises(InputError, match=r"b\.json is not valid JSON"):
        read_prompt(tmp_path / "b.json")
    with pytest.raises(InputError, match=r"cannot read .*c\.txt: No such file"):
        read_prompt(tmp_path / "c.txt")


def test_report_is_json_and_a_table(runs, pair, capsys):
    report = {"model": "m", "command": "c"} | _report(pair, OPTIONS, runs, {"pi": 8, "e": 6})
    again = json.loads(json.dumps(report))
    assert [summary["setting"] for summary in again["summaries"]] == [0, 2, "auto"]
    assert again["environment"]["dtype"] == "float32"
    assert set(again["by_prompt"]) == set(PROMPTS)
    assert len(again["runs"]) == len(runs)
    _print(report)
    out = capsys.readouterr().out
    assert "2 drafts" in out
    assert "All 12 texts are those of plain decoding" in out
    assert (
        "The figures hold for float32 on the CPU backend only. Float32 on a CPU is for correctness: expect no gain"
        in joined(out)
    )
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 132


def joined(text):
    """Without the breaks of lines."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("backend", "dtype", "quantization", "expected"),
    [
        ("CPU", "bfloat16", "none", "The figures hold for bfloat16 on the CPU backend only."),
        ("Metal", "float32", "none", "The figures hold for float32 on the Metal backend only."),
        ("CPU", "float32", "mxfp4", "The figures hold for float32, quantized mxfp4 on the CPU backend only."),
    ],
)
def test_what_figures_hold_for(backend, dtype, quantization, expected):
    assert _validity({"backend": backend, "dtype": dtype, "quantization": quantization}) == expected


def test_plot(runs, pair, tmp_path):
    path = tmp_path / "out.png"
    _check_plot(path)
    report = {"model": "m", "command": "c"} | _report(pair, OPTIONS, runs, {"pi": 8, "e": 6})
    _plot(path, report)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="expected a name that ends with"):
        _check_plot(tmp_path / "out.gif")
    with pytest.raises(InputError, match="there is no folder"):
        _check_plot(tmp_path / "nowhere" / "out.png")


class Loaded(Exception):
    """What was to be loaded."""


@pytest.mark.parametrize(
    ("options", "backend", "dtype"),
    [
        ({}, "cpu", "bfloat16"),
        ({"compile": False}, "cpu", "bfloat16"),
        ({"dtype": "float32"}, "cpu", "float32"),
        ({"dtype": "bfloat16"}, "cpu", "bfloat16"),
        ({"model": "google/gemma-4-E2B-it"}, "cpu", None),
        ({}, "gpu", None),
    ],
)
def test_the_embedded_pair_is_measured_in_a_format_that_gains(monkeypatch, capsys, options, backend, dtype):
    """Where nobody asks, and in one line that says so."""

    opened = []

    def open_checkpoint(choice, *_, **__):
        opened.append(choice)
        return SimpleNamespace(prepare=lambda prompt: SimpleNamespace(tokens=[1]))

    def load_pair(*_):
        raise Loaded(opened[0])

    monkeypatch.setattr("mlx_gemma4_assist.commands.benchmark.open_checkpoint", open_checkpoint)
    monkeypatch.setattr("mlx_gemma4_assist.commands.benchmark.load_pair", load_pair)
    with branches(backend), pytest.raises(Loaded) as loaded:
        benchmark(**options)
    (choice,) = loaded.value.args
    assert choice.dtype == dtype
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (dtype is not None and "dtype" not in options)
    assert all("in bfloat16: on a CPU" in line and "--dtype" in line for line in said)


def test_bad_input_is_refused_before_the_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(
        InputError, match=r'--plot needs matplotlib: pip install "\.\[plot\]" in the folder of this package'
    ):
        benchmark(model="nowhere", plot=tmp_path / "out.png")
    with pytest.raises(InputError, match="repeats is 0"):
        benchmark(model="nowhere", repeats=0)
    with pytest.raises(InputError, match="draft_lengths is 'many'"):
        benchmark(model="nowhere", draft_lengths="many")
    with pytest.raises(InputError, match="max_tokens is 1, expected 2 or more"):
        benchmark(model="nowhere", max_tokens=1)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"empty\.txt is empty"):
        benchmark(model="nowhere", prompt_file=[tmp_path / "empty.txt"])
    with pytest.raises(InputError, match="cannot read"):
        benchmark(model="nowhere", prompt_file=[tmp_path / "none.txt"])
