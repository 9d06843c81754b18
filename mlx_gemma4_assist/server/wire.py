"""One request and its answer on ASGI: headers, bodies, streams, and a client that goes away or does not read."""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ABORT = "abort"
"""The key of a scope's state under which the server leaves a function that drops the connection."""
JSON = "application/json"
LOOKS = 4
"""How often within the time that a client may stall it is looked after."""


class Wire:
    """A request, and the way back.

    Args:
        scope, receive, send: of ASGI.
        stall: seconds that the client may take nothing.

    Attributes:
        id: 24 hexadecimal digits.
        method, path, client: of the request; the client's address, empty if not known.
        headers: of the request, by names in lower case.
        parameters: of the path.
        common: headers that the answer has, whatever it is.
        status: of the answer, 0 before it has begun.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, stall: float):
        self.id = secrets.token_hex(12)
        self.method, self.path = str(scope["method"]), str(scope["path"])
        self.client = str(scope["client"][0]) if scope.get("client") else ""
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.parameters: Mapping[str, str] = scope.get("path_params", {})
        self.common = {"x-request-id": self.id, "request-id": self.id, "x-content-type-options": "nosniff"}
        self.status = 0
        self.receive = receive
        self._since = math.inf  # when what is being sent was begun
        self._send, self._stall = send, stall
        self._abort: Callable[[], None] | None = scope.get("state", {}).get(ABORT)

    async def respond(
        self, status: int, content: bytes = b"", kind: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        if status != 304 and (content or status != 204):
            headers = {"content-type": kind, "content-length": str(len(content)), **(headers or {})}
        await self._begin(status, headers or {})
        await self._put({"type": "http.response.body", "body": b"" if self.method == "HEAD" else content})

    async def stream(self, kind: str) -> None:
        """Begin an answer in pieces, if it has not begun yet."""
        if not self.status:
            headers = {"content-type": f"{kind}; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
            await self._begin(200, headers)

    async def write(self, content: bytes) -> None:
        """The next piece."""
        if content:
            await self._put({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self) -> None:
        """The last piece was the last."""
        await self._put({"type": "http.response.body", "body": b""})

    async def gone(self) -> None:
        """Waits until the client has closed the connection; to be called when the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def stalled(self) -> None:
        """Waits until the client has taken nothing of what it was sent for too long."""
        while time.monotonic() - self._since < self._stall:
            await asyncio.sleep(self._stall / LOOKS)

    async def abort(self) -> None:
        """Drop the connection, with whatever the client has not read: it must not take a part for the whole."""
        if self._abort is not None:
            self._abort()
            await asyncio.sleep(0)  # the server learns of it
            await asyncio.sleep(0)

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        lines = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in {**self.common, **headers}.items()
        ]
        await self._put({"type": "http.response.start", "status": status, "headers": lines})

    async def _put(self, message: Message) -> None:
        self._since = time.monotonic()
        await self._send(message)
        self._since = math.inf
