"""Compiled rounds give what eager ones give; without a compiler they are refused on the CPU backend."""

import gc
import itertools
import weakref
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import pytest
from support.decoding import random_pair
from support.generation import PROMPT, sampled

from mlx_gemma4_assist import InputError, backend, make_prompt_cache
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.engine import engine
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.models.cost import attention_multiplications, weight_multiplications
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.models.gemma4_text import KEPT
from mlx_gemma4_assist.rounds import compiled
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder

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
        {"prompt": PROMPT * 8, "max_tokens": 80, "num_assistant_tokens": 2},  # past the first bucket
        {"prompt": PROMPT * 8, "prefill_step_size": 64},
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
    decoder = Decoder(target, assistant, cache.layout, Sampling(), accept)
    steps = compiled.CompiledSteps(decoder)
    cache.reserve(steps.reach(300))
    buffers = cache.buffers
    state = start(decoder, cache, [5], 0)
    traced = lambda: {count for _, count, _ in steps._compiled}  # noqa: E731
    for i in range(40):
        count = 3 if i % 20 in (8, 9) else 1
        emitted, state, buffers = steps.round(decoder, state._replace(length=mx.array([i])), buffers, count, i)
        mx.eval(emitted, state)
        assert (1 in traced()) == (i >= 3)
    assert traced() == {1}
    for i in range(40, 44):
        emitted, state, buffers = steps.round(decoder, state._replace(length=mx.array([i])), buffers, 3, i)
        mx.eval(emitted, state)
    assert traced() == {1, 3}
    for i in range(44, 46):  # what all others are compared with
        emitted, state, buffers = steps.round(decoder, state._replace(length=mx.array([i])), buffers, 0, i)
        mx.eval(emitted, state)
        assert (0 in traced()) == (i > 44)


@needs_compiler
def test_compiled_rounds_go_with_their_networks(monkeypatch):
    made = []
    real = compiled.CompiledSteps.__init__

    def note(steps, decoder):
        made.append(weakref.ref(steps))
        real(steps, decoder)

    monkeypatch.setattr(compiled.CompiledSteps, "__init__", note)
    pair = random_pair(2)
    for _ in range(2):
        sampled(pair, None, max_tokens=2, compile=True)
    assert len(made) == 1  # later runs use what the first one compiled
    assert made[0]() is not None
    del pair
    gc.collect()
    assert made[0]() is None


@needs_compiler
def test_another_assistant_in_the_place_of_one_that_died(monkeypatch):
    """Steps are kept by the id of the assistant, which a later one may get."""
    target, first = random_pair(2)
    _, second = random_pair(3)
    monkeypatch.setattr(engine, "id", lambda network: 7, raising=False)
    for assistant in (first, second):
        options = {"num_assistant_tokens": 3, "max_tokens": 30}
        made = sampled((target, assistant), assistant, compile=True, **options)
        eager = sampled((target, assistant), assistant, compile=False, **options)
        assert made[-1].stats.accepted_at == eager[-1].stats.accepted_at


@needs_compiler
def test_only_so_many_settings_are_kept(monkeypatch):
    made = []
    monkeypatch.setattr(compiled.CompiledSteps, "__del__", lambda steps: made.append(1), raising=False)
    pair = random_pair(2)
    filters = list(itertools.product((0, 1, 65, 257, 1025), (1.0, 0.9), (0.0, 0.1)))[: KEPT + 5]
    for top_k, top_p, min_p in filters:
        sampled(pair, None, max_tokens=1, top_k=top_k, top_p=top_p, min_p=min_p, compile=True)
    gc.collect()
    assert len(made) >= 5


@needs_compiler
def test_what_settings_have_in_use_is_traced_not_their_values(monkeypatch):
    """Fifty settings of one kind: the steps of the first serve them all, and each has its own text."""
    made = []
    real = compiled.CompiledSteps.__init__
    monkeypatch.setattr(compiled.CompiledSteps, "__init__", lambda steps, d: (made.append(1), real(steps, d))[1])
    pair = random_pair(2)
    texts = set()
    for i in range(1, 51):
        options = {"temperature": 0.5 + i / 10, "top_k": 5 + i, "top_p": 1 - i / 200, "compile": True, "seed": i}
        made_of_it = sampled(pair, pair[1], max_tokens=12, num_assistant_tokens=2, **options)
        texts.add(tuple(response.token for response in made_of_it))
    assert len(made) == 1
    assert len(texts) > 40


def test_no_compiler(monkeypatch):
    for module in (compiled, backend):
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
    between = replace(tiny, vocab_size=2**17, vocab_size_per_layer_input=2**17)
    size = compiled.bucket_size(between)
    assert compiled.LEAST_BUCKET < size < compiled.MOST_BUCKET
    spent, allowed = attention_multiplications(between), 0.02 * weight_multiplications(between)
    assert size / 2 * spent <= allowed < (size / 2 + 64) * spent
