"""What one long text takes that is left of several, where slots become fewer as rows end, and where they stay.

    python tools/measure_slots.py [--model tiny] [--dtype float32] [--rows 16] [--tokens 400] [--turns 5]

All texts but one have 8 tokens and begin with it, after prompts of 32; plain decoding, in turns. The texts must be
equal.
"""

import argparse
import random
import time
from typing import NamedTuple
from unittest.mock import patch

from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import GenerationOptions, MediaPrompt, Pair, load
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.drafts.batch import SLOTS
from mlx_gemma4_assist.engine import batch
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.evaluation.benchmark import Spread

PROMPT, SHORT = 32, 8  # tokens
NEVER = 10**9  # rounds


class Made(NamedTuple):
    """The texts of all rows, and the seconds that they took."""

    texts: list[list[int]]
    seconds: float


def generate(pair: Pair, rows: int, tokens: int, wide: int) -> Made:
    """Texts of random ids, all begun together; slots become fewer after so many rounds that do not need them."""
    luck, vocabulary = random.Random(rows), pair.target.config.vocab_size
    prompts = [luck.choices(range(min(vocabulary, 256)), k=PROMPT) for _ in range(rows)]
    with patch.object(batch, "WIDE", wide):
        engine = Engine(pair, prefix_cache_bytes=0, max_stall=None)
        runs = [
            engine.run(Request(MediaPrompt(prompt), GenerationOptions(max_tokens=SHORT if row else tokens)))
            for row, prompt in enumerate(prompts)
        ]
        began = time.perf_counter()
        for run in runs:
            run.begin()
        texts = [[token for event in run for token in event.tokens] for run in runs]
        return Made(texts, time.perf_counter() - began)


def measure(args: argparse.Namespace) -> int:
    if args.rows > SLOTS[-1]:
        raise InputError(f"there are {args.rows} rows, expected at most {SLOTS[-1]}")
    target, _ = load(args.model, dtype=args.dtype)
    seconds: dict[int, list[float]] = {batch.WIDE: [], NEVER: []}
    texts = []
    for turn in range(args.turns):
        for wide in sorted(seconds, reverse=bool(turn % 2)):
            made = generate(Pair(target, None), args.rows, args.tokens, wide)
            seconds[wide].append(made.seconds)
            texts.append(made.texts)
    fewer, stay = (Spread.of(each) for each in seconds.values())
    print(f"{args.rows} rows, one of {args.tokens} tokens, the others of {SHORT}; seconds, medians of {args.turns}:")
    print(f"slots become fewer {fewer.median:.2f}, stay {stay.median:.2f}: {stay.median / fewer.median:.2f} times")
    same = all(each == texts[0] for each in texts)
    print(f"same tokens: {'yes' if same else 'no'}")
    return 0 if same else 1


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rows", type=positive, default=16, help="texts at once; up to 16")
    parser.add_argument("--tokens", type=positive, default=400, help="of the long text")
    parser.add_argument("--turns", type=positive, default=5)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
