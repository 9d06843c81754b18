"""The examples as a newcomer runs them: their help, and one line for what is missing."""

import os
import subprocess
import sys

import pytest
from support.paths import EXAMPLES

SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name, *arguments):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_there_are_examples():
    assert len(SCRIPTS) >= 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_help(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}")
    assert "--help" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder", "tiny-assistant"], "no folder 'no/such/folder'"),
        (["nobody/such-a-model"], "nobody/such-a-model is not complete in the local cache, and HF_HUB_OFFLINE is set"),
    ],
)
def test_what_is_missing_is_one_line(name, arguments, message):
    done = run(name, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
