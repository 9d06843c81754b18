"""What commands say while they load, what they are about to do, and where their defaults come from."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
from support.paths import ASSETS

from mlx_gemma4_assist import GenerationOptions, InputError, Pair
from mlx_gemma4_assist.commands import chat, chat_opening, generate, loading, streams
from mlx_gemma4_assist.commands.options import ModelChoice
from mlx_gemma4_assist.engine.pair import Checkpoint


@pytest.fixture(scope="module")
def tiny():
    return Pair.load("tiny")


@pytest.fixture
def sampled(tmp_path):
    """A checkpoint whose generation_config.json has the given values."""

    def save(**values):
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    return save


GEMMA = {"do_sample": True, "temperature": 0.9, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 106]}


def test_sampling_of_a_checkpoint(sampled):
    assert loading.checkpoint_sampling(sampled(**GEMMA)) == {"temperature": 0.9, "top_k": 64, "top_p": 0.95}
    assert loading.checkpoint_sampling(sampled(do_sample=True)) == {"temperature": 1.0}
    assert loading.checkpoint_sampling(sampled(do_sample=True, top_k=None)) == {"temperature": 1.0}
    assert loading.checkpoint_sampling(sampled(temperature=0.5)) == {}
    assert loading.checkpoint_sampling("tiny") == {}
    for wrong in ({"temperature": -1}, {"top_k": "many"}, {"top_p": [1]}, {"min_p": 7}):
        with pytest.raises(InputError, match=rf"generation_config\.json: {next(iter(wrong))} is"):
            loading.checkpoint_sampling(sampled(do_sample=True, **wrong))


@pytest.fixture
def options_of_chat(tiny, monkeypatch, capsys):
    """The options that a chat begins with, as it lists them."""

    def options(**arguments):
        monkeypatch.setattr(chat_opening, "load_pair", lambda *_: tiny)
        monkeypatch.setattr(sys, "stdin", io.StringIO("/set\n"))
        assert chat.chat(**arguments, learned=False) == 0
        rows = (line[2:].split() for line in capsys.readouterr().err.splitlines() if line[:2] in ("* ", "  "))
        return {row[0]: row[1] for row in rows}

    return options


def test_a_chat_draws_as_its_checkpoint_says(options_of_chat, tmp_path):
    def drawn(options):
        return tuple(float(options[name]) for name in ("temp", "top-k", "top-p", "min-p"))

    folder = str(shutil.copytree(ASSETS / "tiny", tmp_path / "model"))
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(GEMMA))
    named = {"model": folder, "assistant_model": "tiny-assistant"}
    assert drawn(options_of_chat(**named)) == (0.9, 64, 0.95, 0)
    assert drawn(options_of_chat(**named, temperature=0.5, top_k=0)) == (0.5, 0, 0.95, 0)
    assert drawn(options_of_chat(**named, temperature=0.0))[0] == 0
    assert drawn(options_of_chat(model="tiny")) == (0, 0, 1, 0)
    assert options_of_chat(**named, draft_temperature=0.7)["draft-temperature"] == "0.7"
    with pytest.raises(InputError, match="draft_temperature needs a temperature above 0"):
        options_of_chat(model="tiny", draft_temperature=0.7)


@dataclass
class Last:
    finish_reason: str | None
    prompt_tokens: int
    generation_tokens: int


def test_why_a_text_ended():
    assert loading.cut_off(Last("length", 10, 5), 100, 5) == "cut off by --max-tokens"
    assert loading.cut_off(Last("length", 95, 5), 100, 5) == "the context is full"
    assert loading.cut_off(Last("length", 10, 5), 100, 6) == "the memory is full"
    assert loading.cut_off(Last("stop", 95, 5), 100, 5) == ""


def test_header(tiny):
    greedy = loading.header(tiny, ModelChoice(), GenerationOptions())
    assert greedy == "tiny, assistant tiny-assistant; float32; greedy"
    drawn = GenerationOptions(temperature=0.7, top_k=64, top_p=0.95)
    alone = loading.header(Pair(tiny.target), ModelChoice(assistant_model="none"), drawn)
    assert alone == "tiny, no assistant; float32; temperature 0.7, top-p 0.95, top-k 64, min-p 0"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_only_a_terminal_is_shown_the_header(tiny, monkeypatch):
    for stream, expected in ((io.StringIO(), ""), (Terminal(), "tiny, assistant tiny-assistant; float32; greedy\n")):
        monkeypatch.setattr(sys, "stderr", stream)
        loading.introduce(tiny, ModelChoice(), GenerationOptions())
        assert stream.getvalue() == expected


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize(("patience", "said"), [(30, ""), (0.05, "Loading tiny ...\n")])
def test_slow_loading_is_spoken_of(tiny, monkeypatch, patience, said, stream):
    """Sooner to a person at a terminal."""
    assert loading.PATIENCE < loading.PATIENCE_OF_LOGS
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(loading, "PATIENCE" if stream is Terminal else "PATIENCE_OF_LOGS", patience)
    checkpoint = Checkpoint.open("tiny")
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: time.sleep(0.5 if said else 0.1) or tiny)
    assert loading.load_pair(checkpoint) is tiny
    assert sys.stderr.getvalue() == said


@pytest.mark.parametrize(
    ("environment", "moves", "styles"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_terminals_get_what_they_want(tiny, monkeypatch, environment, moves, styles):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (streams.moves_cursor(Terminal()), streams.has_styles(Terminal())) == (moves, styles)
    assert not streams.moves_cursor(io.StringIO())


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="MLX asks for g++ on Linux only")
@pytest.mark.parametrize("call", ["load('tiny')", "load_assistant('tiny-assistant')"])
def test_mlx_looks_for_its_compiler_while_loading(tmp_path, call):
    """Not in the first forward, which Ctrl-C must reach; whoever loads, commands too."""
    (tmp_path / "g++").write_text(f'#!/bin/sh\necho asked >> {tmp_path}/log\nexec {shutil.which("g++")} "$@"\n')
    (tmp_path / "g++").chmod(0o755)
    code = f"from mlx_gemma4_assist import load, load_assistant; {call}"
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert (tmp_path / "log").read_text().startswith("asked")


def test_a_command_begins_with_the_header(tiny, monkeypatch):
    monkeypatch.setattr(generate, "load_pair", lambda *_: tiny)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert generate.generate(prompt="a", max_tokens=1, learned=False) == 0
    assert "\ntiny, assistant tiny-assistant; float32; greedy\n" in sys.stderr.getvalue()


def test_generate_says_why_a_text_ended(tiny, monkeypatch, capsys):
    monkeypatch.setattr(generate, "load_pair", lambda *_: tiny)
    generate.generate(prompt="a", max_tokens=1, learned=False)
    assert "\nThe text ends here: cut off by --max-tokens\n" in capsys.readouterr().err
    monkeypatch.setattr(tiny.target, "config", replace(tiny.target.config, max_position_embeddings=64))
    generate.generate(prompt="the " * 40, ignore_chat_template=True, max_tokens=200, learned=False)
    assert "\nThe text ends here: the context is full\n" in capsys.readouterr().err
