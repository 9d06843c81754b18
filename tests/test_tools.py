"""What measures: the scripts' command lines, their workers, two commits beside each other, a GPU's table."""

import json
import os
import runpy
import subprocess
import sys
from importlib import import_module

import compare_commits
import gpu_table
import gpu_worker
import pytest
import workers
from support.paths import ROOT, TOOLS

WITH_ARGUMENTS = (
    "compare_batches",
    "compare_commits",
    "compare_peers",
    "fuzz_checkpoints",
    "fuzz_media",
    "fuzz_server",
    "gpu_table",
    "measure_buckets",
    "measure_gpu",
    "measure_grammar",
    "measure_look_ahead",
    "measure_many_requests",
    "measure_picture_memory",
    "measure_quantized_cache",
    "measure_prefix_cache",
    "measure_server",
    "round_parts",
    "stress_server",
    "synthetic",
)


def run(script: str, *options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, TOOLS / script, *options], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", WITH_ARGUMENTS)
def test_help_is_the_scripts_own_description(name):
    module = import_module(name)
    assert module.arguments().format_help().count(module.__doc__.strip()) == 1


@pytest.mark.parametrize(
    ("script", "options", "named"),
    [
        ("compare_batches.py", ["--rows", "4,17"], "no number of rows is named '17'"),
        ("compare_batches.py", ["--python", "nothing=python"], "no engine is named 'nothing'"),
        ("compare_batches.py", ["--prompt-tokens", "4"], "8 tokens"),
        ("compare_commits.py", ["--base", "no-such-commit"], "no-such-commit"),
        ("compare_commits.py", ["--base", "HEAD", "--pairs", "other"], "other"),
        ("compare_peers.py", ["--model", "/nowhere"], "/nowhere"),
        ("compare_peers.py", ["--max-tokens", "1"], "--max-tokens"),
        ("compare_peers.py", ["--synthetic", "e2b", "--engines", "ours,nothing"], "no engine is named 'nothing'"),
        ("gpu_table.py", ["/nowhere/gpu.json"], "/nowhere/gpu.json"),
        ("gpu_table.py", [__file__], "was not written by measure_gpu.py"),
        ("measure_buckets.py", ["--model", "/nowhere"], "/nowhere"),
        ("measure_gpu.py", ["--pairs", "int3"], "int3"),
        ("measure_gpu.py", ["--json", "/nowhere/gpu.json"], "/nowhere"),
        ("measure_grammar.py", ["--model", "/nowhere"], "/nowhere"),
        ("measure_look_ahead.py", ["--model", "/nowhere"], "/nowhere"),
        ("measure_many_requests.py", ["--model", "/nowhere"], "/nowhere"),
        ("measure_picture_memory.py", ["--scale", "3"], "scale"),
        ("measure_quantized_cache.py", ["--model", "/nowhere"], "/nowhere"),
        ("measure_quantized_cache.py", ["--group-size", "64"], "does not divide the head dimension 96"),
        ("measure_server.py", ["--model", "/nowhere"], "/nowhere"),
        ("round_parts.py", ["--model", "/nowhere"], "/nowhere"),
        ("stress_server.py", ["--prefix-cache", "much"], "prefix_cache_bytes is 'much', expected a size"),
        ("stress_server.py", ["--model", "/nowhere"], "/nowhere"),
        ("synthetic.py", ["e2b", "--scale", "3", "--out", "/nowhere"], "scale"),
        ("tiny_pair/measure.py", ["--heldout", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(script, options, named, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(TOOLS / "tiny_pair")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / script), run_name="__main__")
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        ("compare_peers.py", "--turns", "0"),
        ("compare_peers.py", "--acceptance", "1.5"),
        ("measure_gpu.py", "--budget", "long"),
        ("tiny_pair/data.py", "--package", "/nowhere"),
        ("tiny_pair/train_tokenizer.py", "--work", "/nowhere"),
        ("tiny_pair/train_tokenizer.py", "--work", "/"),
        ("tiny_pair/train_target.py", "--work", "/nowhere"),
        ("tiny_pair/train_assistant.py", "--target", "/nowhere"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(script, option, value, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, option, value])
    monkeypatch.syspath_prepend(TOOLS / "tiny_pair")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / script), run_name="__main__")
    assert ended.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.fixture
def tiny_pair_without_pytorch(monkeypatch, tmp_path):
    """The folder of what trains the tiny pair, in a process that has no PyTorch; a corpus, a tokenizer and a target."""
    for file in ("corpus.json", "tokenizer.json", "config.json"):
        (tmp_path / file).write_text("{}")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.syspath_prepend(TOOLS / "tiny_pair")
    return TOOLS / "tiny_pair"


@pytest.mark.parametrize("script", ["train_target.py", "train_assistant.py", "train_tokenizer.py", "data.py"])
def test_what_trains_the_tiny_pair_explains_itself_without_pytorch(
    script, tiny_pair_without_pytorch, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tiny_pair_without_pytorch / script), run_name="__main__")
    assert not ended.value.code
    assert "--work" in capsys.readouterr().out


@pytest.mark.parametrize(("script", "folder"), [("train_target.py", "--out"), ("train_assistant.py", "--target")])
def test_training_says_that_it_needs_pytorch(script, folder, tiny_pair_without_pytorch, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--work", str(tmp_path), folder, str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tiny_pair_without_pytorch / script), run_name="__main__")
    assert ended.value.code == 2
    assert "error: training needs PyTorch: pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("round_parts.py", ["--rounds", "2", "--turns", "1"], "times the sum"),
        (
            "measure_look_ahead.py",
            ["--tokens", "8", "--turns", "1", "--drafts", "2"],
            "same tokens and cache length: yes",
        ),
        ("measure_slots.py", ["--rows", "3", "--tokens", "40", "--turns", "1"], "same tokens: yes"),
    ],
)
def test_what_measures_rounds_goes_along_with_the_engine(script, options, said, monkeypatch, capsys):
    """Eager, where nobody asks for more."""
    monkeypatch.setattr("mlx_gemma4_assist.engine.engine.CompiledSteps", lambda _: pytest.fail("compiles"))
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / script), run_name="__main__")
    assert not ended.value.code
    assert said in capsys.readouterr().out


WORKER = """
import sys, time
sys.path.insert(0, {tools!r})
from workers import serve
def answer(request):
    print("this is no answer")
    if request["do"] == "end":
        sys.exit(3)
    if request["do"] == "wait":
        time.sleep(60)
    return {{"double": 2 * request["number"]}}
serve(lambda: ({{"ready": True}}, answer))
"""


@pytest.fixture
def worker():
    process = workers.Worker([sys.executable, "-c", WORKER.format(tools=str(TOOLS))])
    yield process
    process.close()


def test_a_worker_answers_and_survives_an_error(worker):
    assert worker.started == {"ready": True}
    assert worker.ask({"do": "count", "number": 4}) == {"double": 8}
    with pytest.raises(workers.Failed, match="KeyError: 'number'"):
        worker.ask({"do": "count"})
    assert worker.ask({"do": "count", "number": 5}, seconds=60) == {"double": 10}
    assert worker.alive


@pytest.mark.parametrize(("does", "message"), [("end", "the process has ended"), ("wait", "no answer within 0 s")])
def test_a_worker_that_is_lost_is_an_error_not_a_wait(worker, does, message):
    with pytest.raises(workers.Failed, match=message):
        worker.ask({"do": does, "number": 1}, seconds=0.3 if does == "wait" else 60)
    worker.close()
    assert not worker.alive
    with pytest.raises(ValueError, match="closed"):
        worker.ask({"do": "count", "number": 1})


def test_a_program_that_is_not_there_cannot_be_started():
    with pytest.raises(workers.Failed, match="cannot start /nowhere/python"):
        workers.Worker(["/nowhere/python"])


def answered(speed: float, tokens: tuple[int, ...] = (1, 2, 3)) -> dict:
    return {"tokens_per_second": speed, "first": 1 / speed, "peak_memory": 10, "tokens": list(tokens)}


def test_a_commit_is_judged_by_the_median_of_turns():
    """Twice as slow as the other in one turn of three does not matter; another text does."""
    turns = [compare_commits.Turn(answered(10), answered(speed), 0.5) for speed in (5, 9.9, 10.2)]
    row = compare_commits.Row.of(turns)
    assert row.speed.median == pytest.approx(0.99)
    assert row.first.median == pytest.approx(0.99)
    plain = compare_commits.Case("embedded", 0, False)
    assert row.complaint(plain, 0.98) is None
    assert row.complaint(plain, 0.995) == "below 0.995"
    assert row.complaint(plain._replace(drafts="auto"), 0.995) is None
    other = compare_commits.Row.of([compare_commits.Turn(answered(10), answered(20, (1, 2, 4)), 0.5)])
    assert other.complaint(plain, 0.98) == "another text"


def worktrees() -> set[str]:
    listed = subprocess.run(["git", "-C", ROOT, "worktree", "list"], capture_output=True, text=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@pytest.mark.skipif(not worktrees(), reason="not a git repository")
def test_two_commits_beside_each_other(tmp_path):
    before = worktrees()
    options = "--base HEAD --pairs large --scale 0.02 --layers 10 --compile off --turns 1 --large-tokens 8 --starts 0"
    file = tmp_path / "out.json"
    options += f" --least 1000 --work {tmp_path} --json {file}"
    done = run("compare_commits.py", *options.split())
    assert done.returncode == 1, done.stderr
    found = json.loads(file.read_text())
    assert [case["judged"] for case in found["cases"]] == [True, True, False]
    assert all(case["same_text"] for case in found["cases"])
    assert len(found["wrong"]) == 2
    assert (tmp_path / "e2b-0.02-10-layers-assistant" / "model.safetensors").is_file()
    assert worktrees() <= before


def test_a_table_of_a_gpu_on_the_cpu(tmp_path):
    file = tmp_path / "gpu.json"
    options = "--scale small --budget 100 --pairs bfloat16 --compile off --turns 1 --prompt-tokens 16 --tokens 5"
    done = run("measure_gpu.py", *options.split(), "--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["pairs"]["bfloat16"]["backend"] == "CPU"
    names = [case["case"] for case in found["cases"]]
    assert names[:4] == ["plain, eager", "3 drafts, eager", "first of 16, eager", "auto drafts, eager"]
    assert "look-ahead, 3 drafts, eager" in names or found["left_out"]
    assert all(answer["same_text"] for case in found["cases"] for turn in case["turns"] for answer in turn)
    assert done.stdout.count("tokens/s") + done.stdout.count(" ms ") == len(names)
    assert [row.split(",")[0] for row in gpu_table.speeds(found)[2:]] == [f"| {name.split(',')[0]}" for name in names]


def test_a_gpu_that_is_too_slow_leaves_what_it_had(tmp_path):
    file = tmp_path / "gpu.json"
    done = run("measure_gpu.py", "--scale", "small", "--budget", "1", "--pairs", "nvfp4", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert [left["case"] for left in json.loads(file.read_text())["left_out"]] == ["all"]


@pytest.fixture(scope="module")
def float32():
    return gpu_worker.Measure(gpu_worker.Settings("float32", 0.02, 10, 0.8))


def test_texts_with_drafts_are_compared_with_the_plain_one(float32, monkeypatch):
    monkeypatch.setattr(gpu_worker, "EXACT_TOKENS", 24)
    found = float32.answer(gpu_worker.Request("exact", drafts=3))
    assert found["equal"]
    assert [text["tokens"] for text in found["texts"]] == [24, 24]
    assert min(text["distinct"] for text in found["texts"]) > 10


def test_the_compared_text_depends_on_all_of_the_prompt(float32, monkeypatch):
    """Else a cache that has forgotten something would write it too."""
    whole = float32._ours(gpu_worker.Request("text", tokens=16), None)[0].tokens
    prompt_of = gpu_worker.prompt_of
    monkeypatch.setattr(gpu_worker, "prompt_of", lambda length: [2, 300, *prompt_of(length)[2:]])
    assert float32._ours(gpu_worker.Request("text", tokens=16), None)[0].tokens != whole
