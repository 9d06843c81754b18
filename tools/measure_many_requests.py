"""Whether an engine stays as it is over many requests: what is compiled, open files, threads, memory.

    python tools/measure_many_requests.py [--model tiny] [--requests 1000] [--settings 500] [--max-tokens 12]

Requests arrive at random moments: random prompts, lengths, temperatures, filters, penalties, biases, seeds, draft
limits, log-probabilities. Some are given up at random points. After every hundred the engine is idle and is looked at;
nothing should be more than after the first hundred.

Rounds are made as if compiled, and what would be traced is counted. Where compiling takes a C++ compiler, MLX is told
not to: it would take hours.
"""

import argparse
import gc
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import GenerationOptions, Pair
from mlx_gemma4_assist.backend import compiles_in_process
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.engine.run import Run
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts

WAVE = 100  # requests until the engine is looked at
TASKS = Path("/proc/self/task")


class Load(NamedTuple):
    """How many requests there are, of how many different settings, how many of them are given up; for which seed; how
    many tokens their texts have at most."""

    requests: int
    settings: int
    cancelled: int
    seed: int = 0
    max_tokens: int = 12


class Sight(NamedTuple):
    """What an idle engine leaves in its process.

    Attributes:
        requests: so far.
        traced: functions handed to ``mx.compile`` so far.
        files, threads: that are open, or run.
        active: bytes of MLX's arrays.
        resident: bytes of the process.
        most: rows that ran at once since it was last looked at.
    """

    requests: int
    traced: int
    files: int
    threads: int
    active: int
    resident: int
    most: int


def random_options(rng: random.Random, vocabulary: int, most: int) -> GenerationOptions:
    """Any setting that requests may have each for themselves, for a text of ``most`` tokens at most."""
    found: dict[str, Any] = {"max_tokens": rng.randint(1, most), "compile": True}
    if rng.random() < 0.7:
        found["num_assistant_tokens"] = rng.choice([0, 1, 2, 3, 4, 6, 8])
    if rng.random() < 0.7:
        found |= {"temperature": rng.uniform(0.2, 1.6), "seed": rng.choice([None, rng.randrange(2**32)])}
        found |= {"top_k": rng.choice([0, 0, rng.randint(1, 300)]), "top_p": rng.choice([1.0, rng.uniform(0.5, 1)])}
        found |= {"min_p": rng.choice([0.0, rng.uniform(0, 0.2)])}
    if rng.random() < 0.2:
        found |= {"repetition_penalty": rng.uniform(1, 1.4), "presence_penalty": rng.uniform(-1, 1)}
        found |= {"frequency_penalty": rng.uniform(0, 0.5)}
    if rng.random() < 0.2:
        found["logit_bias"] = {rng.randrange(vocabulary): rng.uniform(-9, 4) for _ in range(rng.randint(1, 9))}
    if rng.random() < 0.15:
        found["top_logprobs"] = rng.randint(0, 20)
    return GenerationOptions(**found)


def random_requests(load: Load, tokens: Sequence[int], vocabulary: int) -> Iterator[Request]:
    """Of random settings, each with a piece of a text as its prompt, and sometimes ids that are never drawn."""
    rng = random.Random(load.seed)
    settings = [random_options(rng, vocabulary, load.max_tokens) for _ in range(load.settings)]
    for number in range(load.requests):
        begin = rng.randrange(len(tokens) - 1)
        prompt = list(tokens[begin : begin + rng.choice([1, rng.randint(2, 40), rng.randint(40, 150)])])
        stop = frozenset(rng.sample(range(vocabulary), 2))
        yield Request(MediaPrompt(prompt), settings[number % len(settings)], stop)


class Crowd:
    """The requests that an engine has in its hands.

    Args:
        engine: runs them.
        rng: says when who comes and who is given up.

    Attributes:
        most: rows that ran at once.
    """

    def __init__(self, engine: Engine, rng: random.Random):
        self.most = 0
        self._engine, self._rng = engine, rng
        self._steps_left: dict[Run, float] = {}

    def serve(self, requests: Sequence[Request], cancelled: int) -> None:
        """Let requests come at random moments, give up so many of them, and see the others to their ends."""
        given_up = set(self._rng.sample(range(len(requests)), cancelled))
        waiting = list(enumerate(requests))
        while waiting or self._steps_left:
            while waiting and (not self._steps_left or self._rng.random() < 0.7):
                place, request = waiting.pop(0)
                run = self._engine.run(request)
                run.begin()
                self._steps_left[run] = self._rng.randint(0, 8) if place in given_up else float("inf")
            self._step()

    def _step(self) -> None:
        self._engine.scheduler.step()
        self.most = max(self.most, self._engine.scheduler.running)
        for run in list(self._steps_left):
            self._steps_left[run] -= 1
            over = self._steps_left[run] < 0
            while run.ready and not over:
                over = next(iter(run)).finish_reason is not None
            if over:
                run.close()
                del self._steps_left[run]


@contextmanager
def counting_traces() -> Iterator[Callable[[], int]]:
    """How many functions have been handed to ``mx.compile`` since. On a CPU they are not compiled."""
    made, compile_it = [0], mx.compile

    def counted(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        made[0] += 1
        return compile_it(function, *args, **options)

    if not compiles_in_process():
        mx.disable_compile()
    try:
        with patch.object(mx, "compile", counted):
            yield lambda: made[0]
    finally:
        mx.enable_compile()


def look(requests: int, traced: int, most: int) -> Sight:
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    threads = len(list(TASKS.iterdir())) if TASKS.exists() else threading.active_count()
    resident = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    files = len(os.listdir("/dev/fd"))
    return Sight(requests, traced, files, threads, mx.get_active_memory(), int(resident.stdout) * 1024, most)


def sights(pair: Pair, tokens: Sequence[int], load: Load) -> Iterator[Sight]:
    """What an engine leaves after every ``WAVE`` of the requests.

    Raises:
        AssertionError: it still has somebody in its hands.
    """
    engine, rng = Engine(pair, prefix_cache_bytes=0), random.Random(load.seed + 1)
    requests = list(random_requests(load, tokens, pair.target.config.vocab_size))
    with counting_traces() as traced:
        for begin in range(0, len(requests), WAVE):
            wave, crowd = requests[begin : begin + WAVE], Crowd(engine, rng)
            crowd.serve(wave, load.cancelled * len(wave) // load.requests)
            if not engine.scheduler.idle:
                raise AssertionError("the engine still has somebody in its hands")
            yield look(begin + len(wave), traced(), crowd.most)


def measure(args: argparse.Namespace) -> None:
    pair = Pair.load(args.model)
    tokens = [token for prompt in bundled_prompts().values() for token in pair.encode(prompt)]
    load = Load(args.requests, args.settings, args.cancelled, args.seed, args.max_tokens)
    print("| requests | at once | traced | files | threads | MLX, MB | process, MB |")
    print("|---|---|---|---|---|---|---|")
    for each in sights(pair, tokens, load):
        print(
            f"| {each.requests:,} | {each.most} | {each.traced} | {each.files} | {each.threads} | "
            f"{each.active / 1e6:.2f} | {each.resident / 1e6:.0f} |",
            flush=True,
        )


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=positive, default=1000)
    parser.add_argument("--settings", type=positive, default=500)
    parser.add_argument("--cancelled", type=int, default=100)
    parser.add_argument("--max-tokens", type=positive, default=12, help="of a text; each has a random number")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
