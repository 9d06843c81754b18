"""What the buckets of compiled rounds cost: tracing anew at each, and attending over padding up to the next.

    python tools/measure_buckets.py [--model tiny] [--dtype bfloat16] [--tokens 2000] [--drafts 3]

Tracing: runs of a pair that trace at each bucket; what the rounds about a trace take beyond the median of their
neighbours is its cost, of which look-ahead hides a part. In a process that goes on, a later run does not pay it again.
Padding: rounds with one bucket more or less to attend over, in turns; on average half of that difference is wasted.
"""

import argparse
import statistics
import time
from itertools import pairwise

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import InputError, assistant_for, load_assistant, make_prompt_cache
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.cache.store import Buffers
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.loop import Plan, rounds, start
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.compiled import CompiledSteps
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder, Round, RoundState

FIRST_TOKEN = 5


class WatchedSteps(CompiledSteps):
    """Counts rounds, and knows in which of them a bucket was entered."""

    def __init__(self, decoder: Decoder):
        super().__init__(decoder)
        self.watch()

    def watch(self) -> None:
        """Begin anew: no round was made, and no bucket entered."""
        self.entered: list[int] = []
        self._known: set[int] = set()
        self._rounds = 0

    def round(
        self, decoder: Decoder, state: RoundState, buffers: Buffers, count: int, bound: int
    ) -> tuple[Round, RoundState, Buffers]:
        end = self.reach(bound + count + 1)
        if end not in self._known:
            self._known.add(end)
            self.entered.append(self._rounds)
        self._rounds += 1
        return super().round(decoder, state, buffers, count, bound)


def cost_of_tracing(decoder: Decoder, steps: WatchedSteps, cache: KVCache, tokens: int, drafts: int) -> float:
    """Which share of a run it takes."""
    cache.reset()
    steps.watch()
    read = [time.perf_counter()]
    for _ in rounds(decoder, cache, [FIRST_TOKEN], Plan(tokens, FixedDraftLength(drafts), steps=steps)):
        read.append(time.perf_counter())
    times = [end - begin for begin, end in pairwise(read)]
    extra = 0.0
    for at in steps.entered:
        about = range(max(at - 2, 0), min(at + 2, len(times)))  # its trace delays the rounds in flight and what follows
        usual = statistics.median(times[max(at - 13, 0) : at + 11])
        extra += sum(times[i] - usual for i in about)
    return extra / sum(times)


def cost_of_padding(
    decoder: Decoder, steps: CompiledSteps, cache: KVCache, ends: list[int], drafts: int, turns: int
) -> float:
    """By how much of a round one bucket more prolongs it."""
    state, buffers = start(decoder, cache, [FIRST_TOKEN], 0), cache.buffers
    cache.reset()  # held twice, buffers would be copied when they are written to
    times = {end: [] for end in ends}
    for _ in range(turns):
        for end in ends:
            bound = end - drafts - 1
            began = time.perf_counter()
            state = state._replace(length=mx.array([ends[0] // 2]))
            emitted, state, buffers = steps.round(decoder, state, buffers, drafts, bound)
            mx.eval(emitted, state, buffers)
            times[end].append(time.perf_counter() - began)
    shorter, longer = (statistics.median(found) for found in times.values())
    return longer / shorter - 1


def measure(args: argparse.Namespace) -> None:
    target = load_model(args.model, dtype=args.dtype)
    assistant = load_assistant(assistant_for(args.model), dtype=args.dtype)
    cache = make_prompt_cache(target, assistant, args.drafts)
    decoder = Decoder(target, assistant, cache.layout, Sampling(), accept)
    known = WatchedSteps(decoder)
    ends = sorted({known.reach(end) for end in range(args.drafts + 1, args.tokens + 1)})
    if len(ends) < 2 or args.runs < 2:
        raise InputError(f"{args.tokens} tokens, {args.runs} runs: expected two buckets or more, and two runs")
    run = cache, args.tokens, args.drafts
    cost_of_tracing(decoder, known, *run)  # builds kernels
    shares = [cost_of_tracing(decoder, WatchedSteps(decoder), *run) for _ in range(args.runs)]
    none = [cost_of_tracing(decoder, known, *run) for _ in range(args.runs)]
    low, median, high = statistics.quantiles(shares, n=4)
    print(f"tracing {len(ends)} buckets in {args.tokens} tokens: {median:.2%} ({low:.2%} to {high:.2%}) of a run")
    print(f"the same where all are traced already: {statistics.median(none):.2%}")

    cache.reserve(ends[-1])
    more = cost_of_padding(decoder, known, cache, ends[-2:], args.drafts, args.turns)
    print(f"padding: a bucket more costs {more:.2%} of a round, half of it on average {more / 2:.2%}")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--tokens", type=positive, default=2000)
    parser.add_argument("--drafts", type=positive, default=3)
    parser.add_argument("--runs", type=positive, default=9, help="that tracing is measured by")
    parser.add_argument("--turns", type=positive, default=500, help="rounds that padding is measured by")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
