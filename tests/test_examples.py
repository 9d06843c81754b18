"""The examples as a newcomer runs them: their help, and one line for what is missing."""

import os
import runpy
import subprocess
import sys

import pytest
from support.paths import EXAMPLES

SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
MENU_BAR = "menu_bar.py"
WITH_MODEL = [name for name in SCRIPTS if name != MENU_BAR]


@pytest.fixture
def run(monkeypatch, capsys):
    """An example in this process: its exit code, what it prints, and what it complains of."""

    def of(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return ended.value.code or 0, *capsys.readouterr()

    return of


def test_there_are_examples():
    assert len(SCRIPTS) >= 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_help(run, name):
    code, out, errors = run(name, "--help")
    assert code == 0, errors
    assert out.startswith(f"usage: {name}")
    assert "--help" in out


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_folder_that_is_missing_is_one_line(run, name):
    assert_one_line(*run(name, "no/such/folder", "tiny-assistant"), "no folder 'no/such/folder'")


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_model_that_is_missing_is_one_line(name):
    """Where the Hub may not be asked, which its library wants to know when it is imported."""
    command = [sys.executable, str(EXAMPLES / name), "nobody/such-a-model"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    message = "nobody/such-a-model is not complete in the local cache, and HF_HUB_OFFLINE is set"
    assert_one_line(done.returncode, done.stdout, done.stderr, message)


def test_the_menu_bar_needs_a_library(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rumps", None)
    assert_one_line(*run(MENU_BAR), "pip install rumps")
    assert len((EXAMPLES / MENU_BAR).read_text().splitlines()) <= 60


def assert_one_line(code, out, errors, message):
    assert (code, out) == (2, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert message in line
