"""The Hub's own library against a Hub that refuses, fails, or is none: one sentence, or what the cache has."""

import os
import shutil
import subprocess
import sys

import pytest
from support.hub import REPO, WRONG_SETTINGS, answering_hub
from support.paths import ASSETS

from mlx_gemma4_assist.checkpoints.hub import resolve
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


NO_ADDRESSES = {
    "http://[::1": "Invalid IPv6 URL",
    "http://127.0.0.1:port": "Port could not be cast to integer value as 'port'",
    "https://a:99999": "Port out of range 0-65535",
}
"""At which huggingface_hub's own import ends in a ValueError, and why they are none."""

IN_PYTHON = """
import sys
from mlx_gemma4_assist import InputError, Processor, assistant_for, load
import mlx_gemma4_assist.huggingface

load("tiny")
print(Processor.from_pretrained(sys.argv[1]).encode("a", chat=False) != [])
print(load(sys.argv[2])[0].config.num_hidden_layers)
try:
    load("somebody/else")
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_endpoints_that_are_no_address(address, tmp_path):
    """What lies in a folder or is whole in the cache loads; what does not, says why."""
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--somebody--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(ASSETS / "tiny", repo / "snapshots" / commit)
    variables = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", IN_PYTHON, str(ASSETS / "tiny"), "somebody/tiny"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    why = f"HF_ENDPOINT is {address!r}, which is no address: {NO_ADDRESSES[address]}"
    assert done.stdout.splitlines() == ["True", "6", f"somebody/else is not complete in the local cache, and {why}"]


def test_such_an_endpoint_on_the_command_line():
    variables = os.environ | {"HF_ENDPOINT": "http://[::1"}
    command = [sys.executable, "-m", "mlx_gemma4_assist", "generate", "--prompt", "a", "-m", "1", "--model"]
    done = [
        subprocess.run([*command, model], env=variables, capture_output=True, text=True, timeout=60)
        for model in ("tiny", "somebody/else")
    ]
    assert [each.returncode for each in done] == [0, 2], done
    why = "HF_ENDPOINT is 'http://[::1', which is no address: Invalid IPv6 URL"
    assert done[1].stderr == f"error: somebody/else is not complete in the local cache, and {why}\n"
