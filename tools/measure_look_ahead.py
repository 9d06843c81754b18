"""What submitting the next round before reading the last one gives, and what memory a run takes.

    python tools/measure_look_ahead.py [--model tiny] [--dtype bfloat16] [--tokens 400] [--turns 5] [--compile]

The same text is decoded with and without look-ahead, in turns; the tokens and the cache's length must be equal. Peak
memory is MLX's own count over all turns, beside what has to be there: weights, keys and values.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gemma4_assist import assistant_for, load, load_assistant, make_prompt_cache
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.layout import KVCache
from mlx_gemma4_assist.drafts.draft_length import FixedDraftLength
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts
from mlx_gemma4_assist.rounds.compiled import check_compiler, compiled_steps
from mlx_gemma4_assist.rounds.round import Engine, Plan, accept, rounds
from mlx_gemma4_assist.rounds.sampling import Sampling


def decode(engine: Engine, cache: KVCache, prompt: Sequence[int], plan: Plan) -> tuple[list[int], float]:
    """The tokens, and how many of them came per second, the prompt and the first round left out."""
    prefill(engine.target, cache, prompt[:-1])
    tokens: list[int] = []
    began = 0.0
    for emitted in rounds(engine, cache, prompt[-1:], plan):
        tokens += emitted.tokens[0]
        began = began or time.perf_counter()
    return tokens, (len(tokens) - 1) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.compile:
        check_compiler()
    target, processor = load(args.model, dtype=args.dtype)
    assistant = load_assistant(args.assistant_model or assistant_for(args.model), dtype=args.dtype)
    prompt = processor.encode(bundled_prompts()["prose"])
    weights = sum(array.nbytes for model in (target, assistant) for _, array in tree_flatten(model.parameters()))
    for name, drafts in (("plain", 0), (f"{args.drafts} drafts", args.drafts)):
        plan = Plan(args.tokens, FixedDraftLength(drafts))
        speeds: dict[int, list[float]] = {0: [], 1: []}
        ends = set()
        for turn in range(args.turns + 1):
            for ahead, measured in speeds.items():
                cache = make_prompt_cache(target, assistant, drafts)
                engine = Engine(target, assistant if drafts else None, cache.layout, Sampling(), accept)
                this = compiled_steps(engine).carry_out(plan) if args.compile else plan
                mx.clear_cache()
                mx.reset_peak_memory()
                tokens, speed = decode(engine, cache, prompt, replace(this, ahead=ahead))
                ends.add((tuple(tokens[: args.tokens]), len(prompt) + len(tokens) - 1 - cache.lengths[0]))
                if turn:  # the first warms up
                    measured.append(speed)
        ratios = [one / none for none, one in zip(*speeds.values(), strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: one round ahead is {middle:.3f} times as fast as none (quartiles {low:.3f} to {high:.3f})")
        print(f"  same tokens and cache length: {'yes' if len(ends) == 1 else 'NO'}")
        more = mx.get_peak_memory() - weights - cache.nbytes
        print(
            f"  peak memory {mx.get_peak_memory() / 1e6:.1f} MB: weights {weights / 1e6:.1f}, keys and values "
            f"{cache.nbytes / 1e6:.1f}, all else {more / 1e6:.1f}"
        )


if __name__ == "__main__":
    main()
