"""Whose computations the tests run, and what they leave where."""

import os
import shutil
import signal
import tempfile

import pytest

# What runs learn about draft lengths is not left in the user's folder, nor read from it; commands inherit this.
os.environ["MLX_GEMMA4_ASSIST_CACHE"] = tempfile.mkdtemp(prefix="mlx-gemma4-assist-tests-")
# Nor are chats.
os.environ["MLX_GEMMA4_ASSIST_DATA"] = tempfile.mkdtemp(prefix="mlx-gemma4-assist-chats-")
# MLX's CPU backend writes kernels to the temporary folder and loads what it finds there: two processes that build the
# same one would read each other's halves.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["TMPDIR"] = tempfile.tempdir = f"{tempfile.gettempdir()}/mlx-gemma4-assist-{worker}"
    os.makedirs(tempfile.tempdir, exist_ok=True)


BRANCHES = ("cpu", "gpu", "gpu-compiled")


def pytest_addoption(parser):
    parser.addoption(
        "--branches", choices=BRANCHES, help="whose computations run, instead of the device's: see backend.branches"
    )


def pytest_configure(config):
    """In each worker too, and before the package is imported; commands that tests start inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell: Ctrl-C is tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if chosen := config.getoption("--branches"):
        os.environ["MLX_GEMMA4_ASSIST_BRANCHES"] = chosen


@pytest.fixture
def small_shelves(monkeypatch):
    """Shelves that short texts outgrow: a row of 65 tokens no longer lies beside one of 30."""
    from mlx_gemma4_assist.cache import shelves

    for name, value in {"FLOOR": 64, "GROWTH": 64, "SPARE": 64}.items():
        monkeypatch.setattr(shelves, name, value)


def pytest_unconfigure():
    for name in ("MLX_GEMMA4_ASSIST_CACHE", "MLX_GEMMA4_ASSIST_DATA"):
        shutil.rmtree(os.environ[name], ignore_errors=True)
