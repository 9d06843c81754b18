"""``export``: a pair as a folder of programs that an app runs without Python. Progress to standard error."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import GenerationOptions
from .interrupts import ending_at_once
from .loading import check_choice, load_pair, open_checkpoint
from .options import ModelChoice, Only, grouped
from .streams import moves_cursor, note

if TYPE_CHECKING:
    from ..bundle.checking import Findings
    from ..engine.pair import Checkpoint


@dataclass(frozen=True)
class BundleChoice:
    """What is to be written."""

    out: Annotated[Path, typer.Option("--out", help="The folder to write, such as Gemma4.bundle.")]
    copy_weights: Annotated[
        bool,
        typer.Option(
            "--copy-weights/--no-copy-weights",
            help="Give the bundle all weights, rather than the way to the checkpoint's files.",
        ),
    ] = False
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Run the bundle, by the C++ engine too if that can be built, and compare its text with the package's.",
        ),
    ] = True


@grouped
def export(choice: Annotated[ModelChoice, Only("model", "assistant_model", "dtype")], bundle: BundleChoice) -> int:
    """Write rounds and prompt reading as programs, for apps without Python.

    What a runner has to know is in docs/bundle.md. Weights are read by an app where they lie: a bundle goes with its
    checkpoint, unless it has copies. Nothing is written unless what it computes is what the package computes.
    """
    options = GenerationOptions()
    check_choice(choice, options)
    with ending_at_once():
        from ..bundle.writing import ExportOptions, check_out
        from ..bundle.writing import export as write

    check_out(bundle.out)
    checkpoint = open_checkpoint(choice, options)

    def check(folder: Path) -> None:
        found = _checked(folder, checkpoint)
        _tell("Checked", found)
        _check_native(folder, found)

    write(checkpoint, bundle.out, ExportOptions(bundle.copy_weights), check if bundle.check else None, _tracing)
    print(f"{bundle.out}: {_size(bundle.out)}")
    return 0


def _tracing(done: int, total: int) -> None:
    if moves_cursor(sys.stderr):
        print(f"\r{done} of {total} programs" + ("\r\033[K" if done == total else ""), end="", file=sys.stderr)


def _checked(folder: Path, checkpoint: "Checkpoint") -> "Findings":
    from ..bundle.checking import check

    return check(folder, load_pair(checkpoint))


def _check_native(folder: Path, found: "Findings") -> None:
    """By the C++ engine, which reads weights of its own: the package's are let go of by now."""
    import mlx.core as mx

    from ..bundle import native
    from ..bundle.checking import check_native

    mx.clear_cache()
    if why := native.why_not():
        note(f"Not checked by the C++ engine: {why}.")
        return
    with tempfile.TemporaryDirectory() as built:
        _tell("Checked by the C++ engine", check_native(folder, native.build(Path(built)), found.texts))


def _tell(how: str, found: "Findings") -> None:
    parted = f"; parted at near ties: {'; '.join(found.ties)}" if found.ties else ""
    note(
        f"{how}: {found.tokens} tokens of {found.rounds} rounds are the package's, "
        f"logits to {found.difference:.1g} of the largest{parted}."
    )


def _size(folder: Path) -> str:
    from ..backend import readable

    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    programs = sum(size for path, size in sizes.items() if path.parent.name == "programs")
    return f"{readable(programs)} of programs, {readable(sum(sizes.values()))} in all"
