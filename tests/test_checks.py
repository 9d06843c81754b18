"""Every command refuses what it can know to be wrong before it loads anything, in the words that were typed."""

import shutil
import sys

import pytest
from support.paths import ASSETS, GOLDENS, PHOTO

from mlx_gemma4_assist import InputError, Pair, backend
from mlx_gemma4_assist.checkpoints import loading as checkpoints
from mlx_gemma4_assist.commands import benchmark, chat, chat_opening, generate, loading, parity
from mlx_gemma4_assist.commands.run import run_one
from mlx_gemma4_assist.engine import pair as pairs

COMMANDS = {"generate": generate, "chat": chat, "parity": parity, "benchmark": benchmark}
LOADING = COMMANDS | {"chat": chat_opening}  # whose function opens checkpoints
ALL = [
    (["--dtype", "float8"], "--dtype is 'float8', expected float32, bfloat16, float16"),
    (["--dtype", ""], "--dtype is '', expected float32"),
    (["--max-tokens", "0"], "--max-tokens is 0"),
]
GENERATING = [
    (["--assistant-model", "none", "--num-assistant-tokens", "2"], "--num-assistant-tokens is 2, but there is no"),
    (["--draft-temperature", "1"], "--draft-temperature needs a --temp above 0"),
    (["--prefill-step-size", "0"], "--prefill-step-size is 0"),
]
WRONG = {
    "generate": [
        *ALL,
        *GENERATING,
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "", "--ignore-chat-template"], "the prompt is empty"),
        (["--image", "no/such.png"], "there is no file no/such.png"),
        (["--max-soft-tokens", "70"], "--max-soft-tokens is for pictures"),
        (["--image", __file__, "--max-soft-tokens", "71"], "--max-soft-tokens is 71"),
        (["--stop", ""], "--stop is"),
        (["--compile"], "--compile needs the C++ compiler g++"),
    ],
    "chat": [
        *ALL,
        *GENERATING,
        (["--prompt", " "], "the prompt is empty"),
        (["--image", "no/such.png"], "there is no file no/such.png"),
        (["--stop", ""], "--stop is"),
        (["--compile"], "--compile needs the C++ compiler g++"),
    ],
    "parity": [
        *ALL,
        (["--assistant-model", "none"], "--assistant-model is none"),
        (["--num-assistant-tokens", "0"], "--num-assistant-tokens is 0"),
        (["--num-prompts", "0"], "--num-prompts is 0"),
        (["--num-samples", "-1"], "--num-samples is -1"),
        (["--ignore-chat-template"], "--ignore-chat-template belongs to --prompt-file"),
        (["--prompt-file", "no/such"], "cannot read no/such"),
        (["--compile"], "--compile needs the C++ compiler g++"),
    ],
    "benchmark": [
        *ALL,
        (["--assistant-model", "none"], "--assistant-model is none"),
        (["--max-tokens", "1"], "--max-tokens is 1, expected 2 or more"),
        (["--draft-lengths", "many"], "--draft-lengths is 'many'"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--plot", "out.gif"], "--plot is out.gif"),
        (["--prompt-file", "no/such"], "cannot read no/such"),
        (["--compile"], "--compile needs the C++ compiler g++"),
    ],
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"), [(name, *each) for name, cases in WRONG.items() for each in cases]
)
def test_nothing_is_loaded(name, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(LOADING[name], "open_checkpoint", lambda *_, **__: pytest.fail("loads"))
    monkeypatch.setattr(backend, "_has_compiler", lambda: False)
    monkeypatch.setattr(backend, "_HAS_GPU", False)
    prompt = ["--prompt", "a"] if name == "generate" and "--prompt" not in arguments else []
    monkeypatch.setattr(sys, "argv", [name, *prompt, *arguments])
    with pytest.raises(SystemExit) as ended:
        run_one(vars(COMMANDS[name])[name])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("assistant", "message"),
    [
        ("no/such/folder", "no folder 'no/such/folder'"),
        (str(GOLDENS / "e2b" / "target"), "not a Gemma 4 assistant"),
        (str(GOLDENS / "e2b" / "assistant"), "does not belong to this target"),
    ],
)
def test_an_assistant_is_refused_before_the_weights_of_its_target_are_read(assistant, message, monkeypatch):
    monkeypatch.setattr(pairs, "load_model", lambda *_, **__: pytest.fail("reads weights"))
    with pytest.raises(InputError, match=message):
        Pair.load("tiny", assistant)


def test_options_that_go_together_are_accepted():
    from mlx_gemma4_assist import GenerationOptions
    from mlx_gemma4_assist.commands.options import ModelChoice

    for dtype in (None, "float32", "bfloat16", "float16"):
        loading.check_choice(ModelChoice(dtype=dtype), GenerationOptions(num_assistant_tokens=2), compares=True)
    loading.check_choice(ModelChoice(assistant_model="none"), GenerationOptions(num_assistant_tokens=0))


# What a prompt lacks


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What words of command lines stand for."""
    folder = tmp_path_factory.mktemp("checks")
    bare = shutil.copytree(ASSETS / "tiny", folder / "bare")
    (bare / "chat_template.jinja").unlink()
    (folder / "long.txt").write_text("word " * 5000)
    (folder / "messages.json").write_text('[{"role": "user", "content": "Hello"}]')
    names = {"BARE": bare, "FILE": folder / "long.txt", "MESSAGES": folder / "messages.json", "PICTURE": PHOTO}
    return {name: str(path) for name, path in names.items()} | {"LONG": "word " * 5000}


TOO_LONG = "tokens, but the model's context is 4096"
NO_TEMPLATE = "the checkpoint has no chat template"
TEXT_ONLY = "tiny is a text model: it takes no pictures, sound or video"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate --prompt LONG", TOO_LONG),
        ("generate --prompt LONG --ignore-chat-template", TOO_LONG),
        ("generate --prompt a --system-prompt LONG", TOO_LONG),
        ("chat --system-prompt LONG", TOO_LONG),
        ("chat --image PICTURE", "tiny takes no picture"),
        ("parity --prompt-file FILE", TOO_LONG),
        ("benchmark --prompt-file FILE", TOO_LONG),
        ("generate --model BARE --messages MESSAGES", NO_TEMPLATE),
        ("generate --model BARE --prompt a --system-prompt b", NO_TEMPLATE),
        ("generate --model BARE --prompt a --enable-thinking", "--enable-thinking needs a conversation and a chat"),
        ("chat --model BARE", NO_TEMPLATE),
        ("benchmark --model BARE --assistant-model tiny-assistant --prompt-file MESSAGES", NO_TEMPLATE),
        ("generate --prompt a --enable-thinking", "chat template knows no --enable-thinking"),
        ("chat --enable-thinking", "chat template knows no --enable-thinking"),
        ("generate --prompt a --image PICTURE", TEXT_ONLY),
        ("generate --prompt a --audio PICTURE", TEXT_ONLY),
        ("generate --prompt a --video PICTURE", TEXT_ONLY),
        ("generate --prompt a --audio PICTURE --max-soft-tokens 70", "--max-soft-tokens is for pictures"),
        ("parity --model BARE", "none is known for"),
        ("benchmark --model BARE", "none is known for"),
        ("generate --model BARE --prompt a --num-assistant-tokens 2", "--num-assistant-tokens is 2, but there is no"),
        ("chat --assistant-model none --draft-temperature 0", "--draft-temperature is for drafts, but there is no"),
        ("chat --temp 0 --top-k 64", "--top-k is 64, but --temp is 0"),
    ],
)
def test_no_weights_are_read(line, message, places, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "read_weights", lambda *_: pytest.fail("reads weights"))
    name, *words = line.split()
    monkeypatch.setattr(sys, "argv", [name, *(places.get(word, word) for word in words)])
    with pytest.raises(SystemExit) as ended:
        run_one(vars(COMMANDS[name])[name])
    assert ended.value.code == 2
    said = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("No assistant is known")]
    assert len(said) == 1
    assert message in said[0]
