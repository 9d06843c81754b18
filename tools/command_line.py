"""What the scripts of this folder share of a command line: help, ranges, and one clear line for bad input."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mlx_gemma4_assist import InputError

INTERRUPTED = 130


def parser_for(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring, as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_tool(parser: argparse.ArgumentParser, tool: Callable[[argparse.Namespace], int | None]) -> None:
    """Run a tool with its arguments; exit with what it returns, with 2 and one line for bad input or a file that
    cannot be used."""
    args = parser.parse_args()
    try:
        sys.exit(tool(args))
    except (InputError, OSError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return number


def share(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def folder(text: str) -> Path:
    """An argument that names a folder which is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return Path(text)
