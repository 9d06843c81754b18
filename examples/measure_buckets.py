"""What the buckets of compiled rounds cost: tracing anew at each, and attending over padding up to the next.

    python examples/measure_buckets.py [--model tiny] [--dtype bfloat16] [--tokens 2000] [--drafts 3]

Runs a pair compiled, once to build kernels and once to measure. A round that enters a bucket is traced:
what it takes beyond the median round is the cost of tracing. Padding is measured by the same rounds with one bucket
more or less to attend over, interleaved: on average half of that difference is wasted.
"""

import argparse
import statistics
import time

import mlx.core as mx

from mlx_gemma4_assist import assistant_for, load_assistant, make_prompt_cache
from mlx_gemma4_assist.checkpoints.loading import DTYPES, load_model
from mlx_gemma4_assist.decoding.compiled import compiled_steps
from mlx_gemma4_assist.decoding.sampling import Sampling
from mlx_gemma4_assist.decoding.speculative import Engine, accept, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--turns", type=int, default=200, help="rounds that padding is measured by")
    options = parser.parse_args()
    target = load_model(options.model, dtype=options.dtype)
    assistant = load_assistant(assistant_for(options.model), dtype=options.dtype)
    cache = make_prompt_cache(target, assistant, options.drafts)
    engine = Engine(target, assistant, cache.layout, Sampling(), accept)
    block = options.drafts + 1
    reach = compiled_steps(engine).reach
    ends = sorted({reach(end) for end in range(block, options.tokens + block, block)})
    cache.reserve(ends[-1])

    def rounds() -> tuple[list[float], list[float]]:
        """Seconds of rounds that trace, and of the others; one round per position, as if nothing were accepted."""
        steps = compiled_steps(engine)
        steps._compiled.clear()
        state = start(engine, cache, [5], 0)
        traced, others, known = [], [], set()
        for bound in range(0, options.tokens, block):
            began = time.perf_counter()
            emitted, state = steps.round(engine, state._replace(length=mx.array([bound])), options.drafts, bound)
            mx.eval(emitted, state)
            bucket = reach(bound + block)
            (others if bucket in known else traced).append(time.perf_counter() - began)
            known.add(bucket)
        return traced, others

    rounds()  # builds kernels
    traced, others = rounds()
    extra, whole = sum(traced) - len(traced) * statistics.median(others), sum(traced) + sum(others)
    print(f"{len(traced)} buckets in {options.tokens} positions, {len(others)} other rounds")
    print(f"tracing: {1e3 * extra / len(traced):.0f} ms per bucket, {extra / whole:.2%} of the run")

    steps, times = compiled_steps(engine), {0: [], 1: []}
    state = start(engine, cache, [5], 0)
    for _ in range(options.turns):
        for longer, end in enumerate(ends[-2:]):
            bound = end - block
            began = time.perf_counter()
            emitted, state = steps.round(engine, state._replace(length=mx.array([bound - 8])), options.drafts, bound)
            mx.eval(emitted, state)
            times[longer].append(time.perf_counter() - began)
    a, b = (statistics.median(t) for t in times.values())
    print(f"padding: a whole bucket more costs {b / a - 1:.2%} of a round, half of it on average {(b / a - 1) / 2:.2%}")


if __name__ == "__main__":
    main()
