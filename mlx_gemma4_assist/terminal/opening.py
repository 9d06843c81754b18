"""Who answers, made ready in a thread of its own: the prompt is there before the model is."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ..server.endpoint import Backend

T = TypeVar("T")
PATIENCE = 1.0  # seconds before a person is told that it takes a while
LOOK_AGAIN = 0.1  # seconds after which who waits hears Ctrl-C


class Opened(NamedTuple):
    """A backend, and what it takes to use and to leave it.

    Attributes:
        backend: takes requests already; its model may still be being read.
        load: waits for that.
        close: ends it.
        options: keywords of ``GenerationOptions`` that its conversations begin with.
    """

    backend: Backend
    load: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    options: Mapping[str, Any] = MappingProxyType({})


class Opening:
    """A backend that is opened once :meth:`begin` is called, or somebody waits for it.

    Args:
        open_backend: does it; it is called in the thread, and may take long.
        failed: called in the thread when there will be none, or its model cannot be read.
    """

    def __init__(self, open_backend: Callable[[], Opened], failed: Callable[[], None] = lambda: None):
        self._open, self._failed = open_backend, failed
        self._opened: Future[Opened] = Future()
        self._loaded: Future[None] = Future()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Open it, if that has not begun: libraries that it takes slow down whatever else is imported meanwhile."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="opening", daemon=True)
            self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._opened.done() and self._opened.exception() is None

    @property
    def failed(self) -> bool:
        """Whether there is nobody who answers."""
        return any(each.done() and each.exception() is not None for each in (self._opened, self._loaded))

    @property
    def loading(self) -> bool:
        """Whether the model is not there yet."""
        return self._thread is None or self._thread.is_alive()

    def check(self, seconds: float = 0.0) -> None:
        """Raise what opening or loading has failed with, if it has within so many seconds.

        Raises:
            InputError: with the reason.
        """
        if self._thread is not None:
            self._thread.join(seconds)
        for future in (self._opened, self._loaded):
            if future.done():
                future.result()

    def wait(self, slow: Callable[[], None] = lambda: None) -> Opened:
        """What was opened, as soon as it is there. Ctrl-C is heard meanwhile.

        Args:
            slow: called once if that takes a while.

        Raises:
            InputError: there is none.
        """
        self.begin()
        if wait([self._opened], PATIENCE).not_done:
            slow()
        while not self._opened.done():
            wait([self._opened], LOOK_AGAIN)
        return self._opened.result()

    def close(self, seconds: float | None = None) -> bool:
        """End what was opened; False where it is still being opened or loaded after so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
        if self.ready:
            self._opened.result().close()
        return True

    def _run(self) -> None:
        opened = self._handed_on(self._opened, self._open)
        if opened is not None:
            self._handed_on(self._loaded, opened.load)

    def _handed_on(self, future: Future[T], work: Callable[[], T]) -> T | None:
        """What the work comes to, for the future too; None if it raises something, which the future then has."""
        try:
            found = work()
        except Exception as error:
            future.set_exception(error)
            self._failed()
            return None
        future.set_result(found)
        return found
