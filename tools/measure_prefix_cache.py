"""What a conversation computes, and how long it waits for first tokens, with and without restore points.

    python tools/measure_prefix_cache.py [--model tiny] [--turns 10] [--message 60] [--answer 120] [--thought 60]

One conversation per way: without a prefix cache; with one; with one, and a moment of idleness after each answer; with
one that is read from a folder, each turn in an engine of its own. Answers begin with thoughts of a given length, which
later prompts leave out. All must give the same tokens. What points cost is told for a text of each turn's length.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import GenerationOptions, MediaPrompt, Pair
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts

Serve = Callable[[], Engine]


class Turn(NamedTuple):
    """Tokens of the prompt, those that were computed, seconds to the first token, and the tokens made."""

    prompt: int
    computed: int
    first: float
    made: list[int]


def talk(arguments: argparse.Namespace, pair: Pair, words: list[int], serve: Serve, idle: bool) -> list[Turn]:
    """A conversation whose messages are pieces of ``words``."""
    history, found = words[:100], []
    options = GenerationOptions(max_tokens=arguments.answer, num_assistant_tokens=3)
    for turn in range(arguments.turns):
        begin = 100 + turn * arguments.message
        prompt = [*history, *words[begin : begin + arguments.message]]
        engine = serve()
        run = engine.run(Request(MediaPrompt(prompt), options, points=(len(history),)))
        started, made, first = time.perf_counter(), [], 0.0
        for event in run:
            first = first or time.perf_counter() - started
            made += event.tokens
        found.append(Turn(len(prompt), run.to_compute, first, made))
        history = [*prompt, *made[arguments.thought :]]
        if idle:
            engine.read_ahead(history)
            while engine.idle():
                pass
    return found


def cost_of_a_point(pair: Pair, tokens: list[int]) -> tuple[float, float, int]:
    """Seconds to take a point behind ``tokens`` and to restore it, and its bytes."""
    engine = Engine(pair)
    cache = engine.new_cache(3)
    for _ in engine.run(Request(MediaPrompt(tokens), GenerationOptions(max_tokens=1)), cache):
        pass
    engine.prefix.clear()
    mx.synchronize()
    began = time.perf_counter()
    engine.prefix.take(cache, cache.lengths[0])
    mx.synchronize()
    taken = time.perf_counter()
    other = engine.new_cache(3)
    mx.synchronize()
    restoring = time.perf_counter()
    engine.prefix.restore(other, [*tokens, 0], 0)
    mx.synchronize()
    return taken - began, time.perf_counter() - restoring, engine.prefix.nbytes


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="a folder, a repo on the Hub, or tiny")
    parser.add_argument("--turns", type=positive, default=10)
    parser.add_argument("--message", type=positive, default=60, help="tokens of each message")
    parser.add_argument("--answer", type=positive, default=120, help="tokens of each answer, thoughts included")
    parser.add_argument("--thought", type=int, default=60, help="tokens of an answer that later prompts leave out")
    return parser


def main(options: argparse.Namespace) -> None:
    pair = Pair.load(options.model)
    text = pair.encode(str(bundled_prompts()["prose"]), chat=False)
    words = (text * 100)[: 100 + options.turns * options.message]
    kept = Engine(pair), Engine(pair)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, tuple[Serve, bool]] = {
            "no prefix cache": (lambda: Engine(pair, prefix_cache_bytes=0), False),
            "restore points": (lambda: kept[0], False),
            "and idle reading": (lambda: kept[1], True),
            "from a folder": (lambda: Engine(pair, prefix_cache_folder=folder), False),
        }
        found = {name: talk(options, pair, words, *way) for name, way in ways.items()}
    cold = found["no prefix cache"]
    for name, turns in found.items():
        same = all(turn.made == other.made for turn, other in zip(turns, cold, strict=True))
        last = turns[-1]
        print(
            f"{name:>17}: turn {len(turns)} of {last.prompt} tokens computes {last.computed}, first token after "
            f"{1000 * last.first:.0f} ms; all turns {sum(turn.computed for turn in turns)} of "
            f"{sum(turn.prompt for turn in turns)}; {'the same' if same else 'OTHER'} tokens"
        )
    for length in (256, 1024, 4000):
        taken, restored, nbytes = cost_of_a_point(pair, (words * (1 + length // len(words)))[:length])
        print(
            f"a point behind {length} tokens: {nbytes / 1e6:.1f} MB, taken in {1000 * taken:.1f} ms, "
            f"restored in {1000 * restored:.1f} ms"
        )


if __name__ == "__main__":
    run_tool(arguments(), main)
