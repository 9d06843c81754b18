"""Is this commit slower than another? Both generate the same texts on this machine, taking turns.

    python tools/compare_commits.py --base COMMIT
    python tools/compare_commits.py --base COMMIT --pairs embedded --compile off --turns 5 --tokens 24

Each commit is a process of its own (``commit_worker.py``), with its own working tree first on ``PYTHONPATH``, and
answers one request at a time: a text by the embedded pair in float32, or by a random E2B in bfloat16 (``synthetic.py``:
0.22 of the published widths, 470 MB) whose drafts are right with a chance of 0.8 (``oracle.py``); plain, with 3 drafts,
with learned draft lengths; eager and compiled. Turns go A B, B A, A B, ...; the first of a case warms up. Ratios are
taken within a turn; above 1 head is faster. A process is faster or slower than its like for as long as it lives, by 2
to 4 % (a commit against itself), so several pairs of processes share the turns. What is learned of draft lengths goes
on from text to text, and is kept in temporary folders only.

The exit code is 1 if a median of plain or of 3 drafts is below ``--least``, or if the two wrote different texts.
Learned lengths are shown and not judged, since they depend on times.

After that, of both: the seconds to a first token where MLX has built no fused kernels yet (an empty home and temporary
folder), and of ``--help``.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import commit_worker
from command_line import parser_for, positive, run_tool, share
from commit_worker import EMBEDDED, LARGE, Request, Settings
from peers import AUTO
from synthetic import write_pair
from workers import Failed, Worker

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.evaluation.benchmark import Spread

ROOT = Path(__file__).resolve().parent.parent
DRAFTS = 3
COLD = ("-m", "mlx_gemma4_assist.generate", "--prompt", commit_worker.PROMPT, "--max-tokens", "1")
HELP = ("-m", "mlx_gemma4_assist", "--help")


class Case(NamedTuple):
    """What takes turns: a pair, its drafts per round, and whether rounds are compiled."""

    pair: str
    drafts: int | str
    compiled: bool

    @property
    def label(self) -> str:
        how = "plain" if self.drafts == 0 else f"{self.drafts} drafts"
        return f"{self.pair} pair, {'compiled' if self.compiled else 'eager'}, {how}"

    @property
    def judged(self) -> bool:
        return self.drafts != AUTO


class Turn(NamedTuple):
    """What base and head answered, one right after the other, and the machine's load average then."""

    base: dict[str, Any]
    head: dict[str, Any]
    load: float


class Tree(NamedTuple):
    """A commit on disk."""

    folder: Path
    name: str


def git(*words: str) -> str:
    """What git says in this repository.

    Raises:
        InputError: it refuses.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {words[0]}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout.strip()


@contextlib.contextmanager
def tree_of(commit: str | None, scratch: Path) -> Iterator[Tree]:
    """A working tree of a commit, removed at the end; None is the one that this script is in.

    Raises:
        InputError: there is no such commit.
    """
    if commit is None:
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        yield Tree(ROOT, f"working tree, {git('log', '-1', '--format=%h %s')}{changed}")
        return
    try:
        found = git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    except InputError:
        raise InputError(f"no commit of {ROOT} is named {commit!r}") from None
    folder = scratch / found[:12]
    git("worktree", "add", "--detach", "--force", str(folder), found)
    try:
        yield Tree(folder, git("log", "-1", "--format=%h %s", found))
    finally:
        git("worktree", "remove", "--force", str(folder))


def environment(tree: Tree, **changes: str) -> dict[str, str]:
    """Environment variables with which Python finds the package of a tree first."""
    paths = [str(tree.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}


def start(tree: Tree, variables: dict[str, str], settings: Settings, verbose: bool) -> Worker:
    """A commit's worker.

    Raises:
        Failed: it does not start, or imports the package from elsewhere.
    """
    worker = Worker([sys.executable, commit_worker.__file__, json.dumps(settings)], variables, verbose)
    if worker.started["source"] != str(tree.folder.resolve()):
        worker.close()
        raise Failed(f"{tree.name}: the package was imported from {worker.started['source']}, not from the commit")
    return worker


def cases(args: argparse.Namespace) -> list[Case]:
    kinds = {"on": (True,), "off": (False,), "both": (False, True)}[args.compile]
    lengths = (0, DRAFTS, AUTO)
    return [Case(pair, drafts, compiled) for pair in args.pairs.split(",") for compiled in kinds for drafts in lengths]


def take_turns(base: Worker, head: Worker, case: Case, tokens: int, turns: int) -> list[Turn]:
    """Both, in turns; the first is thrown away."""
    request = Request(case.pair, case.drafts, case.compiled, tokens)._asdict()
    found = []
    for turn in range(turns + 1):
        order = (base, head) if turn % 2 else (head, base)
        answers = {worker: worker.ask(request) for worker in order}
        if turn:
            found.append(Turn(answers[base], answers[head], load_average()))
    return found


def load_average() -> float:
    """Of the last minute: how many processes wanted a core."""
    return os.getloadavg()[0]


class Row(NamedTuple):
    """A case's figures.

    Attributes:
        base, head: medians of tokens per second.
        speed: head over base within a turn.
        first: base's seconds to the first token over head's within a turn.
        memory: head's peak over base's.
        load: the highest load average beside them.
        same_text: whether both wrote the same tokens.
    """

    base: float
    head: float
    speed: Spread
    first: Spread
    memory: float
    load: float
    same_text: bool

    @classmethod
    def of(cls, turns: list[Turn]) -> "Row":
        speeds = [(turn.base["tokens_per_second"], turn.head["tokens_per_second"]) for turn in turns]
        return cls(
            base=statistics.median(base for base, _ in speeds),
            head=statistics.median(head for _, head in speeds),
            speed=Spread.of(head / base for base, head in speeds),
            first=Spread.of(turn.base["first"] / turn.head["first"] for turn in turns),
            memory=max(turn.head["peak_memory"] for turn in turns) / max(turn.base["peak_memory"] for turn in turns),
            load=max(turn.load for turn in turns),
            same_text=all(turn.base["tokens"] == turn.head["tokens"] for turn in turns),
        )

    def complaint(self, case: Case, least: float) -> str | None:
        """What is wrong with it, None if nothing is."""
        if not self.same_text:
            return "another text"
        return f"below {least}" if case.judged and self.speed.median < least else None

    def shown(self, case: Case, least: float) -> str:
        remark = self.complaint(case, least) or ("" if case.judged else "not judged")
        return (
            f"{case.label:38} {self.base:8.1f} {self.head:8.1f}  {spread(self.speed):23} {spread(self.first):23} "
            f"{self.memory:6.2f} {self.load:5.1f}  {remark}"
        ).rstrip()


HEADING = (
    f"{'':38} {'tokens per second':17}  {'head : base':23} {'first token':23} {'memory':>6} {'load':>5}\n"
    f"{'':38} {'base':>8} {'head':>8}"
)


def spread(found: Spread) -> str:
    return f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"


def compare_texts(args: argparse.Namespace, trees: tuple[Tree, Tree], scratch: Path) -> tuple[list[Any], list[str]]:
    """All cases: rows for JSON, and what is wrong with them."""
    large = large_pair(args, scratch) if LARGE in args.pairs.split(",") else scratch
    turns: dict[Case, list[Turn]] = {case: [] for case in cases(args)}
    failed: dict[Case, str] = {}
    for number in range(args.processes):
        print(f"pair of processes {number + 1} of {args.processes}", file=sys.stderr, flush=True)
        let_take_turns(args, start_both(trees, Settings(str(large), args.acceptance), scratch, args), turns, failed)
    print(HEADING)
    rows, wrong = [], []
    for case, found in turns.items():
        if case in failed:
            print(f"{case.label:38} failed: {failed[case]}")
            wrong.append(f"{case.label}: {failed[case]}")
            continue
        row = Row.of(found)
        print(row.shown(case, args.least), flush=True)
        rows.append({"case": case.label, "judged": case.judged, "tokens": tokens_of(case, args), **row._asdict()})
        if complaint := row.complaint(case, args.least):
            wrong.append(f"{case.label}: {row.speed.median:.3f}, {complaint}")
    return rows, wrong


def start_both(
    trees: tuple[Tree, Tree], settings: Settings, scratch: Path, args: argparse.Namespace
) -> tuple[Worker, Worker]:
    """A process of each commit.

    Raises:
        InputError: one does not start.
    """
    workers: list[Worker] = []
    try:
        for tree, name in zip(trees, ("base", "head"), strict=True):
            variables = environment(tree, MLX_GEMMA4_ASSIST_CACHE=str(scratch / f"learned-{name}"))
            workers.append(start(tree, variables, settings, args.verbose))
    except Failed as error:
        for worker in workers:
            worker.close()
        raise InputError(str(error)) from None
    return workers[0], workers[1]


def let_take_turns(
    args: argparse.Namespace,
    workers: tuple[Worker, Worker],
    turns: dict[Case, list[Turn]],
    failed: dict[Case, str],
) -> None:
    """One pair of processes' share of all turns; a case that fails is not tried again."""
    each = -(-args.turns // args.processes)  # rounded up
    try:
        for case in turns:
            if case not in failed:
                try:
                    turns[case] += take_turns(*workers, case, tokens_of(case, args), each)
                except Failed as error:
                    failed[case] = str(error)
    finally:
        for worker in workers:
            worker.close()


def tokens_of(case: Case, args: argparse.Namespace) -> int:
    """How long a case's texts are."""
    length: int = args.tokens if case.pair == EMBEDDED else args.large_tokens
    return length


def large_pair(args: argparse.Namespace, scratch: Path) -> Path:
    """The folder of a random E2B and, beside it, its assistant; one that ``--work`` has from before is used again."""
    layers = "" if args.layers is None else f"-{args.layers}-layers"
    folder = (args.work or scratch) / f"e2b-{args.scale}{layers}"
    beside = folder.with_name(f"{folder.name}-assistant")
    if not (beside / "model.safetensors").is_file():
        write_pair(folder, "e2b", args.scale, args.layers)
    size = sum((found / "model.safetensors").stat().st_size for found in (folder, beside))
    print(f"large pair: random E2B, scale {args.scale}, bfloat16, {size / 1e6:.0f} MB")
    return folder


def seconds_of(tree: Tree, words: tuple[str, ...], fresh: bool) -> float:
    """The wall time of a command; ``fresh``: in an empty home and temporary folder.

    Raises:
        InputError: it fails.
    """
    with tempfile.TemporaryDirectory() as empty:
        places = {"HOME": empty, "TMPDIR": empty} if fresh else {}
        variables = environment(tree, MLX_GEMMA4_ASSIST_CACHE=empty, **places)
        if fresh:
            variables.pop("XDG_CACHE_HOME", None)
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=variables, cwd=empty)
        seconds = time.perf_counter() - begin
    if done.returncode:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise InputError(f"{tree.name}: python {' '.join(words[:2])} fails: {said}")
    return seconds


def compare_starts(trees: tuple[Tree, Tree], name: str, words: tuple[str, ...], fresh: bool, turns: int) -> Any:
    """Both commits' seconds for a command, in turns; the first, which writes bytecode, is thrown away."""
    times: list[list[float]] = [[], []]
    load = 0.0
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds = seconds_of(trees[which], words, fresh and turn > 0)
            if turn:
                times[which].append(seconds)
        load = max(load, load_average())
    base, head = (Spread.of(found) for found in times)
    print(f"{name:38} base {spread(base)} s, head {spread(head)} s, load {load:.1f}", flush=True)
    return {"what": name, "base": base, "head": head, "load": load}


def check(args: argparse.Namespace) -> None:
    unknown = set(args.pairs.split(",")) - {EMBEDDED, LARGE}
    if unknown:
        raise InputError(f"no pair is named {sorted(unknown)[0]!r}: expected {EMBEDDED}, {LARGE}")
    if args.tokens < 2 or args.large_tokens < 2:
        raise InputError("a text has at least 2 tokens: its speed is taken from the first on")
    check_work(args)


def check_work(args: argparse.Namespace) -> None:
    if args.work is not None and not args.work.is_dir():
        raise InputError(f"there is no folder {str(args.work)!r}")


def compare(args: argparse.Namespace) -> int:
    check(args)
    args.processes = min(args.processes, args.turns)
    with (
        tempfile.TemporaryDirectory() as scratch,
        tree_of(args.base, Path(scratch)) as base,
        tree_of(args.head, Path(scratch)) as head,
    ):
        print(f"base: {base.name}\nhead: {head.name}")
        machine = f"{platform.platform()}, {os.cpu_count()} cores, load {load_average():.1f}"
        print(f"{machine}; {args.turns} turns by {args.processes} pairs of processes")
        rows, wrong = compare_texts(args, (base, head), Path(scratch))
        starts = []
        if args.starts:
            starts.append(compare_starts((base, head), "first token on a fresh machine", COLD, True, args.starts))
            starts.append(compare_starts((base, head), "--help", HELP, False, args.starts))
    if args.json:
        facts = {"base": base.name, "head": head.name, "least": args.least, "turns": args.turns}
        args.json.write_text(json.dumps({**facts, "cases": rows, "starts": starts, "wrong": wrong}, indent=2) + "\n")
    print("\n".join(["", *wrong]) if wrong else f"\nNothing is below {args.least}, and all texts are the same.")
    return 1 if wrong else 0


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--base", required=True, metavar="COMMIT", help="what to compare with")
    parser.add_argument("--head", metavar="COMMIT", help="instead of the working tree, uncommitted changes included")
    parser.add_argument("--least", type=float, default=0.98, help="of base's speed; below it the exit code is 1")
    parser.add_argument("--turns", type=positive, default=16)
    parser.add_argument("--processes", type=positive, default=4, help="pairs of processes that share the turns")
    parser.add_argument("--tokens", type=positive, default=192, help="of a text of the embedded pair")
    parser.add_argument("--large-tokens", type=positive, default=64, help="of a text of the large pair")
    parser.add_argument("--pairs", default=f"{EMBEDDED},{LARGE}")
    parser.add_argument("--compile", choices=("on", "off", "both"), default="both")
    parser.add_argument("--scale", type=float, default=0.22, help="of the large pair's widths")
    parser.add_argument("--layers", type=positive, help="of the large pair, instead of E2B's 35")
    parser.add_argument("--acceptance", type=share, default=0.8, help="chance of the large pair's drafts to be right")
    parser.add_argument("--starts", type=int, default=3, help="how often commands are started anew; 0: not at all")
    parser.add_argument("--work", type=Path, help="keep the large pair in this folder")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), compare)
