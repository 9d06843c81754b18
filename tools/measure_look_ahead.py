"""What submitting the next round before reading the last one gives, and what memory a run takes.

    python tools/measure_look_ahead.py [--model tiny] [--dtype bfloat16] [--tokens 400] [--turns 5] [--compile]

The same text is decoded with and without look-ahead, in turns; the tokens and the cache's length must be equal. Peak
memory is MLX's own count over all turns, beside what has to be there: weights, keys and values.
"""

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from command_line import parser_for, positive, run_tool
from mlx.utils import tree_flatten

from mlx_gemma4_assist import Pair, assistant_for, load, load_assistant
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.loop import Plan, rounds
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.evaluation.benchmark import Spread, bundled_prompts
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.compiled import check_compiler
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Assistant, Decoder


class Decoded(NamedTuple):
    """A text by rounds alone.

    Attributes:
        tokens: its ids, at least as many as were asked for.
        speed: tokens per second, the prompt and the first round left out.
        missing: positions of it that the cache does not hold.
        cache_bytes: of keys and values.
    """

    tokens: list[int]
    speed: float
    missing: int
    cache_bytes: int


def decode(
    target: Gemma4ForCausalLM,
    assistant: Assistant | None,
    prompt: Sequence[int],
    drafts: int,
    tokens: int,
    *,
    compiled: bool,
    ahead: int,
) -> Decoded:
    """Rounds of so many drafts after a prompt, with ``ahead`` of them in flight beyond the one that is read."""
    engine = Engine(Pair(target, assistant if drafts else None))
    cache = engine.new_cache(drafts)
    decoder = Decoder(target, engine.pair.assistant, cache.layout, Sampling(), accept)
    steps = engine.steps(decoder, compiled)
    plan = Plan(tokens, FixedDraftLength(drafts), ahead=ahead, steps=steps)
    prefill(target, cache, prompt[:-1], steps=steps)
    made: list[int] = []
    began = 0.0
    for emitted in rounds(decoder, cache, prompt[-1:], plan):
        made += emitted.tokens[0]
        began = began or time.perf_counter()
    speed = (len(made) - 1) / (time.perf_counter() - began)
    return Decoded(made, speed, len(prompt) + len(made) - 1 - cache.lengths[0], cache.nbytes)


def measure(args: argparse.Namespace) -> None:
    if args.compile:
        check_compiler()
    target, processor = load(args.model, dtype=args.dtype)
    assistant = load_assistant(args.assistant_model or assistant_for(args.model), dtype=args.dtype)
    prompt = processor.encode(bundled_prompts()["prose"])
    weights = sum(array.nbytes for model in (target, assistant) for _, array in tree_flatten(model.parameters()))
    for name, drafts in (("plain", 0), (f"{args.drafts} drafts", args.drafts)):
        speeds: dict[int, list[float]] = {0: [], 1: []}
        ends = set()
        for turn in range(args.turns + 1):
            for ahead, measured in speeds.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                decoded = decode(target, assistant, prompt, drafts, args.tokens, compiled=args.compile, ahead=ahead)
                ends.add((tuple(decoded.tokens[: args.tokens]), decoded.missing))
                if turn:  # the first warms up
                    measured.append(decoded.speed)
        ratios = [one / none for none, one in zip(*speeds.values(), strict=True)]
        middle, low, high = Spread.of(ratios)
        print(f"{name}: one round ahead is {middle:.3f} times as fast as none (quartiles {low:.3f} to {high:.3f})")
        print(f"  same tokens and cache length: {'yes' if len(ends) == 1 else 'NO'}")
        more = mx.get_peak_memory() - weights - decoded.cache_bytes
        print(
            f"  peak memory {mx.get_peak_memory() / 1e6:.1f} MB: weights {weights / 1e6:.1f}, keys and values "
            f"{decoded.cache_bytes / 1e6:.1f}, all else {more / 1e6:.1f}"
        )


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--drafts", type=positive, default=3)
    parser.add_argument("--tokens", type=positive, default=400)
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--compile", action="store_true")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
