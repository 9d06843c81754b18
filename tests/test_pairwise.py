"""Every two options of ``stream_generate`` together, in each pair of their values: what is accepted runs, and is right.

What is right is known wherever a text is determined: greedy, or with a seed and drafts that are the likeliest tokens,
it is plain decoding's with the same filters and processors. Elsewhere the text is only of the right length and range.
"""

import itertools
from typing import Any

import mlx.core as mx
import pytest
from support.covering import Covering
from support.decoding import random_pair
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import GenerationOptions, InputError, make_prompt_cache, stream_generate
from mlx_gemma4_assist.backend import can_compile

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8]
BANNED = 7


def without_seven(tokens: mx.array, logits: mx.array) -> mx.array:
    return mx.where(mx.arange(64) == BANNED, -mx.inf, logits)


VALUES: dict[str, tuple[Any, ...]] = {
    "assistant": (True, False),
    "num_assistant_tokens": (3, None, 0, 1, 8),
    "temperature": (0.0, 0.9),
    "draft_temperature": (None, 0.0, 0.7),
    "seed": (5, None),
    "top_k": (0, 12),
    "top_p": (1.0, 0.8),
    "min_p": (0.0, 0.05),
    "logits_processors": ((), (without_seven,)),
    "stop": ((), ("?", "@A")),
    "max_tokens": (14, 1),
    "prefill_step_size": (2048, 1, 5),
    "compile": (False, True),
    "prompt_cache": (False, True),
    "suppress_tokens": ((), (11, 12)),
    "held": ({}, {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 10}),
}


COVERING = Covering({name: len(values) for name, values in VALUES.items()})
ROWS = [{name: VALUES[name][value] for name, value in row.items()} for row in COVERING.rows]


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


def generated(pair, row: dict[str, Any]):
    options = {name: value for name, value in row.items() if name in GenerationOptions.__dataclass_fields__}
    processor = LetterProcessor(suppress_tokens=row["suppress_tokens"])
    assistant = pair[1] if row["assistant"] else None
    cache = None
    if row["prompt_cache"]:
        cache = make_prompt_cache(pair[0], pair[1], 8, **row["held"])
    return list(stream_generate(pair[0], processor, PROMPT, assistant, prompt_cache=cache, **options, **row["held"]))


def refused(row: dict[str, Any]) -> str | None:
    """Why a combination makes no sense; None if it does."""
    if row["temperature"] == 0 and row["draft_temperature"]:
        return "draft_temperature needs a temperature above 0"
    if row["num_assistant_tokens"] == 0 and row["draft_temperature"]:
        return "num_assistant_tokens is 0, which makes none"
    if not row["assistant"] and row["num_assistant_tokens"]:
        return "there is no assistant model"
    if not row["assistant"] and row["draft_temperature"]:
        return "draft_temperature is for drafts, but there is no assistant model"
    return None


def is_determined(row: dict[str, Any]) -> bool:
    return row["temperature"] == 0 or (row["seed"] is not None and not row["draft_temperature"])


def test_every_pair_of_values_is_tried():
    for a, b in itertools.combinations(VALUES, 2):
        met = {(repr(row[a]), repr(row[b])) for row in ROWS}
        assert met == {(repr(i), repr(j)) for i in VALUES[a] for j in VALUES[b]}
    assert sum(refused(row) is None for row in ROWS) > len(ROWS) // 2


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_what_is_accepted_runs(pair, row):
    if row["compile"] and not can_compile():
        pytest.skip("the CPU backend compiles with g++")
    if why := refused(row):
        with pytest.raises(InputError, match=why):
            generated(pair, row)
        return
    made = generated(pair, row)
    tokens = [response.token for response in made]
    assert 1 <= len(tokens) <= row["max_tokens"]
    assert made[-1].finish_reason == ("length" if len(tokens) == row["max_tokens"] else "stop") or row["stop"]
    assert not set(tokens) & set(row["suppress_tokens"])
    if row["logits_processors"]:
        assert BANNED not in tokens
    assert not any(stop in "".join(response.text for response in made) for stop in row["stop"])
    if is_determined(row):
        plain = row | {"assistant": False, "num_assistant_tokens": None, "compile": False, "prompt_cache": False}
        assert tokens == [response.token for response in generated(pair, plain | {"draft_temperature": None})]


@pytest.mark.parametrize("drafts", [1, 3])
@pytest.mark.parametrize("seed", [None, 5])
def test_drawn_drafts_with_processors(pair, drafts, seed):
    """A round of such a run may have no drafts, at the budget's end among others."""
    options = {"temperature": 1.0, "draft_temperature": 1.0, "seed": seed, "num_assistant_tokens": drafts}
    for max_tokens in (1, 2, 5, 12):
        made = stream_generate(
            pair[0],
            LetterProcessor(),
            PROMPT,
            pair[1],
            max_tokens=max_tokens,
            logits_processors=[without_seven],
            **options,
        )
        assert len(list(made)) == max_tokens
