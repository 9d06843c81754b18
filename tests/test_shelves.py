"""Rows of very different lengths in a batch: each lies with its like, and gets what it would have got alone."""

import gc
import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import layout_for, random_pair
from support.paths import FAMILIES, GOLDENS

from mlx_gemma4_assist import GenerationOptions, KVCache, Pair, load_assistant
from mlx_gemma4_assist.backend import branches, can_compile
from mlx_gemma4_assist.cache import batch_rows, shelves
from mlx_gemma4_assist.cache.batch_rows import BatchCache, moved
from mlx_gemma4_assist.cache.shelves import Shelf, arranged, capacity_for, is_dense, places_of
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.drafts.batch import SLOTS
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.rounds import compiled


@pytest.fixture
def seen(small_shelves: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Shelf, ...]]:
    """Each arrangement of rows that a batch has had."""
    found: list[tuple[Shelf, ...]] = []

    def noted(*arguments: Any) -> tuple[Shelf, ...]:
        found.append(arranged(*arguments))
        return found[-1]

    monkeypatch.setattr(batch_rows, "arranged", noted)
    return found


# Who lies where


def schedules(count: int, steps: int) -> Iterator[tuple[tuple[Shelf, ...], list[int]]]:
    """Shelves as they are before they are arranged, and what each row needs, in batches that rows join and leave."""
    for seed in range(count):
        rng = random.Random(seed)
        needs, there = [0] * rng.choice(SLOTS[1:]), ()
        for _ in range(steps):
            needs = [need + rng.choice([0, 9, 300]) if need and rng.random() < 0.95 else 0 for need in needs]
            there = tuple(
                shelf._replace(rows=tuple(row if row is None or needs[row] else None for row in shelf.rows))
                for shelf in there
            )
            free = [row for row, need in enumerate(needs) if not need]
            if free and (len(free) == len(needs) or rng.random() < 0.3):
                row = rng.choice(free)
                needs[row] = rng.choice([1, 40, 256, rng.randint(1, 900), rng.randint(1000, 20_000)])
                there = (*there, Shelf(rng.choice([needs[row], needs[row] + 200, 5 * needs[row]]), (row,)))
            yield there, needs
            there = arranged(there, needs)


def test_every_row_has_what_it_needs_and_not_much_more():
    different = 0
    for before, needs in schedules(60, 60):
        there = arranged(before, needs)
        assert sorted(row for shelf in there for row in shelf.held) == [row for row, need in enumerate(needs) if need]
        for shelf in there:
            places = len(shelf.rows)
            assert places in SLOTS
            assert places <= len(needs)
            assert places < 2 * len(shelf.held) or (places - len(shelf.held)) * shelf.capacity <= 2 * shelves.SPARE
            for row in shelf.held:
                assert needs[row] <= shelf.capacity <= max(shelves.FLOOR, shelves.APART * needs[row])
        assert arranged(there, needs) == there
        different += len(there) > 1
    assert different > 100


def test_rows_are_found_again():
    """What is taken by ``picks`` and put together is, taken by ``back``, the batch as it was."""
    for before, needs in schedules(20, 20):
        there = arranged(before, needs)
        places = places_of(there, len(needs))
        together = np.concatenate([np.array(rows) for rows in places.picks])
        assert [len(rows) for rows in places.picks] == [len(shelf.rows) for shelf in there]
        found = together[np.array(places.back)]
        assert all(found[row] == row for row, need in enumerate(needs) if need)
        for rows, shelf in zip(places.picks, there, strict=True):  # a free place has room for what is written there
            assert all(needs[row] <= shelf.capacity for row in rows.tolist())


def test_keys_move_with_their_rows():
    for before, needs in schedules(12, 12):
        after = arranged(before, needs)
        rng = np.random.default_rng(0)
        shapes = [(len(shelf.rows), 1, shelf.capacity, 1) for shelf in before for _ in range(2)]
        layer = tuple(mx.array(rng.integers(0, 1 << 30, shape)) for shape in shapes)
        found = moved(layer, before, after, lambda capacity: (capacity, capacity))
        for part in range(2):
            old, new = (dict(of(*where, part)) for where in ((layer, before), (found, after)))
            for row in new:
                both = min(old[row].shape[1], new[row].shape[1])
                assert new[row].shape[1] >= needs[row]
                np.testing.assert_array_equal(new[row][:, :both], old[row][:, :both])


def of(layer: tuple[mx.array, ...], there: tuple[Shelf, ...], part: int) -> Iterator[tuple[int, np.ndarray]]:
    """What one array of a layer has for each row."""
    for i, shelf in enumerate(there):
        array = np.array(layer[2 * i + part])
        yield from ((row, array[place]) for place, row in enumerate(shelf.rows) if row is not None)


def test_rows_of_one_length_lie_in_one_buffer():
    """As they grow together, and as they come one after the other, in whatever order they outgrow it."""
    there = (Shelf(256, (0,)),)
    for rows in range(2, 9):
        slots = next(size for size in SLOTS if size >= rows)
        there = arranged((*there, Shelf(512, (rows - 1,))), [300] * rows + [0] * (slots - rows))
        assert is_dense(there, slots)
    rng = random.Random(0)
    needs = [300] * 8
    while max(needs) < 5000:
        needs = [need + rng.randint(0, 40) for need in needs]
        there = arranged(there, needs)
        assert is_dense(there, 8)
        assert there[0].capacity <= capacity_for(max(needs))


def test_a_long_row_beside_short_ones_lies_alone():
    there = arranged((Shelf(256, (0,)), Shelf(8192, (1,))), [200, 8000])
    assert there == (Shelf(256, (0,)), Shelf(8192, (1,)))
    assert arranged(there, [5200, 8000]) == (Shelf(5632, (0,)), Shelf(8192, (1,)))
    assert arranged(there, [5700, 8000]) == (Shelf(8192, (0, 1)),)
    assert arranged(there, [200, 0]) == (Shelf(256, (0,)),)


# The memory that they hold


def long_cache(pair: Pair, length: int) -> KVCache:
    cache = KVCache(layout_for(pair.target, 3))
    cache.reserve(length)
    cache.append(0, [1] * length)
    mx.eval(cache.buffers)
    return cache


def test_memory_is_given_back():
    """A long row leaves: what it held is free at once, and the row that it was is not more than itself."""
    pair = Pair(*random_pair(1))
    batch = BatchCache(long_cache(pair, 100), 4)
    mx.eval(batch.buffers)
    gc.collect()
    alone = mx.get_active_memory()
    for row, length in ((1, 20_000), (2, 150), (3, 19_000)):
        batch.place(row, long_cache(pair, length))
    batch.reserve_each([104, 20_004, 154, 19_004])
    mx.eval(batch.buffers)
    assert [shelf.held for shelf in batch.shelves] == [[0, 2], [1, 3]]
    slot = 2 * 32 * 4  # bytes: one layer, whose keys and values are 32 numbers wide
    together = mx.get_active_memory()
    assert 39_000 * slot < together - alone < 1.2 * 39_000 * slot
    taken = batch.take(3)
    batch.forget(1)
    batch.forget(3)
    batch.reserve_each([104, 0, 154, 0])
    mx.eval(batch.buffers, taken.buffers)
    assert mx.get_active_memory() - alone < 1.2 * 19_000 * slot
    assert (taken.lengths, batch.lengths) == ([19_000], [100, 0, 150, 0])
    del taken
    assert mx.get_active_memory() - alone < 1000 * slot


# What they write


def letters(count: int, step: int) -> list[int]:
    return [(step * i * i + 3 * i) % 64 for i in range(count)]


def mixed(**options: Any) -> list[Request]:
    """Short and long, some of which outgrow what they begin on, all with settings of their own."""
    lengths = (9, 150, 58, 290, 3)
    each = [
        {"max_tokens": 12, "num_assistant_tokens": 3},
        {"max_tokens": 9, "num_assistant_tokens": 0, "temperature": 1.0, "seed": 1},
        {"max_tokens": 30, "num_assistant_tokens": 8, "temperature": 0.7, "seed": 2, "draft_temperature": 0.7},
        {"max_tokens": 6, "num_assistant_tokens": 5, "repetition_penalty": 1.2},
        {"max_tokens": 20, "num_assistant_tokens": 2, "temperature": 1.2, "top_k": 5, "seed": 3},
    ]
    return [
        Request(MediaPrompt(letters(length, 5 + i)), GenerationOptions(**one | options))
        for i, (length, one) in enumerate(zip(lengths, each, strict=True))
    ]


def texts(pair: Pair, requests: list[Request], together: int) -> list[list[int]]:
    """What each gets where so many begin together, and the next when one has ended."""
    runs = [Engine(pair).run(request) for request in requests] if together == 1 else together_runs(pair, requests)
    waiting, running, made = list(enumerate(runs)), {}, {i: [] for i in range(len(runs))}
    while waiting or running:
        while waiting and len(running) < together:
            i, run = waiting.pop(0)
            run.begin()
            running[i] = run
        for i, run in list(running.items()):
            event = next(iter(run))
            made[i] += event.tokens
            if event.finish_reason is not None:
                del running[i]
    return [made[i] for i in range(len(runs))]


def together_runs(pair: Pair, requests: list[Request]) -> list[Any]:
    engine = Engine(pair)
    return [engine.run(request) for request in requests]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(*random_pair(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_lengths_change_nothing(name, seen):
    folder = GOLDENS / name
    family = Pair(load_model(folder / "target"), load_assistant(folder / "assistant"))
    requests = mixed()
    assert texts(family, requests, 4) == texts(family, requests, 1)
    assert max(len(there) for there in seen) > 1
    assert len({there for there in seen if any(2 in shelf.rows for shelf in there)}) > 1  # it has moved


@pytest.mark.parametrize("choice", ["cpu", "gpu"])
def test_in_the_computations_of_each_backend(choice, seen, pair):
    with branches(choice):
        requests = mixed()
        assert texts(pair, requests, 5) == texts(pair, requests, 1)
    assert max(len(there) for there in seen) > 1


@pytest.mark.parametrize("start", [0, 70])
def test_quantized(start, seen, pair):
    """Where quantized keys begin within a shelf, and where short rows have none."""
    requests = mixed(kv_bits=8, kv_group_size=32, quantized_kv_start=start)
    assert texts(pair, requests, 5) == texts(pair, requests, 1)
    assert max(len(there) for there in seen) > 1


@pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")
def test_compiled(seen, monkeypatch):
    monkeypatch.setattr(compiled, "STAYS", 0.04)
    monkeypatch.setattr(compiled, "bucket_size", lambda config: 64)
    pair, requests = Pair(*random_pair(5)), mixed()[:3]
    assert texts(pair, mixed(compile=True)[:3], 3) == texts(pair, requests, 1)
    assert max(len(there) for there in seen) > 1


def test_so_many_traces_are_kept(small_shelves, monkeypatch):
    """Of all shapes that mixed lengths have, only those asked for lately."""
    monkeypatch.setattr(mx, "compile", lambda function: function)
    monkeypatch.setattr(compiled, "check_compiler", lambda: None)
    monkeypatch.setattr(compiled, "SHAPES", 3)
    monkeypatch.setattr(compiled, "STAYS", 0.02)
    target, assistant = random_pair(3)
    pair = Pair(target, assistant)
    rng = random.Random(0)

    def company() -> None:
        lengths = [rng.randint(1, 60), rng.randint(100, 400), rng.randint(1, 400)]
        options = GenerationOptions(max_tokens=12, num_assistant_tokens=2, compile=True)
        texts(pair, [Request(MediaPrompt(letters(length, 7)), options) for length in lengths], 3)

    kept = []
    for _ in range(8):
        company()
        (steps,) = target.kept.get("steps", dict)._things.values()
        kept.append(sum(bool(where.places) for _, _, where in steps._compiled))
    assert 0 < max(kept) <= 3
