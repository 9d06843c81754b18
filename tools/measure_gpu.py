"""What drafts are worth on this GPU, in five minutes: MLX's Metal or CUDA backend, or the CPU, no download.

    python tools/measure_gpu.py --json gpu.json
    python tools/measure_gpu.py --scale small --budget 60

A random pair of E2B's published shape is made on the device, in bfloat16 and in 4 bits (affine, mxfp4, nvfp4), each in
a process of its own that measures one case at a time (``gpu_worker.py``): plain decoding beside mlx-lm's with the very
same arrays, 1 to 8 drafts of which each is right with a chance of 0.8, learned draft lengths, the first token of 2,048,
compiled and eager, with and without look-ahead. Of a float32 pair of the same widths and 10 layers, whose text depends
on every key, texts with drafts are compared with the plain one: with products in float32, and with TF32, which MLX
allows by default where the hardware has it (``MLX_ENABLE_TF32``).

A case takes turns with what it is compared with, A B, B A, ..., and warms up before. Ratios are taken within a turn;
above 1 the first of two is faster. The most important cases come first; what ``--budget`` seconds are not enough for is
left out, and said to be. Each line is printed as soon as it is measured, and ``--json`` is written anew after each.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gpu_worker
from command_line import parser_for, positive, run_tool, share
from gpu_worker import BFLOAT16, FLOAT32, Request, Settings
from peers import AUTO, MLX_LM
from workers import Failed, Worker

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.evaluation.benchmark import Spread

TF32 = "float32 with TF32"
STAGES = {BFLOAT16: 8, FLOAT32: 3, "affine": 4, TF32: 2, "mxfp4": 2, "nvfp4": 2}
"""What is measured, most important first, and how the time left is shared among it and what follows."""
SCALES = {"real": (1.0, None), "small": (0.02, 10)}
FLOAT32_LAYERS = 10
MOST_DRAFTS = 8
SPEED, FIRST = "tokens_per_second", "first"
LEAST_TOKENS, MOST_TOKENS = 32, 256


class Case(NamedTuple):
    """What is measured, in which unit, and what it takes turns with."""

    name: str
    request: Request
    unit: str = SPEED
    against: str = ""
    anchor: Request | None = None


def speed_cases(tokens: int, prompt: int, kinds: tuple[bool, ...]) -> Iterator[Case]:
    """Of a pair, the most important first."""
    main, *other = kinds

    def text(**values: Any) -> Request:
        return Request("text", tokens=tokens, **values)

    def drafted(drafts: int | str, compiled: bool) -> Case:
        name = f"{counted(drafts)}{mode(compiled)}"
        plain = text(compiled=compiled)
        return Case(name, text(drafts=drafts, compiled=compiled), against="plain", anchor=plain)

    def plain(compiled: bool) -> Case:
        return Case(f"plain{mode(compiled)}", text(compiled=compiled), SPEED, "mlx-lm", text(engine=MLX_LM))

    def first(compiled: bool) -> Case:
        ours, theirs = (Request("text", engine, tokens=2, prompt=prompt) for engine in ("ours", MLX_LM))
        return Case(f"first of {prompt}{mode(compiled)}", ours._replace(compiled=compiled), FIRST, "mlx-lm", theirs)

    yield from (plain(main), drafted(3, main), first(main), drafted(AUTO, main))
    yield from (make for compiled in other for make in (plain(compiled), drafted(3, compiled)))
    yield from (drafted(drafts, main) for drafts in (2, 4, 5, 1, 6, 8, 7))
    for drafts in (0, 3):
        none = Request("ahead", drafts=drafts, compiled=main, tokens=tokens, ahead=0)
        name = f"look-ahead, {counted(drafts) if drafts else 'plain'}{mode(main)}"
        yield Case(name, none._replace(ahead=1), against="none", anchor=none)
    for compiled in other:
        yield from (first(compiled), drafted(AUTO, compiled))
        yield from (drafted(drafts, compiled) for drafts in (2, 4, 5, 1, 6, 8, 7))


def exact_cases(kinds: tuple[bool, ...]) -> Iterator[Case]:
    """Draft lengths whose text is compared with plain, eager decoding's."""
    for drafts in (3, 8, 1, 2, 4, 5, 6, 7, AUTO):
        for compiled in kinds:
            yield Case(f"{counted(drafts)}{mode(compiled)}", Request("exact", drafts=drafts, compiled=compiled))


def counted(drafts: int | str) -> str:
    return f"{drafts} draft{'' if drafts == 1 else 's'}"


def mode(compiled: bool) -> str:
    return ", compiled" if compiled else ", eager"


class Report:
    """Lines on the screen, and the same in a file."""

    def __init__(self, path: Path | None, facts: dict[str, Any]):
        self._path = path
        self._content: dict[str, Any] = {**facts, "pairs": {}, "cases": [], "left_out": []}

    def pair(self, form: str, facts: dict[str, Any]) -> None:
        self._content["pairs"][form] = facts
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        print(
            f"\n{form}: {facts['megabytes']} MB on {facts['device']} ({facts['backend']}; {versions}), "
            f"made in {facts['build_seconds']} s"
        )
        self._write()

    def case(self, form: str, name: str, line: str, values: dict[str, Any]) -> None:
        print(f"{form:18} {name:30} {line}", flush=True)
        self._content["cases"].append({"pair": form, "case": name, **values})
        self._write()

    def leave_out(self, form: str, name: str, why: str) -> None:
        print(f"{form:18} {name:30} left out: {why}", flush=True)
        self._content["left_out"].append({"pair": form, "case": name, "why": why})
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            written = self._path.with_name(f"{self._path.name}.tmp")
            written.write_text(json.dumps(self._content, indent=2) + "\n")
            written.replace(self._path)


class Stage:
    """One pair's process and the time that it has."""

    def __init__(self, form: str, worker: Worker, report: Report, turns: int, end: float, deadline: float):
        self.worker, self.end = worker, end
        self._form, self._report, self._turns, self._deadline = form, report, turns, deadline
        self._warm: set[Request] = set()

    def measure(self, cases: Iterator[Case]) -> None:
        """One case after the other, while there is time and the process lives."""
        for case in cases:
            if time.monotonic() >= self.end or not self.worker.alive:
                self._report.leave_out(self._form, f"{case.name} and after", "no time" if self.worker.alive else "died")
                return
            try:
                line, values = self._exact(case) if case.request.what == "exact" else self._compare(case)
            except Failed as error:
                self._report.leave_out(self._form, case.name, str(error))
            else:
                self._report.case(self._form, case.name, line, values)

    def tokens(self, compiled: bool) -> int:
        """How many the target writes in about a second, within bounds."""
        request = Request("text", compiled=compiled, tokens=LEAST_TOKENS)
        speeds = [self.ask(request)[SPEED] for _ in range(2)]
        return min(max(int(speeds[1]), LEAST_TOKENS), MOST_TOKENS)

    def ask(self, request: Request) -> dict[str, Any]:
        return self.worker.ask(request._asdict(), max(self._deadline - time.monotonic(), 0.1))

    def _compare(self, case: Case) -> tuple[str, dict[str, Any]]:
        pair = [case.request, case.anchor]
        for request in pair:
            if request not in self._warm:
                self.ask(request)
                self._warm.add(request)
        turns = []
        for turn in range(self._turns):
            answers = {request: self.ask(request) for request in (pair if turn % 2 else pair[::-1])}
            turns.append([answers[request] for request in pair])
        return described(case, turns)

    def _exact(self, case: Case) -> tuple[str, dict[str, Any]]:
        found = self.ask(case.request)
        differing = [text for text in found["texts"] if text["same"] < text["tokens"]]
        where = ", ".join(f"differs at token {text['same']} after {text['prompt']}" for text in differing)
        tokens = sum(text["tokens"] for text in found["texts"])
        return where or f"{tokens} tokens equal to plain, eager decoding's", found


def described(case: Case, turns: list[list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """A case's line, and its figures."""
    values = Spread.of(mine[case.unit] for mine, _ in turns)
    ratios = [mine[case.unit] / other[case.unit] for mine, other in turns]
    ratio = Spread.of(1 / each for each in ratios) if case.unit == FIRST else Spread.of(ratios)
    last = turns[-1][0]
    value = f"{1e3 * values.median:8.1f} ms" if case.unit == FIRST else f"{values.median:8.1f} tokens/s"
    line = f"{value:18} {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of {case.against:7}"
    if case.request.drafts and case.request.what == "text":
        line += f" {last['tokens_per_round']:.2f} tokens a round"
    if not all(mine["same_text"] and other["same_text"] for mine, other in turns):
        line += "  ANOTHER TEXT"
    return line, {
        "unit": case.unit,
        "value": values,
        "against": case.against,
        "ratio": ratio,
        "tokens": case.request.tokens,
        "turns": turns,
    }


def run_stage(form: str, args: argparse.Namespace, report: Report, deadline: float) -> None:
    """Measure one pair in its share of the time that is left."""
    asked = args.pairs.split(",")
    following = [other for other in list(STAGES)[list(STAGES).index(form) :] if other in asked]
    share_of_time = STAGES[form] / sum(STAGES[other] for other in following)
    end = time.monotonic() + share_of_time * (deadline - time.monotonic())
    exact = form in (FLOAT32, TF32)
    scale, layers = SCALES[args.scale]
    settings = Settings(
        form=FLOAT32 if exact else form,
        scale=scale,
        layers=FLOAT32_LAYERS if exact else layers,
        acceptance=args.acceptance,
    )
    variables = {**os.environ, "MLX_ENABLE_TF32": "1" if form == TF32 else "0"} if exact else None
    command = [sys.executable, gpu_worker.__file__, json.dumps(settings)]
    try:
        worker = Worker(command, variables, args.verbose, max(deadline - time.monotonic(), 0.1))
    except Failed as error:
        report.leave_out(form, "all", str(error))
        return
    try:
        report.pair(form, worker.started)
        stage = Stage(form, worker, report, args.turns, end, deadline)
        kinds = {"on": (True,), "off": (False,), "both": (True, False)}[args.compile]
        if exact:
            stage.measure(exact_cases(kinds))
        else:
            tokens = args.tokens or stage.tokens(kinds[0])
            stage.measure(speed_cases(tokens, args.prompt_tokens, kinds))
    except Failed as error:
        report.leave_out(form, "all", str(error))
    finally:
        worker.close()


def check(args: argparse.Namespace) -> None:
    unknown = set(args.pairs.split(",")) - set(STAGES)
    if unknown:
        raise InputError(f"no pair is named {sorted(unknown)[0]!r}: expected {', '.join(STAGES)}")
    for name, value, least in (("--prompt-tokens", args.prompt_tokens, 8), ("--tokens", args.tokens, 2)):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}, expected {least} or more")
    if args.compile != "off" and not can_compile():
        raise InputError("--compile needs g++ on the CPU backend; --compile off goes without")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise InputError(f"there is no folder {str(args.json.parent)!r}")


def measure(args: argparse.Namespace) -> None:
    deadline = time.monotonic() + args.budget
    check(args)
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "shape": f"E2B, {args.scale}",
        "acceptance": args.acceptance,
        "budget": args.budget,
    }
    report = Report(args.json, facts)
    for form in STAGES:
        if form in args.pairs.split(","):
            run_stage(form, args, report, deadline)


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--budget", type=positive, default=300, help="seconds, for everything")
    parser.add_argument("--scale", choices=SCALES, default="real", help="real: E2B's published shape")
    parser.add_argument("--pairs", default=",".join(STAGES))
    parser.add_argument("--compile", choices=("on", "off", "both"), default="both" if can_compile() else "off")
    parser.add_argument("--acceptance", type=share, default=0.8, help="chance of a draft to be right")
    parser.add_argument("--prompt-tokens", type=positive, default=2048, help="before the first token that is timed")
    parser.add_argument("--tokens", type=positive, help="of a text; as many as plain decoding gives in a second")
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
