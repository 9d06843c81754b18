"""Ctrl-C in processes that tests start, and between any two lines of a function."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


def hear_ctrl_c() -> None:
    """For ``preexec_fn``: a child would ignore Ctrl-C where the tests do, as in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """As in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupted_at_line(code: CodeType, number: int) -> Iterator[None]:
    """KeyboardInterrupt before the n-th of all lines, from 0, that run in calls of a function."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Callable | None:
        nonlocal left
        if frame.f_code is not code:
            return None
        if event == "line":
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
