"""The generate command as a user runs it: the embedded pair, bad input, interruption."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from support.commands import runner
from support.interrupts import hear_ctrl_c, ignoring_ctrl_c
from support.paths import ASSETS, GOLDENS, ROOT

import mlx_gemma4_assist
from mlx_gemma4_assist.commands.doors import COMMANDS

COMMAND = (sys.executable, "-m", "mlx_gemma4_assist.generate")
PROMPT = "It was a fine morning, and"
GOLDEN = GOLDENS / "e2b"


def process(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process."""
    run = runner(monkeypatch, capsys)
    return lambda *arguments, **options: run("generate", *arguments, **options)


def test_the_embedded_pair_answers():
    # As many as are learned may be none, where plain rounds are faster.
    done = process("--prompt", PROMPT, "--max-tokens", "40", "--num-assistant-tokens", "3")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10
    assert "accepted" in done.stderr
    assert "tokens per round" in done.stderr
    assert "Peak memory" in done.stderr
    assert "RuntimeWarning" not in done.stderr


def test_the_first_command_of_the_readme(command):
    """It shows a paragraph, and what drafts did for it."""
    line = re.search(r"python -m mlx_gemma4_assist\.generate (.*)", (ROOT / "README.md").read_text())[1]
    done = command(*shlex.split(line))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 40
    assert float(re.search(r"([\d.]+) tokens per round", done.stderr)[1]) > 2


def test_the_readme_says_what_it_takes():
    said = (ROOT / "README.md").read_text()
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    for words in (f"Python {least} or newer", "macOS", "python3 -m venv", "about 10 GB", "~/.cache/huggingface"):
        assert words in said


@pytest.mark.parametrize(("flags", "files"), [((), 1), (("--no-learned",), 0)])
def test_what_is_learned_is_kept_unless_told(tmp_path, monkeypatch, flags, files):
    """In the folder that the README names, and nothing else anywhere below the home folder.

    A run of fewer than 16 rounds teaches too little. 100 tokens are 18 rounds at least: the first eight have one draft
    at most, and none has more than eight.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "MLX_GEMMA4_ASSIST_CACHE"):
        monkeypatch.delenv(name, raising=False)
    done = process("--prompt", PROMPT, "--ignore-chat-template", "--max-tokens", "100", *flags)
    assert done.returncode == 0, done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in kept] == [tmp_path / ".cache" / "mlx_gemma4_assist"] * files


def test_an_assistant_that_drafts_nothing_is_spoken_of(command):
    one = command("--prompt", PROMPT, "--max-tokens", "1")  # the first token never has drafts
    assert "Drafts: none; the text is too short" in one.stderr
    assert "Generation: 1 token, " in one.stderr
    many = command("--prompt", PROMPT, "--max-tokens", "8", "--num-assistant-tokens", "0")
    assert "Drafts: none; --num-assistant-tokens 0 asks for none" in many.stderr
    assert "Drafts" not in command("--prompt", PROMPT, "--max-tokens", "1", "--assistant-model", "none").stderr


def test_one_place_is_no_range(command):
    for drafts, where in (("1", " at place 1), "), ("2", " at places 1 to 2), ")):
        assert where in command("--prompt", PROMPT, "--max-tokens", "6", "--num-assistant-tokens", drafts).stderr


def test_json_and_the_assistant_change_nothing(command):
    arguments = ("--prompt", PROMPT, "--ignore-chat-template", "--max-tokens", "60", "--json")
    assisted = json.loads(command(*arguments, "--num-assistant-tokens", "3").stdout)
    plain = json.loads(command(*arguments, "--assistant-model", "none").stdout)
    assert assisted["tokens"] == plain["tokens"]
    assert assisted["text"] == plain["text"]
    assert len(assisted["tokens"]) == assisted["generation_tokens"]
    assert assisted["accepted"] == sum(assisted["accepted_at"]) > 0
    assert assisted["rounds"] < plain["rounds"]
    assert plain["drafted"] == 0


def test_biases_and_log_probabilities(command):
    arguments = ("--prompt", PROMPT, "--max-tokens", "6", "--json", "--top-logprobs", "2")
    plain = json.loads(command(*arguments).stdout)
    assert [each["token"] for each in plain["logprobs"]] == plain["tokens"]
    for each in plain["logprobs"]:
        first, second = each["top_logprobs"]
        assert (first["token"], first["logprob"]) == (each["token"], each["logprob"])
        assert second["logprob"] <= first["logprob"] <= 0
    never = plain["tokens"][0]
    biased = json.loads(command(*arguments, "--logit-bias", f"{never}=-100", "--presence-penalty", "2").stdout)
    assert never not in biased["tokens"]


def test_standard_input_messages_and_stop(command, tmp_path):
    arguments = ("--max-tokens", "30", "--json")
    by_option = json.loads(command("--prompt", PROMPT, *arguments).stdout)
    by_stdin = json.loads(command("--prompt", "-", *arguments, stdin=PROMPT.encode()).stdout)
    (tmp_path / "messages.json").write_text(json.dumps([{"role": "user", "content": PROMPT}]))
    by_messages = json.loads(command("--messages", str(tmp_path / "messages.json"), *arguments).stdout)
    assert by_option["tokens"] == by_stdin["tokens"] == by_messages["tokens"]
    stop = by_option["text"][3:6]
    stopped = json.loads(command("--prompt", PROMPT, *arguments, "--stop", stop).stdout)
    assert stopped["text"] == by_option["text"][: by_option["text"].find(stop)]
    assert stopped["finish_reason"] == "stop"


def test_a_seed_repeats(command):
    """In another process too."""
    arguments = ("--prompt", PROMPT, "--temp", "1", "--top-k", "50", "--max-tokens", "30", "--json")
    runs = ((command, "1"), (process, "1"), (command, "2"))
    texts = [json.loads(run(*arguments, "--seed", seed).stdout)["text"] for run, seed in runs]
    assert texts[0] == texts[1] != texts[2]


def corrupted(folder: Path, cut: int) -> str:
    folder.mkdir()
    for file in (ASSETS / "tiny").iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[:cut] if file.suffix == ".safetensors" else content)
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--prompt or --messages"),
        (("--prompt", ""), "prompt is empty"),
        (("--prompt", "x" * 30_000), "the model's context is"),
        (("--prompt", "a", "--temp", "-1"), "--temp is -1"),
        (("--prompt", "a", "--max-tokens", "0"), "--max-tokens is 0"),
        (("--prompt", "a", "--max-tokens", "many"), "--max-tokens"),
        (("--prompt", "a", "--num-assistant-tokens", "-2"), "--num-assistant-tokens is -2"),
        (("--prompt", "a", "--no-such-option"), "--no-such-option"),
        (("--prompt", "a", "--model", "./no/such/folder"), "no/such/folder"),
        (("--prompt", "a", "--model", str(GOLDEN)), "has no"),
        (("--prompt", "a", "--model", str(GOLDEN / "assistant"), "--assistant-model", "none"), "tokenizer.json"),
        (("--prompt", "a", "--assistant-model", str(GOLDEN / "assistant")), "does not belong to this target"),
        (("--prompt", "a", "--assistant-model", str(GOLDEN / "target")), "not a Gemma 4 assistant"),
        (("--prompt", "a", "--assistant-model", "none", "--num-assistant-tokens", "2"), "no assistant"),
        (("--messages", str(ROOT / "pyproject.toml")), "not valid JSON"),
        (("--prompt", "a", "--dtype", "float8"), "float8"),
    ],
)
def test_bad_input_gets_one_line(command, arguments, message):
    assert_one_line(command(*arguments), message)


def test_a_model_that_is_not_there_gets_one_line():
    """Where the Hub may not be asked, which its library wants to know when it is imported."""
    assert_one_line(process("--prompt", "a", "--model", "google/gemma-4-E2B-it"), "google/gemma-4-E2B-it")


def assert_one_line(done, message):
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("The embedded")]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert done.stdout == ""


@pytest.mark.parametrize("cut", [4, 100, 1_000_000])
def test_truncated_weights(command, tmp_path, cut):
    done = command("--prompt", "a", "--model", corrupted(tmp_path / "cut", cut), "--assistant-model", "none")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "model.safetensors" in done.stderr


def test_interrupted(tmp_path):
    """Ctrl-C keeps what was printed and prints the statistics."""
    words = ["--prompt", PROMPT, "--ignore-chat-template", "--max-tokens", "4000", "--temp", "1", "--seed", "3"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ignoring_ctrl_c():
        started = subprocess.Popen([*COMMAND, *words], **pipes, preexec_fn=hear_ctrl_c)
    first = started.stdout.read(20)
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130, errors
    assert len(first) == 20
    assert "Generation:" in errors
    assert "Traceback" not in errors


def test_help_is_quick_and_needs_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlx_gemma4_assist.generate", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "--num-assistant-tokens" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"transformers", "mlx_lm", "torch", "huggingface_hub"}


def test_public_names():
    assert callable(mlx_gemma4_assist.generate)
    assert [name for name in mlx_gemma4_assist.__all__ if not hasattr(mlx_gemma4_assist, name)] == []


@pytest.mark.parametrize("place", [1, -1])
def test_a_door_that_is_imported_does_not_hide_its_function(place):
    """Whichever is asked for first."""
    code = "import mlx_gemma4_assist as m\n"
    for name in ("generate", "convert"):
        code += "\n".join([f"import mlx_gemma4_assist.{name}", f"m.{name}"][::place])
        code += f"\nprint(m.{name}.__module__)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["mlx_gemma4_assist.api", "mlx_gemma4_assist.conversion.convert"], done.stderr


def test_every_command_has_a_door(monkeypatch, capsys):
    """By itself, and among all of them; its help names the way it was called by."""
    run = runner(monkeypatch, capsys)
    for name in COMMANDS:
        words = [sys.executable, "-m", f"mlx_gemma4_assist.{name}", "--help"]
        own = subprocess.run(words, capture_output=True, text=True, timeout=60)
        shared = run(name, "--help")
        assert own.returncode == shared.returncode == 0, own.stderr + shared.stderr
        assert f"Usage: python -m mlx_gemma4_assist.{name} " in own.stdout
        assert f"Usage: python -m mlx_gemma4_assist {name} " in shared.stdout
        assert own.stdout.split("\n", 2)[2] == shared.stdout.split("\n", 2)[2]


def test_the_console_script_is_in_the_readme():
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert script == {"mlx-gemma4-assist": "mlx_gemma4_assist.__main__:main"}
    assert "`mlx-gemma4-assist generate`" in (ROOT / "README.md").read_text()


def test_version():
    done = subprocess.run([sys.executable, "-m", "mlx_gemma4_assist", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"mlx_gemma4_assist {mlx_gemma4_assist.__version__}\n"), done.stderr
