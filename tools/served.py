"""A server in a process of its own, and a plain client for it, which may read slowly or leave."""

import asyncio
import http.client
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mlx_gemma4_assist import InputError

HOST = "127.0.0.1"
RECEIVED = 1 << 16  # bytes read at once
SMALL = 256  # by who reads slowly, who has a small window too
WINDOW = 4096
Body = Mapping[str, Any]


class Figures(NamedTuple):
    """How a server does.

    Attributes:
        running, waiting: requests.
        active: bytes of MLX's arrays.
        resident: bytes of the process.
        files, threads: that are open, or run; 0 where the system has no /proc.
    """

    running: int
    waiting: int
    active: int
    resident: int
    files: int
    threads: int

    @property
    def idle(self) -> bool:
        return not (self.running or self.waiting)


class Server:
    """A server with any options on a port of its own, as long as it is entered.

    Args:
        options: of ``serve``.

    Raises:
        InputError: it does not begin.
    """

    def __init__(self, *options: str):
        self._command = [sys.executable, "-m", "mlx_gemma4_assist", "serve", "--port", "0", "--log-level", "error"]
        self._command += options

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        told = re.search(r"Address:\s+http://[^:]+:(\d+)", "".join(iter(self._line, "")))
        if told is None:
            raise InputError(f"the server has ended with status {self._process.wait()}")
        self.port, self.pid = int(told[1]), self._process.pid
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def get(self, path: str) -> bytes:
        """What it says at a path, once it has closed the connection: its socket counts no more."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        connection.request("GET", path, headers={"Connection": "close"})
        ended = connection.sock.dup()
        try:
            told = connection.getresponse().read()
            ended.settimeout(60)
            ended.recv(1)
            return told
        finally:
            connection.close()
            ended.close()

    def figures(self) -> Figures:
        told = json.loads(self.get("/health"))
        proc = Path("/proc") / str(self.pid)
        counts = [len(os.listdir(proc / name)) if proc.exists() else 0 for name in ("fd", "task")]
        return Figures(told["running"], told["waiting"], told["active_memory"], self._resident(), *counts)

    def at_rest(self, seconds: float, files: float = math.inf) -> Figures:
        """Its figures as soon as it does nothing any more and has at most so many files open, or after so many seconds.

        A request is over before its connection is closed: who looks in between counts the connection.
        """
        until = time.monotonic() + seconds
        found = self.figures()
        while not (found.idle and found.files <= files) and time.monotonic() < until:
            time.sleep(0.05)
            found = self.figures()
        return found

    def statuses(self) -> dict[tuple[str, str], int]:
        """How many requests it has answered, by endpoint and status, as its metrics have it."""
        pattern = r'gemma4_requests_total\{endpoint="([^"]*)",status="(\d+)"\} ([\d.e+]+)'
        found = re.findall(pattern, self.get("/metrics").decode())
        return {(endpoint, status): int(float(count)) for endpoint, status, count in found}

    def _line(self) -> str:
        """The next line that it shows; none behind the last of its card."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return "" if line.startswith("Apps:") else line

    def _resident(self) -> int:
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True)
        return int(shown.stdout) * 1024


class Manner(NamedTuple):
    """How a client reads: seconds between two looks, and after how many of them it leaves; None stays."""

    pause: float = 0.0
    looks: int | None = None


AT_ONCE = Manner()


@dataclass
class Reply:
    """What came back.

    Attributes:
        status: 0 if nothing came.
        headers: by names in lower case.
        content: of the body, so far as it was read.
        whole: whether all of it was.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    whole: bool = False

    def frames(self) -> list[dict[str, Any]]:
        """The objects of a stream, of either framing."""
        return list(frames(self.content))


def frames(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a stream: behind ``data:``, or a line each."""
    for line in content.decode().splitlines():
        text = line.removeprefix("data:").strip()
        if text.startswith("{"):
            yield json.loads(text)


async def ask(port: int, path: str, body: Body | bytes, manner: Manner = AT_ONCE) -> Reply:
    """Post a body, and read what comes back in a manner.

    Raises:
        OSError: nobody listens, or the connection was dropped.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reading, writing = await _connected(port, manner)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
        writing.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        await writing.drain()
        return await _read(reading, manner)
    finally:
        writing.close()


async def _connected(port: int, manner: Manner) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    if manner.pause:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (HOST, port))
    return await asyncio.open_connection(sock=connection, limit=SMALL if manner.pause else RECEIVED)


async def _read(reading: asyncio.StreamReader, manner: Manner) -> Reply:
    reply, received, looks = Reply(), b"", 0
    while manner.looks is None or looks < manner.looks:
        looks += 1
        await asyncio.sleep(manner.pause)
        part = await reading.read(SMALL if manner.pause else RECEIVED)
        received += part
        if not part:
            break
    head, _, content = received.partition(b"\r\n\r\n")
    if head:
        first, *lines = head.decode("latin-1").split("\r\n")
        reply.status = int(first.split()[1])
        reply.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        reply.content, reply.whole = _body(content, reply.headers)
    return reply


def _body(content: bytes, headers: Mapping[str, str]) -> tuple[bytes, bool]:
    """The bytes of a body, and whether these are all."""
    if headers.get("transfer-encoding") != "chunked":
        return content, len(content) == int(headers.get("content-length", -1))
    found = b""
    while content:
        size, _, rest = content.partition(b"\r\n")
        length = int(size, 16)
        if not length or len(rest) < length + 2:
            return found, not length
        found, content = found + rest[:length], rest[length + 2 :]
    return found, False
