"""Commands that run in the tests' own process, where only what they print and their exit code matter."""

import io
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from mlx_gemma4_assist.__main__ import main


class Done(NamedTuple):
    """What ``subprocess.run`` would say of the same command."""

    returncode: int
    stdout: str
    stderr: str


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A function that runs ``python -m mlx_gemma4_assist`` with arguments, and ``stdin`` as standard input."""

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["mlx-gemma4-assist", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code: Any = ended.value.code
        return Done(code, *capsys.readouterr())

    return run
