"""One thread that owns all of MLX: it loads a pair, runs its engine, and hands out plain values.

Other threads leave messages in an inbox, which is looked at between two steps of the engine: between chunks of prompts,
and between rounds. No array leaves the thread. Whoever is told of something is told in this thread.
"""

import gc
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from time import monotonic

import mlx.core as mx

from ..backend import wired_limit
from ..cache.quantization import kv_quantization
from ..cache.soft_tokens import MediaPrompt
from ..drafts.batch import SLOTS
from ..errors import InputError, first_line
from ..media.known import KnownMedia
from ..options import GenerationOptions
from .engine import Engine
from .guiding import Constraint
from .inbox import Inbox
from .run import Run
from .tasks import Closing, Coming, Figures, Following, LoadingFailed, QueueFull, State, StepFailed, Task

MAX_WAITING = 64
LAST_WRITES = 5.0  # seconds, for restore points that are not in their folder yet when the worker is closed
PATIENCE = 5.0  # seconds for the last step, when the worker is closed
LOOK_AGAIN = 1.0  # seconds after which who waits for the model sees whether anybody loads it still

_log = logging.getLogger(__name__)


def attempted(work: Callable[[], object]) -> Exception | None:
    """What a call raises; None if it raises nothing. The thread must go on, whatever one request brings about."""
    try:
        work()
    except Exception as error:
        return error
    return None


class Worker:
    """The thread. It begins at once; the model is loaded with the first task, or by :meth:`load`.

    Args:
        make_engine: loads the pair and makes its engine, in the thread.
        max_waiting: so many requests may wait, beyond those that there are rows for.
        ttl: seconds without a request after which the model is freed; None keeps it.
    """

    def __init__(self, make_engine: Callable[[], Engine], *, max_waiting: int = MAX_WAITING, ttl: float | None = None):
        self._make_engine, self._ttl = make_engine, ttl
        self._most = SLOTS[-1] + max_waiting
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._nobody = threading.Condition(self._lock)
        self._live: set[Task] = set()
        self._closing = False
        self._state = State.UNLOADED
        self._looked = monotonic()
        self._memory = 0, 0
        # What follows is the thread's own.
        self._engine: Engine | None = None
        self._wired = ExitStack()
        self._coming: list[Coming] = []
        self._runs: dict[Task, Run] = {}
        self._broken: list[tuple[Task, Exception]] = []
        self._known = KnownMedia()
        self._later: list[Callable[[], None]] = []  # what nobody waits for
        self._may_work_ahead = False
        self._used = monotonic()
        self._done = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # For any thread

    def load(self) -> None:
        """Load the model, if it is not there, and wait for it.

        Raises:
            LoadingFailed: with the reason.
            Closing: the worker is closed.
        """
        done: Future[None] = Future()

        def answer() -> None:
            try:
                self._load()
                done.set_result(None)
            except LoadingFailed as error:
                done.set_exception(error)

        with self._lock:
            self._check_open()
            self._inbox.put(answer)
        while True:
            try:
                return done.result(LOOK_AGAIN)
            except TimeoutError:
                self._check_open()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks in, all or none.

        Raises:
            InputError: they are more than can ever run and wait together.
            QueueFull: too many wait.
            Closing: the worker is closed, or its thread has ended.
        """
        with self._lock:
            self._check_open()
            if len(tasks) > self._most:
                raise InputError(f"{len(tasks)} answers are asked for at once, but only {self._most} may run or wait")
            if len(self._live) + len(tasks) > self._most:
                raise QueueFull(f"too many requests: {len(self._live)} of {self._most} places are taken")
            if not self._live:
                self._looked = monotonic()
            self._live.update(tasks)
            for task in tasks:
                self._inbox.put(partial(self._come, task))

    def cancel(self, task: Task, kept: int | None = None, following: Following | None = None) -> None:
        """No more is wanted of a task: after the chunk or round under way nothing more is done for it.

        Args:
            task: that was handed in.
            kept: how many tokens of its text belong to it; None is as many as there are.
            following: as ``Listener.ended`` returns it.
        """
        self._inbox.put(partial(self._drop, task, kept, following))

    def hold(self, task: Task, constraint: Callable[[], Constraint]) -> None:
        """Let a task's text go on as a constraint says, made in the thread in the state that the text has reached."""

        def hold() -> None:
            if task in self._runs:
                self._runs[task].hold(constraint())

        self._inbox.put(hold)

    def figures(self) -> Figures:
        """How it does."""
        with self._lock:
            running = sum(task.begun for task in self._live)
            state = self._state if self._thread.is_alive() else State.DEAD
            return Figures(state, running, len(self._live) - running, monotonic() - self._looked, *self._memory)

    def close(self, seconds: float = 0.0) -> None:
        """Take no more in; finish what there is within so many seconds, then cut it off, and end the thread."""
        with self._lock:
            self._closing = True
            self._nobody.wait_for(lambda: not self._live, seconds)
        self._inbox.put(self._finish)
        self._thread.join(PATIENCE + LAST_WRITES)

    def _check_open(self) -> None:
        if self._closing:
            raise Closing("the server is shutting down")
        if not self._thread.is_alive():
            raise Closing("the engine has ended")

    # The thread

    def _work(self) -> None:
        try:
            while not self._done:
                self._turn()
        finally:
            with self._lock:
                self._state, self._closing = State.DEAD, True
            self._fail_all(Closing("the server is shutting down"))
            self._unload()
            with suppress(RuntimeError):  # a device that has failed
                mx.synchronize()
            mx.clear_streams()

    def _turn(self) -> None:
        """Do what the messages say, and one step."""
        messages = self._inbox.take(self._patience())
        self._looked = monotonic()
        for message in messages:
            self._guarded(message)
        self._guarded(self._advance)
        if self._is_outdated():
            self._guarded(self._unload)
        self._memory = mx.get_active_memory(), mx.get_peak_memory()
        self._looked = monotonic()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something after which the thread goes on, whatever it raises."""
        error = attempted(work)
        if error is not None:
            _log.error("the engine's thread failed", exc_info=error)
            self._fail_all(StepFailed(first_line(error)))

    def _patience(self) -> float | None:
        """How long to wait for messages."""
        if self._coming or self._runs or self._may_work_ahead:
            return 0.0
        if self._engine is None or self._ttl is None:
            return None
        return max(0.0, self._used + self._ttl - monotonic())

    def _advance(self) -> None:
        if self._coming and self._engine is None:
            try:
                self._load()
            except LoadingFailed as error:
                self._fail_all(error)
        if self._engine is None:
            return
        self._begin_who_came(self._engine)
        if self._runs:
            self._step(self._engine)
        elif not self._coming:
            self._rest(self._engine)

    def _rest(self, engine: Engine) -> None:
        """Nobody waits for anything."""
        if self._may_work_ahead:
            self._may_work_ahead = False  # also if it raises
            if self._later:
                self._later.pop(0)()
            self._may_work_ahead = engine.idle() or bool(self._later)
            if not self._may_work_ahead:
                gc.collect()  # runs that have ended hold their pictures' soft tokens in circles

    def _is_outdated(self) -> bool:
        """Whether the model was not used for so long that it is freed."""
        if self._engine is None or self._ttl is None or self._coming or self._runs or self._may_work_ahead:
            return False
        return monotonic() - self._used >= self._ttl

    # Loading

    def _load(self) -> None:
        """Raises:
        LoadingFailed: with the reason.
        """
        if self._engine is not None:
            return
        self._state = State.LOADING
        error = attempted(self._make)
        if error is not None:
            self._state = State.UNLOADED
            if not isinstance(error, InputError):
                _log.error("the model could not be loaded", exc_info=error)
            raise LoadingFailed(f"the model could not be loaded: {first_line(error)}") from error
        self._wired.enter_context(wired_limit())
        self._state, self._used = State.LOADED, monotonic()

    def _make(self) -> None:
        self._engine = self._make_engine()
        self._engine.saves_when_idle = True

    def _unload(self) -> None:
        self._engine, self._known = None, KnownMedia()
        self._later, self._may_work_ahead = [], False
        self._wired.close()
        gc.collect()
        mx.clear_cache()
        if self._state is not State.DEAD:
            self._state = State.UNLOADED

    # Tasks

    def _come(self, task: Task) -> None:
        with self._lock:
            there = task in self._live
        if there:
            self._coming.append(Coming(task))

    def _begin_who_came(self, engine: Engine) -> None:
        """Hand tasks to the engine; of those with media, encode one picture or sound, and let others go on then."""
        encoded = False
        for coming in list(self._coming):
            error = None
            if not coming.ready and not encoded:
                error, encoded = attempted(partial(coming.encode_next, engine.pair, self._known)), True
            if coming.ready:
                self._coming.remove(coming)
                error = attempted(partial(self._begin, engine, coming))
            if error is not None:
                self._fail(coming.task, error)

    def _begin(self, engine: Engine, coming: Coming) -> None:
        task = coming.task
        request = replace(task.request, prompt=coming.prompt)
        self._may_work_ahead = True
        self._later.clear()
        self._runs[task] = run = engine.run(request, progress=partial(self._progress, task))
        run.begin()

    def _progress(self, task: Task, done: int, total: int) -> None:
        """What a listener raises here must not fail the step, which others have a part in."""
        task.begun = True
        self._looked = monotonic()
        error = attempted(partial(task.listener.progress, done, total))
        if error is not None:
            self._broken.append((task, error))

    def _step(self, engine: Engine) -> None:
        error = attempted(engine.scheduler.step)
        failure = None if error is None else StepFailed(first_line(error))
        if error is not None:
            _log.error("a step of the engine failed", exc_info=error)
        broken, self._broken = self._broken, []
        for task, reason in broken:
            self._fail(task, reason)
        before = len(self._runs)
        for task, run in list(self._runs.items()):
            while run.ready and task in self._runs:
                wrong = attempted(partial(self._hand_out, engine, task, run))
                if wrong is not None:
                    self._fail(task, failure if failure is not None and isinstance(wrong, RuntimeError) else wrong)
        if failure is not None and len(self._runs) == before:  # whose step it was is not known
            self._fail_all(failure)

    def _hand_out(self, engine: Engine, task: Task, run: Run) -> None:
        """The next event of a run, which is there; raises the error that is there in its place."""
        event = next(iter(run))
        kept = task.listener.take(event, run.cached_tokens)
        if kept is not None:
            run.kept = kept
        if kept is not None or event.finish_reason is not None:
            self._end(engine, task, run)

    def _end(self, engine: Engine, task: Task, run: Run) -> None:
        self._leave(task)
        following = task.listener.ended()
        if following is not None:
            self._later.append(partial(self._read_ahead, engine, run, task.request.options, following))

    def _read_ahead(self, engine: Engine, run: Run, options: GenerationOptions, following: Following) -> None:
        with suppress(InputError):  # the context is full
            tokens = list(following())
            media = [each for each in run.media if each.end < len(tokens)]
            if tokens:
                engine.read_ahead(MediaPrompt(tokens, media), kv_quantization(options, engine.pair.target.config))

    def _leave(self, task: Task) -> bool:
        """Let a task go, wherever it is; False if it has gone already."""
        run = self._runs.pop(task, None)
        self._coming = [coming for coming in self._coming if coming.task is not task]
        error = None if run is None else attempted(run.close)
        if error is not None:
            _log.error("a request could not be closed in order", exc_info=error)
        self._used = monotonic()
        with self._lock:
            there = task in self._live
            self._live.discard(task)
            if not self._live:
                self._nobody.notify_all()
        return there

    def _drop(self, task: Task, kept: int | None, following: Following | None) -> None:
        run = self._runs.get(task)
        if run is not None and kept is not None:
            run.kept = min(run.kept, kept)
        self._leave(task)
        if run is not None and following is not None and self._engine is not None:
            self._later.append(partial(self._read_ahead, self._engine, run, task.request.options, following))

    def _fail(self, task: Task, error: Exception) -> None:
        if not self._leave(task):
            return
        deaf = attempted(partial(task.listener.failed, error))
        if deaf is not None:
            _log.error("nobody could be told that a request has failed", exc_info=deaf)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            live = list(self._live)
        for task in live:
            self._fail(task, error)

    def _finish(self) -> None:
        """The last message."""
        self._fail_all(Closing("the server is shutting down"))
        until = monotonic() + LAST_WRITES
        while self._engine is not None and monotonic() < until and self._engine.prefix.save():
            pass
        self._done = True
