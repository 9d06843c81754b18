"""Answering a request for text: handed to the backend, told whole or in pieces, dropped when nobody waits for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

from .body import parse_body, read_body
from .endpoint import Endpoint, Exchange, Request, Writer
from .exchange import Answer, Event, Failed, Finished, Progress, RequestError, Started, TextRequest
from .faults import ClientGone, TooSlow, told_as_errors
from .framing import encoded, json_bytes
from .log import Record
from .mailbox import Mailbox
from .names import check_name
from .site import Site
from .wire import Wire


async def answer(site: Site, endpoint: Endpoint, wire: Wire, record: Record) -> None:
    """Read a request, and answer it.

    Raises:
        RequestError: it is not answered; where an answer has begun, it ends with the error instead.
        Unwanted: nobody waits for the answer, or reads it.
    """
    site.running.check_open()
    settings = site.settings
    content = await read_body(wire.receive, wire.headers, settings.max_body, settings.body_time)
    mailbox = Mailbox(asyncio.get_running_loop(), settings.max_pending)
    with site.running.admitted(wire.id, mailbox):
        try:
            await _attended(_Answering(site, endpoint, wire, record, mailbox).run(content), wire, mailbox)
        finally:
            mailbox.close()


async def _attended(work: Coroutine[Any, Any, None], wire: Wire, mailbox: Mailbox) -> None:
    """Do the work as long as the client is there and reads."""
    working = asyncio.create_task(work)
    gone, flooded = asyncio.create_task(wire.gone()), asyncio.create_task(mailbox.flooded())
    tasks = (working, gone, flooded, asyncio.create_task(wire.stalled()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        else:
            raise ClientGone if gone.done() else TooSlow
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


class _Answering:
    """One request on its way through."""

    def __init__(self, site: Site, endpoint: Endpoint, wire: Wire, record: Record, mailbox: Mailbox):
        self._site, self._endpoint = site, endpoint
        self._wire, self._record, self._mailbox = wire, record, mailbox
        self._sign = Progress(0, 0)
        self._started = False

    async def run(self, content: bytes) -> None:
        with told_as_errors(self._endpoint.name):
            exchange = await asyncio.to_thread(self._submit, content)
            self._record.streamed = exchange.request.stream
            if not exchange.request.stream:
                await self._whole(exchange)
                return
        await self._stream(exchange)

    def _submit(self, content: bytes) -> Exchange:
        """Read a request and hand it over: in a thread, for long texts take their time."""
        site, endpoint = self._site, self._endpoint
        body, model = parse_body(content), site.backend.model
        request = endpoint.read(body, model)
        check_name(request.model, model, site.settings.aliases)
        site.unknown.note(endpoint.name, body, endpoint.body_schema)
        self._mailbox.bring(site.backend.submit(request, self._mailbox.put))
        return Exchange(request, body, model, self._wire.id, int(time.time()))

    async def _whole(self, exchange: Exchange) -> None:
        whole = Answer()
        async for events in self._events(exchange.request):
            for event in events:
                whole.take(event)
        body = await asyncio.to_thread(lambda: json_bytes(self._endpoint.whole(exchange, whole)))
        await self._wire.respond(200, body)

    async def _stream(self, exchange: Exchange) -> None:
        with told_as_errors(self._endpoint.name):
            writer = self._endpoint.writer(exchange)
        try:
            with told_as_errors(self._endpoint.name):
                async for events in self._events(exchange.request):
                    await self._write(writer, events)
        except RequestError as error:
            if not self._wire.status:
                raise
            self._failed(error)
            with told_as_errors(self._endpoint.name):
                await self._write(writer, [Failed(error)])
        await self._wire.end()

    async def _write(self, writer: Writer, events: list[Event]) -> None:
        """Put events on the wire. An error before anything else is raised, and becomes the answer's status."""
        for event in events:
            if isinstance(event, Failed):
                if not self._wire.status:
                    raise event.error
                self._failed(event.error)
        framing = self._endpoint.framing
        content = b"".join(encoded(frame, framing) for event in events for frame in writer.take(event))
        await self._wire.stream(framing.value)
        await self._wire.write(content)

    def _failed(self, error: RequestError) -> None:
        self._record.status, self._record.error = error.status, error.message

    async def _events(self, request: Request) -> AsyncIterator[list[Event]]:
        """What the backend says, up to the last that it has to say, and signs of life."""
        left = request.answers * (len(request.prompts) if isinstance(request, TextRequest) else 1)
        while left > 0:
            events = _up_to_end(await self._mailbox.take(self._site.settings.life), left)
            for event in events:
                self._see(event)
            left -= sum(isinstance(event, Finished) for event in events)
            if events or (events := self._life()):
                yield events
            if events and isinstance(events[-1], Failed):
                return

    def _see(self, event: Event) -> None:
        self._record.see(event)
        if isinstance(event, Progress):
            self._sign = event
        elif isinstance(event, Started):
            self._started = True

    def _life(self) -> list[Event]:
        """The last sign of life once more, if the engine is alive; none behind the first token, and no false ones."""
        status = self._site.backend.health().status
        if status == "dead":
            return [Failed(RequestError(503, "The engine has died.", "server_error"))]
        return [] if self._started or status == "stuck" else [self._sign]


def _up_to_end(events: list[Event], left: int) -> list[Event]:
    """Events up to the one behind which nothing comes: a failure, or the end of the last of the answers left."""
    for number, event in enumerate(events, start=1):
        left -= isinstance(event, Finished)
        if isinstance(event, Failed) or not left:
            return events[:number]
    return events
