"""Does a round cost more than its parts? Drafting, verifying and accepting, each waited for alone, against the loop.

    python tools/round_parts.py --model MODEL [--assistant-model MODEL] [--dtype bfloat16] [--compile] [--drafts 3]

The loop submits the next round before it reads the one before, so the host's work is hidden behind the device's. What a
part costs depends on shapes, not on which drafts stand: any assistant of the right shape will do.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import Pair, assistant_for, load, load_assistant
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.loop import Plan, rounds, start
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.compiled import check_compiler
from mlx_gemma4_assist.rounds.round import draft, settle, speculate, verify
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Assistant, Decoder, Drafts, Proposal, RoundState
from mlx_gemma4_assist.rounds.steps import Steps


class Parts(NamedTuple):
    """Medians, in seconds.

    Attributes:
        draft: all drafts of a round.
        verify: the target's forward over them.
        settle: acceptance, and the state of the next round.
        round: a round of the running loop.
    """

    draft: float
    verify: float
    settle: float
    round: float

    @property
    def ratio(self) -> float:
        """A round over the sum of its parts."""
        return self.round / (self.draft + self.verify + self.settle)


class Setup(NamedTuple):
    """What is measured: networks, token ids of a prompt, drafts per round, rounds per turn."""

    target: Gemma4ForCausalLM
    assistant: Assistant
    prompt: Sequence[int]
    drafts: int
    compiles: bool
    count: int

    def prefilled(self) -> tuple[Decoder, Steps, KVCache]:
        """The networks, their steps, and a cache that holds all of the prompt but its last token."""
        engine = Engine(Pair(self.target, self.assistant))
        cache = engine.new_cache(self.drafts)
        prefill(self.target, cache, self.prompt[:-1])
        decoder = Decoder(self.target, self.assistant, cache.layout, Sampling(), accept)
        return decoder, engine.steps(decoder, self.compiles), cache


def measure(setup: Setup, turns: int = 5) -> Parts:
    """The loop and the parts of as many rounds after the same prompt, in turns; the first turn warms up."""
    steps = PartSteps(setup)
    whole: list[float] = []
    parts: list[list[float]] = [[], [], []]
    for turn in range(turns + 1):
        loop, alone = loop_seconds(setup), parts_seconds(setup, steps)
        if turn:
            whole += loop
            for part, seconds in zip(parts, alone, strict=True):
                part += seconds
    return Parts(*(statistics.median(part) for part in parts), statistics.median(whole))


def loop_seconds(setup: Setup) -> list[float]:
    """Seconds of each of ``count`` rounds of the running loop."""
    decoder, steps, cache = setup.prefilled()
    budget = (setup.count + 4) * (setup.drafts + 1)  # never reached: all rounds make all drafts
    plan = Plan(budget, FixedDraftLength(setup.drafts), steps=steps)
    running = rounds(decoder, cache, setup.prompt[-1:], plan)
    for _ in range(2):  # the prompt's own round has no drafts; the next one had a head start
        next(running)
    times = [time.perf_counter()]
    for _ in range(setup.count):
        next(running)
        times.append(time.perf_counter())
    running.close()
    mx.synchronize()
    return [end - begin for begin, end in itertools.pairwise(times)]


def parts_seconds(setup: Setup, steps: "PartSteps") -> list[list[float]]:
    """Seconds of each part of ``count`` rounds, one after the other."""
    decoder, _, cache = setup.prefilled()
    cache.reserve(steps.reach(len(setup.prompt) + (setup.count + 2) * (setup.drafts + 1)))
    first = start(decoder, cache, setup.prompt[-1:], 0)
    _, state, buffers = speculate(decoder, first, cache.buffers, 0, len(setup.prompt) - 1)
    cache.reset()  # held twice, buffers would be copied when they are written to
    mx.eval(state, buffers)
    seconds: list[list[float]] = [[], [], []]
    for _ in range(setup.count + 1):
        bound = state.length.item()
        times = [time.perf_counter()]
        tokens = steps.draft(bound)(tuple(state), buffers)
        mx.eval(tokens)
        times.append(time.perf_counter())
        hidden, logits, buffers = steps.verify(bound)(tuple(state), buffers, tokens)
        mx.eval(hidden, logits, buffers)
        times.append(time.perf_counter())
        emitted, after = steps.settle()(tuple(state), tokens, hidden, logits)
        state = RoundState(*after)
        mx.eval(emitted, after)
        times.append(time.perf_counter())
        for part, (begin, end) in zip(seconds, itertools.pairwise(times), strict=True):
            part.append(end - begin)
    return [part[1:] for part in seconds]


class PartSteps:
    """``rounds.round.speculate`` in three functions of arrays, compiled or not."""

    def __init__(self, setup: Setup):
        self._decoder, self._steps, _ = setup.prefilled()
        self._drafts, self._compiles = setup.drafts, setup.compiles
        self._made: dict[tuple[str, int], Callable] = {}

    def draft(self, bound: int) -> Callable:
        bound = self._padded(bound)

        def run(state, buffers):
            return draft(self._decoder, RoundState(*state), buffers, self._drafts, bound).tokens

        return self._get("draft", bound, run)

    def verify(self, bound: int) -> Callable:
        bound = self._padded(bound)

        def run(state, buffers, tokens):
            return verify(self._decoder, RoundState(*state), buffers, tokens, bound)

        return self._get("verify", bound, run)

    def settle(self) -> Callable:
        def run(state, tokens, hidden, logits):
            proposal = Proposal(Drafts(tokens, None), hidden, logits, ())
            emitted, after = settle(self._decoder, RoundState(*state), proposal)
            return tuple(emitted), tuple(after)

        return self._get("settle", 0, run)

    def reach(self, end: int) -> int:
        """As rounds have it: one trace for all lengths of a bucket."""
        return self._steps.reach(end)

    def _padded(self, bound: int) -> int:
        block = self._drafts + 1
        return self.reach(bound + block) - block

    def _get(self, name: str, bound: int, run: Callable) -> Callable:
        if not self._compiles:
            return run
        if (name, bound) not in self._made:
            self._made[name, bound] = mx.compile(run)
        return self._made[name, bound]


def show(args: argparse.Namespace) -> None:
    if args.compile:
        check_compiler()
    target, processor = load(args.model, dtype=args.dtype)
    assistant = load_assistant(args.assistant_model or assistant_for(args.model), dtype=args.dtype)
    prompt = processor.encode(bundled_prompts()["prose"])
    parts = measure(Setup(target, assistant, prompt, args.drafts, args.compile, args.rounds), args.turns)
    for name, seconds in zip(("drafts", "verification", "acceptance"), parts, strict=False):
        print(f"{name:14s} {1e3 * seconds:8.3f} ms")
    print(f"{'sum':14s} {1e3 * sum(parts[:3]):8.3f} ms")
    print(f"{'round':14s} {1e3 * parts.round:8.3f} ms, {parts.ratio:.3f} times the sum")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--drafts", type=positive, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=positive, default=24, help="per turn")
    parser.add_argument("--turns", type=positive, default=5)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), show)
