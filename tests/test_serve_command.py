"""The serve command: bad starts, what it shows, what keeps it up."""

import itertools
import os
import plistlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlx.core as mx
import pytest
from support.commands import runner
from support.paths import ASSETS, ROOT

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.commands import serving, start_card, supervisor
from mlx_gemma4_assist.commands.serve_options import Limits, size_of
from mlx_gemma4_assist.commands.start_card import Card
from mlx_gemma4_assist.commands.supervisor import Supervisor, at_the_end, health
from mlx_gemma4_assist.integrations import launchd

KEY = "MLX_GEMMA4_ASSIST_API_KEY"
TINY = ASSETS / "tiny"


@pytest.fixture
def serve(monkeypatch, capsys, tmp_path):
    """The command in this process, with a home folder of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(KEY, raising=False)
    run = runner(monkeypatch, capsys)
    return lambda *arguments: run("serve", *arguments)


@pytest.fixture
def taken():
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def assert_one_line(done, message):
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "./no/such/folder"), "no/such/folder"),
        (("--host", "0.0.0.0"), "--api-key"),
        (("--host", "example.org"), "--api-key"),
        (("--host", "::", "--restart"), "--api-key"),
        (("--host", "203.0.113.9", "--api-key", "secret"), "no address 203.0.113.9"),
        (("--host", "0.0.0.0", "--install-agent"), "--api-key"),
        (("--api-key", ""), "API key is empty"),
        (("--port", "70000"), "port is 70000"),
        (("--prefix-cache-folder", "/dev/null/cache"), "cannot write to the cache folder /dev/null/cache"),
        (("--prefix-cache-folder", "cache", "--prefix-cache-bytes", "0"), "--prefix-cache-bytes is 0"),
        (("--prefix-cache-bytes", "much"), "--prefix-cache-bytes is 'much', expected a size"),
        (("--memory-limit", "0"), "--memory-limit is 0"),
        (("--memory-limit", "1KB"), "--memory-limit is 1KB, but the weights take "),
        (("--memory-limit", "1KB", "--install-agent"), "--memory-limit is 1KB, but the weights take "),
        (("--install-agent", "--model", "nowhere"), "no folder 'nowhere'"),
        (("--install-agent", "--kv-bits", "4"), "--kv-bits quantizes in groups of 64 numbers, and 64 does not divide"),
        (("--max-stall", "-1"), "--max-stall is -1"),
        (("--max-waiting", "-1"), "--max-waiting is -1"),
        (("--ttl", "0"), "--ttl is 0"),
        (("--temp", "-1"), "--temp is -1"),
        (("--max-soft-tokens", "71"), "--max-soft-tokens is 71, expected one of 70"),
        (("--max-soft-tokens", "70"), "--max-soft-tokens is for pictures, and tiny takes none"),
        (("--max-soft-tokens", "70", "--install-agent"), "--max-soft-tokens is for pictures, and tiny takes none"),
        (("--log-level", "loud"), "loud"),
        (("--restart", "--port", "0"), "--restart asks the server"),
        (("--install-agent", "--remove-agent"), "exclude each other"),
        (("--allowed-origin", "somewhere"), "somewhere"),
        (("--assistant-model", "none", "--num-assistant-tokens", "2"), "no assistant"),
    ],
)
def test_a_bad_start_is_one_line(serve, arguments, message):
    assert_one_line(serve(*arguments) if "--port" in arguments else serve("--port", "0", *arguments), message)


def test_a_port_that_is_taken_is_one_line(serve, taken):
    """Before a model is looked for."""
    assert_one_line(serve("--port", taken, "--model", "./no/such/folder"), f"port {taken} of 127.0.0.1 is taken")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_model_that_is_not_whole_is_one_line(serve, tmp_path, name):
    """Files that are cut off."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert_one_line(serve("--port", "0", "--model", str(folder), "--assistant-model", "none"), str(folder))


def test_weights_that_are_missing_are_one_line(serve, tmp_path):
    """The engine's thread finds out, behind which nothing is shown."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    weights = mx.load(str(folder / "model.safetensors"))
    del weights["model.norm.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    done = serve("--port", "0", "--model", str(folder), "--assistant-model", "none")
    assert_one_line(done, "model.norm.weight")


def test_what_it_shows(serve, monkeypatch):
    """Once requests are answered; of the model that really is loaded."""
    asked = []

    def answer(service, settings, listening, *, started):
        asked.append((service.health().status, settings))
        started("")
        return False

    monkeypatch.setattr(serving, "serve", answer)
    done = serve(
        "--port", "0", "--alias", "mine", "--log-level", "debug", "--log-json", "--thinking", "--max-tokens", "9"
    )
    assert done.returncode == 0, done.stderr
    ((status, settings),) = asked
    assert (status, settings.aliases, settings.log_level, settings.log_json) == ("ok", ("mine",), "debug", True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Model:   tiny; ")
    assert "Drafts:  by tiny-assistant" in lines
    assert any("all of which fit" in line for line in lines)
    assert any(line.startswith("Address: http://127.0.0.1:") for line in lines)
    assert "xcode, zed, continue" in lines[-1]
    assert "embedded tiny pair" in done.stderr


def test_the_key_may_be_in_the_environment(serve, monkeypatch):
    seen = []
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.setattr(serving, "serve", lambda service, settings, listening, *, started: seen.append(settings))
    assert serve("--host", "0.0.0.0", "--port", "0").returncode == 0
    assert [settings.api_key for settings in seen] == ["secret"]


CARD = Card(
    "google/gemma-4-E2B-it", "bfloat16", None, "not quantized", 131072, 131072, "http://127.0.0.1:8080", False, True
)


def test_the_card_in_a_terminal(monkeypatch, capsys):
    """In a frame that is as wide as need be; what it says is the same."""
    monkeypatch.setattr(start_card, "has_styles", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "100")
    start_card.show(CARD, ["zed"])
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith("╭")
    for label, text in CARD.rows():
        assert label in shown
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_card_says_what_does_not_fit():
    rows = dict(Card("m", "w", "a", "k", 1000, 400, "u", True, False).rows())
    assert "1,000 tokens, of which about 400 fit" in rows["Context"]
    assert rows["Drafts"] == "by a"
    assert "and others" in rows["API key"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("2GB", 2 * 10**9), ("2 GiB", 2 * 2**30), ("1.5m", 1_500_000), ("10kb", 10_000), ("1T", 10**12)],
)
def test_sizes(text, size):
    assert size_of("memory_limit", text) == size


def test_the_cache_folder_is_made(tmp_path):
    Limits(prefix_cache_folder=tmp_path / "a" / "b").check_folder()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_its_page_has_every_option(serve):
    """And no other."""
    page = (ROOT / "docs" / "server.md").read_text()
    table = page[page.index("## Options of `serve`") : page.index("## Routes")]
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", serve("--help").stdout))
    assert said - {"--help"} - set(re.findall(r"--[a-z][a-z-]+", table)) == {
        "--no-learned",
        "--allow-host",
        "--allow-origin",
    }
    assert set(re.findall(r"--[a-z][a-z-]+", table)) <= said


def test_it_runs_until_it_is_told_to_end():
    """A process of its own: it answers at the address that it shows."""
    command = [sys.executable, "-m", "mlx_gemma4_assist.serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        shown = itertools.takewhile(lambda line: not line.startswith("Apps:"), server.stdout)
        (url,) = (line.split()[1] for line in shown if line.startswith("Address:"))
        assert health(f"{url}/health") == "ok"
        server.terminate()
        _, errors = server.communicate(timeout=30)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors


# The agent


def test_an_agent_is_shown_elsewhere(serve, monkeypatch, tmp_path):
    """What a Mac would be told, and nothing done; the key is in no command line."""
    monkeypatch.setattr(launchd, "on_a_mac", lambda: False)
    monkeypatch.setenv("HF_HOME", "/models")
    done = serve("--api-key", "secret", "--port", "8081", "--install-agent")
    assert done.returncode == 0, done.stderr
    assert "no Mac" in done.stderr
    plist = plistlib.loads(done.stdout.encode())
    assert plist["ProgramArguments"] == [sys.executable, "-m", "mlx_gemma4_assist.serve", "--port", "8081"]
    assert plist["WorkingDirectory"] == str(tmp_path)
    assert plist["EnvironmentVariables"][KEY] == "secret"
    assert plist["EnvironmentVariables"]["HF_HOME"] == "/models"
    assert plist["RunAtLoad"] is True
    assert plist["KeepAlive"] == {"SuccessfulExit": False}
    assert list(tmp_path.iterdir()) == []
    assert "no Mac" in serve("--remove-agent").stderr


def test_an_agent_finds_what_it_was_told_of(serve, monkeypatch, tmp_path):
    """It works elsewhere than where it was installed: folders are named by their whole paths, and nothing else is."""
    monkeypatch.setattr(launchd, "on_a_mac", lambda: False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "mine")
    for name in ("none", "tiny"):
        (tmp_path / name).mkdir()
    told = ("--assistant-model", "none", "--prefix-cache-folder=kept", "--alias", "mine", "--install-agent")
    words = plistlib.loads(serve("--model", "mine", *told).stdout.encode())["ProgramArguments"][3:]
    whole = ["--model", str(tmp_path / "mine"), "--assistant-model", "none", f"--prefix-cache-folder={tmp_path}/kept"]
    assert words == [*whole, "--alias", "mine"]
    words = plistlib.loads(serve("--model=tiny", "--install-agent").stdout.encode())["ProgramArguments"][3:]
    assert words == ["--model=tiny"]


def test_an_agent_on_a_mac(serve, monkeypatch, tmp_path):
    """Installing twice replaces it."""
    called = []
    monkeypatch.setattr(launchd, "on_a_mac", lambda: True)
    monkeypatch.setattr(
        launchd.subprocess, "run", lambda words, **_: called.append(words[1]) or subprocess.CompletedProcess(words, 0)
    )
    file = tmp_path / "Library" / "LaunchAgents" / f"{launchd.LABEL}.plist"
    for port in ("8081", "8082"):
        done = serve("--port", port, "--install-agent")
        assert done.returncode == 0, done.stderr
        assert plistlib.loads(file.read_bytes())["ProgramArguments"][-1] == port
    assert called == ["bootout", "bootstrap"] * 2
    assert file.stat().st_mode & 0o077 == 0
    assert "gone" in serve("--remove-agent").stderr
    assert not file.exists()
    assert "no agent" in serve("--remove-agent").stderr


def test_an_agent_that_launchd_refuses(tmp_path):
    agent = launchd.Agent(tmp_path, ["a"], {})
    slept = []
    with pytest.raises(InputError, match="with status 5"):
        launchd.install(agent, lambda words: 5, slept.append)
    assert len(slept) == 3


def test_an_agent_that_takes_time_to_end(tmp_path):
    """The new one is begun as soon as launchd lets it."""
    agent = launchd.Agent(tmp_path, ["a"], {})
    statuses = iter([0, 37, 0])
    launchd.install(agent, lambda words: next(statuses), lambda seconds: None)
    assert next(statuses, None) is None


# Kept up


class Child:
    """A process that lives for some time and ends with a status; one that is told to end does, or not."""

    def __init__(self, time, life, status, *, stubborn=False):
        self._time, self._end, self._status, self._stubborn = time, time.now + life, status, stubborn
        self.told = []

    def poll(self):
        return self._status if self._time.now >= self._end or (self.told and not self._stubborn) else None

    def wait(self, timeout=None):
        if self.poll() is None and "kill" not in self.told:
            raise subprocess.TimeoutExpired("serve", timeout)
        return self._status

    def terminate(self):
        self.told.append("terminate")

    def kill(self):
        self.told.append("kill")


class Time:
    """Time that goes by when somebody sleeps; what happens then."""

    def __init__(self):
        self.now, self.slept, self.happens = 0.0, [], {}

    def sleep(self, seconds):
        self.now += seconds
        for moment in [moment for moment in self.happens if moment <= self.now]:
            self.happens.pop(moment)()


def kept_up(time, lives, look=lambda: "ok"):
    """A supervisor over processes of (life, status), and these as they were begun."""
    begun = []

    def begin(command):
        life, status, *stubborn = lives[len(begun)]
        begun.append((time.now, Child(time, life, status, stubborn=bool(stubborn))))
        return begun[-1][1]

    return Supervisor(["serve"], look, begin=begin, sleep=time.sleep, clock=lambda: time.now), begun


FOR_EVER = 1e9


@pytest.mark.parametrize("status", [0, 2])
def test_an_orderly_end_is_the_end(status):
    keeper, begun = kept_up(Time(), [(3, status)])
    assert keeper.run() == status
    assert len(begun) == 1


def test_what_dies_is_begun_anew_ever_later(capsys):
    keeper, begun = kept_up(Time(), [(10, 1)] * 3 + [(2000, -9), (10, 1), (10, 0)])
    assert keeper.run() == 0
    moments = [moment for moment, _ in begun]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert [round(pause) for pause in pauses] == [11, 12, 14, 2001, 12]  # forgotten after a long life
    assert capsys.readouterr().err.count("begun anew") == 5


@pytest.mark.parametrize("found", ["stuck", "dead", None])
@pytest.mark.parametrize("stubborn", [(), (True,)])
def test_what_is_ill_is_ended(found, stubborn, capsys):
    """And killed if that is not enough; one look that finds it ill is too few."""
    time = Time()
    looks = iter(["ok", found, "ok", "unloaded", found, found, found, found])
    keeper, begun = kept_up(time, [(FOR_EVER, -15, *stubborn), (1, 0)], lambda: next(looks))
    assert keeper.run() == 0
    assert begun[0][1].told == (["terminate", "kill"] if stubborn else ["terminate"])
    assert 40 <= begun[1][0] < 43
    assert ("does not answer" if found is None else f"is {found}") in capsys.readouterr().err


def test_a_long_beginning_is_waited_for():
    """Nobody answers before the model is loaded."""
    time = Time()
    keeper, begun = kept_up(time, [(1000, 0)], lambda: None)
    assert keeper.run() == 0
    assert begun[0][1].told == []


def test_it_ends_with_what_it_keeps_up():
    time = Time()
    keeper, begun = kept_up(time, [(FOR_EVER, -15)])

    time.happens[12.0] = lambda: signal.raise_signal(signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    assert keeper.run() == 0
    assert begun[0][1].told == ["terminate"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_is_noticed_when_the_supervisor_is_gone():
    reading, writing = os.pipe()
    told = threading.Event()
    thread = threading.Thread(target=at_the_end, args=(reading, told.set))
    thread.start()
    os.write(writing, b"x")
    assert not told.wait(0.05)
    os.close(writing)
    assert told.wait(5)
    thread.join()
    os.close(reading)


def test_only_what_a_supervisor_began_ends_with_it(monkeypatch):
    begun = threading.Event()
    monkeypatch.setattr(supervisor, "at_the_end", lambda number, tell: begun.set())
    monkeypatch.delenv(supervisor.KEPT_UP, raising=False)
    supervisor.end_with_parent()
    assert not begun.wait(0.05)
    monkeypatch.setenv(supervisor.KEPT_UP, "1")
    supervisor.end_with_parent()
    assert begun.wait(5)
    assert supervisor.KEPT_UP not in os.environ


# What requests show


def test_what_requests_may_name(monkeypatch):
    """Data always, URLs where that is allowed, files of this machine never."""
    asked = []
    monkeypatch.setattr(serving, "fetch", lambda url, bounds: asked.append((url, bounds.public)) or b"picture")
    assert serving._fetched("https://example.org/a.png") == b"picture"
    assert serving._fetched("data:,a") == "data:,a"
    assert asked == [("https://example.org/a.png", True)]
    for source in ("/etc/passwd", "file:///etc/passwd", 5, "ftp://a"):
        with pytest.raises(InputError, match="URLs only"):
            serving._fetched(source)


def test_how_a_server_does_is_read():
    """Also from an answer that says it is not well; nobody, and who is no server of this kind, says nothing."""
    said = [
        (200, b'{"status": "ok"}'),
        (503, b'{"status": "stuck"}'),
        (404, b"[]"),
        (200, b"<html>"),
        (200, b'{"status": 1}'),
    ]

    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = said.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        url = f"http://127.0.0.1:{server.server_port}/health"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert [health(url) for _ in range(5)] == ["ok", "stuck", None, None, None]
        server.shutdown()
    assert health(url) is None


def test_a_machine_that_is_too_small_is_one_line(serve, monkeypatch):
    """It would refuse every request."""
    small = replace(serving.this_machine(), usable=10**6)
    monkeypatch.setattr(serving, "this_machine", lambda: small)
    assert_one_line(serve("--port", "0"), "and the shortest answer 0.")


def test_a_little_memory_is_enough_for_short_answers(serve, monkeypatch):
    """What is refused is what nobody could use: with some more an answer is made."""
    monkeypatch.setattr(serving, "run", lambda *_: None)
    assert serve("--port", "0", "--memory-limit", "16MB").returncode == 0
