"""Memory: what fits is counted before anything is allocated; who does not fit waits, and nobody fails for another."""

import gc
from typing import Any

import mlx.core as mx
import pytest
from support.decoding import random_pair
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, batch_generate
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.engine.admission import joined_bytes
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.engine.run import Run

AMPLE = 1 << 40
SMALL = 10_000  # what finished requests have of their own


@pytest.fixture(scope="module")
def pair():
    return Pair(*random_pair(1))


def request_of(prompt: int, **options: Any) -> Request:
    tokens = [(7 * i * i + 3 * i) % 64 for i in range(prompt)]
    return Request(MediaPrompt(tokens), GenerationOptions(**{"num_assistant_tokens": 3} | options))


def tokens_of(run: Run) -> list[int]:
    return [token for event in run for token in event.tokens]


def alone(pair: Pair, request: Request) -> list[int]:
    return tokens_of(Engine(pair).run(request))


def used() -> int:
    """Bytes in use now, by what is still needed."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()  # a larger buffer that is used again counts whole
    return mx.get_active_memory()


def needs_of(pair: Pair, *requests: Request) -> int:
    engine = Engine(pair, memory_limit=AMPLE)
    return joined_bytes([engine.run(request).needs for request in requests])


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(
    ("prompt", "options"),
    [(300, {"max_tokens": 4}), (215, {"max_tokens": 30, "temperature": 1.0, "seed": 3}), (20, {"max_tokens": 3})],
)
def test_what_is_counted_is_what_is_used_at_most(pair, count, prompt, options):
    requests = [request_of(prompt + 3 * i, **options) for i in range(count)]
    engine = Engine(pair, prefix_cache_bytes=0)  # restore points are counted apart
    runs = [engine.run(request) for request in requests]
    before = used()
    mx.reset_peak_memory()
    for run in runs:
        run.begin()
    for run in runs:
        tokens_of(run)
    taken = mx.get_peak_memory() - before
    assert taken <= needs_of(pair, *requests) <= 5 * taken


def test_a_request_that_never_fits_is_refused_with_the_numbers(pair):
    request = request_of(400)
    least = joined_bytes([Engine(pair).run(request).needs.least])
    limit = pair.nbytes + least
    Engine(pair, memory_limit=limit).run(request)
    spare = mx.zeros((1000,))  # so that what is in use is more than the weights
    mx.eval(spare)
    before = used()
    with pytest.raises(InputError, match=r"a prompt of 400 tokens takes [\d.]+ MB of memory, but of [\d.]+ MB"):
        Engine(pair, memory_limit=limit - 1).run(request)
    assert used() == before


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1GB"])
def test_limits_that_are_none(pair, limit):
    with pytest.raises(InputError, match="memory_limit is"):
        Engine(pair, memory_limit=limit)


def test_those_that_do_not_fit_together_take_turns(pair):
    """Two at a time where memory is for two; texts, and their order, know nothing of it."""
    requests = [request_of(50 + i, max_tokens=20, temperature=1.0, seed=i) for i in range(5)]
    engine = Engine(pair, memory_limit=used() + needs_of(pair, *requests[-2:]))
    runs = [engine.run(request) for request in requests]
    begun = used()
    for run in runs:
        run.begin()
    assert used() == begun, "who waits has nothing yet"
    together, found = set(), [[] for _ in runs]
    ended: list[int] = []
    while not engine.scheduler.idle:
        engine.scheduler.step()
        together.add(engine.scheduler.running)
        for place, run in enumerate(runs):
            while run.ready and place not in ended:
                event = next(iter(run))
                found[place] += event.tokens
                ended += [] if event.finish_reason is None else [place]
    assert max(together) == 2
    assert ended == sorted(ended)
    assert found == [alone(pair, request) for request in requests]


def test_a_batch_takes_turns(pair):
    prompts = [list(request_of(40 + i).prompt.tokens) for i in range(4)]
    two, one = (needs_of(pair, *[request_of(43, max_tokens=9)] * count) for count in (2, 1))

    def texts(**more: int) -> list[str]:
        options = {"max_tokens": 9, "num_assistant_tokens": 3} | more
        return batch_generate(pair.target, LetterProcessor(), prompts, pair.assistant, **options).texts

    whole = texts()
    assert texts(memory_limit=used() + two + SMALL) == whole
    assert texts(memory_limit=used() + one + SMALL) == whole
    with pytest.raises(InputError, match="memory"):
        batch_generate(pair.target, LetterProcessor(), prompts, pair.assistant, memory_limit=1000)


def test_what_is_kept_without_need_is_given_up_first(pair):
    """Before anybody waits, and no more is asked for than is missing."""
    requests = [request_of(60 + i, max_tokens=20) for i in range(2)]
    needed, before = needs_of(pair, *requests), used()
    kept = [mx.zeros((needed // 8,), mx.uint8) for _ in range(4)]
    mx.eval(kept)
    asked: list[int] = []

    def release(count: int) -> None:
        asked.append(count)
        del kept[: -(-count // (needed // 8))]

    engine = Engine(pair, memory_limit=before + needed + needed // 4)
    engine.admission.release = release
    runs = [engine.run(request) for request in requests]
    for run in runs:
        run.begin()
    for _ in range(3):
        engine.scheduler.step()
    assert engine.scheduler.running == 2
    assert all(0 < count <= needed for count in asked)
    assert 0 < len(kept) < 4
    for run in runs:
        run.close()


def test_a_row_that_outgrows_the_memory_ends_with_its_length(pair):
    """Another allocates what a row was let in with: it ends early, and the shorter one beside it goes on."""
    long, short = request_of(200, max_tokens=60), request_of(10, max_tokens=30)
    engine = Engine(pair, memory_limit=used() + 2 * needs_of(pair, long, short))
    runs = [engine.run(request) for request in (long, short)]
    for run in runs:
        run.begin()
    while engine.scheduler.running < 2:
        engine.scheduler.step()
    other = mx.zeros((2 * needs_of(pair, long, short),), mx.uint8)
    mx.eval(other)
    events = list(runs[0])
    tokens, whole = [token for event in events for token in event.tokens], alone(pair, long)
    assert events[-1].finish_reason == "length"
    assert 0 < len(tokens) < 60
    assert tokens == whole[: len(tokens)]
    assert tokens_of(runs[1]) == alone(pair, short)
    assert engine.scheduler.idle
    del other


def test_a_lone_text_goes_as_far_as_the_memory(pair):
    """More tokens may be asked for than there is memory for: the text ends where that does."""
    request = request_of(190, max_tokens=80, prefill_step_size=8)
    least = joined_bytes([Engine(pair).run(request).needs.least])
    before = used()
    engine = Engine(pair, memory_limit=before + least)
    mx.reset_peak_memory()
    events = list(engine.run(request))
    assert events[-1].finish_reason == "length"
    made = [token for event in events for token in event.tokens]
    assert 5 < len(made) < 80
    assert mx.get_peak_memory() <= before + least
    assert made == alone(pair, request)[: len(made)]


def test_where_others_have_the_memory_a_request_is_refused(pair):
    """It was handed in while there was room; nobody runs whom it could wait for. The engine goes on."""
    request = request_of(60, max_tokens=10)
    needed = needs_of(pair, request)
    engine = Engine(pair, memory_limit=used() + needed)
    run, later = engine.run(request), engine.run(request)
    other = mx.zeros((needed,), mx.uint8)
    mx.eval(other)
    with pytest.raises(InputError, match="weights and other arrays have"):
        tokens_of(run)
    assert engine.scheduler.idle
    del other
    assert tokens_of(later) == alone(pair, request)
