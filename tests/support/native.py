"""The C++ engine, built once, and texts made by its runner."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gemma4_assist.bundle.writing import digest_of

SOURCES = Path(__file__).resolve().parents[2] / "native"
QUICK = "-O1"


def has_compiler() -> bool:
    return shutil.which("g++") is not None


def build(out: Path, *, flags: str = QUICK, extra: Sequence[str] = ()) -> Path:
    """Build the runner, and what else is named, into a folder."""
    environment = os.environ | {"CXX": "g++", "CXXFLAGS": flags, "EXTRA": " ".join(extra)}
    command = [str(SOURCES / "build.sh"), str(out), sys.executable]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return out / "gemma4"


@dataclass(frozen=True)
class Text:
    """What the runner made of a prompt, and what it said of it."""

    tokens: list[int]
    said: dict[str, Any]


def make(runner: Path, bundle: Path, prompts: Sequence[Sequence[int]], *options: str) -> list[Text]:
    """Texts of one conversation."""
    lines = "".join(" ".join(map(str, prompt)) + "\n" for prompt in prompts)
    done = subprocess.run(
        [str(runner), str(bundle), *options], input=lines, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    made = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    return [Text(*each) for each in zip(made, map(json.loads, done.stderr.splitlines()), strict=True)]


def refusal(runner: Path, bundle: Path, *options: str, prompt: str = "2 300") -> str:
    """The one line that the runner refuses with."""
    command = [str(runner), str(bundle), *options]
    done = subprocess.run(command, input=prompt + "\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    return line


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file of a bundle, and let the manifest agree with it."""
    path, manifest = folder / name, folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if path != manifest:
        edit(folder, manifest.name, lambda said: said["files"].update({name: written(path)}))


def written(path: Path) -> dict[str, Any]:
    """What a manifest says of a small file."""
    return {"bytes": path.stat().st_size, "sha256": digest_of(path)}
