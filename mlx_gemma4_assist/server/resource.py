"""A path of the server, and every request's way to it: host, page, method, key; then the answer, or an error."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from .endpoint import Body
from .exchange import RequestError
from .faults import ClientGone, TooSlow, openai_error, told_as_errors
from .framing import json_bytes
from .log import GONE, Record
from .security import Guard
from .site import Site
from .wire import Receive, Scope, Send, Wire

Run = Callable[[Site, Wire, Record], Awaitable[None]]
ErrorBody = Callable[[RequestError], Body]


@dataclass(frozen=True)
class Operation:
    """What answers a method of a path.

    Attributes:
        name: for metrics and logs.
        run: answers, or raises ``RequestError``.
        error: the body that tells of one.
        open: whether it needs no key.
    """

    name: str
    run: Run
    error: ErrorBody = openai_error
    open: bool = False


class Resource:
    """A path, as ASGI.

    Args:
        site: that it belongs to.
        operations: by their methods; none where there is nothing.
        error: the body that tells of an error at a path, where no operation does.
    """

    def __init__(
        self, site: Site, operations: Mapping[str, Operation], error: Callable[[str], ErrorBody] | None = None
    ):
        self._site, self._operations = site, operations
        first = next((each.error for each in operations.values()), openai_error)
        self._error = error or (lambda path: first)
        self._methods = sorted({*operations, "OPTIONS", *(["HEAD"] if "GET" in operations else [])})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        wire = Wire(scope, receive, send, self._site.settings.stall)
        record = Record(wire.id, wire.client, wire.method, wire.path)
        try:
            await self._answer(wire, record)
        finally:
            record.status = record.status or wire.status or GONE
            record.end()
            self._site.metrics.count(record)

    async def _answer(self, wire: Wire, record: Record) -> None:
        try:
            with told_as_errors("a request"):
                await self._pass(wire, record)
        except ClientGone:
            record.status, record.error = GONE, "the client has gone"
        except TooSlow:
            record.status, record.error = GONE, "the client reads too slowly"
            await wire.abort()
        except RequestError as error:
            record.status, record.error = error.status, error.message
            await self._tell(wire, error)

    async def _pass(self, wire: Wire, record: Record) -> None:
        guard = self._site.guard
        wire.common.update(guard.shared_with(wire.headers))
        guard.check_source(wire.headers)
        operation = self._operations.get("GET" if wire.method == "HEAD" else wire.method)
        if operation is not None:
            record.name = operation.name
            if not operation.open:
                guard.check_key(wire.headers)
            with told_as_errors(operation.name):
                await operation.run(self._site, wire, record)
        elif not self._operations:
            raise RequestError(404, f"There is nothing at {wire.path[:200]!r}.", "not_found_error", code="not_found")
        elif wire.method == "OPTIONS":
            await self._tell_methods(wire, guard)
        else:
            wire.common["allow"] = ", ".join(self._methods)
            raise RequestError(405, f"{wire.path[:200]!r} takes {wire.common['allow']}.", code="method_not_allowed")

    async def _tell_methods(self, wire: Wire, guard: Guard) -> None:
        allowed = ", ".join(self._methods)
        await wire.respond(204, headers={"allow": allowed, **guard.preflight(wire.headers, allowed)})

    async def _tell(self, wire: Wire, error: RequestError) -> None:
        """An error as the answer; where one has begun already, the connection is dropped instead."""
        if wire.status:
            await wire.abort()
            return
        headers = {}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        if error.status in (408, 413):
            headers["connection"] = "close"  # the rest of the body is not waited for
        known = wire.method in self._operations
        body = self._operations[wire.method].error if known else self._error(wire.path)
        await wire.respond(error.status, json_bytes(body(error)), headers=headers)
