"""What learning draft lengths is worth, and what each part of it: controllers on the same simulated machines.

    python tools/compare_draft_lengths.py --settings 200 --seed 0 11
    python tools/compare_draft_lengths.py --rows 1 2 4 8 --settings 28 --seed 1 2

The machines and texts are those of ``tests/support/draft_simulation.py``: costs as published for five kinds of chips,
chances that stay, drift or switch. For each controller: throughput over 2,000 tokens against the best fixed length that
one could have known afterwards, average and worst; over the first 500 tokens against plain decoding, the worst; the
time of one choice with what is learned from its round.

With ``--rows``: batches of up to so many rows on the machines of ``tests/support/draft_simulation_batch.py``, where
requests come and go. For each controller: throughput over 4,000 tokens from a cold start against the best fixed length
and against undrafted batching, average and worst, over all seeds; the time per round, simulation included.
"""

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from command_line import parser_for, positive, run_tool
from support import draft_simulation as simulation
from support import draft_simulation_batch as batches
from support.draft_simulation_batch import FixedBatchDraftLength

from mlx_gemma4_assist.drafts import acceptance, costs, curve, learned, probes
from mlx_gemma4_assist.drafts.batch import SLOTS, AutoBatchDraftLength
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.drafts.learned import AutoDraftLength
from mlx_gemma4_assist.drafts.protocol import BatchChoice, BatchDraftLength, DraftLength

LONGEST, LONG, SHORT = 8, 2000, 500


class Schedule:
    """transformers' ``heuristic`` schedule: two drafts more after a round that stood whole, one less after another."""

    longest = LONGEST

    def __init__(self) -> None:
        self._drafts = 5

    def choose(self) -> int:
        return min(self._drafts, LONGEST)

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        if drafted:
            self._drafts = self._drafts + 2 if accepted[0] == drafted else max(1, self._drafts - 1)


class MovingAverages:
    """The least that learns: an average of each length's time and of each place's acceptance, and probes of neighbours.

    The first time of a length is skipped, since it may include compiling; every sixteenth round tries the next longer
    or the next shorter length, by turns.
    """

    longest = LONGEST

    def __init__(self) -> None:
        self._costs = [log(1 + 0.3 * drafts) for drafts in range(LONGEST + 1)]  # logarithms, in any unit
        self._timed = [0] * (LONGEST + 1)
        self._chances = [0.6] * LONGEST
        self._rounds, self._before = 0, (0, None)
        self._best = 0
        self._weigh()

    def choose(self) -> int:
        if self._rounds < 8:
            return self._rounds // 4
        if self._rounds % 16 < 2:
            step = 1 if self._rounds // 16 % 2 else -1
            return min(max(self._best + step, 0), LONGEST)
        return self._best

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        self._rounds += 1
        for at in range(min(drafted, accepted[0] + 1)):
            self._chances[at] += 0.05 * ((accepted[0] > at) - self._chances[at])
        (before, its_seconds), self._before = self._before, (drafted, seconds)
        if before == drafted and its_seconds:
            self._time(drafted, log(its_seconds))
        self._weigh()

    def _time(self, drafted: int, seconds: float) -> None:
        self._timed[drafted] += 1
        if self._timed[drafted] == 2 and sum(count > 1 for count in self._timed) == 1:
            moved = seconds - self._costs[drafted]
            self._costs = [cost + moved for cost in self._costs]
        elif self._timed[drafted] > 1:
            self._costs[drafted] += max(0.05, 1 / self._timed[drafted]) * (seconds - self._costs[drafted])

    def _weigh(self) -> None:
        best, tokens, stand = 1.0, 1.0, 1.0
        self._best = 0
        for drafts in range(1, LONGEST + 1):
            stand *= self._chances[drafts - 1]
            tokens += stand
            value = tokens / exp(self._costs[drafts] - self._costs[0])
            if value > best:
                best, self._best = value, drafts


class AsOneRow:
    """What learns for one row, told of a batch: one acceptance for all rows, one cost for any number of slots."""

    longest = LONGEST

    def __init__(self) -> None:
        self._one = AutoDraftLength(LONGEST)

    def choose(self, rows: Sequence[Hashable], caps: Sequence[int], reading: float | None = None) -> BatchChoice:
        drafts = min(self._one.choose(), max(caps))
        return BatchChoice(drafts, [min(drafts, cap) for cap in caps])

    def observe(
        self,
        rows: Sequence[Hashable],
        drafted: int,
        limits: Sequence[int],
        accepted: Sequence[int],
        seconds: float | None = None,
    ) -> None:
        counts = [count for row, count in zip(rows, accepted, strict=True) if row is not None]
        self._one.observe(drafted, counts, seconds)

    def left(self, row: Hashable) -> None:
        """It knows no requests."""


BATCH_CONTROLLERS: dict[str, Callable[[int], BatchDraftLength]] = {
    "fixed, 1 draft": lambda rows: FixedBatchDraftLength(1),
    "fixed, 3 drafts": lambda rows: FixedBatchDraftLength(3),
    "learned as for one row": lambda rows: AsOneRow(),
    "learned for batches": lambda rows: AutoBatchDraftLength(LONGEST, slots=[s for s in SLOTS if s < 2 * rows]),
}

CONTROLLERS: dict[str, Callable[[], DraftLength]] = {
    "fixed, 3 drafts": lambda: FixedDraftLength(3),
    "transformers' schedule": Schedule,
    "moving averages": MovingAverages,
    "learned": lambda: AutoDraftLength(LONGEST),
}


def microseconds(make: Callable[[], DraftLength]) -> float:
    """Of one choice with what is learned from its round, at 2 drafts of 3 accepted."""
    controller, rounds = make(), 5000
    begin = time.perf_counter()
    for _ in range(rounds):
        drafts = controller.choose()
        controller.observe(drafts, [min(drafts, 2)], 0.02 * (1 + 0.3 * drafts))
    return 1e6 * (time.perf_counter() - begin) / rounds


def lines_of(name: str) -> int:
    """Of its source, imports and constants included."""
    sources = {
        "moving averages": (MovingAverages,),
        "transformers' schedule": (Schedule,),
        "learned": (curve, acceptance, costs, probes, learned),
    }
    return sum(len(inspect.getsource(source).splitlines()) for source in sources.get(name, ())) or 1


def compare(args: argparse.Namespace) -> None:
    if args.rows:
        compare_batches(args)
        return
    print("| controller | lines | seed | of the best fixed length: average, worst | first 500: of plain, worst | µs |")
    print("|---|---|---|---|---|---|")
    for name, make in CONTROLLERS.items():
        for seed in args.seed:
            best, early = [], []
            for each in simulation.random_settings(args.settings, LONG, seed):
                made = simulation.run(make(), each)
                spent = simulation.spent_on_first(LONG, made, each)
                best.append(simulation.best_fixed_cost(each, LONG) / spent)
                early.append(SHORT / simulation.spent_on_first(SHORT, made, each))
            figures = f"{fmean(best):.3f}, {min(best):.3f} | {min(early):.3f} | {microseconds(make):.0f}"
            print(f"| {name} | {lines_of(name)} | {seed} | {figures} |", flush=True)


def compare_batches(args: argparse.Namespace) -> None:
    print("| controller | rows | of the best fixed length: average, worst | of undrafted: average, worst | µs |")
    print("|---|---|---|---|---|")
    for rows in args.rows:
        sessions = [each for seed in args.seed for each in batches.random_sessions(args.settings, rows, seed)]
        fixed = [batches.fixed_throughputs(each) for each in sessions]
        for name, make in BATCH_CONTROLLERS.items():
            begin = time.process_time()
            runs = [batches.run_batch(make(rows), each) for each in sessions]
            spent = 1e6 * (time.process_time() - begin) / sum(len(run.rounds) for run in runs)
            best = [run.throughput / max(each) for run, each in zip(runs, fixed, strict=True)]
            plain = [run.throughput / each[0] for run, each in zip(runs, fixed, strict=True)]
            figures = f"{fmean(best):.3f}, {min(best):.3f} | {fmean(plain):.3f}, {min(plain):.3f} | {spent:.0f}"
            print(f"| {name} | {rows} | {figures} |", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--settings", type=positive, default=200)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 11], help="of the settings; one or several")
    parser.add_argument("--rows", type=positive, nargs="+", help="batches of up to so many rows instead; 1 to 16")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), compare)
