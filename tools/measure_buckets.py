"""What the buckets of compiled rounds cost: tracing anew at each, and attending over padding up to the next.

    python tools/measure_buckets.py [--model tiny] [--dtype bfloat16] [--tokens 2000] [--drafts 3]

Tracing: runs of a pair that trace at each bucket; what the rounds about a trace take beyond the median of their
neighbours is its cost, of which look-ahead hides a part. In a process that goes on, a later run does not pay it again.
Padding: rounds with one bucket more or less to attend over, in turns; on average half of that difference is wasted.
"""

import argparse
import statistics
import time
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx

from mlx_gemma4_assist import assistant_for, load_assistant, make_prompt_cache
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.layout import KVCache
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.drafts.draft_length import FixedDraftLength
from mlx_gemma4_assist.rounds.compiled import CompiledSteps
from mlx_gemma4_assist.rounds.round import Engine, Plan, Round, RoundState, accept, rounds, start
from mlx_gemma4_assist.rounds.sampling import Sampling

FIRST_TOKEN = 5


def cost_of_tracing(engine: Engine, steps: CompiledSteps, cache: KVCache, tokens: int, drafts: int) -> float:
    """Which share of a run it takes."""
    cache.reset()
    plan = steps.carry_out(Plan(tokens, FixedDraftLength(drafts)))
    read, entered, known = [time.perf_counter()], [], set()

    def step(engine: Engine, state: RoundState, count: int, bound: int) -> tuple[Round, RoundState]:
        end = steps.reach(bound + count + 1)
        if end not in known:
            known.add(end)
            entered.append(len(read) - 1)
        return plan.step(engine, state, count, bound)

    for _ in rounds(engine, cache, [FIRST_TOKEN], replace(plan, step=step)):
        read.append(time.perf_counter())
    times = [end - begin for begin, end in pairwise(read)]
    extra = 0.0
    for at in entered:
        about = range(max(at - 1, 0), min(at + 3, len(times)))  # its trace delays the rounds in flight and what follows
        usual = statistics.median(times[max(at - 12, 0) : at + 12])
        extra += sum(times[i] - usual for i in about)
    return extra / sum(times)


def cost_of_padding(
    engine: Engine, steps: CompiledSteps, cache: KVCache, ends: list[int], drafts: int, turns: int
) -> float:
    """By how much of a round one bucket more prolongs it."""
    state = start(engine, cache, [FIRST_TOKEN], 0)
    times = {end: [] for end in ends}
    for _ in range(turns):
        for end in ends:
            bound = end - drafts - 1
            began = time.perf_counter()
            emitted, state = steps.round(engine, state._replace(length=mx.array([ends[0] // 2])), drafts, bound)
            mx.eval(emitted, state)
            times[end].append(time.perf_counter() - began)
    shorter, longer = (statistics.median(found) for found in times.values())
    return longer / shorter - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--runs", type=int, default=9, help="that tracing is measured by")
    parser.add_argument("--turns", type=int, default=500, help="rounds that padding is measured by")
    options = parser.parse_args()
    target = load_model(options.model, dtype=options.dtype)
    assistant = load_assistant(assistant_for(options.model), dtype=options.dtype)
    cache = make_prompt_cache(target, assistant, options.drafts)
    engine = Engine(target, assistant, cache.layout, Sampling(), accept)
    known = CompiledSteps(engine)
    ends = sorted({known.reach(end) for end in range(options.drafts + 1, options.tokens + 1)})
    if len(ends) < 2 or options.runs < 2:
        parser.error(f"{options.tokens} tokens, {options.runs} runs: expected two buckets or more, and two runs")
    run = cache, options.tokens, options.drafts
    cost_of_tracing(engine, known, *run)  # builds kernels
    shares = [cost_of_tracing(engine, CompiledSteps(engine), *run) for _ in range(options.runs)]
    none = [cost_of_tracing(engine, known, *run) for _ in range(options.runs)]
    low, median, high = statistics.quantiles(shares, n=4)
    print(f"tracing {len(ends)} buckets in {options.tokens} tokens: {median:.2%} ({low:.2%} to {high:.2%}) of a run")
    print(f"the same where all are traced already: {statistics.median(none):.2%}")

    cache.reserve(ends[-1])
    more = cost_of_padding(engine, known, cache, ends[-2:], options.drafts, options.turns)
    print(f"padding: a bucket more costs {more:.2%} of a round, half of it on average {more / 2:.2%}")


if __name__ == "__main__":
    main()
