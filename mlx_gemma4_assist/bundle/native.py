"""The C++ engine beside the package: built from its sources, and run for the rounds that it makes of a bundle."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..rounds.sampling import Sampling
from .runner import Made

RUNNER = "gemma4"
_HEAD = struct.Struct("=4i")  # of a round in the runner's file: drafts, accepted, tokens, logits


def sources() -> Path | None:
    """The folder of the engine's sources, of a clone or of the installed package; None without any."""
    package = Path(__file__).resolve().parents[1]
    return next((each for each in (package / "native", package.parent / "native") if (each / "build.sh").is_file()), None)


def why_not() -> str | None:
    """Why the engine cannot be built here, None if nothing is missing."""
    if sources() is None:
        return "its sources are not here"
    if compiler() is None:
        return "there is no C++ compiler"
    headers = Path(mx.__file__).parent / "include" / "mlx" / "mlx.h"
    return None if headers.is_file() else "MLX's headers are not here"


def compiler() -> str | None:
    """The C++ compiler's name: ``CXX``, or the system's."""
    return next((each for each in (os.environ.get("CXX"), "c++", "g++") if each and shutil.which(each)), None)


def build(folder: Path) -> Path:
    """Build the engine's runner into a folder.

    Returns:
        The program.

    Raises:
        InputError: it cannot be built; one sentence.
    """
    found = sources()
    if found is None:
        raise InputError("the C++ engine's sources are not here")
    environment = {"CXXFLAGS": "-O1", **os.environ, "CXX": compiler() or "c++"}
    done = subprocess.run(
        [found / "build.sh", folder, sys.executable], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = next((line for line in done.stderr.splitlines() if "error" in line), "its compiler failed")
        raise InputError(f"the C++ engine cannot be built: {why:.200}")
    return folder / RUNNER


def rounds(
    program: Path, bundle: Path, prompt: Sequence[int], drafts: Sequence[int], sampling: Sampling, seed: int, most: int
) -> Iterator[Made]:
    """The rounds that the engine makes after a prompt, the first of them without drafts, up to a stop token.

    Args:
        program: the runner.
        bundle: its folder.
        prompt: token ids.
        drafts: of the rounds after the first, again and again.
        sampling: how tokens are drawn.
        seed: of drawn tokens.
        most: tokens of the text.

    Raises:
        InputError: the engine fails, with what it says.
    """
    readable, writable = os.pipe()
    options = _options(drafts, sampling, seed, most) | {"rounds": f"/dev/fd/{writable}"}
    command = [program, bundle, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with os.fdopen(readable, "rb") as file:
        with subprocess.Popen(command, pass_fds=[writable], text=True, **pipes) as process:  # type: ignore[call-overload]
            os.close(writable)
            try:
                process.stdin.write(" ".join(map(str, prompt)) + "\n")
                process.stdin.close()
                yield from _read(file)
                if process.wait():
                    raise InputError(f"the C++ engine fails: {process.stderr.read().strip().removeprefix('gemma4: ')}")
            finally:
                process.kill()


def _options(drafts: Sequence[int], sampling: Sampling, seed: int, most: int) -> dict[str, object]:
    compiled = mx.default_device() != mx.Device(mx.cpu)  # where that does not take a compiler's time
    options: dict[str, object] = {
        "drafts": ",".join(map(str, drafts)), "max-tokens": most, "compile": int(compiled), "seed": seed
    }  # fmt: skip
    if not sampling.greedy:
        options |= {
            "temperature": sampling.temperature, "top-k": sampling.top_k, "top-p": sampling.top_p,
            "min-p": sampling.min_p, "draft-temperature": sampling.draft_temperature,
        }  # fmt: skip
    return options


def _read(file: BinaryIO) -> Iterator[Made]:
    """Rounds as the runner writes them: logits are float32 (1, drafts + 1, V)."""
    while head := file.read(_HEAD.size):
        drafted, accepted, count, size = _HEAD.unpack(head)
        tokens = np.frombuffer(file.read(4 * count), np.int32).tolist()
        logits = np.frombuffer(file.read(4 * size), np.float32).reshape(1, drafted + 1, -1)
        yield Made(tokens, accepted, mx.array(logits))
