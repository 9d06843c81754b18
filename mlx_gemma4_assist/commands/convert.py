"""``convert``: a target and its assistant to MLX folders. Progress to standard error, figures to standard output."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .interrupts import ending_at_once
from .options import AssistantModel, Dtype, grouped
from .streams import note

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

    from ..conversion.convert import Result
    from ..conversion.pair import Conversion

AFFINE = "affine"


@dataclass(frozen=True)
class ConversionChoice:
    """What is to be converted, and how; the fields of ``ConversionOptions``, as they are typed."""

    hf_path: Annotated[
        str, typer.Option("--hf-path", "--model", help="The target: a Hub repo, a local folder, or tiny.")
    ]
    mlx_path: Annotated[str, typer.Option("--mlx-path", help="The folder to write the target to.")] = "mlx_model"
    quantize: Annotated[bool, typer.Option("--quantize", "-q", help="Quantize both.")] = False
    q_bits: Annotated[int | None, typer.Option("--q-bits", help="Bits per weight; 4 unless told.")] = None
    q_group_size: Annotated[
        int | None, typer.Option("--q-group-size", help="Weights that share a scale; 64 unless told.")
    ] = None
    q_mode: Annotated[
        str, typer.Option("--q-mode", help="affine, mxfp4, mxfp8, nvfp4, or auto: what suits this chip.")
    ] = AFFINE
    quant_predicate: Annotated[
        str | None,
        typer.Option("--quant-predicate", help="A mixed recipe: gemma4_3_6, gemma4_4_6, gemma4_4_8, mixed_2_6, ..."),
    ] = None
    dtype: Dtype = None
    dequantize: Annotated[bool, typer.Option("--dequantize", "-d", help="Unpack a quantized checkpoint.")] = False
    assistant_model: AssistantModel = None
    assistant_path: Annotated[
        str | None, typer.Option("--assistant-path", help="Its folder to write; MLX_PATH-assistant unless told.")
    ] = None
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave out what pictures and sound need.")] = False
    check: Annotated[
        bool | None,
        typer.Option("--check/--no-check", help="Compare with the original. Default: for models below 4 GB."),
    ] = None
    text: Annotated[
        Path | None,
        typer.Option("--text", help="A file to compare over instead of the bundled text."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace checkpoints that are there already.")] = False
    revision: Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit of the repo.")] = None
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Of the files written.")] = "5GB"
    upload_repo: Annotated[
        str | None, typer.Option("--upload-repo", help="Upload to this repo; without a token only say what would go.")
    ] = None


@grouped
def convert(
    choice: ConversionChoice,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> int:
    """Convert a checkpoint of Hugging Face and its assistant to MLX, quantized or not.

    What is written loads here, in mlx-lm and in mlx-vlm. Until both are finished nothing is there.
    """
    with ending_at_once():
        from ..conversion.convert import run
        from ..conversion.options import ConversionOptions

    options = ConversionOptions(**vars(choice))
    with _Shown() as shown:
        result = run(options, planned=shown.planned, converting=shown.converting, comparing=shown.comparing)
    if as_json:
        print(json.dumps(_summary(result)))
    else:
        _report(result)
    return 0


class _Shown:
    """Says what is planned, and draws progress bars where there is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bars: dict[str, tuple[Progress, TaskID]] = {}

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def planned(self, conversion: "Conversion") -> None:
        from ..conversion.formats import described

        if conversion.choice is not None:
            note(f"Format: {described(conversion.choice.quantization)} ({conversion.choice.reason}).")
        for plan in conversion.plans:
            note(f"{plan.name} -> {plan.folder}")
        for sentence in conversion.notes:
            note(f"Note: {sentence}.")

    def converting(self, done: int, total: int) -> None:
        from rich.progress import DownloadColumn, TransferSpeedColumn

        self._update("Converting", done, total, DownloadColumn(), TransferSpeedColumn())

    def comparing(self, done: int, total: int) -> None:
        from rich.progress import MofNCompleteColumn

        self._update("Comparing", done, total, MofNCompleteColumn())

    def _update(self, what: str, done: int, total: int, *columns: "ProgressColumn") -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if not self._console.is_terminal:
            return
        if what not in self._bars:
            self._stop()
            text = TextColumn("{task.description}")
            bar = Progress(text, BarColumn(), *columns, TimeRemainingColumn(), console=self._console)
            bar.start()
            self._bars[what] = (bar, bar.add_task(what, total=total))
        bar, task = self._bars[what]
        bar.update(task, completed=done)

    def _stop(self) -> None:
        for bar, _ in self._bars.values():
            bar.stop()


def _report(result: "Result") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for one in result.conversion.plans:
        size = f"{one.source_bytes / 1e9:.2f} GB -> {one.bytes / 1e9:.2f} GB"
        if one.bytes < 1e8:
            size = f"{one.source_bytes / 1e6:.1f} MB -> {one.bytes / 1e6:.1f} MB"
        console.print(
            f"{one.folder}: {size}, {one.bits_per_weight:.2f} bits per weight", soft_wrap=True, highlight=False
        )
    if result.quality is not None:
        table = Table("", "original", "converted", box=box.SIMPLE)
        for row in result.quality.table():
            table.add_row(*row)
        console.print(table)
    for upload in result.uploads:
        print(upload.describe())
        if upload.url is None:
            print("Nothing was sent: there is no token (hf auth login).")


def _summary(result: "Result") -> dict[str, Any]:
    choice, quality = result.conversion.choice, result.quality
    return {
        "written": [
            {
                "name": one.name,
                "folder": str(one.folder),
                "source_bytes": one.source_bytes,
                "bytes": one.bytes,
                "bits_per_weight": one.bits_per_weight,
            }
            for one in result.conversion.plans
        ],
        "format": choice and choice._asdict(),
        "notes": list(result.conversion.notes),
        "quality": quality and asdict(quality),
        "uploads": [{"repo_id": upload.repo_id, "bytes": upload.bytes, "url": upload.url} for upload in result.uploads],
    }
