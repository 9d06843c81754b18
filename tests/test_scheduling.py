"""Who runs when: nobody waits long for others' prompts, who is given up is let go at once, the urgent come first."""

from typing import Any

import pytest
from support.decoding import random_pair

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, api, batch_generate, load
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.drafts.batch import AutoBatchDraftLength
from mlx_gemma4_assist.engine import scheduler
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.engine.run import Run
from mlx_gemma4_assist.rounds.steps import EAGER, EagerSteps


@pytest.fixture(scope="module")
def pair():
    return Pair(*random_pair(1))


def request_of(prompt: int, priority: int = 0, **options: Any) -> Request:
    tokens = [(7 * i * i + 3 * i) % 64 for i in range(prompt)]
    return Request(MediaPrompt(tokens), GenerationOptions(**{"num_assistant_tokens": 3} | options), priority=priority)


def tokens_of(run: Run) -> list[int]:
    return [token for event in run for token in event.tokens]


def alone(pair: Pair, request: Request) -> list[int]:
    return tokens_of(Engine(pair).run(request))


class Clock:
    """A clock that goes on as chunks of prompts are read: a millisecond a token, twice that behind 400 others."""

    def __init__(self) -> None:
        self.now = 0.0
        self.chunks: list[int] = []

    def __call__(self) -> float:
        return self.now

    def steps(self) -> EagerSteps:
        clock = self

        class Timed(EagerSteps):
            def fill(self, target, layout, chunk):
                clock.chunks.append(chunk.tokens.shape[1])
                clock.now += 0.001 * chunk.tokens.shape[1] * (1 + chunk.bound / 400)
                return EAGER.fill(target, layout, chunk)

        return Timed()


@pytest.mark.parametrize("first", [1, 300])  # of the prompt whose speed is all that is known
@pytest.mark.parametrize("max_stall", [0.07, 0.15, 0.3])
def test_rows_wait_at_most_max_stall(pair, monkeypatch, first, max_stall):
    clock = Clock()
    monkeypatch.setattr(scheduler, "perf_counter", clock)
    engine = Engine(pair, max_stall=max_stall)
    monkeypatch.setattr(engine, "steps", lambda decoder, compiled: clock.steps())
    running = engine.run(request_of(first, max_tokens=150, num_assistant_tokens=0))
    running.begin()
    engine.scheduler.step()
    others = [engine.run(request_of(480, max_tokens=2)) for _ in range(2)]
    for each in others:
        each.begin()
    stalls = []
    while not all(each.ready for each in others):
        before = clock.now
        engine.scheduler.step()
        stalls.append(clock.now - before)
    assert engine.scheduler.running > 0
    assert max(stalls) <= max_stall
    assert len(stalls) <= 2 * 480 * 0.0018 / (max_stall / 4), "the time there is, is used"
    running.close()


def test_without_max_stall_all_prompts_are_read_first(pair, monkeypatch):
    """As many as there are rows for, in chunks as large as they ask for; then nobody waits for a prompt."""
    engine, clock = Engine(pair, max_stall=None, prefix_cache_bytes=0), Clock()
    monkeypatch.setattr(engine, "steps", lambda decoder, compiled: clock.steps())
    requests = [request_of(100 + i, max_tokens=3 + i) for i in range(18)]
    runs = [engine.run(each) for each in requests]
    for each in runs:
        each.begin()
    engine.scheduler.step()
    assert engine.scheduler.running == 16
    assert clock.chunks == [99, *(99 + i for i in range(15))], "of all but the first the last but one is read apart"
    assert [tokens_of(each) for each in runs] == [alone(pair, each) for each in requests]


def test_batch_generate_reads_all_prompts_first(monkeypatch):
    (model, processor), made = load("tiny"), []

    class Seen(Engine):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(options["max_stall"])

    monkeypatch.setattr(api, "Engine", Seen)
    batch_generate(model, processor, ["One", "Two"], max_tokens=2)
    batch_generate(model, processor, ["One", "Two"], max_tokens=2, max_stall=0.2)
    assert made == [None, 0.2]


@pytest.mark.parametrize("max_stall", [-1, float("nan"), float("inf"), "long", True])
def test_stalls_that_are_none(pair, max_stall):
    with pytest.raises(InputError, match="max_stall is"):
        Engine(pair, max_stall=max_stall)
    with pytest.raises(InputError, match="max_stall is"):
        batch_generate(pair.target, None, [], pair.assistant, max_stall=max_stall)


def test_a_prompt_that_is_given_up_is_read_no_further(pair):
    """Between two of its chunks; what was read of it is its cache's, and the others know nothing of it."""
    requests = [
        request_of(10, max_tokens=20),
        request_of(200, max_tokens=4, prefill_step_size=16),
        request_of(20, max_tokens=9),
    ]
    engine = Engine(pair, max_stall=0)
    cache, read = engine.new_cache(3), []
    running = engine.run(requests[0])
    given_up = engine.run(requests[1], cache, lambda done, total: read.append(done))
    last = engine.run(requests[2])
    for each in (running, given_up, last):
        each.begin()
    for _ in range(4):
        engine.scheduler.step()
    assert 0 < read[-1] < 100
    given_up.close()
    so_far = list(read)
    assert [tokens_of(each) for each in (running, last)] == [alone(pair, requests[0]), alone(pair, requests[2])]
    assert read == so_far
    there = cache.lengths[0]
    assert 0 < there <= so_far[-1] + 16
    again = engine.run(requests[1], cache)
    assert tokens_of(again) == alone(pair, requests[1])
    assert again.to_compute == 200 - there


def test_a_row_that_is_given_up_makes_room_at_once(pair):
    """Between two rounds; with all slots taken, who waits has the free one in the next step."""
    engine = Engine(pair)
    runs = [engine.run(request_of(3 + i, max_tokens=40)) for i in range(17)]
    for each in runs:
        each.begin()
    while engine.scheduler.running < 16:
        engine.scheduler.step()
    engine.scheduler.step()
    assert not runs[16].ready
    runs[5].close()
    assert engine.scheduler.running == 15
    while not runs[16].ready:
        engine.scheduler.step()
    assert tokens_of(runs[16]) == alone(pair, request_of(19, max_tokens=40))
    assert tokens_of(runs[4]) == alone(pair, request_of(7, max_tokens=40))
    for each in runs:
        each.close()
    assert engine.scheduler.idle


def test_the_urgent_come_first(pair):
    """By priority, and among equals by arrival; who runs already stays."""
    priorities = [0, -1, 5, 0, 5, -1, 0]
    engine = Engine(pair, max_stall=0)
    first = engine.run(request_of(5, priority=-9, max_tokens=200))
    first.begin()
    engine.scheduler.step()
    runs = [engine.run(request_of(5 + i, each, max_tokens=200)) for i, each in enumerate(priorities)]
    for each in runs:
        each.begin()
    order: list[int] = []
    while len(order) < len(runs):
        engine.scheduler.step()
        order += [place for place, each in enumerate(runs) if each.ready and place not in order]
    assert order == [2, 4, 0, 3, 6, 1, 5]
    for each in (first, *runs):
        each.close()


@pytest.mark.parametrize("priority", ["high", None, 1.5, True])
def test_priorities_that_are_none(pair, priority):
    with pytest.raises(InputError, match="the priority is"):
        Engine(pair).run(request_of(3, priority=priority))


def test_drafts_are_chosen_with_who_waits_in_mind(pair, monkeypatch):
    """Rounds between two chunks of a prompt are told how long it is read for; others, and those beside a prompt that
    has to wait for memory or a slot anyway, are not."""
    told: list[float | None] = []
    choose = AutoBatchDraftLength.choose

    def told_of(self, rows, caps, reading=None):
        told.append(reading)
        return choose(self, rows, caps, reading)

    monkeypatch.setattr(AutoBatchDraftLength, "choose", told_of)
    engine = Engine(pair, max_stall=0)
    runs = [engine.run(request_of(5 + i, max_tokens=300, num_assistant_tokens=None)) for i in range(16)]
    runs[0].begin()
    for _ in range(8):
        engine.scheduler.step()
    assert told
    assert set(told) == {None}
    told.clear()
    long = engine.run(request_of(400, max_tokens=2))
    long.begin()
    while not long.ready:
        engine.scheduler.step()
    assert len(told) > 4
    assert all(each is not None and 0 < each < 10 for each in told[:-2])
    assert engine.scheduler.running in (1, 2)
    list(long)
    with monkeypatch.context() as short:
        short.setattr(engine.scheduler, "_has_memory", lambda job: False)
        runs[1].begin()
        told.clear()
        for _ in range(4):
            engine.scheduler.step()
        assert told
        assert set(told) == {None}
        assert not runs[1].ready
    for each in runs[2:]:
        each.begin()
    while engine.scheduler.running < 16:
        engine.scheduler.step()
    late = engine.run(request_of(400, max_tokens=2))
    late.begin()
    told.clear()
    for _ in range(4):
        engine.scheduler.step()
    assert told
    assert set(told) == {None}
    for each in (*runs, late):
        each.close()
    assert engine.scheduler.idle
