"""What the buckets of compiled rounds cost: tracing anew at each, and attending over padding up to the next.

    python examples/measure_buckets.py [--tokens 2000] [--drafts 3]

Runs the embedded pair compiled, once to build kernels and once to measure. A round that enters a bucket is traced:
what it takes beyond the median round is the cost of tracing. Padding is measured by the same rounds with one bucket
more or less to attend over, interleaved: on average half of that difference is wasted.
"""

import argparse
import statistics
import time

import mlx.core as mx

from mlx_gemma4_assist import load, load_assistant, make_prompt_cache
from mlx_gemma4_assist.decoding.compiled import COMPILED_BUCKET, compiled_steps
from mlx_gemma4_assist.decoding.sampling import Sampling
from mlx_gemma4_assist.decoding.speculative import Engine, accept, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--drafts", type=int, default=3)
    options = parser.parse_args()
    target, _ = load("tiny")
    assistant = load_assistant("tiny-assistant")
    cache = make_prompt_cache(target, assistant, options.drafts)
    engine = Engine(target, assistant, cache.layout, Sampling(), accept)
    cache.reserve(options.tokens + COMPILED_BUCKET)

    def rounds() -> tuple[list[float], list[float]]:
        """Seconds of rounds that trace, and of the others; one round per position, as if nothing were accepted."""
        steps = compiled_steps(engine)
        steps._compiled.clear()
        state = start(engine, cache, [5], 0)
        traced, others, known = [], [], set()
        for bound in range(0, options.tokens, options.drafts + 1):
            began = time.perf_counter()
            emitted, state = steps.round(engine, state._replace(length=mx.array([bound])), options.drafts, bound)
            mx.eval(emitted, state)
            bucket = (bound + options.drafts) // COMPILED_BUCKET
            (others if bucket in known else traced).append(time.perf_counter() - began)
            known.add(bucket)
        return traced, others

    rounds()  # builds kernels
    traced, others = rounds()
    extra, whole = sum(traced) - len(traced) * statistics.median(others), sum(traced) + sum(others)
    print(f"{len(traced)} buckets of {COMPILED_BUCKET} in {options.tokens} positions, {len(others)} other rounds")
    print(f"tracing: {1e3 * extra / len(traced):.0f} ms per bucket, {extra / whole:.2%} of the run")

    steps, times = compiled_steps(engine), {0: [], 1: []}
    state = start(engine, cache, [5], 0)
    last = options.tokens // COMPILED_BUCKET
    for _ in range(200):
        for longer in (0, 1):
            bound = (last - 1 + longer) * COMPILED_BUCKET - options.drafts - 1
            began = time.perf_counter()
            emitted, state = steps.round(engine, state._replace(length=mx.array([bound - 8])), options.drafts, bound)
            mx.eval(emitted, state)
            times[longer].append(time.perf_counter() - began)
    a, b = (statistics.median(t) for t in times.values())
    print(f"padding: a whole bucket more costs {b / a - 1:.2%} of a round, half of it on average {(b / a - 1) / 2:.2%}")


if __name__ == "__main__":
    main()
