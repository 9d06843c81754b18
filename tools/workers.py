"""Processes that answer requests through pipes, a line of JSON each: both ends.

A worker may run in another Python environment, so this file needs the standard library only.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Reply = dict[str, Any]
Answer = Callable[[Reply], Reply]


class Failed(Exception):
    """A worker's error, in one line."""


class Worker:
    """A process that calls :func:`serve`, and answers one request at a time.

    Args:
        command: what to run.
        environment: its environment variables; None for those of this process.
        verbose: whether to show what it writes to standard error.
        seconds: how long it may take to start; None to wait for ever.

    Attributes:
        started: its reply to being started.

    Raises:
        Failed: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        verbose: bool = False,
        seconds: float | None = None,
    ):
        errors = None if verbose else subprocess.DEVNULL
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        try:
            self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        except OSError as error:
            raise Failed(f"cannot start {command[0]}: {error.strerror}") from None
        try:
            self.started = self._receive(seconds)
        except Failed:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> Reply:
        """The answer to a request; the process is ended if it takes longer than ``seconds``.

        Raises:
            Failed: the worker reports an error, has ended, or took too long.
        """
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed("the process has ended") from None
        return self._receive(seconds)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The negative number of the signal that it died of, if it did; None while it is alive."""
        return self._process.poll()

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, with a request unread
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _receive(self, seconds: float | None) -> Reply:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = None if seconds is None else threading.Timer(seconds, end)
        if timer is not None:
            timer.daemon = True
            timer.start()
        line = self._process.stdout.readline()
        if timer is not None:
            timer.cancel()
        if not line:
            took_too_long = f"no answer within {seconds:.0f} s" if late.is_set() else ""
            raise Failed(took_too_long or "the process has ended; --verbose shows what it said")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply


def serve(start: Callable[[], tuple[Reply, Answer]]) -> None:
    """A worker's whole life: start, then answer what standard input asks until it ends.

    Args:
        start: gives the reply to being started, and the function that answers a request.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def attempt(make: Callable[[], tuple[Reply, Any]]) -> Any:
        try:
            reply, result = make()
        except Exception as error:  # whatever it fails with is reported, and the others go on
            traceback.print_exc()
            reply, result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}, None
        print(json.dumps(reply), file=out, flush=True)
        return result

    answer = attempt(start)
    if answer is None:
        return
    for line in sys.stdin:
        attempt(lambda line=line: (answer(json.loads(line)), None))
