"""Batches of this package, mlx-lm and mlx-vlm on the same weights, in one run, taking turns.

    python tools/compare_batches.py
    python tools/compare_batches.py --pairs embedded --rows 4,8 --scenarios equal --turns 4

Each program is a process of its own (``batch_peers.py``) that answers one question at a time: 1, 2, 4 or 8 prompts, of
equal or mixed lengths, all there at once or (``poisson``) of mixed lengths and arriving at random. This package decodes
without drafts, with 3, and with as many as it learns to be worth their time; mlx-lm without, mlx-vlm without and with
3. The pairs are the embedded one in float32, and a random E2B in bfloat16 (``synthetic.py``: 0.22 of the published
widths, 470 MB) whose drafts are right with a chance of 0.8, here and in mlx-vlm, in whichever row (``oracle.py``).
Turns go A B C, B C A, ..., each with prompts of its own; the first of a scenario warms up, and what is learned of draft
lengths goes on from text to text. Ratios are taken within a turn. A process is faster or slower than its like for as
long as it lives, so several sets of processes share the turns.

The exit code is 1 if, where prompts are there at once, tokens per second in all (prompts included) miss what is wanted:
from 4 rows on, undrafted 1.3 times mlx-lm's and learned 2 times mlx-vlm's drafted; at any number of rows learned 0.98
of undrafted, and more than undrafted where the oracle is right with 0.8; or if drafts change this package's text. Who
is not installed, cannot load the pair or cannot answer is left out, and said to be. Besides this package it takes ``pip
install mlx-lm mlx-vlm``; ``--python mlx-vlm=PATH`` runs one in another environment.
"""

import argparse
import json
import os
import platform
import random
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import batch_peers
from batch_figures import (
    COLUMNS,
    EMBEDDED,
    EQUAL,
    LARGE,
    MIXED,
    POISSON,
    UNDRAFTED,
    Column,
    Figures,
    Rule,
    Scenario,
    Turn,
    differences,
    rules,
)
from batch_peers import ENGINES, Question
from command_line import parser_for, positive, run_tool, share
from compare_commits import check_work, large_pair, load_average, spread
from peers import OURS, Settings
from synthetic import copy_pair, walk_of
from workers import Failed, Worker

from mlx_gemma4_assist import InputError, assistant_for, load, load_assistant
from mlx_gemma4_assist.checkpoints.hub import resolve
from mlx_gemma4_assist.drafts.batch import SLOTS

BOS, BYTES = 2, range(6, 262)
PARTS_OF_LENGTH = (0.5, 1, 2, 4)  # of mixed prompts, in the order of rows
OVERLAP = 4  # prompts that arrive at random do so in this part of the time that a text takes alone, on average

PromptOf = Callable[[random.Random, int], list[int]]
Workers = dict[str, Worker]


class Pair(NamedTuple):
    """Networks on disk, which all programs read.

    Attributes:
        settings: of the processes.
        prompt_of: makes a prompt of so many tokens.
        chain: what a target walks through, where an oracle drafts; else empty.
        tokens: of a text.
    """

    settings: Settings
    prompt_of: PromptOf
    chain: list[int]
    tokens: int


def embedded(args: argparse.Namespace, scratch: Path) -> Pair:
    """The embedded pair in float32, with passages of its held-out text as prompts."""
    target, processor = load("tiny", dtype="float32")
    folder, _ = copy_pair(scratch / "tiny", target, load_assistant(assistant_for("tiny"), dtype="float32"))
    text = processor.encode((resolve("tiny") / "heldout.txt").read_text(), chat=False)

    def passage(luck: random.Random, length: int) -> list[int]:
        begin = luck.randrange(1, len(text) - length)
        return [BOS, *text[begin : begin + length - 1]]

    return Pair(Settings(str(folder), "float32", None, args.seed), passage, [], args.tokens)


def large(args: argparse.Namespace, scratch: Path) -> Pair:
    """A random E2B in bfloat16. A prompt is noise, and the token of the walk that the text goes on from."""
    folder = large_pair(args, scratch)
    walk = walk_of(folder)

    def noise(luck: random.Random, length: int) -> list[int]:
        return [BOS, *luck.choices(BYTES, k=length - 2), luck.choice(walk)]

    return Pair(Settings(str(folder), "bfloat16", args.acceptance, args.seed), noise, walk, args.large_tokens)


PAIRS: dict[str, Callable[[argparse.Namespace, Path], Pair]] = {EMBEDDED: embedded, LARGE: large}


def scenarios(name: str, args: argparse.Namespace) -> list[Scenario]:
    """One row has one length, and comes at once."""
    kinds = args.scenarios.split(",")
    return [
        Scenario(name, rows, kind)
        for rows in map(int, args.rows.split(","))
        for kind in (kinds if rows > 1 else [EQUAL])
    ]


def columns(args: argparse.Namespace) -> list[Column]:
    return [column for column in COLUMNS if column.engine in args.engines.split(",")]


class Comparison:
    """All turns of a pair.

    Attributes:
        turns: by scenario.
        left_out: what could not be done, and why.
        failures: those of this package among them.
        versions: of packages.
    """

    def __init__(self, name: str, pair: Pair, args: argparse.Namespace):
        self.turns: dict[Scenario, list[Turn]] = {scenario: [] for scenario in scenarios(name, args)}
        self.left_out: dict[str, str] = {}
        self.failures: list[str] = []
        self.versions: dict[str, str] = {}
        self._name, self._pair, self._args = name, pair, args
        self._pythons = dict(entry.split("=", 1) for entry in args.python)
        self._alone: float | None = None  # seconds of one text

    def run(self) -> None:
        """All sets of processes, one after the other."""
        for number in range(self._args.processes):
            note(f"{self._name} pair, set of processes {number + 1} of {self._args.processes}")
            workers: Workers = {}
            try:
                for engine in dict.fromkeys(column.engine for column in columns(self._args)):
                    self._start(engine, workers)
                for scenario in self.turns:
                    self._take_turns(scenario, workers, number)
            finally:
                for worker in workers.values():
                    worker.close()

    def _start(self, engine: str, workers: Workers) -> None:
        settings, chain = json.dumps(asdict(self._pair.settings)), json.dumps(self._pair.chain)
        command = [self._pythons.get(engine, sys.executable), batch_peers.__file__, engine, settings, chain]
        try:
            workers[engine] = Worker(command, verbose=self._args.verbose)
            self.versions |= workers[engine].started["versions"]
        except Failed as error:
            self._leave_out(engine, f"{self._name} pair: {engine}", error)

    def _leave_out(self, engine: str, what: str, why: Failed) -> None:
        self.left_out[what] = str(why)
        if engine == OURS:
            self.failures.append(f"{what}: {why}")

    def _take_turns(self, scenario: Scenario, workers: Workers, number: int) -> None:
        """One set's share of a scenario's turns, and one to warm up."""
        each = -(-self._args.turns // self._args.processes)  # rounded up
        note(scenario.label)
        for turn in range(each + 1):
            luck = random.Random(f"{self._args.seed} {scenario} {number} {turn}")
            prompts = self._prompts(scenario, luck)
            arrivals = self._arrivals(scenario, luck, workers, prompts)
            found = self._turn(scenario, workers, turn, prompts, arrivals)
            if turn:
                self.turns[scenario].append(found)

    def _prompts(self, scenario: Scenario, luck: random.Random) -> list[list[int]]:
        parts = (1,) if scenario.kind == EQUAL or scenario.rows == 1 else PARTS_OF_LENGTH
        lengths = [int(parts[row % len(parts)] * self._args.prompt_tokens) for row in range(scenario.rows)]
        return [self._pair.prompt_of(luck, length) for length in lengths]

    def _arrivals(
        self, scenario: Scenario, luck: random.Random, workers: Workers, prompts: list[list[int]]
    ) -> list[float]:
        """Seconds; of a Poisson process, the first at its beginning."""
        if scenario.kind != POISSON or scenario.rows == 1:
            return [0.0] * scenario.rows
        if self._alone is None:
            question = Question(prompts[:1], [0.0], self._pair.tokens, 0)
            self._alone = 1 / Figures.of(next(iter(workers.values())).ask(asdict(question)), [0.0]).total
            self._alone *= self._pair.tokens
        arrivals = [0.0]
        for _ in prompts[1:]:
            arrivals.append(arrivals[-1] + luck.expovariate(OVERLAP / self._alone))
        return arrivals

    def _turn(
        self, scenario: Scenario, workers: Workers, turn: int, prompts: list[list[int]], arrivals: list[float]
    ) -> Turn:
        found = Turn({}, {}, load_average())
        order = [column for column in columns(self._args) if column.engine in workers]
        first = turn % len(order) if order else 0
        for column in order[first:] + order[:first]:
            where = f"{scenario.label}: {column.label}"
            if where in self.left_out:
                continue
            try:
                question = Question(prompts, arrivals, self._pair.tokens, column.drafts, self._args.compile)
                answer = workers[column.engine].ask(asdict(question))
            except Failed as error:
                self._leave_out(column.engine, where, error)
                continue
            found.figures[column] = Figures.of(answer, arrivals)
            found.tokens[column] = answer["tokens"]
        return found


def note(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


HEADING = (
    f"\n{'':44} tokens per second  first token, ms      gap, ms\n"
    f"{'':44} {'in all':>8} {'a row':>8}  {'median':>7} {'slowest':>7}  {'95 %':>7}  {'GB':>6}  load"
)


def show(scenario: Scenario, turns: Sequence[Turn], acceptance: float) -> Iterator[tuple[str, str | None]]:
    """A scenario's lines, and beside each what is wrong with it, if anything is."""
    yield scenario.label, None
    load = max(turn.load for turn in turns)
    for column in COLUMNS:
        if several := [turn.figures[column] for turn in turns if column in turn.figures]:
            middle = Figures.middle(several)
            times = f"{1e3 * middle.first:7.0f} {1e3 * middle.slowest:7.0f}  {1e3 * middle.gap:7.1f}"
            speeds = f"{middle.total:8.1f} {middle.row:8.1f}"
            yield f"  {column.label:42} {speeds}  {times}  {middle.memory / 1e9:6.3f}  {load:4.1f}", None
    for rule in rules(scenario, acceptance):
        if (line := compared(rule, scenario, turns)) is not None:
            yield line
    for column in differences(turns):
        complaint = f"{scenario.label}: {column.label} writes another text than {UNDRAFTED.label}"
        yield f"  {column.label} writes another text", complaint if column.engine == OURS else None


def compared(rule: Rule, scenario: Scenario, turns: Sequence[Turn]) -> tuple[str, str | None] | None:
    """A ratio's line, and what is wrong with it."""
    found = rule.ratio(turns)
    if found is None:
        return None
    both, wanted = f"{rule.ours.label} : {rule.other.label}", rule.wanted(scenario)
    missed = wanted is not None and found.median < wanted
    remark = "" if wanted is None else f"  wanted {wanted}{', missed' if missed else ''}"
    complaint = f"{scenario.label}: {both} is {found.median:.3f}, wanted {wanted}"
    return f"  {both:42} {spread(found)}{remark}", complaint if missed else None


def check(args: argparse.Namespace) -> None:
    """Refuse nonsense before any work is done."""
    for what, given, known in (
        ("pair", args.pairs.split(","), (EMBEDDED, LARGE)),
        ("engine", args.engines.split(","), ENGINES),
        ("engine", [entry.partition("=")[0] for entry in args.python], ENGINES),
        ("scenario", args.scenarios.split(","), (EQUAL, MIXED, POISSON)),
        ("number of rows", args.rows.split(","), [str(rows + 1) for rows in range(SLOTS[-1])]),
    ):
        if unknown := [each for each in given if each not in known]:
            raise InputError(f"no {what} is named {unknown[0]!r}: expected {', '.join(known)}")
    if args.prompt_tokens < 8 or args.tokens < 2 or args.large_tokens < 2:
        raise InputError("a prompt has at least 8 tokens, and a text 2: its speed is taken from the first on")
    check_work(args)


def compare(args: argparse.Namespace) -> int:
    check(args)
    args.processes = min(args.processes, args.turns)
    machine = f"{platform.platform()}, {os.cpu_count()} cores, load {load_average():.1f}"
    print(f"{machine}; {args.turns} turns by {args.processes} sets of processes")
    wrong: list[str] = []
    results: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name in args.pairs.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            comparison = Comparison(name, PAIRS[name](args, Path(scratch)), args)
            comparison.run()
        wrong += report(comparison, args)
        results += records(comparison)
        left_out |= comparison.left_out
    print("\n".join(["", *wrong]) if wrong else "\nNothing that is judged is missed.")
    if args.json:
        facts = {"machine": machine, "command": shlex.join(["python", *sys.argv]), "wrong": wrong, "left_out": left_out}
        args.json.write_text(json.dumps({**facts, "scenarios": results}, indent=2) + "\n")
    return 1 if wrong else 0


def report(comparison: Comparison, args: argparse.Namespace) -> list[str]:
    """Print a pair's table; return what is wrong with it."""
    wrong = []
    print(", ".join(f"{package} {version}" for package, version in comparison.versions.items()))
    print(HEADING)
    for scenario, turns in comparison.turns.items():
        for line, complaint in show(scenario, turns, args.acceptance):
            print(line)
            wrong += [] if complaint is None else [complaint]
    for what, why in comparison.left_out.items():
        print(f"Left out: {what}: {why}", flush=True)
    return wrong + comparison.failures


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """A pair's figures for JSON."""
    return [
        {
            "label": scenario.label,
            **scenario._asdict(),
            "load": max(turn.load for turn in turns),
            "columns": {
                column.label: [turn.figures[column]._asdict() for turn in turns if column in turn.figures]
                for column in COLUMNS
            },
            "another_text": [column.label for column in differences(turns)],
        }
        for scenario, turns in comparison.turns.items()
    ]


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--pairs", default=f"{EMBEDDED},{LARGE}")
    parser.add_argument("--rows", default="1,2,4,8", help="texts at once; up to 16")
    parser.add_argument("--scenarios", default=f"{EQUAL},{MIXED},{POISSON}")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--turns", type=positive, default=8)
    parser.add_argument("--processes", type=positive, default=4, help="sets of processes that share the turns")
    parser.add_argument("--tokens", type=positive, default=96, help="of a text of the embedded pair")
    parser.add_argument("--large-tokens", type=positive, default=32, help="of a text of the large pair")
    parser.add_argument("--prompt-tokens", type=positive, default=32, help="mixed ones have half to four times as many")
    parser.add_argument("--compile", action="store_true", default=None, help="this package's rounds, by default or not")
    parser.add_argument("--scale", type=float, default=0.22, help="of the large pair's widths")
    parser.add_argument("--layers", type=positive, help="of the large pair, instead of E2B's 35")
    parser.add_argument("--acceptance", type=share, default=0.8, help="chance of the large pair's drafts to be right")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, arrivals and the oracle's luck")
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--work", type=Path, help="keep the large pair in this folder")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), compare)
