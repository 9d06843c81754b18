"""Ways into the commands: nothing is imported before Ctrl-C has been seen to."""

from importlib import import_module
from typing import NoReturn

from .interrupts import ending_at_once

COMMANDS = ("generate", "chat", "serve", "connect", "convert", "export", "benchmark", "parity", "doctor")
"""Each is a function of the module of its name in this folder."""


def run_command(name: str) -> NoReturn:
    """``python -m mlx_gemma4_assist.NAME``."""
    with ending_at_once():
        command = vars(import_module(f".{name}", __package__))[name]
        from .run import run_one
    run_one(command)


def run_commands() -> NoReturn:
    """``python -m mlx_gemma4_assist NAME``, and the console script ``mlx-gemma4-assist NAME``."""
    with ending_at_once():
        commands = {name: vars(import_module(f".{name}", __package__))[name] for name in COMMANDS}
        from .run import run_all
    run_all(commands)
