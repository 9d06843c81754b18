"""The prefix cache: what is restored equals what a cold run computes, and nothing is read twice that need not be."""

import gc
import logging
import os
import random
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import random_pair
from support.paths import FAMILIES, GOLDENS

from mlx_gemma4_assist import GenerationOptions, InputError, MediaPrompt, Pair, load_assistant
from mlx_gemma4_assist.cache.chain import CHUNK
from mlx_gemma4_assist.cache.soft_tokens import SoftTokens
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.engine import prefix as prefix_module
from mlx_gemma4_assist.engine import reading as reading_module
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request, TokenEvent
from mlx_gemma4_assist.engine.run import Run

THOUGHT = 63  # of the random pair's ids: begins what later prompts leave out


@pytest.fixture(scope="module")
def pair():
    return Pair(*random_pair(1))


@pytest.fixture(scope="module")
def family_of():
    """The small pairs of all five families."""
    return {
        name: Pair(load_model(GOLDENS / name / "target"), load_assistant(GOLDENS / name / "assistant"))
        for name in FAMILIES
    }


def letters(count: int, step: int = 7, vocabulary: int = 62) -> list[int]:
    return [(step * i * i + 3 * i) % vocabulary for i in range(count)]


def request_of(
    prompt: list[int] | MediaPrompt, points: tuple[int, ...] = (), left_out: tuple[int, ...] = (), **options: Any
) -> Request:
    whole = prompt if isinstance(prompt, MediaPrompt) else MediaPrompt(prompt)
    options = {"max_tokens": 8, "num_assistant_tokens": 3} | options
    return Request(whole, GenerationOptions(**options), points=points, left_out=frozenset(left_out))


def events_of(run: Run) -> list[TokenEvent]:
    return list(run)


def tokens_of(events: list[TokenEvent] | Run) -> list[int]:
    return [token for event in events for token in event.tokens]


def cold(pair: Pair, request: Request) -> list[TokenEvent]:
    return events_of(Engine(pair, prefix_cache_bytes=0).run(request))


def engine_of(pair: Pair, least: int = 1, **options: Any) -> Engine:
    engine = Engine(pair, **options)
    engine.prefix.least = least
    return engine


def assert_same(found: list[TokenEvent], expected: list[TokenEvent], where: Any = None) -> None:
    assert tokens_of(found) == tokens_of(expected), where
    one, other = ([each for event in events for each in event.log_probs] for events in (found, expected))
    np.testing.assert_allclose([each.own for each in one], [each.own for each in other], atol=1e-3)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose([p for _, p in a.likeliest], [p for _, p in b.likeliest], atol=1e-3)


# What is restored


def picture(start: int, count: int, key: int, hidden: int, mutual: bool) -> SoftTokens:
    embeddings = mx.random.normal((count, hidden), key=mx.random.key(-key % 2**32))
    return SoftTokens(start, embeddings, key, mutual)


@pytest.mark.parametrize("name", FAMILIES)
def test_restored_equals_cold(family_of, name):
    """Lengths around the ends of chunks and windows; drafts, seeds, log-probabilities; a picture in some of them."""
    pair, chosen = family_of[name], random.Random(name)
    config = pair.target.config
    window = config.sliding_window
    mutual = name in ("12b", "26b-a4b", "31b")
    ends = chosen.sample([window, window + 1, window + 2, CHUNK, CHUNK + window], 2)
    lengths = [*ends, CHUNK + 1, CHUNK + 2, 2 * CHUNK + chosen.randrange(40)]
    for length in lengths:
        engine = engine_of(pair)
        ids = [chosen.randrange(config.vocab_size) for _ in range(length)]
        media = [picture(5, 7, -9, config.hidden_size, mutual)] if chosen.random() < 0.5 else []
        options = {"top_logprobs": 2, "num_assistant_tokens": chosen.choice([0, 3, 5]), "max_tokens": 4}
        if chosen.random() < 0.5:
            options |= {"temperature": 1.0, "seed": length, "draft_temperature": chosen.choice([None, 0.7])}
        if not options["num_assistant_tokens"]:
            options.pop("draft_temperature", None)
        request = request_of(MediaPrompt(ids, media), **options)
        expected = cold(pair, request)
        for computed in (length, 1):
            run = engine.run(request)
            assert_same(events_of(run), expected, (length, options))
            assert (run.to_compute, run.cached_tokens) == (computed, length - computed)
        longer = request_of(MediaPrompt([*ids, *tokens_of(expected), *ids[:9]], media), **options)
        run = engine.run(longer)
        assert_same(events_of(run), cold(pair, longer), (length, options))
        assert run.to_compute == 10  # the last token made has no keys yet


def test_another_slack_fits(pair):
    """Points know nothing of how many drafts the rings have room for."""
    engine = engine_of(pair)
    prompt = letters(300)
    for drafts, computed in ((3, 300), (32, 1), (0, 1), (16, 1)):
        request = request_of(prompt, num_assistant_tokens=drafts, max_tokens=9)
        run = engine.run(request)
        assert_same(events_of(run), cold(pair, request))
        assert run.to_compute == computed


@pytest.mark.parametrize("start", [0, 40, 280])
def test_quantized_keys_are_restored_as_such(pair, tmp_path, start):
    """In memory and from disk; a prompt with dense keys begins anew, and so does one whose keys begin elsewhere."""
    options = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": start, "max_tokens": 4}
    request = request_of(letters(300), **options)
    expected = cold(pair, request)
    engine = Engine(pair, prefix_cache_folder=tmp_path)
    for computed in (300, 1):
        run = engine.run(request)
        assert_same(events_of(run), expected)
        assert run.to_compute == computed
    run = Engine(pair, prefix_cache_folder=tmp_path).run(request)
    assert_same(events_of(run), expected)
    assert run.to_compute == 1
    for other in ({"max_tokens": 1}, options | {"quantized_kv_start": 7}):
        run = engine.run(request_of(letters(300), **other))
        tokens_of(run)
        assert run.to_compute == 300


def test_a_callers_cache_gets_what_it_lacks(pair):
    """It is used where it holds more, and filled where it cannot go back."""
    engine = engine_of(pair)
    cache = engine.new_cache(3)
    thoughts = [THOUGHT, *letters(60, 5)]
    first = letters(100)
    tokens_of(engine.run(request_of(first), cache))
    beyond = engine.run(request_of([*first, *thoughts, 3], max_tokens=20), cache)
    tokens_of(beyond)
    again = request_of([*first, 9, 9, 9])
    run = engine.run(again, cache)
    assert_same(events_of(run), cold(pair, again))
    assert run.to_compute == 4
    more = request_of([*first, 9, 9, 9, *tokens_of(cold(pair, again)), 5])
    run = engine.run(more, cache)
    assert_same(events_of(run), cold(pair, more))
    assert run.to_compute == 2


def test_a_restored_row_drafts_from_its_first_round(pair):
    """Beside others, and where the same prompt waits: the hidden state was kept with the point."""
    engine = engine_of(pair)
    prompt = letters(70)
    runs = [engine.run(request_of(prompt, max_tokens=12)) for _ in range(3)]
    for run in runs:
        run.begin()
    made = [events_of(run) for run in runs]
    assert [run.to_compute for run in runs] == [70, 1, 1]
    assert all(events[0].drafted > 0 for events in made)
    for events in made:
        assert tokens_of(events) == tokens_of(cold(pair, request_of(prompt, max_tokens=12)))


# Conversations


class Turn(NamedTuple):
    """What was asked, how many tokens of it are new, how many were computed, and all of the text then."""

    request: Request
    new: int
    computed: int
    text: list[int]


def turns(engine: Engine, count: int, history: Sequence[int] = ()) -> list[Turn]:
    """A conversation that goes on."""
    found, history = [], list(history)
    for turn in range(count):
        message = letters(11 if history else 90, 5 + turn + len(history))
        prompt = [*history, *message]
        request = request_of(prompt, (len(history), len(prompt) - 2), max_tokens=20, top_logprobs=0)
        run = engine.run(request)
        history = [*prompt, *tokens_of(run)]
        new = len(message) + 1  # the last token of an answer has no keys yet
        found.append(Turn(request, new, run.to_compute, history))
    return found


@pytest.mark.parametrize("name", ["e2b", "26b-a4b"])
def test_a_conversation_computes_what_is_new(family_of, name):
    """Turn 10, past the window: at most its new tokens and a chunk, and what a cold run gives."""
    pair = family_of[name]
    said = turns(Engine(pair), 10)
    last = said[-1]
    assert len(last.text) > 15 * pair.target.config.sliding_window
    assert all(turn.computed < turn.new + prefix_module.LEAST for turn in said)
    assert [*last.request.prompt.tokens, *tokens_of(cold(pair, last.request))] == last.text


def test_turns_equal_cold_ones(pair):
    engine = engine_of(Pair(pair.target, pair.assistant))
    history = letters(50)
    for turn in range(4):
        request = request_of([*history, *letters(6, 4 + turn)], max_tokens=9, top_logprobs=1)
        events = events_of(engine.run(request))
        assert_same(events, cold(pair, request), turn)
        history = [*request.prompt.tokens, *tokens_of(events)]


def test_an_edited_history(pair):
    """Message 5 of 10 is another: only what follows the nearest point before it is computed."""
    engine = Engine(pair)
    said = turns(engine, 8)
    edited = list(said[4].request.prompt.tokens)
    place = len(edited) - 6  # within its message of 11
    edited[place] = (edited[place] + 1) % 60
    request = request_of(edited, max_tokens=20, top_logprobs=0)
    run = engine.run(request)
    assert_same(events_of(run), cold(pair, request))
    assert run.to_compute < 12 + prefix_module.LEAST


@pytest.mark.parametrize("idle", [False, True])
def test_thoughts_are_left_out(pair, idle):
    """The next prompt departs where the answer begins; in a moment of idleness the rest is read before it comes."""
    engine, history = Engine(pair), letters(90, 3)
    for turn in range(3):
        message = letters(40, 5 + turn)
        prompt = [*history, *message]
        request = request_of(prompt, (len(history), len(prompt) - 2), max_tokens=60, num_assistant_tokens=0)
        run = engine.run(request)
        events = events_of(run)
        if turn > 1:
            assert_same(events, cold(pair, request), turn)
        answer = tokens_of(events)[-40:]
        history = [*prompt, *answer]
        if idle:
            engine.read_ahead(history)
            while engine.idle():
                pass
        if turn:
            assert run.to_compute == (41 if idle else 81)
    assert not engine.idle()


def test_reading_ahead_gives_way(pair, monkeypatch):
    """A request that comes drops it; what has been read by then is kept."""
    monkeypatch.setattr("mlx_gemma4_assist.engine.ahead.STEP", 50)
    engine = Engine(pair)
    engine.read_ahead(letters(300))
    assert engine.idle()
    assert engine.idle()
    run = engine.run(request_of(letters(30, 11)))
    assert not engine.idle() or run.to_compute == 0
    tokens_of(run)
    assert not engine.idle()
    request = request_of(letters(300))
    run = engine.run(request)
    assert_same(events_of(run), cold(pair, request))
    assert run.to_compute == 200


# Several prompts


@pytest.mark.parametrize("meanwhile", [False, True])
def test_prompts_with_one_beginning(pair, meanwhile):
    """It is read once, though none names it: the others wait for the first one's point, also if they come later."""
    engine, beginning = Engine(pair, max_stall=0), letters(200)
    requests = [request_of([*beginning, i, *letters(19 + i, 9)]) for i in range(3)]
    runs = [engine.run(request) for request in requests]
    if meanwhile:
        other = engine.run(request_of(letters(40, 3), max_tokens=40))
        other.begin()
        engine.scheduler.step()
        runs[0].begin()
        engine.scheduler.step()  # in small chunks, since another row runs
        assert 0 < runs[0].to_compute == 220
    for run in runs:
        run.begin()
    for run, request in zip(runs, requests, strict=True):
        assert_same(events_of(run), cold(pair, request))
    assert [run.to_compute for run in runs] == [220, 21, 22]


def test_where_texts_have_parted_a_third_begins(pair):
    """Chunks tell that a beginning is shared, also where nobody waited: the second leaves a point there."""
    engine = Engine(pair)
    beginning = letters(2 * CHUNK - 20)
    computed = []
    for i in range(3):
        request = request_of([*beginning[: CHUNK + 80], *letters(60, 9 + i)])
        run = engine.run(request)
        assert_same(events_of(run), cold(pair, request))
        computed.append(run.to_compute)
    assert computed[0] == computed[1] == CHUNK + 140
    assert computed[2] == 140


def test_points_that_are_named(pair, monkeypatch):
    """System text and tools, and where turns begin, if they are far enough from each other."""
    monkeypatch.setattr(reading_module, "SPACING", 100)
    engine = Engine(pair)
    prompt = letters(460)
    tokens_of(engine.run(request_of(prompt, (1, 80, 250, 260, 457))))
    for parts, computed in ((80, 0), (250, 170), (260, 0), (457, 0)):
        run = engine.run(request_of([*prompt[:parts], 1, *letters(30, 8)], max_tokens=1))
        tokens_of(run)
        if parts in (80, 260):
            assert run.to_compute == 31
        assert computed == 0 or run.to_compute in (31, 31 + computed)


def test_long_prompts_have_points_on_the_way(pair, monkeypatch):
    monkeypatch.setattr(reading_module, "LONG", 128)
    monkeypatch.setattr(reading_module, "SPACING", 64)
    engine = Engine(pair)
    prompt = letters(400)
    tokens_of(engine.run(request_of(prompt)))
    run = engine.run(request_of([*prompt[:300], *letters(40, 9)]))
    tokens_of(run)
    assert run.to_compute == 340 - 256


def test_a_prompt_that_ends_in_what_is_left_out(pair):
    """Large models' prompts end with an empty thought: the point lies before it."""
    engine = Engine(pair)
    history = letters(90)
    prompt = [*history, 7, THOUGHT, 8]
    request = request_of(prompt, (40, 90), (THOUGHT,))
    made = tokens_of(engine.run(request))
    following = request_of([*history, 7, *made, *letters(5, 9)])
    run = engine.run(following)
    assert_same(events_of(run), cold(pair, following))
    assert run.to_compute == len(following.prompt.tokens) - 90


# Pictures


def test_pictures_are_told_apart_by_content(family_of):
    pair = family_of["e2b"]
    engine = engine_of(pair)
    size = pair.target.config.hidden_size

    def shown(key: int) -> Request:
        return request_of(MediaPrompt(letters(60), [picture(20, 9, key, size, False)]))

    for key, computed in ((-3, 60), (-4, 60), (-3, 1), (-4, 1)):
        run = engine.run(shown(key))
        assert_same(events_of(run), cold(pair, shown(key)))
        assert run.to_compute == computed


def test_no_point_lies_within_a_picture(family_of, monkeypatch):
    """Its tokens see one another: it is restored whole, or computed whole."""
    monkeypatch.setattr(reading_module, "LONG", 30)
    monkeypatch.setattr(reading_module, "SPACING", 1)
    pair = family_of["12b"]
    size = pair.target.config.hidden_size
    whole = [picture(25, 12, -3, size, True), picture(50, 20, -4, size, True)]
    engine = engine_of(pair)
    request = request_of(MediaPrompt(letters(100), whole), (28, 65))
    assert_same(events_of(engine.run(request)), cold(pair, request))
    parted = request_of(MediaPrompt([*letters(49), *letters(30, 9)], whole[:1]))
    run = engine.run(parted)
    assert_same(events_of(run), cold(pair, parted))
    assert run.to_compute <= 79 - 25
    assert {point.position for points in engine.prefix._points.values() for point in points}.isdisjoint(range(26, 37))


# Room


def test_a_budget_is_kept(pair):
    """The least worth goes first: what is asked for again and again stays."""
    probe = Engine(pair)
    shared = letters(120)
    tokens_of(probe.run(request_of(shared)))
    budget = 5 * probe.prefix.nbytes
    engine = Engine(pair, prefix_cache_bytes=budget)
    tokens_of(engine.run(request_of(shared)))
    for i in range(15):
        tokens_of(engine.run(request_of(letters(100 + i, 11 + i), max_tokens=2)))
        assert engine.prefix.nbytes <= budget
        run = engine.run(request_of(shared, max_tokens=1))
        tokens_of(run)
        assert run.to_compute == 1
    stats = engine.prefix.stats
    assert stats.given_up > 5
    assert (stats.prompts, stats.hits, stats.cached_tokens) == (31, 15, 15 * 119)
    held = engine.prefix.nbytes
    assert engine.prefix.release(1) >= 1
    assert engine.prefix.nbytes < held
    assert engine.prefix.release(1 << 40) > 0
    assert engine.prefix.nbytes == 0
    run = engine.run(request_of(shared))
    tokens_of(run)
    assert run.to_compute == 120


@pytest.mark.parametrize("budget", [0, 1, 5000])
def test_what_is_larger_than_the_budget_is_not_kept(pair, budget):
    engine = Engine(pair, prefix_cache_bytes=budget)
    for _ in range(2):
        run = engine.run(request_of(letters(120)))
        tokens_of(run)
        assert run.to_compute == 120
    assert engine.prefix.nbytes == 0


def test_memory_is_flat(pair):
    """What the device holds is what is counted, and no more with time."""
    engine = Engine(pair, prefix_cache_bytes=200_000)
    rng = random.Random(2)

    def use(count: int) -> None:
        for _ in range(count):
            begins = letters(rng.choice([0, 40, 280]), 3)
            tokens_of(engine.run(request_of([*begins, *(rng.randrange(60) for _ in range(40))], max_tokens=3)))

    use(14)
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    use(14)
    gc.collect()
    mx.synchronize()
    assert engine.prefix.stats.given_up > 5
    assert mx.get_active_memory() - before < 200_000
    held = engine.prefix.nbytes
    engine.prefix.clear()
    gc.collect()
    assert before - mx.get_active_memory() > 0.5 * held


@pytest.mark.parametrize("seed", [1, 2])
def test_any_use_adds_up(pair, tmp_path, seed):
    """Requests together, given up, read ahead, points released: the budget holds, and in the end nothing is left."""
    rng = random.Random(seed)
    engine = Engine(pair, prefix_cache_bytes=rng.choice([60_000, 250_000]), prefix_cache_folder=tmp_path)
    texts = [[rng.randrange(64) for _ in range(300)] for _ in range(2)]
    for _ in range(16):
        prompt = [
            *rng.choice(texts)[: rng.choice([60, 256, 300])],
            *(rng.randrange(64) for _ in range(rng.randrange(9))),
        ]
        if rng.random() < 0.2:
            assert engine.prefix.release(rng.choice([1, 50_000])) >= 0
        if rng.random() < 0.3:
            engine.read_ahead(prompt)
            engine.idle()
        runs = [engine.run(request_of([*prompt, *[i] * i], (60,), max_tokens=3)) for i in range(rng.randint(1, 3))]
        for run in runs:
            run.begin()
        for run in runs:
            if rng.random() < 0.2:
                run.close()
            else:
                tokens_of(run)
        assert engine.prefix.nbytes <= engine.prefix.budget
        assert engine.scheduler.idle
    request = request_of([*prompt, 1], max_tokens=3)
    assert_same(events_of(engine.run(request)), cold(pair, request))
    engine.prefix.release(1 << 40)
    assert engine.prefix.nbytes == 0


def test_an_interrupt_leaves_nothing_half_kept(pair, monkeypatch):
    engine = Engine(pair)
    request = request_of(letters(300))
    tokens_of(engine.run(request))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("_rank", "_add", "_new_chunks"):
        with monkeypatch.context() as patched:
            patched.setattr(engine.prefix, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                tokens_of(engine.run(request_of(letters(310, 9))))
        assert engine.prefix.nbytes == sum(chunk.nbytes for chunk in engine.prefix._chunks.values()) == 0
        run = engine.run(request)
        assert_same(events_of(run), cold(pair, request))
        assert run.to_compute == 300


def test_a_failure_forgets_what_may_be_wrong(pair):
    def break_it(tokens: mx.array, logits: mx.array) -> mx.array:
        raise RuntimeError("out of memory")

    engine = Engine(pair)
    with pytest.raises(RuntimeError, match="out of memory"):
        tokens_of(engine.run(request_of(letters(80), logits_processors=[break_it])))
    assert engine.prefix.nbytes == 0


def test_several_threads_use_one_store(pair):
    """One after the other: what one has kept, another restores."""
    engine = Engine(pair)
    request = request_of(letters(290))
    for computed in (290, 1, 1):
        with ThreadPoolExecutor(1) as pool:
            run = engine.run(request)
            assert tokens_of(pool.submit(events_of, run).result()) == tokens_of(cold(pair, request))
            assert run.to_compute == computed


# The folder


def written(folder: Any) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_after_a_restart(family_of, tmp_path):
    """Turn 10 in another engine computes at most what is new and a chunk, from files, and is as a cold one."""
    pair, folder = family_of["12b"], tmp_path / "prefixes"
    engine = Engine(pair, prefix_cache_folder=folder)
    history = turns(engine, 9)[-1].text
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert not engine.idle()
    again = Engine(pair, prefix_cache_folder=folder)
    (turn,) = turns(again, 1, history)
    assert turn.computed < turn.new + prefix_module.LEAST
    assert again.prefix.stats.from_disk == 1
    run = again.run(turn.request)
    assert_same(events_of(run), cold(pair, turn.request))
    assert [*turn.request.prompt.tokens, *tokens_of(cold(pair, turn.request))] == turn.text
    assert (run.to_compute, again.prefix.stats.from_disk) == (1, 1)


@pytest.fixture
def kept(pair, tmp_path):
    """A folder with a point behind a chunk, and the request that left it."""
    request = request_of(letters(CHUNK + 60), max_tokens=2)
    engine = Engine(pair, prefix_cache_folder=tmp_path)
    tokens_of(engine.run(request))
    assert len(written(tmp_path)) == 2
    return tmp_path, request


def computed_after(pair: Pair, folder: Any, request: Request) -> int:
    """How many tokens a new engine computes; what it gives is checked."""
    run = Engine(pair, prefix_cache_folder=folder).run(request)
    assert_same(events_of(run), cold(pair, request))
    return run.to_compute


def test_files_that_load(pair, kept):
    folder, request = kept
    assert computed_after(pair, folder, request) == 1
    files = list(folder.iterdir())
    for path in files:
        assert mx.load(str(path), format="safetensors")


@pytest.mark.parametrize("what", ["chunk", "point"])
@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "header", "gone", "renamed"])
def test_damaged_files_are_left_out(pair, kept, caplog, what, damage):
    """With one line; they are read anew, and written anew."""
    folder, request = kept
    (path,) = folder.glob(f"*.{what}.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-20] ^= 1
    elif damage == "header":
        content[60:64] = b"\0\0\0\0"
    elif damage == "short":
        del content[-8:]
    elif damage == "empty":
        content.clear()
    path.unlink()
    if damage == "renamed":
        (path.parent / ("0" * 32 + f".{what}.safetensors")).write_bytes(content)
    elif damage != "gone":
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert computed_after(pair, folder, request) == len(request.prompt.tokens)
    assert len(caplog.records) == (0 if damage == "gone" else 1), caplog.text
    assert computed_after(pair, folder, request) == 1


def test_files_of_others_are_left_alone(pair, kept, caplog, monkeypatch):
    folder, request = kept
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = Pair(*random_pair(2))
    with caplog.at_level(logging.WARNING):
        assert computed_after(other, folder, request) == len(request.prompt.tokens)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: 2 files of another model, format or version are left out"
    ]
    caplog.clear()
    monkeypatch.setattr("mlx_gemma4_assist.cache.piece_file.__version__", "0.0.1")
    monkeypatch.setattr("mlx_gemma4_assist.cache.chain.__version__", "0.0.1")
    with caplog.at_level(logging.WARNING):
        assert computed_after(pair, folder, request) == len(request.prompt.tokens)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: 4 files of another model, format or version are left out"
    ]
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before
    assert computed_after(pair, folder, request) == 1


def test_an_interrupted_write_leaves_nothing_that_loads(pair, tmp_path, monkeypatch):
    """Neither an interrupt, nor what a killed process has left."""
    request = request_of(letters(300))
    sync = os.fsync
    calls = []

    def interrupt(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise KeyboardInterrupt
        sync(handle)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokens_of(Engine(pair, prefix_cache_folder=tmp_path).run(request))
    monkeypatch.undo()
    assert [name.split(".")[1] for name in written(tmp_path)] == ["chunk"]
    (tmp_path / f".{'1' * 32}.point.safetensors-abc.unfinished").write_bytes(b"half")
    assert computed_after(pair, tmp_path, request) == 300
    assert sorted(name.split(".")[1] for name in written(tmp_path)) == ["chunk", "point"]
    assert computed_after(pair, tmp_path, request) == 1


def test_the_folder_has_a_limit(pair, kept):
    """What was not used for longest goes first; other files stay, and are not counted."""
    folder, request = kept
    (folder / "mine.txt").write_bytes(b"x" * 1_000_000)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    limit = 3 * size
    engine = Engine(pair, prefix_cache_folder=folder, prefix_cache_folder_bytes=limit)
    for i in range(6):
        tokens_of(engine.run(request_of(letters(300 + i, 11 + i), max_tokens=2)))
        assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= limit
        if i < 3:
            assert computed_after(pair, folder, request) == 1  # used: it stays
    assert (folder / "mine.txt").exists()
    assert computed_after(pair, folder, request_of(letters(305, 16), max_tokens=2)) == 1
    small = folder / "small"
    engine = Engine(pair, prefix_cache_folder=small, prefix_cache_folder_bytes=1000)
    tokens_of(engine.run(request))
    assert not written(small)


def test_what_memory_gives_up_is_still_on_disk(pair, tmp_path):
    engine = Engine(pair, prefix_cache_folder=tmp_path)
    request = request_of(letters(300))
    tokens_of(engine.run(request))
    engine.prefix.release(1 << 40)
    run = engine.run(request)
    assert tokens_of(run) == tokens_of(cold(pair, request))
    assert (run.to_compute, engine.prefix.stats.from_disk) == (1, 1)


def test_a_full_disk_changes_nothing(pair, tmp_path, monkeypatch, caplog):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    engine = Engine(pair, prefix_cache_folder=tmp_path)
    for computed in (300, 1):
        run = engine.run(request_of(letters(300)))
        assert tokens_of(run) == tokens_of(cold(pair, request_of(letters(300))))
        assert run.to_compute == computed
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write to the prefix cache {tmp_path}: the disk is full"
    ]
    assert not written(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_cache_bytes": -1}, "prefix_cache_bytes is -1"),
        ({"prefix_cache_bytes": "2 GB"}, "prefix_cache_bytes is '2 GB'"),
        ({"prefix_cache_folder": 5}, "prefix_cache_folder is 5"),
        ({"prefix_cache_folder": __file__}, "cannot keep a prefix cache in"),
        ({"prefix_cache_folder": "x", "prefix_cache_bytes": 0}, "prefix_cache_bytes is 0"),
        ({"prefix_cache_folder": "x", "prefix_cache_folder_bytes": 1.5}, "prefix_cache_folder_bytes is 1.5"),
    ],
)
def test_what_an_engine_refuses(pair, options, message):
    with pytest.raises(InputError, match=message):
        Engine(pair, **options)
