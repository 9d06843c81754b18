"""A process that keeps another one up: begun anew when it dies, or when its own word is that it is stuck."""

import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

from ..errors import InputError
from ..files import parse_json
from .streams import note

LOOK_EVERY = 5.0  # seconds between two looks at /health
PATIENCE = 4  # looks in a row that found it ill, or found no answer once there had been one
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before it is begun anew, doubled each time
WELL = 600.0  # seconds after which what went before is forgotten
ENDING = 15.0  # seconds that it has to end when it is told to
BAD_START = 2
ILL = ("stuck", "dead")
KEPT_UP = "MLX_GEMMA4_ASSIST_KEPT_UP"
"""The environment variable that tells a process that a supervisor has begun it."""


class Child(Protocol):
    """A process, as ``subprocess.Popen`` has it."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def start(command: Sequence[str]) -> Child:
    """Begin a process with this one's output, which Ctrl-C does not reach; its input ends when this one is gone."""
    environment = os.environ | {KEPT_UP: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def end_with_parent() -> None:
    """If a supervisor has begun this process: have it told to end when that is gone, so that the port is free again."""
    if os.environ.pop(KEPT_UP, None) is not None:
        tell = partial(os.kill, os.getpid(), signal.SIGTERM)
        threading.Thread(target=at_the_end, args=(0, tell), daemon=True, name="parent").start()


def at_the_end(number: int, tell: Callable[[], None]) -> None:
    """Read a file descriptor, without the locks of streams, until nothing more can come; then tell."""
    with suppress(OSError):
        while os.read(number, 4096):
            pass
    tell()


def health(url: str) -> str | None:
    """What a server's ``/health`` says of it; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=LOOK_EVERY) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:  # 503 of one that is not well
        text = error.read()
    except OSError:
        return None
    try:
        content = parse_json(text.decode("utf-8", "replace"), "/health")
    except InputError:
        return None
    status = content.get("status") if isinstance(content, dict) else None
    return status if isinstance(status, str) else None


class Supervisor:
    """Keeps a command up.

    Args:
        command: words of its command line.
        look: says how it does; None where it does not answer.
        begin, sleep, clock: how it is begun, and how time goes by; others for tests.
    """

    def __init__(
        self,
        command: Sequence[str],
        look: Callable[[], str | None],
        *,
        begin: Callable[[Sequence[str]], Child] = start,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._command, self._look = command, look
        self._begin, self._sleep, self._clock = begin, sleep, clock
        self._told_to_end = False

    def run(self) -> int:
        """Keep it up until it ends by itself in good order, refuses to begin, or this process is told to end.

        Returns:
            Its exit status.
        """
        pause = FIRST_PAUSE
        with self._hearing():
            while True:
                begun = self._clock()
                status = self._keep(self._begin(self._command))
                if self._told_to_end or status in (0, BAD_START):
                    return max(status, 0)
                if self._clock() - begun > WELL:
                    pause = FIRST_PAUSE
                note(f"The server has ended with status {status}: it is begun anew in {pause:.0f} s.")
                self._wait(pause)
                if self._told_to_end:
                    return 0
                pause = min(2 * pause, LONGEST_PAUSE)

    def _keep(self, child: Child) -> int:
        """Look after a process until it has ended."""
        answered, bad = False, 0
        while not self._told_to_end:
            self._wait(LOOK_EVERY, child)
            if (status := child.poll()) is not None:
                return status
            found = self._look()
            answered = answered or found is not None
            bad = bad + 1 if found in ILL or (found is None and answered) else 0
            if bad >= PATIENCE:
                note(f"The server {'does not answer' if found is None else f'is {found}'}: it is ended.")
                break
        return self._end(child)

    def _wait(self, seconds: float, child: Child | None = None) -> None:
        """So long, or until there is nothing left to wait for."""
        end = self._clock() + seconds
        while not self._told_to_end and self._clock() < end and (child is None or child.poll() is None):
            self._sleep(min(0.1, seconds))

    def _end(self, child: Child) -> int:
        child.terminate()
        try:
            return child.wait(ENDING)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """While it is entered, SIGTERM and Ctrl-C end the other process, and then this one."""

        def heard(*_: object) -> None:
            self._told_to_end = True

        before = {each: signal.signal(each, heard) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
