"""What the fuzzers share: numbered cases, each tried in a process that may die of it, within bounds of memory and time.

A case is made from the seed and its number only. It has failed unless it works, or ends in an InputError of one line.
"""

import argparse
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from workers import Answer, Failed, Reply, Worker, serve

from mlx_gemma4_assist import InputError

SECONDS = 20  # of computing; a case that takes longer has failed
PATIENCE = 180  # seconds on the clock, for one that waits, or is deaf to signals, on a busy machine
MEMORY = 2 << 30  # bytes beyond what the process has before a case
FAILED = "FAILED"


class TooSlow(BaseException):
    """Not to be taken for a failed download or a damaged file."""


class Cases(Protocol):
    """A fuzzer's own part."""

    def make(self, rng: random.Random) -> str:
        """Prepare the next case; what is odd about it, in words."""

    def attempt(self) -> None:
        """Do all that may fail at it."""


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        kind: "worked", "refused" or one that begins with ``FAILED``.
        text: of the error.
    """

    kind: str
    text: str = ""


def outcome(attempt: Callable[[], None]) -> Outcome:
    """What becomes of a case in this process, and for a failure where it came from."""
    try:
        attempt()
    except InputError as error:
        text = str(error)
        if "\n" in text or len(text) >= 2000:
            return Outcome(f"{FAILED}: no single line", text[:300])
        return Outcome(f"{FAILED}: too much memory" if "fit into memory" in text else "refused", text)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what Rust panics with is no Exception
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "mlx_gemma4_assist" in frame.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
        return Outcome(f"{FAILED}: {type(error).__name__} in {place}", str(error)[:200])
    return Outcome("worked")


def made(cases: Cases, seed: int, number: int) -> str:
    """Make the case of a number; what is odd about it."""
    return cases.make(random.Random(f"{seed}/{number}"))


def answers(cases: Cases, seed: int) -> Answer:
    """A worker's answers: to a number alone with what is odd about the case, and when told to try with its outcome."""

    def too_slow(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} seconds of computing")

    def answer(request: Reply) -> Reply:
        if not request["try"]:
            return {"what": made(cases, seed, request["number"])}
        _bound_memory()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            return outcome(cases.attempt)._asdict()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    signal.signal(signal.SIGPROF, too_slow)
    return answer


def _bound_memory() -> None:
    """Let allocations fail that go beyond ``MEMORY``. Other systems than Linux know no such bound."""
    status = Path("/proc/self/status")
    if status.exists():
        import resource

        used = re.search(r"VmData:\s+(\d+) kB", status.read_text())
        assert used is not None
        resource.setrlimit(resource.RLIMIT_DATA, (int(used[1]) * 1024 + MEMORY, resource.RLIM_INFINITY))


def through(command: list[str], numbers: Iterable[int], verbose: bool = False) -> Counter[str]:
    """Go through the cases of these numbers, in a worker that ``command`` starts, and again after it has died.

    Failures are printed as they come, each kind once.

    Raises:
        Failed: the worker cannot be started.
    """
    counts: Counter[str] = Counter()
    worker = Worker(command, verbose=verbose)
    for number in numbers:
        what = "not made"
        try:
            what = worker.ask({"number": number, "try": False}, PATIENCE)["what"]
            reached = Outcome(**worker.ask({"number": number, "try": True}, PATIENCE))
        except Failed as error:
            worker.close()
            reached = Outcome(f"{FAILED}: {error}; exit code {worker.exit_code}")
            worker = Worker(command, verbose=verbose)
        if verbose or (reached.kind.startswith(FAILED) and not counts[reached.kind]):
            print(f"case {number}: {what}: {reached.kind}: {reached.text}", flush=True)
        counts[reached.kind] += 1
    worker.close()
    return counts


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--only", type=int, help="the number of one case, which is shown in full")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


def main(args: argparse.Namespace, start: Callable[[Path], Cases]) -> int:
    """A fuzzer's whole life, in its worker too; the exit code is 1 if a case has failed.

    Args:
        args: from ``arguments``.
        start: makes what cases are made of in an empty folder.
    """
    if args.worker is not None:
        folder = Path(tempfile.mkdtemp(dir=args.worker))
        serve(lambda: ({}, answers(start(folder), args.seed)))
        return 0
    numbers = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, sys.argv[0], "--seed", str(args.seed), "--worker", folder]
        counts = through(command, numbers, args.only is not None)
    minutes = (time.perf_counter() - begin) / 60
    for kind, count in sorted(counts.items()):
        print(f"{count:6d} {kind}")
    print(f"seed {args.seed}: {len(numbers)} cases, {len(numbers) / minutes:.0f} a minute")
    return int(any(kind.startswith(FAILED) for kind in counts))
