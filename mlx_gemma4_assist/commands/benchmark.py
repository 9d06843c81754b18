"""``benchmark``: plain against assisted decoding on this machine, as a table, JSON and a picture."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, OptionError, first_line
from ..extras import library
from ..options import GenerationOptions
from .interrupts import ending_at_once
from .loading import EMBEDDED_ANSWERS, check_choice, draft_memory, load_pair, open_checkpoint
from .options import DRAWN, EMBEDDED, QUANTIZED, Learned, ModelChoice, Only, grouped
from .streams import note

if TYPE_CHECKING:
    from rich.table import Table

    from ..engine.pair import Pair
    from ..evaluation.benchmark import Run, Setting, Summary

PICTURES = (".png", ".svg", ".pdf")
GAINS_ON_CPU = "bfloat16"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and what is shown of it."""

    draft_lengths: Annotated[
        str, typer.Option("--draft-lengths", help="Drafts per round to compare, with commas between.")
    ] = "1,2,3,4,5,auto"
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt-file",
            help="A text, or a .json list of messages, instead of the bundled code, prose, list, JSON and chat; may be "
            "repeated.",
        ),
    ] = None
    repeats: Annotated[int, typer.Option("--repeats", help="Runs of each prompt in each setting, after one more.")] = 3
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw speed and acceptance into this .png, .svg or .pdf file.")
    ] = None


@grouped
def benchmark(
    choice: ModelChoice,
    comparison: Comparison,
    options: Annotated[GenerationOptions, Only(*DRAWN, *QUANTIZED, "compile", max_tokens=128, seed=0)],
    learned: Learned = True,
) -> None:
    """Compare plain decoding with each draft length on this machine, taking turns on the same prompts."""
    with ending_at_once():
        from ..evaluation.benchmark import measure, parse_settings

    settings = parse_settings(comparison.draft_lengths)
    if comparison.repeats < 1:
        raise InputError(f"--repeats is {comparison.repeats}, expected a positive integer")
    if options.max_tokens < 2:
        raise OptionError("{max_tokens} is {value}, expected 2 or more to measure", value=options.max_tokens)
    if comparison.plot is not None:
        _check_plot(comparison.plot)
    prompts = _prompts(comparison.prompt_file or [])
    check_choice(choice, options, compares=True)
    measured = _in_a_format_that_gains(choice)
    checkpoint = open_checkpoint(measured, options, compares=True)
    encoded = {name: checkpoint.prepare(prompt).tokens for name, prompt in prompts.items()}
    if measured != choice:
        note(f"Measuring in {GAINS_ON_CPU}: on a CPU drafts gain nothing in this pair's float32 (--dtype float32).")
    pair = load_pair(checkpoint, options, max(map(len, encoded.values())) + options.max_tokens)
    if choice.model == EMBEDDED:
        note(EMBEDDED_ANSWERS)
    with _Progress(len(encoded) * len(settings) * (comparison.repeats + 1)) as progress:
        runs = measure(
            pair,
            encoded,
            settings,
            options,
            turns=comparison.repeats,
            progress=progress,
            memory=draft_memory(learned),
        )
    report = _report(pair, options, runs, {name: len(tokens) for name, tokens in encoded.items()})
    report = {"model": choice.model, "command": shlex.join(["mlx_gemma4_assist", *sys.argv[1:]])} | report
    if comparison.as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print(report)
    if comparison.plot is not None:
        _plot(comparison.plot, report)


def _in_a_format_that_gains(choice: ModelChoice) -> ModelChoice:
    """What to measure: the embedded pair on a CPU in bfloat16, not its float32, unless a format is asked for.

    Of plain decoding's processor time per token, 1 to 3 drafts took 0.98 to 1.02 in float32 and 0.89 to 0.96 in
    bfloat16, compiled 1.06 to 1.11 and 0.81 to 0.88 (medians of the five bundled prompts on a busy 2-core server).
    """
    from ..backend import on_gpu

    if choice.model != EMBEDDED or choice.dtype is not None or on_gpu():
        return choice
    return replace(choice, dtype=GAINS_ON_CPU)


def _prompts(files: Sequence[Path]) -> "dict[str, Any]":
    from ..evaluation.benchmark import bundled_prompts, read_prompt

    return {str(path): read_prompt(path) for path in files} or bundled_prompts()


class _Progress:
    """A bar on standard error, if that is a terminal."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=total)
        self._started = False

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, prompt: str, setting: "Setting") -> None:
        """A run begins, so the one before it is done."""
        self._bar.update(self._task, advance=int(self._started), description=f"{prompt}, {_name(setting)}")
        self._started = True


def _report(pair: "Pair", chosen: GenerationOptions, runs: "Sequence[Run]", prompts: dict[str, int]) -> dict[str, Any]:
    """All that is known, fit for JSON."""
    from ..evaluation.benchmark import differences, environment, summarise

    return {
        "environment": environment(pair.target, chosen),
        "options": {name: vars(chosen)[name] for name in (*DRAWN, "compile")},
        "prompts": prompts,
        "summaries": [_plain_data(summary) for summary in summarise(runs)],
        "by_prompt": {name: [_plain_data(summary) for summary in summarise(runs, name)] for name in prompts},
        "differences": [difference._asdict() for difference in differences(runs)],
        "runs": [asdict(run) for run in runs],
    }


def _plain_data(summary: "Summary") -> dict[str, Any]:
    """A summary without what JSON cannot say: a spread is an object, infinity is null."""
    data = asdict(summary)
    for name in ("tokens_per_second", "speedup", "round_cost", "first"):
        data[name] = None if data[name] is None else dict(zip(("median", "low", "high"), data[name], strict=True))
    if data["break_even"] == float("inf"):
        data["break_even"] = None
    return data


def _name(setting: "Setting") -> str:
    if setting in (0, "auto"):
        return "auto" if setting else "plain"
    return f"{setting} draft{'' if setting == 1 else 's'}"


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    # Piped, lines are not cut to what a terminal would have been.
    console = Console(width=None if sys.stdout.isatty() else 132, highlight=False, markup=False)
    console.print(_headline(report))
    console.print(_speed_table(report))
    console.print(_rounds_table(report))
    if len(report["prompts"]) > 1:
        console.print(_prompts_table(report))
    console.print(
        "Medians (quartiles). A round costs that many plain steps, and breaks even with plain decoding if each draft "
        "stands with that chance, given that those before it did; reached is the chance in these texts."
    )
    console.print(_sameness(report))
    console.print(_validity(report["environment"]))


def _headline(report: dict[str, Any]) -> str:
    environment, chosen = report["environment"], report["options"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    how = "greedy" if chosen["temperature"] == 0 else f"temperature {chosen['temperature']:g}, seed {chosen['seed']}"
    prompts = ", ".join(f"{name} ({count} tokens)" for name, count in report["prompts"].items())
    return "\n".join(
        (
            f"{report['model']}: {environment['dtype']}, quantization {environment['quantization']}, "
            f"{'' if environment['compiled'] else 'not '}compiled, {how}, at most {chosen['max_tokens']} tokens",
            f"{environment['machine']}, {environment['backend']}, {environment['system']}; {versions}",
            f"Prompts: {prompts}",
            f"Command: {report['command']}",
        )
    )


def _speed_table(report: dict[str, Any]) -> "Table":
    """A row for each draft length, over all prompts."""
    table = _table("", "tokens/s", "vs plain", "first token", "peak memory")
    for summary in report["summaries"]:
        table.add_row(
            _name(summary["setting"]),
            _shown(summary["tokens_per_second"], 1),
            _shown(summary["speedup"], 2) if summary["setting"] != 0 else "",
            f"{1e3 * summary['first']['median']:.0f} ms",
            f"{summary['peak_memory']:.3f} GB",
        )
    return table


def _rounds_table(report: dict[str, Any]) -> "Table":
    """A row for each draft length: what a round gave and cost."""
    table = _table(
        "", "tokens\nper round", "\ncosts", "breaks\neven at", "\nreached", "drafts that stood\nat place 1, 2, ..."
    )
    for summary in report["summaries"]:
        if summary["setting"] == 0:
            continue
        cost = summary["round_cost"]
        table.add_row(
            _name(summary["setting"]),
            f"{summary['tokens_per_round']:.2f}",
            "" if cost is None else f"{cost['median']:.2f}",
            "" if cost is None else _share_or_never(summary["break_even"]),
            "" if cost is None else f"{summary['acceptance']:.0%}",
            " ".join(f"{share:.0%}" for share in summary["accepted_at"]),
        )
    return table


def _prompts_table(report: dict[str, Any]) -> "Table":
    """A row for each prompt: its speed without drafts, and what each draft length makes of it."""
    settings = [summary["setting"] for summary in report["summaries"] if summary["setting"] != 0]
    table = _table(
        "", "plain\ntokens/s", *(f"{'vs plain' if i == 0 else ''}\n{_name(s)}" for i, s in enumerate(settings))
    )
    for prompt, summaries in report["by_prompt"].items():
        by_setting = {summary["setting"]: summary for summary in summaries}
        speedups = (by_setting[setting]["speedup"]["median"] for setting in settings)
        plain = by_setting[0]["tokens_per_second"]["median"]
        table.add_row(prompt, f"{plain:.1f}", *(f"{speedup:.2f}" for speedup in speedups))
    return table


def _table(first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _shown(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}-{spread['high']:.{digits}f})"


def _share_or_never(share: float | None) -> str:
    return "never" if share is None else f"{share:.0%}"


def _sameness(report: dict[str, Any]) -> str:
    found = report["differences"]
    if not found:
        return f"All {len(report['runs'])} texts are those of plain decoding, token for token."
    listed = "; ".join(f"{_name(d['setting'])} on {d['prompt']} from token {d['at']}" for d in found)
    why = "" if report["environment"]["dtype"] == "float32" else " Near ties may fall otherwise in this data type."
    return f"Texts that are not those of plain decoding: {listed}.{why}"


def _validity(environment: Mapping[str, Any]) -> str:
    """For what the figures hold."""
    packed = "" if environment["quantization"] == "none" else f", quantized {environment['quantization']}"
    holds = f"The figures hold for {environment['dtype']}{packed} on the {environment['backend']} backend only."
    if (environment["backend"], environment["dtype"], packed) == ("CPU", "float32", ""):
        holds += " Float32 on a CPU is for correctness: expect no gain from drafts there."
    return holds


def _check_plot(path: Path) -> None:
    """Refuse a picture that could not be drawn, before any work is done."""
    library("matplotlib", "--plot", "plot")
    if path.suffix not in PICTURES:
        raise InputError(f"--plot is {path}, expected a name that ends with {', '.join(PICTURES)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot is {path}, but there is no folder {path.absolute().parent}")


def _plot(path: Path, report: dict[str, Any]) -> None:
    """Speed by draft length on the left, acceptance by place on the right; a colour for each prompt."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    speed, acceptance = figure.subplots(1, 2)
    _plot_speed(speed, report)
    _plot_acceptance(acceptance, report)
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=9, frameon=False)
    environment = report["environment"]
    figure.suptitle(
        f"{Path(report['model']).name}, {environment['dtype']}"
        f"{'' if environment['quantization'] == 'none' else ', ' + environment['quantization']}"
        f" on {environment['machine']} ({environment['backend']}, mlx {environment['versions']['mlx']})",
        fontsize=10,
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {first_line(error)}") from None


def _beside(number: int, report: dict[str, Any]) -> float:
    """How far a prompt's points are moved, so that they do not hide each other."""
    return 0.05 * (number - (len(report["by_prompt"]) - 1) / 2)


def _plot_speed(axes: Any, report: dict[str, Any]) -> None:
    """A line for each prompt; the automatic length stands apart, at the right."""
    settings = [summary["setting"] for summary in report["summaries"]]
    fixed = sorted(setting for setting in settings if setting != "auto")
    places = {setting: setting for setting in fixed} | ({"auto": fixed[-1] + 1} if "auto" in settings else {})
    for number, (prompt, summaries) in enumerate(report["by_prompt"].items()):
        spreads = {summary["setting"]: summary["tokens_per_second"] for summary in summaries}
        for part in (fixed, [setting for setting in settings if setting == "auto"]):
            axes.errorbar(
                [places[setting] + _beside(number, report) for setting in part],
                [spreads[setting]["median"] for setting in part],
                [
                    [spreads[setting]["median"] - spreads[setting]["low"] for setting in part],
                    [spreads[setting]["high"] - spreads[setting]["median"] for setting in part],
                ],
                fmt="-o",
                markersize=4,
                linewidth=1.2,
                capsize=2,
                color=f"C{number}",
                label=prompt if part == fixed else None,
            )
    axes.set_xticks(list(places.values()), ["plain" if setting == 0 else str(setting) for setting in places])
    axes.set_xlabel("drafts per round")
    axes.set_ylabel("tokens per second, median and quartiles")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)


def _plot_acceptance(axes: Any, report: dict[str, Any]) -> None:
    """Of the longest fixed draft length, with what would just pay."""
    fixed = [summary for summary in report["summaries"] if summary["setting"] not in (0, "auto")]
    if not fixed:
        axes.set_axis_off()
        return
    longest = max(fixed, key=lambda summary: summary["setting"])
    places = range(1, longest["setting"] + 1)
    for number, summaries in enumerate(report["by_prompt"].values()):
        (shares,) = (s["accepted_at"] for s in summaries if s["setting"] == longest["setting"])
        at = [place + _beside(number, report) for place in places[: len(shares)]]
        axes.plot(at, shares, "-o", markersize=4, linewidth=1.2, color=f"C{number}")
    break_even = longest["break_even"]
    if break_even is not None:
        label = f"break-even: {break_even:.0%} of the drafts whose predecessors stood"
        axes.plot(places, [break_even**place for place in places], "k--", linewidth=1, label=label)
        axes.legend(fontsize=8, loc="lower left", frameon=False)
    axes.set_xticks(list(places))
    axes.set_xlabel(f"place in a round of {_name(longest['setting'])}")
    axes.set_ylabel("share of drafts that stood")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(axis="y", alpha=0.3)
