"""The server as uvicorn runs it: signals, the end of running answers, and connections that can be dropped."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import ClassVar

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import counted
from .app import app_of
from .endpoint import Backend, Endpoint, Lookup
from .log import end_log, write_log
from .page_files import page_files
from .settings import ServerSettings
from .site import Site
from .wire import ABORT

KEPT_OPEN = 75
"""Seconds that a connection may be idle: longer than clients keep theirs, so that none writes into a closed one."""
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
LAST_WORDS = 2
"""Seconds for answers that were cut to be written."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)


def run_server(
    backend: Backend,
    settings: ServerSettings,
    listening: socket.socket,
    served: tuple[Sequence[Endpoint], Sequence[Lookup]],
    started: Callable[[], object],
) -> None:
    """As ``run.serve``, on a socket that listens; ``served`` are endpoints and look-ups."""
    site = Site(backend, settings)
    config = Config(
        app_of(site, *served, page_files()),
        http=protocol_of(settings),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEPT_OPEN,
        timeout_graceful_shutdown=LAST_WORDS,
    )
    handler = write_log(settings)
    try:
        GracefulServer(config, site, started).run(sockets=[listening])
    finally:
        end_log(handler)


class GuardedProtocol(H11Protocol):
    """HTTP whose requests know how to drop their connection with all that was not read, see ``Wire.abort``, and that
    closes a connection whose next request does not have all of its headers in time.

    Between two requests uvicorn's own limit holds, for as long as nothing comes.
    """

    header_time: ClassVar[float]
    """Seconds."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something has come: the end of the headers, or less."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._wait(over=True)
        super().connection_lost(exc)

    def _wait(self, over: bool = False) -> None:
        """Wait for headers from when they begin, whatever comes of them in between, until they are there."""
        waits = self.conn.their_state is h11.IDLE and not over
        if waits and self._late is None:
            self._late = self.loop.call_later(self.header_time, self._close)
        elif not waits and self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            if self.conn.trailing_data[0]:  # who has sent nothing waits for nothing
                self.transport.write(TIMED_OUT)
            self.transport.close()


def protocol_of(settings: ServerSettings) -> type[GuardedProtocol]:
    """The protocol of a server's connections."""

    class Protocol(GuardedProtocol):
        header_time = settings.header_time

    return Protocol


class GracefulServer(Server):
    """Uvicorn, which at the end leaves time to answers before it closes connections.

    Args:
        config: of uvicorn.
        site: that is served.
        started: called once requests are answered.
    """

    def __init__(self, config: Config, site: Site, started: Callable[[], object]):
        super().__init__(config)
        self._site, self._started = site, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Admit no more, let answers end or end them, close everything."""
        running = self._site.running
        running.close()
        for server in self.servers:
            server.close()
        if len(running):
            left = counted(len(running), "answer")
            _log.info("stopping: %g seconds for %s to end", self._site.settings.grace, left)
            await self._ended(self._site.settings.grace)
        running.cut()
        await running.finished(LAST_WORDS)
        await super().shutdown(sockets)

    async def _ended(self, seconds: float) -> None:
        """Until all answers have ended, the time is over, or a second Ctrl-C has come."""
        for _ in range(max(1, round(seconds * 10))):
            if self.force_exit or await self._site.running.finished(0.1):
                return

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]  # a generator, which is an iterator
        """Within it SIGINT and SIGTERM stop the server; unlike uvicorn's, they do no more behind it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._told_to_stop) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.force_exit or (self.should_exit and number == signal.SIGINT)
        self.should_exit = True
