"""Events on their way from the backend's thread to the event loop that answers the client."""

import asyncio
import threading
from collections import deque
from contextlib import suppress

from .endpoint import Ticket
from .exchange import Event, Failed, Progress, RequestError


class Mailbox:
    """A bounded queue from one thread to one task.

    A sign of life replaces the one before it. What comes behind ``close`` is dropped, and a ticket that comes later is
    cancelled.

    Args:
        loop: that the task runs in.
        limit: events that may wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int):
        self._loop, self._limit = loop, limit
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._news, self._flood = asyncio.Event(), asyncio.Event()
        self._told = self._shut = self._thought_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._since, self._rung = 0.0, False
        self._ticket: Ticket | None = None

    def put(self, event: Event) -> None:
        """An event more, from any thread. It does not wait."""
        with self._lock:
            if self._shut:
                return
            if flooded := len(self._events) >= self._limit:
                self._shut = True
                self._events.clear()
            elif self._events and isinstance(event, Progress) and isinstance(self._events[-1], Progress):
                self._events[-1] = event
            else:
                self._events.append(event)
            told, self._told = self._told, True
        if flooded:
            self._wake(self._flood)
        elif not told:
            self._wake(self._news)

    def fail(self, error: RequestError) -> None:
        """End the answer with an error, ahead of whatever waits."""
        with self._lock:
            self._events.clear()
        self.put(Failed(error))

    async def take(self, seconds: float) -> list[Event]:
        """All events that wait, at least one unless none comes within the time, which is the same at every call."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._ring, seconds)
        while True:
            await self._news.wait()
            self._news.clear()
            events = self._emptied()
            if events or self._rung:
                self._rung = False
                return events

    async def flooded(self) -> None:
        """Waits until more events were put than may wait; they are gone then."""
        await self._flood.wait()

    def bring(self, ticket: Ticket) -> None:
        """What the request is cancelled by, as soon as it has been handed over."""
        with self._lock:
            self._ticket = ticket
            late, thought_ended = self._shut, self._thought_ended
        if late:
            ticket.cancel()
        elif thought_ended:
            ticket.end_thought()

    def end_thought(self) -> None:
        """As of the ticket, also of one that is yet to come."""
        with self._lock:
            self._thought_ended = True
            ticket = self._ticket
        if ticket is not None:
            ticket.end_thought()

    def close(self) -> None:
        """Nothing is wanted any more: cancels what has not ended. Called in the loop."""
        with self._lock:
            self._shut = True
            self._events.clear()
            ticket = self._ticket
        if self._timer is not None:
            self._timer.cancel()
        if ticket is not None:
            ticket.cancel()

    def _ring(self, seconds: float) -> None:
        """Wake who waits if that was long enough. One timer for all events costs less than one for each."""
        idle = self._loop.time() - self._since
        if idle < seconds:
            self._timer = self._loop.call_later(max(seconds - idle, 0.01), self._ring, seconds)
        else:
            self._timer = None
            self._rung = True
            self._news.set()

    def _emptied(self) -> list[Event]:
        with self._lock:
            events = list(self._events)
            self._events.clear()
            self._told = False
        return events

    def _wake(self, event: asyncio.Event) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the answer with it
            self._loop.call_soon_threadsafe(event.set)
