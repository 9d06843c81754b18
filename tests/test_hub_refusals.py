"""The Hub's own library against a Hub that refuses, fails, or is none: one sentence, or what the cache has."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from support.paths import ASSETS

from mlx_gemma4_assist.checkpoints.hub import resolve
from mlx_gemma4_assist.errors import InputError

REPO = "someone/mine"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """A Hub on this machine; put its status and body into the dictionary."""
    given = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if given["status"] is None:  # the connection is closed without an answer
                self.close_connection = True
                return
            self.send_response(given["status"])
            self.send_header("Content-Length", str(len(given["body"])))
            self.end_headers()
            self.wfile.write(given["body"])

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    huggingface_hub.close_session()
    yield given
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def cached(tmp_path):
    """The repo, whole, in the Hub's cache."""
    repo = tmp_path / "cache" / "models--someone--mine"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


ANSWERS = [
    (401, b"", "repo on the Hub is named|HTTP 401 Unauthorized"),
    (403, b"", "HTTP 403 Forbidden; the token has no right to read it"),
    (429, b"", "HTTP 429 Too Many Requests; too many requests: wait"),
    (500, b"", "HTTP 500 Internal Server Error; its own fault"),
    (503, b"<html>Sorry</html>", "HTTP 503 Service Unavailable; its own fault"),
    (200, b"<html>Please log in to this hotel</html>", "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (200, b"[1, 2]", "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (200, b'{"sha": 7}', "what HF_ENDPOINT or a proxy leads to is not the Hub"),
    (None, b"", "downloading someone/mine failed: .*(disconnected|closed|reset)"),
]


@pytest.mark.parametrize(("status", "body", "message"), ANSWERS)
def test_a_refusal_is_one_sentence_and_the_cache_serves(answers, tmp_path, status, body, message, request):
    answers |= {"status": status, "body": body}
    with pytest.raises(InputError, match=message) as raised:
        resolve(REPO)
    assert "\n" not in str(raised.value)
    folder = request.getfixturevalue("cached")
    assert resolve(REPO + "/") == folder


def socks(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")


def letters(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ключ")


def endpoint(value):
    return lambda monkeypatch: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", value)


MALFORMED = ("mirror", "", "http://", "http://[::1", "http://127.0.0.1:port")


@pytest.mark.parametrize("setting", [socks, letters, *map(endpoint, MALFORMED)])
def test_settings_that_are_wrong(answers, monkeypatch, setting, request):
    setting(monkeypatch)
    with pytest.raises(InputError, match="someone/mine") as raised:
        resolve(REPO)
    assert "\n" not in str(raised.value)
    folder = request.getfixturevalue("cached")
    assert resolve(REPO) == folder


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors"])
def test_a_cache_that_is_not_whole_does_not_serve(answers, cached, lacking):
    answers |= {"body": b"<html>"}
    (cached / lacking).unlink()
    with pytest.raises(InputError, match="is not the Hub"):
        resolve(REPO)


BRACKETS = os.environ | {"HF_ENDPOINT": "http://[::1"}
NAMES = ("load", "convert", "assistant_for", "load_media", "huggingface")
IN_PYTHON = f"""
import mlx_gemma4_assist
from mlx_gemma4_assist import InputError, Processor
for name in {NAMES}:
    try:
        exec(f"from mlx_gemma4_assist import {{name}}")
    except InputError as error:
        print(name, error)
try:
    Processor.from_pretrained(FOLDER)
except InputError as error:
    print("Processor", error)
"""


def test_an_endpoint_at_which_the_library_fails():
    """Its own import ends in a ValueError."""
    command = [sys.executable, "-m", "mlx_gemma4_assist", "doctor"]
    done = subprocess.run(command, env=BRACKETS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: HF_ENDPOINT is 'http://[::1', which is no address: Invalid IPv6 URL\n"


def test_such_an_endpoint_in_python():
    code = IN_PYTHON.replace("FOLDER", repr(str(ASSETS / "tiny")))
    done = subprocess.run([sys.executable, "-c", code], env=BRACKETS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = " HF_ENDPOINT is 'http://[::1', which is no address: Invalid IPv6 URL"
    assert done.stdout.splitlines() == [name + said for name in (*NAMES, "Processor")]
