"""The rows of a cache keep their promises: each row by itself, other weights told apart, interrupts at any point."""

import dataclasses
import itertools
import threading

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import filled, layout_for, random_pair
from support.interrupts import interrupted_at_line
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import InputError, KVCache, Pair, make_prompt_cache, stream_generate
from mlx_gemma4_assist.cache import rows
from mlx_gemma4_assist.cache.rows import join
from mlx_gemma4_assist.engine import engine, loop, prefill
from mlx_gemma4_assist.engine.pair import fingerprint

PROMPT = [(5 * i * i + 3 * i) % 64 for i in range(45)]
OTHER = [(7 * i * i + i) % 64 for i in range(30)]
OPTIONS = {"max_tokens": 16, "temperature": 1.0, "seed": 3, "num_assistant_tokens": 3}


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


def tokens_of(pair, prompt, cache=None, **options):
    made = stream_generate(pair[0], LetterProcessor(), prompt, pair[1], prompt_cache=cache, **OPTIONS | options)
    return [response.token for response in made]


@pytest.fixture(scope="module")
def alone(pair):
    """What a fresh cache gives for a prompt, computed once."""
    made = {}

    def of(prompt):
        key = tuple(prompt)
        if key not in made:
            made[key] = tokens_of(pair, prompt)
        return made[key]

    return of


def test_each_row_knows_what_was_written_to_it(pair):
    """A short row is not held back by a long one beside it."""
    layout = layout_for(pair[0], 3)  # a window of 16 and a slack of 8
    caches = [filled(pair[0], layout, list(range(length))) for length in (10, 60)]
    both = join(caches)
    assert both.lengths == [9, 59]
    assert both.written == [9, 59]
    assert [both.can_rewind(0, n) for n in (9, 3, 0)] == [True, True, True]
    assert [both.can_rewind(1, n) for n in (59, 51, 50, 0)] == [True, True, False, False]
    both.store(both.buffers, [12, 64])
    assert both.written == [12, 64]
    both.forget(1)
    assert both.lengths == [9, 0]
    assert both.written == [12, 0]


def written_to(pair, *, tokens, written):
    """A cache that holds ids without their keys: what it says of itself is all that is asked."""
    cache = KVCache(layout_for(pair[0], 3))
    cache.store(cache.buffers, [written])
    cache.append(0, range(tokens))
    return cache


@pytest.mark.parametrize(
    ("method", "arguments"), [("store", ["new", [90]]), ("forget", [0]), ("reset", []), ("reuse", [0, [0, 1, 2]])]
)
def test_promises_hold_between_any_two_steps(pair, method, arguments):
    """Buffers that may hold more than before are never there without ``written`` saying so, nor ids without theirs."""
    function = vars(KVCache)[method]
    strikes = 0
    while True:
        cache = written_to(pair, tokens=60, written=64)
        new = tuple((keys + 0, values + 0) for keys, values in cache.buffers)
        try:
            with interrupted_at_line(function.__code__, strikes):
                function(cache, *(new if argument == "new" else argument for argument in arguments))
        except KeyboardInterrupt:
            strikes += 1
            assert cache.written[0] >= 90 or cache.buffers is not new
            assert not cache.tokens[0] or (cache.written[0] >= 64 and cache.buffers)
        else:
            break
    assert strikes >= 2


def test_store_takes_nothing_where_it_fails(pair):
    cache = written_to(pair, tokens=60, written=64)
    held = cache.buffers
    with pytest.raises(ValueError, match="zip"):
        cache.store((), [70, 70])  # of another number of rows
    assert (cache.written, cache.buffers) == ([64], held)


@pytest.mark.parametrize("more", [0, 1, 200])
def test_what_is_reused_is_not_written(pair, more):
    """A row is taken back to what a text begins with; as long as nothing is computed, it can go on from there again."""
    cache = written_to(pair, tokens=60, written=64)
    for length in (58, 57):
        text = [*range(length), *[63] * (more + 1)]
        assert cache.reuse(0, text) == length
        assert (cache.lengths, cache.written) == ([length], [64])
        assert cache.can_rewind(0, 56)  # 16 keys before it are in a ring of 24, the last of which is 63
    assert not cache.can_rewind(0, 55)
    assert cache.reuse(0, [*range(55), 63]) == 0
    assert (cache.lengths, cache.written) == ([0], [0])


def test_rows_are_joined_and_taken(pair):
    layout = layout_for(pair[0], 3)
    caches = [filled(pair[0], layout, list(range(length))) for length in (10, 60)]
    caches[1].reserve(600)  # of another size
    both = join(caches)
    assert both.size == caches[1].size > caches[0].size
    for row, cache in enumerate(caches):
        taken = both.take(row)
        assert (taken.lengths, taken.written, taken.size) == (cache.lengths, cache.written, both.size)
        for (keys, values), (ours, theirs) in zip(cache.buffers, taken.buffers, strict=True):
            slots = keys.shape[2]
            np.testing.assert_array_equal(np.array(keys), np.array(ours[:, :, :slots]))
            np.testing.assert_array_equal(np.array(values), np.array(theirs[:, :, :slots]))
        taken.append(0, [1])
        assert len(both.tokens[row]) == len(taken.tokens[0]) - 1


def test_keys_of_other_weights_are_refused(pair):
    """Of the same sizes, in the same format: only the weights differ."""
    twin = random_pair(2)
    assert twin[0].config == pair[0].config
    cache = make_prompt_cache(twin[0], twin[1], 3)
    with pytest.raises(InputError, match="prompt_cache was made for another model"):
        tokens_of(pair, PROMPT, cache)
    assert tokens_of(pair, PROMPT, make_prompt_cache(random_pair(1)[0], pair[1], 3)) == tokens_of(pair, PROMPT)


def test_a_fingerprint_names_the_weights():
    target, _ = random_pair(1)
    name = fingerprint(target)
    assert name == fingerprint(random_pair(1)[0]) == Pair(target).fingerprint
    names = {name, fingerprint(random_pair(2)[0])}
    changed, _ = random_pair(1)
    norm = changed.model.layers[2].post_attention_layernorm
    norm.weight = norm.weight + 1e-6
    names.add(fingerprint(changed))
    tuned, _ = random_pair(1)  # all but the first rows, as where padding is never trained
    embedding = tuned.model.embed_tokens
    embedding.weight = mx.concatenate([embedding.weight[:1], embedding.weight[1:] + 1e-3])
    names.add(fingerprint(tuned))
    other, _ = random_pair(1)
    other.config = dataclasses.replace(other.config, max_position_embeddings=256)
    names.add(fingerprint(other))
    cast, _ = random_pair(1)
    cast.set_dtype(mx.bfloat16)
    names.add(fingerprint(cast))
    assert len(names) == 6


class Interrupter:
    """Raises KeyboardInterrupt at the n-th of all calls to the functions that are put under its watch."""

    def __init__(self, monkeypatch, at):
        self.left = at
        self.struck = False
        self.monkeypatch = monkeypatch

    def watch(self, owner, name, *, after):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            if not after:
                self.strike()
            result = real(*args, **kwargs)
            if after:
                self.strike()
            return result

        self.monkeypatch.setattr(owner, name, call)

    def strike(self):
        self.left -= 1
        if self.left == 0:
            self.struck = True
            raise KeyboardInterrupt


PLACES = [
    (owner, name, after)
    for owner, name in (
        (KVCache, "store"),
        (KVCache, "append"),
        (KVCache, "reserve"),
        (mx, "eval"),
        (mx, "async_eval"),
        (loop, "read"),
        (prefill, "within"),
    )
    for after in (False, True)
]


@pytest.fixture(scope="module")
def talked(pair):
    """A cache that holds a text, for whoever takes a copy of it."""
    cache = make_prompt_cache(pair[0], pair[1], 3)
    tokens_of(pair, OTHER, cache)
    return cache


@pytest.mark.parametrize(
    ("owner", "name", "after"), PLACES, ids=[f"{'after' if after else 'before'}-{name}" for _, name, after in PLACES]
)
def test_an_interrupt_anywhere_leaves_a_cache_that_can_be_used(pair, alone, talked, owner, name, after):
    """A conversation is interrupted at a call, the first, the second, ...; what comes then is as with a fresh cache.

    The prompts are longer than a ring, so that an interrupted chunk has overwritten what the row still remembers.
    """
    strikes = 0
    for at, text in zip((1, 2, 3, 6), itertools.cycle((OTHER, PROMPT, PROMPT[:12] + OTHER)), strict=False):
        cache = talked.take(0)
        with pytest.MonkeyPatch.context() as patch:
            interrupter = Interrupter(patch, at)
            interrupter.watch(owner, name, after=after)
            try:
                options = OPTIONS | {"prefill_step_size": 20, "prompt_cache": cache}
                list(stream_generate(pair[0], LetterProcessor(), PROMPT, pair[1], **options))
            except KeyboardInterrupt:
                strikes += 1
        assert tokens_of(pair, text, cache, max_tokens=8) == alone(text)[:8], (at, len(text))
        if not interrupter.struck:
            break
    assert strikes >= 1


@pytest.mark.parametrize("texts", [[PROMPT], [OTHER], [PROMPT[:20]]], ids=["same", "other", "beginning"])
def test_an_interrupted_text_goes_on(pair, alone, texts):
    """Interrupted within a round, then continued at once: the cache holds no more than what is right."""
    for at in range(1, 6):
        cache = make_prompt_cache(pair[0], pair[1], 3)
        with pytest.MonkeyPatch.context() as patch:
            interrupter = Interrupter(patch, at)
            interrupter.watch(loop, "read", after=True)
            with pytest.raises(KeyboardInterrupt):
                tokens_of(pair, PROMPT, cache)
        (text,) = texts
        assert tokens_of(pair, text, cache, max_tokens=8) == alone(text)[:8]


def test_a_failure_of_the_device_leaves_an_empty_cache(pair, monkeypatch):
    cache = make_prompt_cache(pair[0], pair[1], 3)
    reads = []

    def failing(emitted):
        reads.append(1)
        if len(reads) == 3:
            raise RuntimeError("out of memory")
        return real(emitted)

    real = loop.read
    monkeypatch.setattr(loop, "read", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        tokens_of(pair, PROMPT, cache)
    assert (cache.lengths, cache.written) == ([0], [0])
    assert all(mx.all(keys == 0).item() for keys, _ in cache.buffers)  # what the device had in hand is not trusted
    monkeypatch.undo()
    assert tokens_of(pair, PROMPT, cache) == tokens_of(pair, PROMPT)


def test_an_emptied_cache_without_memory_for_new_buffers(pair, monkeypatch):
    cache = make_prompt_cache(pair[0], pair[1], 3)
    expected = tokens_of(pair, PROMPT, cache)
    monkeypatch.setattr(rows, "empty", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.reset()
    assert (cache.lengths, cache.written, cache.size) == ([0], [0], 0)
    monkeypatch.undo()
    assert tokens_of(pair, PROMPT, cache) == expected


@pytest.mark.parametrize(("first", "second"), [(OTHER, PROMPT), (PROMPT, OTHER), (PROMPT, PROMPT)])
def test_a_later_text_takes_the_cache_over(pair, alone, first, second):
    """Whoever began earlier can neither go on nor, at its end, take anything back."""
    cache = make_prompt_cache(pair[0], pair[1], 3)
    begun = [
        stream_generate(pair[0], LetterProcessor(), prompt, pair[1], prompt_cache=cache, **OPTIONS)
        for prompt in (first, second)
    ]
    for _ in range(4):
        next(begun[0])
    made = [next(begun[1]).token for _ in range(5)]
    with pytest.raises(InputError, match="another text has begun on this prompt_cache"):
        list(begun[0])
    begun[0].close()
    assert made + [response.token for response in begun[1]] == alone(second)
    assert cache.tokens == [second + alone(second)[:-1]]
    assert tokens_of(pair, second, cache) == alone(second)


@pytest.mark.parametrize("drafts", [-5, 99, "3.5"])
def test_no_cache_for_what_no_call_takes(pair, drafts):
    with pytest.raises(InputError, match="num_assistant_tokens is"):
        make_prompt_cache(*pair, drafts)


def test_a_cache_is_used_in_another_thread(pair):
    cache, made = make_prompt_cache(pair[0], pair[1], 3), []
    thread = threading.Thread(target=lambda: made.append(tokens_of(pair, PROMPT, cache)))
    thread.start()
    thread.join()
    assert made == [tokens_of(pair, PROMPT)]


def test_an_engine_needs_no_text(pair, alone):
    """Token ids in, token events out: no processor stands in for one."""
    from mlx_gemma4_assist import GenerationOptions, MediaPrompt
    from mlx_gemma4_assist.engine.request import Request

    options = GenerationOptions(**OPTIONS)
    expected = alone(PROMPT)
    events = list(engine.Engine(Pair(*pair)).run(Request(MediaPrompt(PROMPT), options)))
    assert [token for event in events for token in event.tokens] == expected
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
    stop = expected[9]
    events = list(engine.Engine(Pair(*pair)).run(Request(MediaPrompt(PROMPT), options, frozenset([stop]))))
    assert [token for event in events for token in event.tokens] == expected[: expected.index(stop) + 1]
    assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "suppressed", "message"),
    [
        ([], (), "empty"),
        ([1, 64], (), "token id 64"),
        ([1, -1], (), "token id -1"),
        ([1] * 512, (), "context is 512"),
        ([1], (64,), "suppress_tokens has the id 64"),
        ([1], (-1,), "suppress_tokens has the id -1"),
    ],
)
def test_what_would_index_beyond_a_table_is_refused(pair, prompt, suppressed, message):
    with pytest.raises(InputError, match=message):
        next(stream_generate(pair[0], LetterProcessor(suppress_tokens=suppressed), prompt, pair[1]))
