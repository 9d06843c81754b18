"""Many requests at once: each gets what it would have got alone, whoever runs beside it, comes, goes or fails."""

import gc
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import random_pair
from support.paths import FAMILIES, GOLDENS
from support.stand_ins import Automaton, LetterProcessor
from support.statistics import CHI_SQUARE_P, chi_square_p

from mlx_gemma4_assist import (
    GenerationOptions,
    InputError,
    Pair,
    batch_generate,
    load_assistant,
    make_prompt_cache,
    stream_generate,
)
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt, SoftTokens
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.drafts.batch import SLOTS
from mlx_gemma4_assist.engine import batch as batch_module
from mlx_gemma4_assist.engine import run as run_module
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request, TokenEvent
from mlx_gemma4_assist.engine.run import Run
from mlx_gemma4_assist.rounds import sampling as drawing
from mlx_gemma4_assist.rounds.sampling import Sampling

CANCELLED = int(os.environ.get("BATCH_CANCELLED", "30"))
SETTINGS = int(os.environ.get("BATCH_SETTINGS", "60"))
SCHEDULES = int(os.environ.get("BATCH_SCHEDULES", "4"))  # of each family; 60 take some minutes


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    folder = GOLDENS / request.param
    return Pair(load_model(folder / "target"), load_assistant(folder / "assistant"))


def request_of(prompt: list[int], stop: tuple[int, ...] = (), never: tuple[int, ...] = (), **options: Any) -> Request:
    return Request(MediaPrompt(prompt), GenerationOptions(**options), frozenset(stop), never)


def tokens_of(run: Run) -> list[int]:
    return [token for event in run for token in event.tokens]


def alone(pair: Pair, request: Request) -> list[int]:
    return tokens_of(Engine(pair, prefix_cache_bytes=0).run(request))


def assert_the_same(events: list[TokenEvent], pair: Pair, request: Request, where: Any) -> None:
    """A request got the tokens and log-probabilities that it gets alone."""
    expected = list(Engine(pair, prefix_cache_bytes=0).run(request))
    tokens, of_expected = ([token for event in each for token in event.tokens] for each in (events, expected))
    assert tokens == of_expected, where
    found, wanted = ([one for event in each for one in event.log_probs] for each in (events, expected))
    assert len(found) == len(wanted) == (0 if request.options.top_logprobs is None else len(tokens)), where
    np.testing.assert_allclose([one.own for one in found], [one.own for one in wanted], atol=1e-3)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose([v for _, v in one.likeliest], [v for _, v in other.likeliest], atol=1e-3)


def letters(count: int, step: int = 7, vocabulary: int = 64) -> list[int]:
    return [(step * i * i + 3 * i) % vocabulary for i in range(count)]


def ban(*ids: int) -> Callable[[mx.array, mx.array], mx.array]:
    def processor(tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where(mx.any(mx.arange(logits.shape[-1])[:, None] == mx.array(ids), axis=1), -mx.inf, logits)

    return processor


def random_request(rng: random.Random, config: Any) -> Request:
    """Any options, a prompt shorter or longer than the window, an end in the middle of a round."""
    length = rng.choice([1, 2, rng.randint(3, 15), config.sliding_window + rng.randint(0, 30), rng.randint(50, 140)])
    options: dict[str, Any] = {"max_tokens": rng.randint(1, 14)}
    if rng.random() < 0.8:
        options["num_assistant_tokens"] = rng.choice([rng.randint(0, 8), 20 if rng.random() < 0.2 else 3])
    if rng.random() < 0.6:
        options |= {"temperature": rng.uniform(0.3, 1.5), "seed": rng.randint(0, 99)}
        options |= {"top_k": rng.choice([0, 3, 40]), "top_p": rng.choice([1.0, 0.9]), "min_p": rng.choice([0, 0.02])}
        if options.get("num_assistant_tokens"):
            options |= {"draft_temperature": rng.choice([None, None, 0.7])}
    if rng.random() < 0.3:
        options |= {"repetition_penalty": rng.choice([1.0, 1.2]), "presence_penalty": rng.choice([0, 0.4])}
        options |= {"frequency_penalty": rng.choice([0, 0.1])}
    if rng.random() < 0.2:
        options["logit_bias"] = {rng.randrange(config.vocab_size): rng.uniform(-9, 3) for _ in range(rng.randint(1, 5))}
    if rng.random() < 0.3:
        options["top_logprobs"] = rng.randint(0, 4)
    if rng.random() < 0.15:
        options["logits_processors"] = [ban(rng.randrange(config.vocab_size), rng.randrange(config.vocab_size))]
    stop = tuple(rng.randrange(config.vocab_size) for _ in range(rng.choice([0, 0, config.vocab_size // 8])))
    never = rng.choice([(), (), (1, 2), tuple(rng.sample(range(config.vocab_size), 3))])
    made = request_of([rng.randrange(config.vocab_size) for _ in range(length)], stop, never, **options)
    if rng.random() < 0.3 and not made.options.logits_processors:  # which may forbid all that is left
        ends = frozenset(stop or [rng.randrange(config.vocab_size)])
        held = partial(Automaton, rng.randrange(999), config.vocab_size, ends, rng.randint(1, 14))
        made = replace(made, stop_tokens=ends, constraint=held)
    return made


def beginnings_of(rng: random.Random, config: Any) -> list[MediaPrompt]:
    """What several prompts of a schedule begin with, a picture in one of them."""
    ids = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(8, 50))] for _ in range(2)]
    embeddings = mx.random.normal((5, config.hidden_size), key=mx.random.key(rng.randrange(99)))
    mutual = config.use_bidirectional_attention is not None
    return [MediaPrompt(ids[0]), MediaPrompt(ids[1], [SoftTokens(2, embeddings, -7, mutual)])]


def begun(rng: random.Random, request: Request, beginnings: list[MediaPrompt]) -> Request:
    """A request whose prompt may begin as others do, with restore points anywhere."""
    if rng.random() < 0.4:
        return request
    chosen = rng.choice(beginnings)
    tokens = [*chosen.tokens, *request.prompt.tokens]
    points = tuple(rng.randrange(len(tokens)) for _ in range(rng.randint(0, 3)))
    return replace(request, prompt=MediaPrompt(tokens, chosen.media), points=points)


def counting_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    """A list to which each call of a method adds its name."""
    calls, method = [], getattr(owner, name)

    def counted(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    monkeypatch.setattr(owner, name, counted)
    return calls


def in_company(
    engine: Engine, requests: list[Request], rng: random.Random
) -> tuple[list[list[TokenEvent] | None], int]:
    """What each request gets where they begin at random moments, and some are given up (None); and in how many steps
    two rows accepted different numbers of drafts."""
    waiting = [(index, engine.run(request)) for index, request in enumerate(requests)]
    running: dict[int, Run] = {}
    made: dict[int, list[TokenEvent] | None] = {index: [] for index, _ in waiting}
    different = 0
    while waiting or running:
        if waiting and (not running or rng.random() < 0.3):
            index, run = waiting.pop(0)
            run.begin()
            running[index] = run
        engine.scheduler.step()
        accepted = set()
        for index, run in list(running.items()):
            if rng.random() < 0.01:
                made[index] = None
                run.close()
                del running[index]
            while index in running and run.ready:
                event = next(iter(run))
                accepted.add(event.accepted)
                made[index] = [*(made[index] or []), event]
                if event.finish_reason is not None:
                    run.close()
                    del running[index]
        different += len(accepted) > 1
    assert engine.scheduler.idle
    return [made[index] for index in range(len(requests))], different


def test_any_company_changes_nothing(family, small_shelves, monkeypatch):
    """Random schedules of two to eight requests, in each of the five families: some begin alike and are restored, rows
    outgrow their shelves, slots become fewer and more."""
    different = restored = 0
    narrowed = counting_calls(monkeypatch, batch_module.Batch, "narrow")
    for seed in range(SCHEDULES):
        rng = random.Random(seed)
        monkeypatch.setattr(batch_module, "WIDE", (1, 2, 5)[seed % 3])
        beginnings = beginnings_of(rng, family.target.config)
        requests = [random_request(rng, family.target.config) for _ in range(rng.randint(2, 8))]
        requests = [begun(rng, request, beginnings) for request in requests]
        engine = Engine(family, prefix_cache_bytes=rng.choice([30_000, 10_000_000]))
        engine.prefix.least = rng.choice([1, 8])
        found, counted = in_company(engine, requests, rng)
        different += counted
        restored += engine.prefix.stats.hits
        for request, events in zip(requests, found, strict=True):
            if events is not None:
                assert_the_same(events, family, request, (seed, request))
    assert different > 0 < restored
    assert narrowed


@pytest.mark.parametrize(
    ("drafts", "penalty", "compile"),
    [(0, 1.0, False), (3, 1.0, False), (None, 1.0, False), (0, 1.2, False), (3, 1.2, False), (0, 1.2, True)],
)
def test_who_is_left_has_fewer_slots(pair, drafts, penalty, compile):
    """Slots become fewer as rows end, and more as others join; texts, and caches that are gone on with, are as ever."""
    asked = {"num_assistant_tokens": drafts, "repetition_penalty": penalty, "compile": compile}
    asked |= {"temperature": 0.8, "seed": 9}
    requests = [
        request_of(letters(3 + 30 * (i % 3), 5 + i), max_tokens=120 if i == 4 else 60 if i in (1, 6) else 4, **asked)
        for i in range(7)
    ]
    engine, slots = Engine(Pair(*pair), max_stall=None), []
    caches = [engine.new_cache(drafts) for _ in requests]
    runs = [engine.run(request, cache) for request, cache in zip(requests, caches, strict=True)]
    for run in runs:
        run.begin()
    while engine.scheduler.running != 1:
        engine.scheduler.step()
        slots.append(len(engine.scheduler._batch.slots))
    for _ in range(20):
        engine.scheduler.step()
        slots.append(len(engine.scheduler._batch.slots))
    assert [size for i, size in enumerate(slots) if i == 0 or slots[i - 1] != size] == [8, 4, 1]
    late = [request_of(letters(9 + i, 3), max_tokens=9, **asked) for i in range(2)]
    more = [engine.run(request) for request in late]
    assert [tokens_of(run) for run in (*more, *runs)] == [alone(Pair(*pair), each) for each in (*late, *requests)]
    for request, cache in zip(requests, caches, strict=True):
        assert len(cache.tokens[0]) == len(request.prompt.tokens) + request.options.max_tokens - 1
        longer = replace(request, prompt=MediaPrompt([*cache.tokens[0], 5, 6]))
        again = engine.run(longer, cache)
        assert tokens_of(again) == alone(Pair(*pair), longer)
        assert again.to_compute <= 2


@pytest.mark.parametrize(("spare", "fewer"), [(0.4, False), (0.6, True)])  # of what rows have
def test_slots_stay_where_there_is_no_room_for_a_copy(pair, monkeypatch, spare, fewer):
    """Nothing that is kept of prompts is given up for it."""
    monkeypatch.setattr(batch_module, "WIDE", 2)
    narrowed = counting_calls(monkeypatch, batch_module.Batch, "narrow")
    requests = [request_of(letters(5, 5 + i), max_tokens=30 if i == 0 else 3) for i in range(4)]
    engine = Engine(Pair(*pair), max_stall=None)
    runs = [engine.run(request) for request in requests]
    for run in runs:
        run.begin()
    engine.scheduler.step()
    monkeypatch.setattr(engine.admission, "release", lambda needed: pytest.fail("gives something up"))
    monkeypatch.setattr(engine.admission, "look", lambda caches: None)
    rows = engine.scheduler._batch.nbytes
    engine.admission._others, engine.admission._limit = 1000, 1000 + int((1 + spare) * rows)
    monkeypatch.setattr(engine.admission, "has_room", lambda needed: True)
    assert [tokens_of(run) for run in runs] == [alone(Pair(*pair), request) for request in requests]
    assert bool(narrowed) is fewer


def test_slots_stay_while_somebody_waits(pair, monkeypatch):
    """Whose prompt is going to be read into one of them."""
    monkeypatch.setattr(batch_module, "WIDE", 1)
    narrowed = counting_calls(monkeypatch, batch_module.Batch, "narrow")
    engine = Engine(Pair(*pair), max_stall=0)
    requests = [request_of(letters(5, 5 + i), max_tokens=90 if i == 0 else 9, num_assistant_tokens=0) for i in range(3)]
    runs = [engine.run(request) for request in requests]
    for run in runs:
        run.begin()
    while engine.scheduler.running < 3:
        engine.scheduler.step()
    late = engine.run(request_of(letters(450, 3), max_tokens=2, num_assistant_tokens=0))
    late.begin()
    running = set()
    while not late.ready:
        assert not narrowed
        running.add(engine.scheduler.running)
        engine.scheduler.step()
    assert running >= {1, 3}
    engine.scheduler.step()
    engine.scheduler.step()
    assert narrowed, "nobody waits any more"
    for run in (late, *runs):
        run.close()


def test_rows_of_other_slack_and_other_ids_share_rounds(pair):
    """Nobody waits for who has more drafts, or other ids that are never drawn; what they leave goes on alone."""
    few = {"num_assistant_tokens": 3, "temperature": 1.0, "seed": 1, "draft_temperature": 0.8}
    requests = [
        request_of(letters(30), max_tokens=26, **few),
        request_of(letters(50, 5), never=(3, 4, 5), max_tokens=14, **few),
        request_of(letters(25, 3), max_tokens=14, **few | {"num_assistant_tokens": 20}),
        request_of(letters(9, 11), never=(7,), max_tokens=14, **few),
    ]
    engine = Engine(Pair(*pair), max_stall=60)
    caches = [engine.new_cache(request.options.num_assistant_tokens) for request in requests]
    runs = [engine.run(request, cache) for request, cache in zip(requests, caches, strict=True)]
    together = []
    for run in runs:
        run.begin()
        for _ in range(3):  # so that the caches of those before are full of rounds
            engine.scheduler.step()
            together.append(engine.scheduler.running)
    assert max(together) == 4
    found = [tokens_of(run) for run in runs]
    assert found == [alone(Pair(*pair), request) for request in requests]
    assert all(not set(request.suppress_tokens) & set(made) for request, made in zip(requests, found, strict=True))
    for request, cache, made in zip(requests, caches, found, strict=True):
        longer = request_of([*request.prompt.tokens, *made, 5, 6], max_tokens=4, num_assistant_tokens=3)
        again = engine.run(longer, cache)
        assert tokens_of(again) == alone(Pair(*pair), longer)
        assert again.to_compute == 3


def test_rows_with_other_kv_bits_wait_for_each_other(pair):
    """They have no arrays in common; nobody fails for it."""
    bits = (None, 4, None, 8)
    requests = [
        request_of(letters(40, 5 + i), max_tokens=6, num_assistant_tokens=2, kv_bits=each, kv_group_size=32)
        if each
        else request_of(letters(40, 5 + i), max_tokens=6, num_assistant_tokens=2)
        for i, each in enumerate(bits)
    ]
    engine = Engine(Pair(*pair))
    runs = [engine.run(request) for request in requests]
    for run in runs:
        run.begin()
    assert [tokens_of(run) for run in runs] == [alone(Pair(*pair), request) for request in requests]


@pytest.mark.parametrize("compile", [False, True])
def test_more_requests_than_slots(pair, compile):
    """As one ends the next begins; all slots are used, and no text knows of it."""
    requests = [
        request_of(letters(3 + i, 5 + i), max_tokens=3 + i % 5, temperature=1.0, seed=i, compile=compile)
        for i in range(SLOTS[-1] + 4)
    ]
    engine = Engine(Pair(*pair))
    runs = [engine.run(request) for request in requests]
    for run in runs:
        run.begin()
    found = [tokens_of(run) for run in runs]
    assert found == [alone(Pair(*pair), request) for request in requests]
    assert engine.scheduler.idle


def test_a_batch_has_mlx_lms_fields(pair):
    prompts = [letters(5), letters(20), letters(3, 11)]
    options = {"max_tokens": [4, 9, 6], "temperature": [0, 1.0, 0.7], "seed": 3, "num_assistant_tokens": [3, 0, 2]}
    found = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], **options)
    for i, prompt in enumerate(prompts):
        one = {name: value[i] if isinstance(value, list) else value for name, value in options.items()}
        expected = list(stream_generate(pair[0], LetterProcessor(), prompt, pair[1], **one))
        assert found.texts[i] == "".join(response.text for response in expected)
        assert found.last[i].finish_reason == expected[-1].finish_reason == "length"
        assert found.last[i].prompt_tokens == len(prompt)
    assert found.stats.generation_tokens == 19
    assert found.stats.prompt_tokens == 28
    assert found.caches is None
    assert found.stats.generation_tps > 0 < found.stats.prompt_tps


def test_stop_strings_end_their_own_text_only(pair):
    prompts = [letters(5), letters(6)]
    whole = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], max_tokens=20, chat=False).texts
    stop = whole[0][7:9]
    cut = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], max_tokens=20, chat=False, stop=[[stop], []])
    assert cut.texts == [whole[0][: whole[0].find(stop)], whole[1]]
    assert [last.finish_reason for last in cut.last] == ["stop", "length"]


def test_caches_of_a_batch_go_on_alone(pair):
    """What a row has written is the caller's afterwards: the next turn reads what is new, and is as with a cold one."""
    prompts = [letters(25), letters(40), letters(8)]
    first = batch_generate(
        pair[0], LetterProcessor(), prompts, pair[1], max_tokens=[10, 4, 7], return_prompt_caches=True
    )
    for prompt, text, cache in zip(prompts, first.texts, first.caches, strict=True):
        tokens = prompt + LetterProcessor().encode(text)
        assert list(cache.tokens[0]) == tokens[:-1]
        read: list[int] = []
        options = {"max_tokens": 12, "num_assistant_tokens": 3}
        warm = stream_generate(
            pair[0],
            LetterProcessor(),
            [*tokens, 5, 6],
            pair[1],
            prompt_cache=cache,
            prompt_progress_callback=lambda done, total, read=read: read.append(total),
            **options,
        )
        cold = stream_generate(pair[0], LetterProcessor(), [*tokens, 5, 6], pair[1], **options)
        assert [response.token for response in warm] == [response.token for response in cold]
        assert max(read) <= 2


def test_callers_caches_are_used(pair):
    caches = [make_prompt_cache(*pair) for _ in range(2)]
    prompts = [letters(12), letters(30)]
    before = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], max_tokens=5, prompt_caches=caches)
    again = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], max_tokens=5, prompt_caches=caches)
    assert again.texts == before.texts
    assert (before.stats.prompt_tokens, again.stats.prompt_tokens) == (42, 2)
    with pytest.raises(InputError, match="1 prompt_caches for 2 prompts"):
        batch_generate(pair[0], LetterProcessor(), prompts, pair[1], prompt_caches=caches[:1])


@pytest.mark.parametrize("prompts", ["hello", b"hello", None, 5, {"role": "user"}, MediaPrompt([1, 2])])
def test_what_is_no_list_of_prompts_is_refused(pair, prompts):
    with pytest.raises(InputError, match="expected a list of prompts"):
        batch_generate(pair[0], LetterProcessor(), prompts, pair[1])


def test_one_cache_holds_one_text(pair):
    cache = make_prompt_cache(*pair)
    with pytest.raises(InputError, match="prompt_caches has a cache twice"):
        batch_generate(pair[0], LetterProcessor(), [[1], [2]], pair[1], prompt_caches=[cache, cache])


def test_a_misspelt_option_is_named(pair):
    with pytest.raises(TypeError, match=r"batch_generate\(\) got .* 'tempature'. Did you mean 'temperature'"):
        batch_generate(pair[0], LetterProcessor(), [[1]], pair[1], tempature=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": [0, 1]}, "temperature has 2 values for 3 prompts"),
        ({"temperature": [0, 1, -1]}, "temperature is -1"),
        ({"stop": [["a"]]}, "stop has 1 value for 3 prompts"),
    ],
)
def test_options_that_fit_no_batch_are_refused(pair, options, message):
    with pytest.raises(InputError, match=message):
        batch_generate(pair[0], LetterProcessor(), [[1], [2], [3]], pair[1], **options)


def test_a_row_reads_its_last_hidden_state_for_drafts_only(pair, monkeypatch):
    """It costs a forward of its own, which is worth it where the row's first round has drafts: as many as it asks for,
    or, where that is learned, as many as the others' rounds have."""
    read = []
    last_hidden = run_module.last_hidden
    monkeypatch.setattr(run_module, "last_hidden", lambda *given: read.append(given) or last_hidden(*given))
    target, assistant = pair
    for drafter, drafts, forwards in ((None, None, 0), (assistant, None, 0), (assistant, 2, 2), (assistant, 0, 0)):
        read.clear()
        engine = Engine(Pair(target, drafter))
        prompts = [letters(9 + row, step=5 + row) for row in range(3)]
        runs = [engine.run(request_of(each, max_tokens=6, num_assistant_tokens=drafts)) for each in prompts]
        for run in runs:
            run.begin()
        for run in runs:
            tokens_of(run)
        assert len(read) == forwards


def test_a_row_whose_drafts_are_learned_joins_those_who_draft_with_drafts(pair, monkeypatch):
    read = []
    last_hidden = run_module.last_hidden
    monkeypatch.setattr(run_module, "last_hidden", lambda *given: read.append(given) or last_hidden(*given))
    engine = Engine(Pair(*pair))
    drafting = engine.run(request_of(letters(9), max_tokens=20, num_assistant_tokens=3))
    drafting.begin()
    for _ in range(3):
        engine.scheduler.step()
    joining = engine.run(request_of(letters(12, step=5), max_tokens=6))
    joining.begin()
    tokens_of(joining)
    drafting.close()
    assert len(read) == 1


def test_what_rows_need_stays_in_use_for_a_while(pair):
    """Requests of other kinds come and go: rounds are made for what they need together, not for each company anew."""
    engine = Engine(Pair(*pair))
    kinds = [{}, {"temperature": 0.9, "top_k": 5}, {"presence_penalty": 0.3}, {"logit_bias": {3: -2.0}}]

    def needed(*numbers: int) -> set[Sampling]:
        """By rounds of several rows, while one of each of these kinds runs."""
        options = [{"seed": 1, "num_assistant_tokens": 2, "max_tokens": 12} | kinds[number] for number in numbers]
        requests = [request_of(letters(9 + place), **each) for place, each in enumerate(options)]
        runs = [engine.run(request) for request in requests]
        for run in runs:
            run.begin()
        found = set()
        while not all(run.ready for run in runs):
            engine.scheduler.step()
        for _ in range(3):
            engine.scheduler.step()
            found.add(engine.scheduler._batch._flight.decoder.sampling)
        assert [tokens_of(run) for run in runs] == [alone(engine.pair, request) for request in requests]
        return found

    (together,) = needed(0, 1, 2, 3)
    assert together.penalizes
    assert together.top_k
    assert needed(0, 2) == needed(3, 1, 1) == {together}


def test_what_nobody_needs_any_longer_is_forgotten(monkeypatch):
    monkeypatch.setattr(batch_module, "REMEMBERED", 2)
    kept, plain, drawn = batch_module.InUse(), Sampling(), Sampling(temperature=0.5, top_k=9)
    assert not kept.of([plain, drawn]).greedy
    for _ in range(2):
        assert not kept.of([plain]).greedy
        kept.count_round()
    assert not kept.of([plain]).greedy
    for _ in range(2):
        kept.count_round()
    assert kept.of([plain]).greedy


@contextmanager
def as_if_compiled():
    """Rounds are made as those that are compiled, without a compiler's minutes."""
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def test_rows_of_rare_kinds_that_begin_alone_share_what_rounds_are_made_for(pair):
    """A common kind of settings has compiled rounds of its own, rare ones those of all that was needed; texts are the
    same."""
    engine = Engine(Pair(*pair))
    kinds = [{}, {"presence_penalty": 0.3}, {"temperature": 0.9, "top_k": 5}, {"logit_bias": {3: -2.0}}]
    kinds += [{"top_logprobs": 3}, {"temperature": 0.8, "min_p": 0.1}, {"temperature": 0.7, "top_p": 0.8}]

    def needed(number: int) -> Sampling:
        options = {"seed": 1, "num_assistant_tokens": 2, "max_tokens": 9} | kinds[number]
        with as_if_compiled():
            run = engine.run(request_of(letters(9), **options, compile=True))
            run.begin()
            while not run.ready:
                engine.scheduler.step()
            found = engine.scheduler._batch._flight.decoder.sampling
            assert tokens_of(run) == alone(engine.pair, request_of(letters(9), **options))
        return found

    assert {needed(0) for _ in range(4)} == {drawing.in_use([Sampling()])}
    for number in range(1, 7):
        needed(number)
    (together,) = {needed(number) for number in range(1, 7)}
    assert together.penalizes
    assert together.top_k
    assert together.logit_bias
    assert {needed(2) for _ in range(8)} - {together} == {drawing.in_use([Sampling(temperature=0.9, top_k=5)])}


def test_rows_without_a_penalty_share_rounds_that_penalize(pair):
    """Ids that are never drawn are those of the rows that are there, whoever was there before."""
    engine = Engine(Pair(*pair))
    for never in ((), (1, 2), (3,), (1, 2)):
        requests = [
            request_of(letters(9), never=never, max_tokens=8, top_logprobs=2),
            request_of(letters(11), never=never, max_tokens=8, presence_penalty=0.5 if never == (3,) else 0.0),
        ]
        runs = [engine.run(request) for request in requests]
        for run in runs:
            run.begin()
        assert [tokens_of(run) for run in runs] == [alone(engine.pair, request) for request in requests]


def test_a_failure_takes_those_with_it_who_had_a_part(pair, monkeypatch):
    """A device that fails in a round, or in another's prompt: the others are told, and the engine goes on."""

    def break_it(tokens, logits):
        raise RuntimeError("out of memory")

    engine = Engine(Pair(*pair))
    broken = engine.run(request_of(letters(5), max_tokens=9, logits_processors=[break_it]))
    beside = engine.run(request_of(letters(6), max_tokens=9))
    beside.begin()
    engine.scheduler.step()
    with pytest.raises(RuntimeError, match="out of memory"):
        tokens_of(broken)
    with pytest.raises(RuntimeError, match="another request"):
        tokens_of(beside)
    assert engine.scheduler.idle
    request = request_of(letters(7), max_tokens=9)
    assert tokens_of(engine.run(request)) == alone(Pair(*pair), request)


def test_two_temperatures_side_by_side(pair):
    """Chi-square per row over 10^4 draws: two rows, three tokens of a round, drafts drawn in one of them."""
    rng = np.random.default_rng(4)
    settings = [
        drawing.Sampling(temperature=0.6, draft_temperature=0.9),
        drawing.Sampling(temperature=1.4, top_k=4),
    ]
    logits = rng.normal(size=(1, 3, 6)).astype(np.float32) * 1.5
    q_logits = logits[:, :2] + rng.normal(size=(1, 2, 6)).astype(np.float32) * 0.7
    rows = 10_000
    found = drawn_rounds(settings, logits, q_logits, rows)
    for place, sampling in enumerate(settings):
        tokens, accepted = (each[place::2] for each in found)
        expected = np.exp(
            np.array(drawing.log_probabilities(mx.array(logits[0]), sampling.temperature, sampling), np.float64)
        )
        first = np.bincount(tokens[:, 0], minlength=6)
        kept = expected[0] > 0
        assert first[~kept].sum() == 0
        assert chi_square_p(first[kept], expected[0][kept] * rows) > CHI_SQUARE_P
        assert 0 < accepted.sum() < 2 * rows


def drawn_rounds(settings, logits, q_logits, rows):
    """Rounds of two kinds of rows in turns, with two drafts each: tokens (2 rows, 3), accepted (2 rows,)."""
    from mlx_gemma4_assist.rounds.accept import accept
    from mlx_gemma4_assist.rounds.state import Drafts, RoundState

    many = settings * rows
    used = drawing.in_use(settings)
    keys = drawing.row_keys(7, 2 * rows)
    state = RoundState(
        mx.full((2 * rows,), 4, mx.int32),
        mx.zeros((2 * rows, 1), mx.int32),
        mx.zeros((2 * rows, 1, 1)),
        keys,
        drawing.settings_of(many),
    )
    spread = mx.broadcast_to(mx.array(q_logits), (2 * rows, 2, 6))
    log_q = drawing.log_probabilities(spread, state.rows.draft_temperature, used, state.rows)
    positions = mx.broadcast_to(mx.array([5, 6]), (2 * rows, 2))
    tokens = drawing.choose(log_q, keys, positions, drawing.DRAFT)
    likeliest = mx.argmax(spread, axis=-1).astype(mx.int32)
    tokens = mx.where((state.rows.draft_temperature == 0)[:, None], likeliest, tokens)
    result = accept(used, state, Drafts(tokens, log_q), mx.broadcast_to(mx.array(logits), (2 * rows, 3, 6)))
    return np.array(result.tokens), np.array(result.accepted)


def test_cancelled_requests_leave_nothing_behind(pair):
    """Requests given up at random points: slots are free, memory is back."""
    rng = random.Random(1)
    engine = Engine(Pair(*pair), prefix_cache_bytes=0)

    def give_up_some(count: int) -> None:
        for _ in range(count):
            run = engine.run(request_of(letters(rng.randint(1, 40)), max_tokens=30, num_assistant_tokens=3))
            run.begin()
            for _ in range(rng.randint(0, 4)):
                engine.scheduler.step()
            run.close()

    give_up_some(5)
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    give_up_some(CANCELLED)
    assert engine.scheduler.idle
    gc.collect()
    mx.synchronize()
    assert mx.get_active_memory() - before < 100_000


def test_many_settings_share_what_is_made(pair):
    """Traces, threads and memory are flat over many different settings."""
    target = random_pair(3)
    engine = Engine(Pair(*target))

    def generate(i: int) -> None:
        sampled = {"temperature": 0.5 + i / 500, "top_k": 1 + i % 64, "top_p": 0.5 + i / 2001, "seed": i}
        tokens_of(engine.run(request_of(letters(4), max_tokens=4, num_assistant_tokens=2, **sampled)))

    for i in range(20):
        generate(i)
    kept = len(target[0].kept)
    gc.collect()
    before, refs = mx.get_active_memory(), len(gc.get_objects())
    for i in range(20, 20 + SETTINGS):
        generate(i)
    gc.collect()
    assert len(target[0].kept) == kept
    assert mx.get_active_memory() - before < 100_000
    assert len(gc.get_objects()) - refs < 500, sys.getsizeof(engine)


def test_requests_of_several_threads(pair):
    """Begun here, carried on and closed in other threads, one at a time; what a row leaves is used in a third."""
    requests = [request_of(letters(4 + i, 5), max_tokens=12, temperature=1.0, seed=i) for i in range(3)]
    engine = Engine(Pair(*pair))
    cache = engine.new_cache()
    first, *others = [engine.run(requests[0], cache), *map(engine.run, requests[1:])]
    for run in (first, *others):
        run.begin()
    for _ in range(3):
        elsewhere(engine.scheduler.step)
    elsewhere(first.close)
    assert [elsewhere(lambda run=run: tokens_of(run)) for run in others] == [
        alone(Pair(*pair), request) for request in requests[1:]
    ]
    again = elsewhere(lambda: tokens_of(engine.run(requests[0], cache)))
    assert again == alone(Pair(*pair), requests[0])


def elsewhere(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()
