"""What holding an answer by a grammar costs, and what forced text saves.

    python tools/measure_grammar.py [--model tiny] [--tokens 300] [--turns 5] [--compile]

Cost: the same text, under an expression that any text matches, and without it, in turns; beside it the same masks by a
logits processor, as grammars come to other programs: each round then waits for the host. Rounds: answers to schemas, by
what takes the place of the assistant's drafts: nothing, what the grammar forces as far as it is known without waiting,
and all that it forces, which waits for each round; and what it forces as known, without an assistant.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import GenerationOptions, Pair, stream_generate
from mlx_gemma4_assist.engine import scheduler
from mlx_gemma4_assist.engine.guiding import Held
from mlx_gemma4_assist.evaluation.benchmark import Spread
from mlx_gemma4_assist.rounds.adjust import masked
from mlx_gemma4_assist.rounds.compiled import check_compiler

ANYTHING = r"(?s:.*)"
PROMPT = "It was a fine morning, and"
TEXT = {"type": "string", "maxLength": 12}
WAY = {"type": "integer", "minimum": 0, "maximum": 999}
SCHEMAS = {
    "short keys": ("a", "b", "c", "d"),
    "names": ("name", "age", "email", "city"),
    "long keys": ("name_of_the_gentleman", "age_in_years", "is_in_possession_of_a_good_fortune", "number_of_daughters"),
}


def schema(keys: Sequence[str]) -> dict[str, Any]:
    """An object of texts and numbers by turns."""
    properties = {key: (TEXT, WAY)[place % 2] for place, key in enumerate(keys)}
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


def by_processor(pair: Pair, prompt: Sequence[int]) -> Callable[[mx.array, mx.array], mx.array]:
    """A logits processor that does what ``ANYTHING`` does."""
    processor, vocabulary = pair.text(), pair.target.config.vocab_size
    options = GenerationOptions(regex=ANYTHING)
    state = processor.grammar(options, prompt, processor.eos_token_ids, vocabulary)()
    words = np.zeros(-(-vocabulary // 32), np.uint32)
    begun = False

    def hold(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal begun
        if begun:
            state.take(tokens[-1].item())
        begun = True
        state.mask(words)
        return masked(logits[:, None], mx.array(words)[None, None])[:, 0]

    return hold


def generated(pair: Pair, **options: Any) -> tuple[list[int], float, int]:
    """The tokens of a text, how many come in a second, and in how many rounds."""
    begin = time.perf_counter()
    made = list(stream_generate(pair.target, pair.text(), PROMPT, pair.assistant, chat=False, **options))
    return [one.token for one in made], len(made) / (time.perf_counter() - begin), made[-1].stats.rounds


def costs(pair: Pair, turns: int, options: dict[str, Any]) -> str:
    """Rows of a table: speeds relative to no grammar."""
    prompt = pair.encode(PROMPT, chat=False)
    found: dict[str, list[float]] = {"held": [], "by a logits processor": []}
    for turn in range(turns + 1):
        expected, free, _ = generated(pair, **options)
        for name in found:
            way = {"regex": ANYTHING} if name == "held" else {"logits_processors": [by_processor(pair, prompt)]}
            tokens, speed, _ = generated(pair, **options, **way)
            assert tokens == expected
            if turn:  # the first warms up
                found[name].append(speed / free)
    rows = [(name, Spread.of(ratios)) for name, ratios in found.items()]
    return "\n".join(f"{name:24} {one.median:.2f} ({one.low:.2f} to {one.high:.2f})" for name, one in rows)


def drafting(way: str) -> AbstractContextManager[Any]:
    if way == "the assistant's":
        return patch.object(Held, "known", lambda held, unread: [])
    return patch.object(scheduler, "LOOK_AHEAD", 0) if way == "all, waiting" else nullcontext()


def saved(pair: Pair, drafts: int) -> str:
    """Rows of a table: tokens and rounds of each schema, at last without an assistant."""
    lines = []
    for name, keys in SCHEMAS.items():
        rounds = []
        for way in ("the assistant's", "as known", "all, waiting"):
            with drafting(way):
                options = {"json_schema": schema(keys), "num_assistant_tokens": drafts, "max_tokens": 300}
                tokens, _, count = generated(pair, **options)
            rounds.append(f"{count:8}")
        *_, count = generated(Pair(pair.target, None, pair.processor), json_schema=schema(keys), max_tokens=300)
        rounds.append(f"{count:8}")
        lines.append(f"{name:12} {len(tokens):6} {''.join(rounds)}")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", type=positive, default=300)
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--compile", action="store_true")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.compile:
        check_compiler()
    pair = Pair.load(args.model)
    for drafts in (0, 3):
        options = {"num_assistant_tokens": drafts, "max_tokens": args.tokens, "compile": args.compile}
        print(f"tokens per second, relative to no grammar, {drafts} drafts\n{costs(pair, args.turns, options)}")
    for drafts in (3, 8):
        print(f"{drafts} drafts   tokens  rounds: drafts as ever, forced as known, all forced by waiting; no assistant")
        print(saved(pair, drafts))


if __name__ == "__main__":
    run_tool(arguments(), main)
