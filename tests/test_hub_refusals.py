"""The Hub's own library against a Hub that refuses, fails, or is none: one sentence, or what the cache has."""

import os
import subprocess
import sys

import pytest
from support.hub import REPO, WRONG_SETTINGS, answering_hub
from support.paths import ASSETS

from mlx_gemma4_assist.checkpoints.hub import resolve
from mlx_gemma4_assist.environment import check_endpoint
from mlx_gemma4_assist.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def answers(monkeypatch, tmp_path):
    with answering_hub(monkeypatch, tmp_path / "cache") as given:
        yield given


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


@pytest.mark.parametrize("setting", WRONG_SETTINGS)
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


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://127.0.0.1:port", "Port could not be cast to integer value as 'port'"),
        ("https://a:99999", "Port out of range 0-65535"),
    ],
)
def test_endpoints_at_which_it_fails(monkeypatch, address, why):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(InputError) as refused:
        check_endpoint()
    assert str(refused.value) == f"HF_ENDPOINT is {address!r}, which is no address: {why}"


def test_such_an_endpoint_in_python():
    code = IN_PYTHON.replace("FOLDER", repr(str(ASSETS / "tiny")))
    done = subprocess.run([sys.executable, "-c", code], env=BRACKETS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = " HF_ENDPOINT is 'http://[::1', which is no address: Invalid IPv6 URL"
    assert done.stdout.splitlines() == [name + said for name in (*NAMES, "Processor")]
