"""The warning before weights are read that they and the conversation do not fit in this machine's memory."""

import json
import re
import shutil
import sys

import mlx.core as mx
import pytest
from support import checkpoints as small
from support.paths import ASSETS, GOLDENS

from mlx_gemma4_assist import InputError, Pair, Processor
from mlx_gemma4_assist.cache.quantization import KVQuantization
from mlx_gemma4_assist.checkpoints.loading import held
from mlx_gemma4_assist.commands import benchmark, chat, generate, loading, parity
from mlx_gemma4_assist.commands.run import run_one
from mlx_gemma4_assist.conversion.convert import convert
from mlx_gemma4_assist.engine import pair as pairs
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.machine import doctor
from mlx_gemma4_assist.machine.memory import context_bytes
from mlx_gemma4_assist.machine.room import memory_warning
from mlx_gemma4_assist.models.network import named_parameters

E2B = GOLDENS / "e2b"
LOADING = {"generate": generate, "chat": chat, "parity": parity, "benchmark": benchmark}
CONTEXT = 4096  # all that the golden target has


def machine(usable: float) -> doctor.Machine:
    return doctor.Machine("small", "x86_64", None, False, int(usable), int(usable))


def in_memory(network) -> int:
    return sum(array.nbytes for array in named_parameters(network).values())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_is_held_is_what_is_loaded(dtype):
    """The golden target's file has tensors that are never loaded, too."""
    pair = Pair.load(E2B / "target", E2B / "assistant", dtype=dtype)
    assert held(pair.target, E2B / "target", dtype) == (in_memory(pair.target), pair.dtype)
    assert held(pair.assistant, E2B / "assistant", dtype).nbytes == in_memory(pair.assistant)
    assert in_memory(pair.target) < (E2B / "target" / "model.safetensors").stat().st_size / (2 if dtype else 1)


@pytest.mark.parametrize("mode", ["affine", "mxfp8"])
def test_what_a_quantized_pair_holds(tmp_path, mode):
    folders = tmp_path / "mlx", tmp_path / "mlx-assistant"
    convert("tiny", folders[0], quantize=True, q_mode=mode, q_bits=8, q_group_size=32, dtype="bfloat16", check=False)
    pair = Pair.load(folders[0])
    assert held(pair.target, folders[0]) == (in_memory(pair.target), mx.bfloat16)
    assert held(pair.assistant, folders[1]).nbytes == in_memory(pair.assistant)


def test_towers_are_not_held(tmp_path):
    target = small.target("31B")
    weights = small.randomize(target)
    folder = small.save(tmp_path, small.full_config("31B"), small.as_google_full(weights))
    assert held(target, folder).nbytes == sum(array.nbytes for array in weights.values())


def limits(dtype: str | None, tokens: int) -> tuple[int, int]:
    """What the golden pair's weights take, and with them the keys and values of so many tokens."""
    pair = Pair.load(E2B / "target", E2B / "assistant", dtype=dtype)
    weights = in_memory(pair.target) + in_memory(pair.assistant)
    return weights, weights + context_bytes(pair.target.config, tokens).keys_values * pair.dtype.size // 2


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize(("tokens", "asked"), [(1000, 1000), (None, CONTEXT), (10**9, CONTEXT)])
def test_the_figures(dtype, tokens, asked):
    weights, both = limits(dtype, asked)

    def said(usable: int) -> str | None:
        return memory_warning(machine(usable), E2B / "target", E2B / "assistant", dtype, tokens)

    assert said(both) is None
    warning = said(both - 1)
    assert f"weights of {doctor.readable(weights)} and {doctor.readable(both - weights)} of keys" in warning
    assert f"for {asked:,} tokens are more than the {doctor.readable(both)} that MLX may use" in warning
    fitting = int(re.search(r"room for about ([\d,]+) tokens", warning)[1].replace(",", ""))
    assert fitting == asked - 1
    assert said(weights).endswith("room for about 0 tokens")
    assert f"the weights take {doctor.readable(weights)}, more than the" in said(weights - 1)


@pytest.mark.parametrize("start", [0, 100])
def test_quantized_keys_take_less(start):
    how, config = KVQuantization(4, 32, start), Pair.load(E2B / "target", "none").target.config
    dense, packed = (context_bytes(config, 1000, each, mx.float32).keys_values for each in (None, how))
    both = limits(None, 1000)[0] + packed
    figures = E2B / "target", E2B / "assistant", None, 1000
    assert packed < dense
    assert memory_warning(machine(both), *figures, how) is None
    assert memory_warning(machine(both), *figures) is not None
    warning = memory_warning(machine(both - 1), *figures, how)
    assert warning.endswith("room for about 999 tokens")
    assert f"{doctor.readable(packed)} of keys" in warning


def test_an_assistant_is_counted():
    alone, both = (memory_warning(machine(1e4), E2B / "target", each) for each in (None, E2B / "assistant"))
    assert alone != both


INTRODUCED = (  # by a chat
    "The embedded tiny pair answers, from Jane Austen's novels.\n--model google/gemma-4-E2B-it is a real one.\n"
)


@pytest.fixture
def said_before_loading(monkeypatch, capsys):
    """What a command says on a machine of so many bytes before it reads weights, which it never does."""

    def run(name: str, *arguments: str, usable: float = 1e5) -> str:
        monkeypatch.setattr(doctor, "this_machine", lambda: machine(usable))
        monkeypatch.setattr(pairs, "load_model", lambda *_, **__: (_ for _ in ()).throw(InputError("weights are read")))
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit):
            run_one(vars(LOADING[name])[name])
        said = capsys.readouterr().err
        error = (
            "error: the model could not be loaded: weights are read\n"
            if name == "chat"
            else "error: weights are read\n"
        )
        assert said.endswith(error)
        return said.removesuffix(error).removeprefix(INTRODUCED)

    return run


@pytest.mark.parametrize("name", LOADING)
def test_every_command_warns_in_one_line(said_before_loading, name):
    arguments = ("--dtype", "float32", *(("--prompt", "hello") if name in ("generate", "chat") else ()))
    said = said_before_loading(name, *arguments)
    assert said.startswith("Warning: the weights take ")
    assert "more than the 0.1 MB that MLX may use on this machine" in said
    assert said.count("\n") == 1
    assert said_before_loading(name, *arguments, usable=1e12) == ""


SHORT, LONG = "the sea " * 20, "the sea " * 60


@pytest.mark.parametrize(
    ("name", "arguments", "messages", "made"),
    [
        ("generate", ("--prompt", SHORT), [[SHORT]], 50),
        ("generate", ("--prompt", SHORT, "--system-prompt", LONG), [[SHORT, LONG]], 50),
        ("parity", ("--prompt-file", "PROMPTS", "--num-prompts", "1"), [[SHORT]], 50),
        ("parity", ("--prompt-file", "PROMPTS"), [[SHORT], [LONG]], 50),
        ("benchmark", ("--prompt-file", "PROMPTS"), [[f"{SHORT}\n\n{LONG}"]], 50),
    ],
)
def test_the_context_is_what_prompt_and_text_take(said_before_loading, tmp_path, name, arguments, messages, made):
    (tmp_path / "prompts.txt").write_text(f"{SHORT}\n\n{LONG}")
    processor = Processor.from_pretrained(ASSETS / "tiny")
    lengths = [len(processor.encode(conversation(*texts))) for texts in messages]
    arguments = [str(tmp_path / "prompts.txt") if each == "PROMPTS" else each for each in arguments]
    said = said_before_loading(
        name, *arguments, "--max-tokens", str(made), "--dtype", "float32", usable=weights_of_the_embedded_pair()
    )
    assert f"for {max(lengths) + made:,} tokens are more than" in said


def conversation(text, system=None):
    beginning = [] if system is None else [{"role": "system", "content": system.strip()}]
    return [*beginning, {"role": "user", "content": text.strip()}]


def weights_of_the_embedded_pair() -> int:
    pair = Pair.load("tiny")
    return in_memory(pair.target) + in_memory(pair.assistant)


def test_a_chats_context_is_all_that_the_model_has(said_before_loading):
    context = json.loads((ASSETS / "tiny" / "config.json").read_text())["max_position_embeddings"]
    said = said_before_loading("chat", "--prompt", "hello", "--max-tokens", "7", usable=weights_of_the_embedded_pair())
    assert f"for {context:,} tokens are more than" in said


def test_what_is_damaged_is_said_by_who_loads_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "this_machine", lambda: machine(1))
    shutil.copytree(ASSETS / "tiny", tmp_path / "damaged")
    checkpoint = Checkpoint.open(tmp_path / "damaged", "none")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"{")
    with pytest.raises(InputError, match="damaged"):
        loading.load_pair(checkpoint)
    assert capsys.readouterr().err == ""
