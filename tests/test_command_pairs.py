"""Every two options of every command together, in each pair of their values.

What is accepted runs; what is refused says why in one line, in the words that were typed, before any weights are read.
Options are those that the commands have: one without values here is an error.
"""

import io
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature

import mlx.core as mx
import pytest
from support import media
from support.covering import Covering, Row, Value, pairs_of
from support.multimodal import write_pair

from mlx_gemma4_assist import backend
from mlx_gemma4_assist.checkpoints import loading as checkpoints
from mlx_gemma4_assist.commands import benchmark, chat, convert, doctor, generate, parity
from mlx_gemma4_assist.commands.doors import COMMANDS
from mlx_gemma4_assist.commands.run import run_one
from mlx_gemma4_assist.conversion import convert as conversion
from mlx_gemma4_assist.evaluation.quality import QualityOptions, measure_quality
from mlx_gemma4_assist.machine import doctor as machine

FUNCTIONS = {each.__name__.rpartition(".")[2]: each for each in (generate, chat, convert, benchmark, parity, doctor)}
BRIEF = QualityOptions(window=32, prompts=1, prompt_tokens=4, new_tokens=4)
THINKING = "{% if enable_thinking %}{{ '<|turn>system\\n<|think|><turn|>\\n' }}{% endif %}"


def typed(words: str) -> bool:
    return bool(words)


def untyped(words: str) -> bool:
    return not words


def says(*endings: str) -> Callable[[str], bool]:
    return lambda words: words.endswith(endings)


def greedy(words: str) -> bool:
    return words in ("", "--temp 0")


@dataclass(frozen=True)
class Rule:
    """Two options that do not go together, for what is typed for each of them, and why."""

    one: str
    when: Callable[[str], bool]
    other: str
    then: Callable[[str], bool]
    why: str


@dataclass(frozen=True)
class Command:
    """A command's options by their Python names: what may be typed (nothing is ""), and what is refused alone."""

    accepted: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()


NOWHERE = "no folder 'nowhere'; a repo"
MODEL = {
    "model": ("--model PAIR", ""),
    "assistant_model": ("", "--assistant-model none", "--assistant-model PAIR-assistant"),
    "dtype": ("", "--dtype bfloat16"),
    "adapter_path": ("",),
}
NO_MODEL: dict[str, dict[str, str]] = {
    "model": {"--model nowhere": NOWHERE, "--model PAIR-assistant": "PAIR-assistant has no tokenizer.json"},
    "assistant_model": {
        "--assistant-model nowhere": NOWHERE,
        "--assistant-model PAIR": "not a Gemma 4 assistant",
    },
    "dtype": {"--dtype float8": "--dtype is 'float8', expected"},
    "adapter_path": {"--adapter-path nowhere": "there is no folder 'nowhere' to read an adapter from"},
}
DRAWN = {
    "max_tokens": ("--max-tokens 3", "-m 2"),
    "temperature": ("--temp 0.8", "", "--temp 0"),
    "top_p": ("", "--top-p 0.9", "--top-p 0"),
    "top_k": ("", "--top-k 5", "--top-k 1000000"),
    "min_p": ("", "--min-p 0.1", "--min-p 1"),
    "seed": ("", "--seed 18446744073709551615"),
}
NOT_DRAWN = {
    "max_tokens": {
        "--max-tokens 0": "--max-tokens is 0, expected",
        "-m many": "Invalid value for '--max-tokens' / '-m'",
    },
    "temperature": {"--temp -1": "--temp is -1.0, expected", "--temp nan": "--temp is nan, expected"},
    "top_p": {"--top-p 1.5": "--top-p is 1.5, expected"},
    "top_k": {"--top-k -1": "--top-k is -1, expected"},
    "min_p": {"--min-p -0.5": "--min-p is -0.5, expected"},
    "seed": {"--seed -1": "--seed is -1, expected"},
}
DRAFTED = {
    "num_assistant_tokens": ("--num-assistant-tokens 2", "", "--num-assistant-tokens 0"),
    "draft_temperature": ("", "--draft-temperature 0.7", "--draft-temperature 0"),
}
NOT_DRAFTED = {
    "num_assistant_tokens": {"--num-assistant-tokens 33": "--num-assistant-tokens is 33, expected 0 to 32"},
    "draft_temperature": {"--draft-temperature -1": "--draft-temperature is -1.0, expected"},
}
ADJUSTED = {
    "repetition_penalty": ("", "--repetition-penalty 1.2"),
    "presence_penalty": ("", "--presence-penalty -0.5"),
    "frequency_penalty": ("", "--frequency-penalty 0.3"),
    "logit_bias": ("", "--logit-bias 5=-3 --logit-bias 7=1.5", "--logit-bias '{\"5\": -100}'"),
}
NOT_ADJUSTED = {
    "repetition_penalty": {"--repetition-penalty 0": "--repetition-penalty is 0.0, expected"},
    "presence_penalty": {"--presence-penalty nan": "--presence-penalty is nan, expected"},
    "frequency_penalty": {"--frequency-penalty inf": "--frequency-penalty is inf, expected"},
    "logit_bias": {
        "--logit-bias 5": "--logit-bias is ['5'], expected",
        "--logit-bias '{5: 1}'": "--logit-bias is ['{5: 1}'], expected",
        "--logit-bias -1=2": "--logit-bias is ['-1=2'], expected",
        "--logit-bias 999999999=2": "--logit-bias has the id 999999999, but",
    },
}
SWITCHES = {
    "learned": ("", "--no-learned"),
    "enable_thinking": ("", "--enable-thinking"),
    "show_thinking": ("", "--show-thinking"),
    "as_json": ("", "--json"),
    "compile": ("", "--compile", "--no-compile"),
}
HELD = {
    "kv_bits": ("", "--kv-bits 4 --kv-group-size 32", "--kv-bits 8 --kv-group-size 32"),  # 64 fits one model only
    "kv_group_size": ("",),
    "quantized_kv_start": ("", "--quantized-kv-start 0", "--quantized-kv-start 20"),
}
NOT_HELD = {
    "kv_bits": {"--kv-bits 5": "--kv-bits is 5, expected 4 or 8"},
    "kv_group_size": {"--kv-group-size 48": "--kv-group-size is 48, expected 32, 64 or 128"},
    "quantized_kv_start": {"--quantized-kv-start -1": "--quantized-kv-start is -1, expected 0 to"},
}
STEP = {"prefill_step_size": ("", "--prefill-step-size 7")}
NO_STEP = {"prefill_step_size": {"--prefill-step-size 0": "--prefill-step-size is 0, expected"}}
ALONE, DRAWN_DRAFTS = says("--assistant-model none"), says("--draft-temperature 0.7")
FEW = says("--top-p 0.9", "--top-k 5", "--top-k 1000000", "--min-p 0.1")
FILTERS = tuple(
    Rule("temperature", greedy, name, FEW, "but --temp is 0, which takes the likeliest token")
    for name in ("top_p", "top_k", "min_p")
)
UNDRAFTED = (
    Rule("assistant_model", ALONE, "num_assistant_tokens", says(" 2"), "--num-assistant-tokens is 2, but there is no"),
    Rule("assistant_model", ALONE, "draft_temperature", typed, "--draft-temperature is for drafts, but there is no"),
    Rule("temperature", greedy, "draft_temperature", DRAWN_DRAFTS, "--draft-temperature needs a --temp above 0"),
    Rule("num_assistant_tokens", says(" 0"), "draft_temperature", DRAWN_DRAFTS, "is 0, which makes none"),
)
HOLDING = (
    Rule("kv_bits", untyped, "quantized_kv_start", typed, "--quantized-kv-start is for quantized keys and values, and"),
)
GRAMMARS = {
    "json_schema": ("", "--json-schema SCHEMA"),
    "regex": ("", "--regex [a-e]+"),
    "lark": ("", "--lark LARK"),
}
NO_GRAMMARS = {
    "json_schema": {"--json-schema nowhere": "nowhere", "--json-schema TEXT": "--json-schema is"},
    "regex": {"--regex '('": "--regex is"},
    "lark": {"--lark TEXT": "--lark is"},
}
ONE_GRAMMAR = tuple(
    Rule(one, typed, other, typed, f"--{one.replace('_', '-')} and --{other} exclude each other")
    for one, other in (("json_schema", "regex"), ("json_schema", "lark"), ("regex", "lark"))
)
SHOWN = {
    "image": ("", "--image PICTURE"),
    "audio": ("", "--audio SOUND"),
    "video": ("", "--video VIDEO"),
}
NOT_SHOWN = {
    "image": {"--image nowhere": "there is no file nowhere"},
    "audio": {"--audio nowhere": "there is no file nowhere", "--audio PICTURE": "sound"},
    "video": {"--video nowhere": "there is no file nowhere"},
}
STRANGER = Rule("model", untyped, "assistant_model", says("PAIR-assistant"), "does not belong to this target")
COMPARED = "--assistant-model is none, so there is nothing to compare plain decoding with"

GENERATE = Command(
    accepted={
        "prompt": ("--prompt Hello", "", "-p -"),
        "messages": ("", "--messages MESSAGES"),
        "system_prompt": ("", "--system-prompt Briefly."),
        "ignore_chat_template": ("", "--ignore-chat-template"),
        **MODEL,
        **DRAWN,
        **DRAFTED,
        **HELD,
        **ADJUSTED,
        **GRAMMARS,
        "top_logprobs": ("", "--top-logprobs 2"),
        **STEP,
        **SWITCHES,
        "stop": ("", "--stop a --stop bc", "--stop '<turn|>'"),
        "skip_special_tokens": ("", "--no-skip-special-tokens", "--skip-special-tokens"),
        **SHOWN,
        "max_soft_tokens": ("", "--max-soft-tokens 70"),
        "prompt_cache_file": ("", "--prompt-cache-file cache"),
    },
    refused={
        "prompt": {"--prompt ''": "the prompt is empty"},
        "messages": {"--messages nowhere": "nowhere"},
        **NO_MODEL,
        **NOT_DRAWN,
        **NOT_DRAFTED,
        **NOT_HELD,
        **NOT_ADJUSTED,
        **NO_GRAMMARS,
        "top_logprobs": {"--top-logprobs 21": "--top-logprobs is 21, expected 0 to 20"},
        **NO_STEP,
        "stop": {"--stop ''": "--stop is"},
        **NOT_SHOWN,
        "max_soft_tokens": {"--max-soft-tokens 71": "--max-soft-tokens is"},
        "prompt_cache_file": {
            "--prompt-cache-file no/cache": "no is no folder",
            "--prompt-cache-file TEXT": "TEXT is no prompt cache",
        },
    },
    rules=(
        Rule("prompt", typed, "messages", typed, "give either --prompt or --messages"),
        Rule("prompt", untyped, "messages", untyped, "give either --prompt or --messages"),
        Rule("ignore_chat_template", typed, "messages", typed, "--ignore-chat-template takes raw text, without"),
        Rule("ignore_chat_template", typed, "system_prompt", typed, "--ignore-chat-template takes raw text, without"),
        Rule("ignore_chat_template", typed, "enable_thinking", typed, "--enable-thinking is for the chat template"),
        *(
            Rule("messages", typed, kind, typed, "--image, --audio and --video go with --prompt")
            for kind in ("image", "audio", "video")
        ),
        *(
            Rule("ignore_chat_template", typed, kind, typed, "the prompt says <")
            for kind in ("image", "audio", "video")
        ),
        *(Rule("model", untyped, kind, typed, "tiny is a text model") for kind in ("image", "audio", "video")),
        Rule("image", untyped, "max_soft_tokens", typed, "--max-soft-tokens is for pictures, and there are none"),
        Rule("model", untyped, "enable_thinking", typed, "chat template knows no --enable-thinking"),
        Rule("as_json", untyped, "top_logprobs", typed, "--top-logprobs is for the object that --json prints"),
        Rule("show_thinking", typed, "skip_special_tokens", says("--no-skip-special-tokens"), "--show-thinking tells"),
        STRANGER,
        *FILTERS,
        *UNDRAFTED,
        *HOLDING,
        *ONE_GRAMMAR,
    ),
)
CHAT = Command(
    accepted={
        "prompt": ("", "--prompt Hello", "-p -"),
        "system_prompt": ("", "--system-prompt Briefly."),
        "resume": ("",),
        "no_history": ("", "--no-history"),
        "server": ("",),
        "api_key": ("",),
        **MODEL,
        **DRAWN,
        **DRAFTED,
        **ADJUSTED,
        **HELD,
        **GRAMMARS,
        **STEP,
        **{name: SWITCHES[name] for name in ("learned", "enable_thinking", "show_thinking", "compile")},
        "thinking": ("", "--thinking off", "--thinking on", "--thinking 2"),
        "show_drafts": ("", "--show-drafts"),
        "stop": GENERATE.accepted["stop"],
        **SHOWN,
        "max_soft_tokens": GENERATE.accepted["max_soft_tokens"],
        "prompt_cache_file": ("", "--prompt-cache-file cache"),
    },
    refused={
        "prompt": {"--prompt ''": "the prompt is empty"},
        "resume": {"--resume other": "there is no saved chat whose name begins with 'other'"},
        "api_key": {"--api-key a": "--api-key is for a --server"},
        **NO_MODEL,
        **NOT_DRAWN,
        **NOT_DRAFTED,
        **NOT_ADJUSTED,
        **NOT_HELD,
        **NO_GRAMMARS,
        **NO_STEP,
        "thinking": {"--thinking maybe": "--thinking is 'maybe', expected off, on, or the most tokens"},
        "stop": {"--stop ''": "--stop is"},
        **NOT_SHOWN,
        "max_soft_tokens": GENERATE.refused["max_soft_tokens"],
        "prompt_cache_file": GENERATE.refused["prompt_cache_file"],
    },
    rules=(
        *(Rule("model", untyped, kind, typed, "tiny takes no") for kind in ("image", "audio", "video")),
        Rule("model", untyped, "max_soft_tokens", typed, "--max-soft-tokens is for pictures, and tiny takes none"),
        Rule("model", untyped, "enable_thinking", typed, "chat template knows no --enable-thinking"),
        Rule("model", untyped, "thinking", says(" on", " 2"), "chat template knows no --thinking"),
        Rule("thinking", typed, "enable_thinking", typed, "--thinking and --enable-thinking say the same"),
        STRANGER,
        *FILTERS,
        *UNDRAFTED,
        *HOLDING,
        *ONE_GRAMMAR,
    ),
)
BENCHMARK = Command(
    accepted={
        **MODEL,
        "assistant_model": ("", "--assistant-model PAIR-assistant"),
        **{name: values[:2] for name, values in DRAWN.items()},
        **HELD,
        **{name: SWITCHES[name] for name in ("learned", "as_json", "compile")},
        "draft_lengths": ("--draft-lengths 1", "--draft-lengths auto"),
        "prompt_file": ("--prompt-file TEXT", "--prompt-file MESSAGES"),
        "repeats": ("--repeats 1", "--repeats 2"),
        "plot": ("", "--plot out.svg"),
    },
    refused={
        **NO_MODEL,
        "assistant_model": NO_MODEL["assistant_model"] | {"--assistant-model none": COMPARED},
        **NOT_DRAWN,
        **NOT_HELD,
        "max_tokens": NOT_DRAWN["max_tokens"] | {"-m 1": "--max-tokens is 1, expected 2 or more to measure"},
        "draft_lengths": {"--draft-lengths ''": "--draft-lengths is", "--draft-lengths 0": "--draft-lengths is '0'"},
        "prompt_file": {"--prompt-file nowhere": "cannot read nowhere"},
        "repeats": {"--repeats 0": "--repeats is 0"},
        "plot": {"--plot out.gif": "--plot is out.gif", "--plot no/out.svg": "--plot is no/out.svg"},
    },
    rules=(STRANGER, *FILTERS, *HOLDING),
)
PARITY = Command(
    accepted={
        **MODEL,
        "assistant_model": ("", "--assistant-model PAIR-assistant"),
        "max_tokens": DRAWN["max_tokens"],
        **{name: SWITCHES[name] for name in ("as_json", "compile")},
        "num_prompts": ("-n 1", "-n 2"),
        "num_samples": ("--num-samples 0", "--num-samples 1"),
        "prompt_file": ("--prompt-file TEXT", ""),
        "ignore_chat_template": ("", "--ignore-chat-template"),
        "num_assistant_tokens": ("", "--num-assistant-tokens 1"),
    },
    refused={
        **NO_MODEL,
        "assistant_model": NO_MODEL["assistant_model"] | {"--assistant-model none": COMPARED},
        "max_tokens": NOT_DRAWN["max_tokens"] | {"-m 1": "--max-tokens is 1, but the first token never has drafts"},
        "num_prompts": {"-n 0": "--num-prompts is 0"},
        "num_samples": {"--num-samples -1": "--num-samples is -1"},
        "prompt_file": {"--prompt-file nowhere": "cannot read nowhere", "--prompt-file EMPTY": "EMPTY has no prompts"},
        "num_assistant_tokens": {"--num-assistant-tokens 0": "--num-assistant-tokens is 0, expected 1 to 32"},
    },
    rules=(
        STRANGER,
        Rule("prompt_file", untyped, "ignore_chat_template", typed, "--ignore-chat-template belongs to --prompt-file"),
    ),
)
DOCTOR = Command(
    accepted={
        "model": ("--model PAIR", "", "--model tiny"),
        "assistant_model": ("", "--assistant-model none", "--assistant-model PAIR-assistant"),
        "context": ("", "--context 1", "--context 100000000"),
        "as_json": SWITCHES["as_json"],
    },
    refused={"model": {"--model nowhere": NOWHERE}, "context": {"--context 0": "--context is 0, expected a positive"}},
    rules=(Rule("model", untyped, "assistant_model", typed, "--assistant-model belongs to a --model"),),
)
HOW = ("q_bits", "q_group_size", "q_mode", "quant_predicate")
CONVERT = Command(
    accepted={
        "hf_path": ("--hf-path PAIR", "--model PACKED", "--hf-path PAIR-assistant"),
        "mlx_path": ("--mlx-path out", ""),
        "quantize": ("-q", ""),
        "q_bits": ("", "--q-bits 4"),
        "q_group_size": ("", "--q-group-size 32"),
        "q_mode": ("", "--q-mode mxfp4", "--q-mode auto"),
        "quant_predicate": ("", "--quant-predicate gemma4_4_6"),
        "dtype": MODEL["dtype"],
        "dequantize": ("", "-d"),
        "assistant_model": MODEL["assistant_model"],
        "assistant_path": ("", "--assistant-path beside"),
        "text_only": ("", "--text-only"),
        "check": ("--no-check", "", "--check"),
        "text": ("", "--text TEXT"),
        "force": ("", "--force"),
        "revision": ("",),
        "max_shard_size": ("", "--max-shard-size 100KB"),
        "upload_repo": ("", "--upload-repo me/mine"),
        "as_json": SWITCHES["as_json"],
    },
    refused={
        "hf_path": {"--hf-path nowhere": NOWHERE},
        "mlx_path": {"--mlx-path TEXT": "TEXT"},
        "q_bits": {"--q-bits 0": "--q-bits"},
        "q_group_size": {"--q-group-size 0": "--q-group-size"},
        "q_mode": {"--q-mode best": "--q-mode"},
        "quant_predicate": {"--quant-predicate best": "--quant-predicate"},
        "dtype": NO_MODEL["dtype"],
        "assistant_model": NO_MODEL["assistant_model"],
        "text": {"--text nowhere": "cannot read nowhere"},
        "revision": {"--revision main": "revision 'main' was given, but"},
        "max_shard_size": {"--max-shard-size 5": "--max-shard-size is '5', expected"},
        "upload_repo": {"--upload-repo mine": "'mine' is not the name of a repo"},
    },
    rules=(
        Rule("quantize", typed, "dequantize", typed, "either --quantize or --dequantize, not both"),
        *(Rule("quantize", untyped, name, typed, "says how to quantize, which takes --quantize") for name in HOW),
        Rule("hf_path", says("PACKED"), "quantize", typed, "is quantized already"),
        Rule("hf_path", says("PAIR", "PAIR-assistant"), "dequantize", typed, "is not quantized, so that there is"),
        Rule("dequantize", typed, "assistant_model", says("PAIR-assistant"), "is not quantized, so that there is"),
        Rule("hf_path", says("-assistant"), "assistant_model", says("PAIR-assistant"), "is an assistant itself"),
        Rule("hf_path", says("-assistant"), "assistant_path", typed, "--mlx-path is where it goes, not --assistant"),
        Rule("hf_path", says("-assistant"), "check", says("--check"), "there is no target to compare with"),
        Rule("hf_path", says("-assistant"), "text", typed, "there is no target to compare with"),
        Rule(
            "assistant_model",
            says("none"),
            "assistant_path",
            typed,
            "--assistant-path was given to write an assistant to, but",
        ),
        Rule("q_mode", says("mxfp4"), "quant_predicate", typed, "--quant-predicate gemma4_4_6 exists in affine"),
        Rule("check", says("--no-check"), "text", typed, "--text was given to compare over, but no comparison"),
    ),
)
DECLARED = {
    "generate": GENERATE,
    "chat": CHAT,
    "convert": CONVERT,
    "benchmark": BENCHMARK,
    "parity": PARITY,
    "doctor": DOCTOR,
}
ELSEWHERE = {"serve": "test_serve_command.py", "connect": "test_connect.py", "export": "test_bundle.py"}
"""What runs until it is ended, what writes other programs' files, and what has hardly an option."""


def test_every_command_is_here():
    assert {*DECLARED, *ELSEWHERE} == set(COMMANDS)


def allowed(command: Command, one: Value, other: Value) -> bool:
    return rule_between(command, one, other) is None


def rule_between(command: Command, one: Value, other: Value) -> Rule | None:
    """Why two values do not go together."""
    for first, second in ((one, other), (other, one)):
        words = command.accepted[first[0]][first[1]], command.accepted[second[0]][second[1]]
        for rule in command.rules:
            if (rule.one, rule.other) == (first[0], second[0]) and rule.when(words[0]) and rule.then(words[1]):
                return rule
    return None


@cache
def covering_of(name: str) -> Covering:
    command = DECLARED[name]
    return Covering({option: len(values) for option, values in command.accepted.items()}, partial(allowed, command))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Mapping[str, str]:
    """What words of command lines stand for."""
    folder = tmp_path_factory.mktemp("pairs")
    pair = write_pair(folder / "PAIR")
    template = pair / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("{{ bos_token }}", "{{ bos_token }}" + THINKING))
    conversion.convert(str(pair), folder / "PACKED", quantize=True, q_group_size=32, check=False)
    sources = media.write_sources(folder / "sources")
    media.save_video(folder / "video.mkv", media.video(3))
    (folder / "TEXT").write_text("Hello you.\n\nWho is it?\n")
    (folder / "SCHEMA").write_text('{"enum": ["a", "b"]}')
    (folder / "LARK").write_text('start: "a" | "b"')
    (folder / "EMPTY").write_text("\n\n")
    (folder / "messages.json").write_text('[{"role": "user", "content": "Hello?"}]')
    named = {
        name: str(folder / name) for name in ("PAIR", "PAIR-assistant", "PACKED", "TEXT", "EMPTY", "SCHEMA", "LARK")
    }
    named |= {"MESSAGES": str(folder / "messages.json"), "VIDEO": str(folder / "video.mkv")}
    return named | {"PICTURE": sources["tall"], "SOUND": sources["mono"]}


@pytest.fixture
def run(files, monkeypatch, tmp_path, capfd):
    """Runs a command line in an empty folder; its exit code, and what it says."""
    for name in ("HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(conversion, "measure_quality", partial(measure_quality, options=BRIEF))
    monkeypatch.setattr(conversion, "bundled_text", lambda: "Hello you. " * 9)
    monkeypatch.setattr(machine, "pair_bytes", lambda *_: 10**9)  # of published sizes, which takes a second
    monkeypatch.setattr(backend, "_has_compiler", lambda: True)
    mx.disable_compile()  # rounds are made as if compiled, without a compiler's minutes
    folders = (tmp_path / str(number) for number in itertools.count())

    def command(name: str, line: list[str]) -> tuple[int, str, str]:
        folder = next(folders)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
        words = [files.get(word, word) for each in line for word in shlex.split(each)]
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            run_one(vars(FUNCTIONS[name])[name])
        return (ended.value.code, *capfd.readouterr())

    yield command
    mx.enable_compile()


@pytest.fixture
def refuses(run, monkeypatch):
    """Runs a command line that is refused before weights are read; the one line that it says."""
    for module, name in ((checkpoints, "read_weights"), (conversion, "write_pair")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("reads weights"))

    def command(name: str, line: list[str]) -> str:
        code, out, said = run(name, line)
        assert (code, out) == (2, ""), (line, code, out, said)
        assert said.startswith("error: "), (line, said)
        assert len(said.splitlines()) == 1, (line, said)
        return said

    return command


def line_of(command: Command, row: Row) -> list[str]:
    return [command.accepted[name][value] for name, value in row.items()]


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_is_here(name):
    options = set(signature(vars(FUNCTIONS[name])[name]).parameters)
    assert options == set(DECLARED[name].accepted)


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_accepted_runs(name, run):
    covering = covering_of(name)
    for row in covering.rows:
        line = line_of(DECLARED[name], row)
        code, out, said = run(name, line)
        assert code in ((0, 1) if name == "doctor" else (0,)), (line, said)
        assert out.strip() or name in ("generate", "chat"), line


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_refused_alone(name, refuses):
    """In the place of the last accepted value that is typed, together with all that goes with that one."""
    command, covering = DECLARED[name], covering_of(name)
    for option, refused in command.refused.items():
        values = command.accepted[option]
        last = max((place for place, words in enumerate(values) if words), default=0)
        rows = [row for row in covering.rows if row[option] == last]
        for row, (words, why) in itertools.product(rows, refused.items()):
            line = line_of(command, row)
            line[list(row).index(option)] = words
            assert why in refuses(name, line), line


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_refused_together(name, refuses):
    command, covering = DECLARED[name], covering_of(name)
    every = [(option, value) for option, values in command.accepted.items() for value in range(len(values))]
    for pair in itertools.combinations(every, 2):
        if pair[0][0] != pair[1][0] and rule_between(command, *pair) is not None:
            row = covering.completed(set(pair)) or dict.fromkeys(command.accepted, 0) | dict(pair)
            rules = (rule_between(command, *each) for each in pairs_of(row))
            said = refuses(name, line_of(command, row))
            assert any(rule.why in said for rule in rules if rule is not None), (line_of(command, row), said)
