"""Compiled rounds give what eager ones give; without a compiler they are refused on the CPU backend."""

import gc
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import pytest
from support.decoding import random_pair
from support.generation import PROMPT, sampled

from mlx_gemma4_assist import InputError, make_prompt_cache
from mlx_gemma4_assist import backend as compiler
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.models.cost import attention_multiplications, weight_multiplications
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.rounds import compiled
from mlx_gemma4_assist.rounds.round import Engine, accept, start
from mlx_gemma4_assist.rounds.sampling import Sampling

needs_compiler = pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")


def only_even(tokens: mx.array, logits: mx.array) -> mx.array:
    return mx.where(mx.arange(64) % 2 == 0, logits, -mx.inf)


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_assistant_tokens": 0},
        {"draft_temperature": 0.7},
        {"logits_processors": [only_even]},
        {"max_tokens": 280, "num_assistant_tokens": 2},  # past the first bucket
        {"prompt": PROMPT * 5, "prefill_step_size": 40},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_compiled_equals_eager(options):
    pair = random_pair(1)
    eager = [r.token for r in sampled(pair, pair[1], **options)]
    for _ in range(2):  # the second time everything has been traced
        assert [r.token for r in sampled(pair, pair[1], compile=True, **options)] == eager


@needs_compiler
def test_what_is_rare_is_not_traced():
    """A length that is probed now and then runs as it is; one that is kept is traced within a few rounds."""
    target, assistant = random_pair(4)
    cache = make_prompt_cache(target, assistant, 3)
    engine = Engine(target, assistant, cache.layout, Sampling(), accept)
    steps = compiled.compiled_steps(engine)
    cache.reserve(steps.reach(300))
    state = start(engine, cache, [5], 0)
    traced = lambda: {count for _, count, _ in steps._compiled}  # noqa: E731
    for i in range(40):
        count = 3 if i % 20 in (8, 9) else 1
        emitted, state = steps.round(engine, state._replace(length=mx.array([i])), count, i)
        mx.eval(emitted, state)
        assert (1 in traced()) == (i >= 3)
    assert traced() == {1}
    for i in range(40, 44):
        emitted, state = steps.round(engine, state._replace(length=mx.array([i])), 3, i)
        mx.eval(emitted, state)
    assert traced() == {1, 3}
    for i in range(44, 46):  # what all others are compared with
        emitted, state = steps.round(engine, state._replace(length=mx.array([i])), 0, i)
        mx.eval(emitted, state)
        assert (0 in traced()) == (i > 44)


@needs_compiler
def test_compiled_rounds_go_with_their_networks():
    pair = random_pair(2)
    sampled(pair, None, max_tokens=2, compile=True)
    assert id(pair[0]) in compiled._kept
    gone = id(pair[0])
    del pair
    gc.collect()
    assert gone not in compiled._kept


@needs_compiler
def test_only_so_many_settings_are_kept():
    pair = random_pair(2)
    for k in range(compiled.KEPT + 2):
        sampled(pair, None, max_tokens=1, top_k=k, compile=True)
    assert len(compiled._kept[id(pair[0])]) == compiled.KEPT


def test_no_compiler(monkeypatch):
    for module in (compiled, compiler):
        monkeypatch.setattr(module, "can_compile", lambda: False)
    with pytest.raises(InputError, match=r"C\+\+ compiler"):
        sampled(random_pair(2), None, compile=True)
    assert sampled(random_pair(2), None, max_tokens=2)  # eager decoding needs none


def test_buckets_grow_with_the_text():
    reached = [compiled.bucket_end(end, 192) for end in range(1, 9000)]
    assert reached == sorted(reached)
    assert all(0 <= bucket - end < max(192, end / 8) for end, bucket in enumerate(reached, 1))
    ends = sorted(set(reached))
    assert ends[:3] == [192, 384, 576]
    assert {end - before for before, end in pairwise(ends)} == {192, 384, 768}
    assert all(end - before <= max(192, before / 8) for before, end in pairwise(ends))


def test_buckets_are_as_large_as_the_weights_make_padding_cheap():
    """A large model spends its time on weights, and many times longer on a trace than a tiny one."""
    assert {compiled.bucket_size(family.target) for family in families().values()} == {1024}
    tiny = random_pair(2)[0].config
    assert compiled.bucket_size(tiny) == compiled.LEAST_BUCKET
    between = replace(tiny, vocab_size=2**17)
    size = compiled.bucket_size(between)
    assert compiled.LEAST_BUCKET < size < compiled.MOST_BUCKET
    spent, allowed = attention_multiplications(between), 0.02 * weight_multiplications(between)
    assert size / 2 * spent <= allowed < (size / 2 + 64) * spent
