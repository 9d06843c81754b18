"""Ctrl-C while libraries are being loaded. This comes before anything else, and imports next to nothing for that."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_at_once() -> Iterator[None]:
    """While it is entered, Ctrl-C ends the process without a word: there is nothing to finish.

    Libraries that are just being loaded would turn an exception into others. Where the parent process had Ctrl-C
    ignored, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
