"""Commands at odd standard streams, texts, folders and templates: one line, and the right exit code."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.commands import runner
from support.paths import ROOT

from mlx_gemma4_assist.commands import interrupts
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.evaluation.benchmark import read_prompt
from mlx_gemma4_assist.files import decode_text, parse_json, read_text

DEEP = "[" * 100_000
BOM = b"\xef\xbb\xbf"
MODULE = (sys.executable, "-m", "mlx_gemma4_assist")
SHORT = ("--max-tokens", "5", "--json")


def run(*arguments, redirection="", stdin=b"", cwd=None):
    """A command by way of a shell, which can close streams; the exit code is the command's."""
    script = f'"$@" {redirection}'
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-c", script, "bash", *MODULE, *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        env=environment,
        cwd=cwd,
    )


def one_line(done, code=2):
    """The only line of standard error."""
    return only_line(done.stderr.decode(), done.returncode, code)


def only_line(errors, found, code=2):
    assert found == code, errors
    lines = [line for line in errors.splitlines() if not line.startswith("The embedded")]
    assert len(lines) == 1, errors
    return lines[0]


# Texts


def test_bytes_to_text(tmp_path):
    assert decode_text(BOM + "naïve\r\nend\r".encode(), "x") == "naïve\nend\n"
    with pytest.raises(InputError, match="x is not UTF-8: invalid start byte at byte 1"):
        decode_text(b"a\xff", "x")
    (tmp_path / "a").write_bytes(BOM + b"a")
    assert read_text(tmp_path / "a") == "a"
    with pytest.raises(InputError, match="cannot read .*: Is a directory"):
        read_text(tmp_path)


def test_json_that_is_none():
    assert parse_json('{"a": [1]}', "x") == {"a": [1]}
    for text, message in (("[", "x is not valid JSON"), (DEEP, "x is nested too deep"), ("9" * 5000, "not valid")):
        with pytest.raises(InputError, match=message):
            parse_json(text, "x")


def test_prompts_of_a_benchmark(tmp_path):
    (tmp_path / "a.json").write_bytes(BOM + b'[{"role": "user", "content": "Hi"}]')
    assert read_prompt(tmp_path / "a.json") == [{"role": "user", "content": "Hi"}]
    for content in ("{}", "3", '"text"', "[3]"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InputError, match="holds no list of messages"):
            read_prompt(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[{"role": "cook", "content": "Hi"}]')
    with pytest.raises(InputError, match="the role 'cook'"):
        read_prompt(tmp_path / "a.json")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_prompt(tmp_path / "a.txt")


def test_standard_input_is_utf8_whatever_the_locale(monkeypatch, capsys):
    """Where text would be read as ASCII, and as a process finds it."""
    here = runner(monkeypatch, capsys)
    prompt = "A naïve “prompt”"
    plain = json.loads(here("generate", "--prompt", prompt, *SHORT).stdout)
    messages = json.dumps([{"role": "user", "content": prompt}]).encode()
    for way, option, content in ((run, "--prompt", prompt.encode()), (here, "--messages", messages)):
        done = way("generate", option, "-", *SHORT, stdin=BOM + content)
        assert json.loads(done.stdout)["tokens"] == plain["tokens"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["--prompt", "-"], b"a\xff", "standard input is not UTF-8"),
        (["--messages", "-"], b"\xff", "standard input is not UTF-8"),
        (["--messages", "-"], b"[{", "standard input is not valid JSON"),
        (["--messages", "-"], DEEP.encode(), "standard input is nested too deep"),
        (["--messages", "-"], b"[3]", "standard input holds no list of messages"),
    ],
)
def test_standard_input_that_is_no_text(monkeypatch, capsys, arguments, stdin, message):
    done = runner(monkeypatch, capsys)("generate", *arguments, stdin=stdin)
    assert message in only_line(done.stderr, done.returncode)


# Streams


@pytest.mark.parametrize(
    ("arguments", "redirection", "message"),
    [
        (["generate", "--prompt", "-"], "0<&-", "standard input is closed"),
        (["generate", "--messages", "-"], "0<&-", "standard input is closed"),
        (["chat"], "0<&-", "standard input is closed"),
        (["doctor"], "1>&-", "standard output is closed"),
        (["generate", "--prompt", "a"], "1>&-", "standard output is closed"),
        (["generate", "--help"], "1>/dev/full", "No space left on device"),
        (["generate", "--prompt", "a", *SHORT], "1>/dev/full", "No space left on device"),
        (["generate", "--prompt", "a"], "1>/dev/full", "No space left on device"),
        (["doctor"], "1>/dev/full", "No space left on device"),
    ],
)
def test_a_stream_that_cannot_be_used(arguments, redirection, message):
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    assert message in one_line(run(*arguments, redirection=redirection))


@pytest.mark.parametrize("redirection", ["0<&-", "2>&-", "2>/dev/full", "0<&- 2>&-"])
def test_a_stream_that_is_not_needed(redirection):
    """Though there are notes to be written: that the embedded pair answers, and what it took."""
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    done = run("generate", "--prompt", "a", *SHORT, redirection=redirection)
    assert done.returncode == 0
    assert json.loads(done.stdout)["generation_tokens"] == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["doctor"],
        ["doctor", "--json"],
        ["generate", "--prompt", "a"],
        ["convert", "--hf-path", "tiny", "--assistant-model", "none", "--no-check"],
    ],
)
def test_a_reader_that_has_enough(arguments, tmp_path):
    done = run(*arguments, redirection='| true; exit "${PIPESTATUS[0]}"', cwd=tmp_path)
    assert done.returncode in (0, 128 + signal.SIGPIPE), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr.lower()


def test_a_working_folder_that_is_gone(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    command = ["bash", "-c", script, str(folder), *MODULE, "generate", "--prompt", "a"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert "the working folder: No such file" in one_line(done)


# Ctrl-C


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_while_modules_load(delay):
    """Nothing is said of it, at whatever moment after Python's own start it comes."""
    code = (
        "import signal, sys, runpy, mlx_gemma4_assist; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv = ['x', '--prompt', 'a', '--max-tokens', '1', '--json']; print(flush=True); "
        "runpy.run_module('mlx_gemma4_assist.generate', run_name='__main__')"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.stdout.readline()
    time.sleep(delay)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode in (-signal.SIGINT, 130, 0), errors
    assert b"Traceback" not in errors


def test_next_to_nothing_is_imported_before_ctrl_c_is_seen_to():
    """On a busy machine it comes while that is imported."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mlx_gemma4_assist; before = set(sys.modules); "
        "import mlx_gemma4_assist.commands.doors; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    doors = {f"mlx_gemma4_assist.commands{name}" for name in ("", ".doors", ".interrupts")}
    assert imported <= doors | {"_signal", "signal", "threading", "_weakrefset", "contextlib"}


def test_ctrl_c_ends_at_once_only_where_it_would_interrupt():
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler, inside in ((signal.SIG_IGN, signal.SIG_IGN), (signal.default_int_handler, signal.SIG_DFL)):
            signal.signal(signal.SIGINT, handler)
            with interrupts.ending_at_once():
                assert signal.getsignal(signal.SIGINT) == inside
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


# Templates


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 // 0 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ messages[7].content }}",
        "{{ messages.no.such.thing }}",
        "{{ [][0] + 1 }}",
        "{{ {}['a'].b }}",
        "{{ 10.0 ** 1000 }}",
        "{% for a in 3 %}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% nonsense %}",
    ],
)
def test_a_template_that_fails(template, tmp_path):
    from support.checkpoints import save_tokenizer

    from mlx_gemma4_assist import Processor

    processor = Processor.from_pretrained(save_tokenizer(tmp_path, template=template))
    with pytest.raises(InputError, match="the chat template refuses this conversation: ") as refused:
        processor.encode("hello")
    assert "\n" not in str(refused.value)
