"""What does a short row pay beside a long one? Rounds of mixed lengths, with one buffer for all rows and with shelves.

    python tools/measure_shelves.py --model MODEL [--assistant-model MODEL] [--dtype bfloat16] [--drafts 3] [--compile]
        [--processor-time]

MODEL may be what ``synthetic.py`` writes. Rows of 200 and of 8,000 tokens, whose keys are random, run rounds of an
engine's batch. Short rows pay what a round of all takes longer than the long row's alone, over what a round of the
short rows alone takes. Beside it are: a round of all over a round of as many short rows, and attention alone, of all
rows in one full layer, in the same two measures. Times are medians of rounds, in turns; memory is of keys and values.
On a machine that others use too, ``--processor-time`` counts what all threads of this process have worked instead.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import Pair, assistant_for, load, load_assistant
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache import shelves
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.cache.shared import shared_kv_states
from mlx_gemma4_assist.engine.batch import Batch, Member
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.loop import Flight
from mlx_gemma4_assist.models.attention import attend
from mlx_gemma4_assist.models.config import FULL
from mlx_gemma4_assist.rounds.compiled import check_compiler
from mlx_gemma4_assist.rounds.sampling import Sampling, row_keys

SHORT, LONG = 200, 8000  # tokens
MIXED = {"1 short, 1 long": (1, 1), "7 short, 1 long": (7, 1)}
ONE_BUFFER, SHELVES = "one buffer", "shelves"
FLOORS = {ONE_BUFFER: 1 << 30, SHELVES: shelves.FLOOR}


class Setup(NamedTuple):
    """What is measured: a pair, drafts per round, whether rounds are compiled, how many are timed, and how."""

    pair: Pair
    drafts: int
    compiles: bool
    rounds: int
    clock: Callable[[], float]


@contextmanager
def lying_in(kind: str) -> Iterator[None]:
    """Rows of a batch in one buffer, or on shelves."""
    before, shelves.FLOOR = shelves.FLOOR, FLOORS[kind]
    try:
        yield
    finally:
        shelves.FLOOR = before


def filled(engine: Engine, length: int, drafts: int) -> KVCache:
    """A cache of one row, whose keys and values are random."""
    cache = engine.new_cache(drafts)
    cache.reserve(length)
    buffers = tuple(
        tuple(mx.random.normal(array.shape).astype(array.dtype) for array in layer) for layer in cache.buffers
    )
    mx.eval(buffers)
    cache.store(buffers, [length])
    cache.append(0, [7] * length)
    return cache


class Company:
    """A batch of rows of some lengths, whose rounds are timed."""

    def __init__(self, setup: Setup, lengths: Sequence[int]):
        engine = Engine(setup.pair)
        self._setup, self._batch = setup, Batch(engine.decoder, engine.steps)
        hidden = mx.zeros((1, 1, setup.pair.target.config.hidden_size), setup.pair.target.hidden_dtype)
        for row, length in enumerate(lengths):
            cache = filled(engine, length, setup.drafts)
            self._batch.join(Member(cache, 9, hidden, row_keys(row, 1), Sampling(), compiled=setup.compiles))

    def round(self) -> None:
        self._batch.submit(self._setup.drafts, dict.fromkeys(self._batch.members, self._setup.drafts))
        self._batch.land()

    def seconds(self) -> list[float]:
        times = []
        for _ in range(self._setup.rounds):
            begin = self._setup.clock()
            self.round()
            times.append(self._setup.clock() - begin)
        return times

    @property
    def _flight(self) -> Flight:
        flight = self._batch._flight
        assert flight is not None
        return flight

    @property
    def nbytes(self) -> int:
        return self._flight.cache.nbytes

    def attention_seconds(self) -> list[float]:
        """Of each of some times that a round's queries attend to the last full layer."""
        cache, state, config = self._flight.cache, self._flight.state, self._setup.pair.target.config
        bound = cache.bound(cache.lengths)
        states, masks = shared_kv_states(cache.layout, cache.buffers, state.length, bound, cache.places)
        shape = len(cache.lengths), config.num_attention_heads, self._setup.drafts + 1, config.head_dim_of(FULL)
        queries = mx.random.normal(shape).astype(cache.layout.dtype)
        mx.eval(queries, masks)
        times = []
        for _ in range(self._setup.rounds):
            begin = self._setup.clock()
            mx.eval(attend(queries, states[FULL], masks[FULL]))
            times.append(self._setup.clock() - begin)
        return times


class Found(NamedTuple):
    """Medians in seconds, and bytes of keys and values."""

    round: float
    attention: float
    nbytes: int


Rows = tuple[int, int]
"""How many short ones, and how many long ones."""


def measured(setup: Setup, turns: int) -> dict[tuple[str, Rows], Found]:
    """What each number of rows takes, in one buffer and on shelves."""
    keys = [(kind, rows) for rows in all_rows() for kind in FLOORS]
    made: dict[tuple[str, Rows], Company] = {}
    rounds: dict[tuple[str, Rows], list[float]] = {key: [] for key in keys}
    attention: dict[tuple[str, Rows], list[float]] = {key: [] for key in keys}
    for turn in range(turns):
        for kind, rows in keys if turn % 2 else keys[::-1]:
            with lying_in(kind):
                if turn == 0:
                    made[kind, rows] = company_of(setup, rows)
                rounds[kind, rows] += made[kind, rows].seconds()
                attention[kind, rows] += made[kind, rows].attention_seconds()
    medians = {key: (statistics.median(rounds[key]), statistics.median(attention[key])) for key in keys}
    return {key: Found(*medians[key], made[key].nbytes) for key in keys}


def company_of(setup: Setup, rows: Rows) -> Company:
    """A batch that has warmed up: a shape is traced once it has been asked for often."""
    company = Company(setup, [SHORT] * rows[0] + [LONG] * rows[1])
    for _ in range(20 if setup.compiles else 2):
        company.round()
    return company


def all_rows() -> list[Rows]:
    """The mixed numbers of rows, their parts, and as many short ones."""
    rows = {(0, 1)}
    for short, long in MIXED.values():
        rows |= {(short, long), (short, 0), (short + long, 0)}
    return sorted(rows)


def show(args: argparse.Namespace) -> None:
    if args.compile:
        check_compiler()
    target, _ = load(args.model, dtype=args.dtype)
    assistant = load_assistant(args.assistant_model or assistant_for(args.model), dtype=args.dtype)
    clock = time.process_time if args.processor_time else time.perf_counter
    setup = Setup(Pair(target, assistant), args.drafts, args.compile, args.rounds, clock)
    found = measured(setup, args.turns)
    for (kind, rows), each in sorted(found.items()):
        times = f"{1e3 * each.round:8.1f} ms a round, {1e3 * each.attention:7.2f} ms attention"
        print(f"{kind:10s} {rows[0]} short {rows[1]} long {times} {each.nbytes / 1e6:8.1f} MB")
    for name, (short, long) in MIXED.items():
        for kind in FLOORS:
            whole, alone = found[kind, (short, long)], found[kind, (0, long)]
            like, beside = found[kind, (short, 0)], found[kind, (short + long, 0)]
            pays = [(one - other) / third for one, other, third in zip(whole[:2], alone[:2], like[:2], strict=True)]
            ratios = [one / other for one, other in zip(whole[:2], beside[:2], strict=True)]
            print(f"{name}, {kind}: short rows pay {pays[0]:.2f}, in attention {pays[1]:.2f};", end=" ")
            print(f"a round takes {ratios[0]:.2f} of one of short rows, attention {ratios[1]:.2f}")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--rounds", type=positive, default=8)
    parser.add_argument("--turns", type=positive, default=5)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), show)
