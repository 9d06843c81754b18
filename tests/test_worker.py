"""The engine's thread: texts are as alone, whoever leaves is gone, what fails takes nobody else along."""

import gc
import threading
import time
import weakref
from random import Random
from typing import Any

import mlx.core as mx
import pytest

from mlx_gemma4_assist import GenerationOptions, InputError, Pair
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.engine.tasks import Closing, LoadingFailed, QueueFull, State, StepFailed, Task
from mlx_gemma4_assist.engine.worker import Worker

PATIENCE = 60  # seconds, after which a test has failed


@pytest.fixture(scope="module")
def pair():
    return Pair.load("tiny")


@pytest.fixture
def workers(pair):
    """Makes workers, and closes them in the end."""
    made = []

    def make(engine=lambda: Engine(pair, prefix_cache_bytes=0), **options: Any) -> Worker:
        made.append(Worker(engine, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


class Heard:
    """A listener that remembers, and does what a test says at each event."""

    def __init__(self, at_event=lambda heard: None, at_progress=lambda done: None, following=()):
        self.tokens: list[int] = []
        self.progressed: list[tuple[int, int]] = []
        self.cached = 0
        self.error: Exception | None = None
        self._over = threading.Event()
        self._at_event, self._at_progress, self._following = at_event, at_progress, following

    def progress(self, done, total):
        self.progressed.append((done, total))
        self._at_progress(done)

    def take(self, event, cached_tokens):
        self.tokens += event.tokens
        self.cached = cached_tokens
        return self._at_event(self)

    def ended(self):
        self._over.set()
        return (lambda: self._following) if self._following else None

    def failed(self, error):
        self.error = error
        self._over.set()

    def wait(self) -> "Heard":
        assert self._over.wait(PATIENCE)
        return self

    @property
    def over(self) -> bool:
        return self._over.is_set()


def request_of(length: int, **options: Any) -> Request:
    tokens = [2] + [6 + (7 * i * i + 3 * i + length) % 900 for i in range(length - 1)]
    return Request(MediaPrompt(tokens), GenerationOptions(**{"max_tokens": 12} | options))


def asked(worker: Worker, request: Request, **listener: Any) -> tuple[Task, Heard]:
    heard = Heard(**listener)
    task = Task(request, heard)
    worker.submit([task])
    return task, heard


def alone(pair: Pair, request: Request) -> list[int]:
    return [token for event in Engine(pair, prefix_cache_bytes=0).run(request) for token in event.tokens]


def settled(condition) -> bool:
    """Whether something comes to be."""
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def is_free(worker: Worker) -> bool:
    figures = worker.figures()
    return figures.running == figures.waiting == 0


def test_texts_are_as_alone_whichever_threads_ask(pair, workers):
    requests = [request_of(5 + 9 * i, temperature=float(i % 2), seed=i, max_tokens=8 + i) for i in range(9)]
    worker, heard = workers(), {}

    def ask(some: list[Request]) -> None:
        for request in some:
            heard[request.options.seed] = asked(worker, request)[1]

    threads = [threading.Thread(target=ask, args=(requests[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request in requests:
        assert heard[request.options.seed].wait().tokens == alone(pair, request)
    assert is_free(worker)


def test_whoever_leaves_is_gone(pair, workers):
    """At random points; then rows and memory are free, and the others' texts are what they are alone."""
    worker, random, wanted = workers(), Random(5), alone(pair, request_of(33, max_tokens=40))
    asked(worker, request_of(40))[1].wait()

    def active_memory() -> int:
        gc.collect()
        return mx.get_active_memory()

    before = active_memory()

    def leaves(length: int, after: int) -> Heard:
        heard = Heard(lambda heard: worker.cancel(task) if len(heard.tokens) > after else None)
        task = Task(request_of(length, max_tokens=3000), heard)
        worker.submit([task])
        return heard

    left = [leaves(20 + 13 * i, random.randrange(30)) for i in range(10)]
    stays = asked(worker, request_of(33, max_tokens=40))[1]
    assert stays.wait().tokens == wanted
    assert settled(lambda: is_free(worker))
    assert all(1 <= len(heard.tokens) < 100 and not heard.over for heard in left)
    assert settled(lambda: active_memory() <= before + 100_000)


@pytest.mark.parametrize("others", [0, 1])
def test_a_prompt_that_is_given_up_is_read_no_further(workers, others):
    worker = workers()
    for _ in range(others):
        asked(worker, request_of(9, max_tokens=400))
    heard = Heard(at_progress=lambda done: worker.cancel(task) if done else None)
    task = Task(request_of(3000, prefill_step_size=32), heard)
    worker.submit([task])
    assert settled(lambda: worker.figures().running + worker.figures().waiting == others or heard.over)
    time.sleep(0.05)
    assert heard.tokens == []
    assert heard.progressed[-1][0] <= 1000


def test_who_waits_can_leave(pair, workers):
    worker = workers()
    started = [asked(worker, request_of(5 + i, max_tokens=60)) for i in range(16)]
    waiting, heard = asked(worker, request_of(7))
    worker.cancel(waiting)
    for _, each in started:
        each.wait()
    assert settled(lambda: is_free(worker))
    assert heard.progressed == []
    assert not heard.over


def test_a_step_that_fails_takes_along_only_who_had_a_part_in_it(pair, workers):
    worker = workers()
    calls = []

    def processor(tokens, logits):
        calls.append(len(tokens))
        if len(calls) == 3:
            raise ArithmeticError("it broke")
        return logits

    beside = asked(worker, request_of(8, max_tokens=3000))[1]
    assert settled(lambda: len(beside.tokens) > 2)
    failing = asked(worker, request_of(9, logits_processors=[processor]))[1]
    for heard in (failing, beside):
        assert isinstance(heard.wait().error, StepFailed)
        assert "it broke" in str(heard.error)
    after = asked(worker, request_of(9))[1]
    assert after.wait().tokens == alone(pair, request_of(9))
    assert is_free(worker)
    assert worker.figures().state is State.LOADED


def test_who_waits_outlives_a_step_that_fails(pair, workers, monkeypatch):
    engine = Engine(pair, prefix_cache_bytes=0)
    worker = workers(lambda: engine)
    failed = []

    def fail(heard: Heard) -> None:
        if not failed:
            failed.append(monkeypatch.setattr(engine.scheduler, "_run_round", broken))

    def broken() -> None:
        monkeypatch.undo()
        raise RuntimeError("the device is gone")

    running = [asked(worker, request_of(5, max_tokens=100), at_event=fail) for _ in range(16)]
    waiting = asked(worker, request_of(7))[1]
    assert isinstance(running[0][1].wait().error, StepFailed)
    assert waiting.wait().tokens == alone(pair, request_of(7))


def test_a_listener_that_raises_ends_its_own_text_only(pair, workers):
    worker = workers()

    def broken(_) -> None:
        raise LookupError("nobody listens")

    beside = asked(worker, request_of(5, max_tokens=30))[1]
    one = asked(worker, request_of(6), at_event=broken)[1]
    other = asked(worker, request_of(40, prefill_step_size=16), at_progress=broken)[1]
    assert isinstance(one.wait().error, LookupError)
    assert isinstance(other.wait().error, LookupError)
    assert beside.wait().tokens == alone(pair, request_of(5, max_tokens=30))
    assert is_free(worker)


def test_what_is_wrong_with_a_request_is_its_own_matter(pair, workers):
    worker = workers()
    wrong = asked(worker, Request(MediaPrompt([5000])))[1]
    right = asked(worker, request_of(5))[1]
    assert isinstance(wrong.wait().error, InputError)
    assert right.wait().tokens == alone(pair, request_of(5))


def test_the_queue_has_an_end(pair, workers):
    worker = workers(max_waiting=1)
    heard = [asked(worker, request_of(5 + i, max_tokens=30))[1] for i in range(17)]
    with pytest.raises(QueueFull):
        asked(worker, request_of(3))
    for each in heard:
        each.wait()
    assert settled(lambda: is_free(worker))
    with pytest.raises(InputError, match="18 answers are asked for at once, but only 17 may run or wait") as refused:
        worker.submit([Task(request_of(3), Heard()) for _ in range(18)])
    assert not isinstance(refused.value, QueueFull), "trying again would not help"
    assert is_free(worker), "all or none"
    assert asked(worker, request_of(3))[1].wait().tokens == alone(pair, request_of(3))


def test_a_model_that_nobody_uses_is_freed(workers):
    made = []

    def engine() -> Engine:
        found = Engine(Pair.load("tiny"))
        made.append((weakref.ref(found), weakref.ref(found.pair.target)))
        return found

    worker = workers(engine, ttl=0.1)
    before = mx.get_active_memory()
    first = asked(worker, request_of(40))[1].wait()
    assert settled(lambda: worker.figures().state is State.UNLOADED)
    assert settled(lambda: all(each() is None for each in made[0]))
    assert mx.get_active_memory() <= before + 100_000
    again = asked(worker, request_of(40))[1].wait()
    assert again.tokens == first.tokens
    assert len(made) == 2


def test_a_model_that_cannot_be_loaded(pair, workers):
    reasons = [InputError("there is no folder"), OSError("the disk is gone")]

    def engine() -> Engine:
        if reasons:
            raise reasons.pop(0)
        return Engine(pair, prefix_cache_bytes=0)

    worker = workers(engine)
    heard = asked(worker, request_of(5))[1].wait()
    assert isinstance(heard.error, LoadingFailed)
    assert "there is no folder" in str(heard.error)
    assert worker.figures().state is State.UNLOADED
    with pytest.raises(LoadingFailed, match="the disk is gone"):
        worker.load()
    worker.load()
    assert worker.figures().state is State.LOADED
    assert asked(worker, request_of(5))[1].wait().tokens == alone(pair, request_of(5))


def test_closing(pair, workers):
    worker = workers()
    heard = asked(worker, request_of(5))[1]
    worker.close(PATIENCE)
    assert heard.over
    assert heard.tokens == alone(pair, request_of(5))
    assert worker.figures().state is State.DEAD
    for call in (lambda: asked(worker, request_of(5)), worker.load):
        with pytest.raises(Closing):
            call()


def test_closing_at_once(workers):
    worker = workers()
    heard = [asked(worker, request_of(5, max_tokens=3000))[1] for _ in range(3)]
    assert settled(lambda: len(heard[0].tokens) > 0)
    worker.close()
    assert all(isinstance(each.wait().error, Closing) for each in heard)


def test_a_thread_without_work_waits(workers):
    worker = workers()
    asked(worker, request_of(5))[1].wait()
    assert settled(lambda: worker.figures().idle > 0.1)


def test_work_in_hand_is_seen_to_stand_still(workers):
    worker = workers()
    stays, goes = threading.Event(), threading.Event()

    def hangs(_) -> None:
        stays.set()
        goes.wait(PATIENCE)

    heard = asked(worker, request_of(5), at_event=hangs)[1]
    assert stays.wait(PATIENCE)
    assert settled(lambda: worker.figures().idle > 0.1)
    assert worker.figures().running == 1
    goes.set()
    heard.wait()
    assert settled(lambda: is_free(worker))


def test_what_the_next_prompt_begins_with_is_read_ahead(pair, workers):
    worker = workers(lambda: Engine(pair))
    following = request_of(200).prompt.tokens
    asked(worker, request_of(40), following=following)[1].wait()
    assert settled(lambda: worker.figures().idle > 0.1)
    heard = asked(worker, Request(MediaPrompt([*following, 9]), GenerationOptions(max_tokens=3)))[1].wait()
    assert heard.cached >= 199


def test_a_text_may_be_cut(pair, workers):
    """Where its listener says so: what was kept can be gone on with."""
    worker = workers(lambda: Engine(pair))
    request = request_of(60, max_tokens=50)
    heard = asked(worker, request, at_event=lambda heard: 40 if len(heard.tokens) >= 40 else None)[1].wait()
    tokens = alone(pair, request)
    assert heard.tokens[:40] == tokens[:40]
    assert len(heard.tokens) < 50
    onward = Request(MediaPrompt([*request.prompt.tokens, *tokens[:40], 8]), GenerationOptions(max_tokens=2))
    assert asked(worker, onward)[1].wait().cached == 99


def test_a_cancelled_text_is_kept_as_far_as_it_was_told(pair, workers):
    """Who has not heard the last rounds goes on where the own text ends; what follows otherwise is read ahead."""
    worker = workers(lambda: Engine(pair))
    first = request_of(60, max_tokens=3000, temperature=0, num_assistant_tokens=2)

    def cancel(heard):
        if len(heard.tokens) >= 42 and not made:
            made.append(len(heard.tokens))
            worker.cancel(task, made[0] - 2)

    made: list[int] = []
    task, heard = asked(worker, first, at_event=cancel)
    assert settled(lambda: is_free(worker))
    known = [*first.prompt.tokens, *heard.tokens[: made[0] - 2]]
    again = asked(worker, Request(MediaPrompt([*known, 7, 8]), GenerationOptions(max_tokens=1)))[1].wait()
    assert again.cached == len(known) - 1


def test_what_follows_a_cancelled_text_is_read_ahead(pair, workers):
    rested = threading.Event()

    class Watched(Engine):
        def idle(self):
            done = super().idle()
            if not done:
                rested.set()
            return done

    worker = workers(lambda: Watched(pair))
    first, other = request_of(60, max_tokens=3000), [*request_of(60).prompt.tokens[:40], *range(100, 190)]

    def cancel(heard):
        if len(heard.tokens) > 40:
            worker.cancel(task, None, lambda: other)

    task, _ = asked(worker, first, at_event=cancel)
    assert rested.wait(PATIENCE)
    again = asked(worker, Request(MediaPrompt([*other, 7, 8]), GenerationOptions(max_tokens=1)))[1].wait()
    assert again.cached == len(other) - 1
