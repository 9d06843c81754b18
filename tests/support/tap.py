"""A pipe between clients and a server that keeps what the server says, as it was said."""

import http.client
import io
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PIECE = 1 << 16


@dataclass(frozen=True)
class Said:
    """An answer: its status, the type of its content, and its content, as far as a client read it."""

    status: int
    kind: str
    content: bytes

    @property
    def data(self) -> list[Any]:
        """What it consists of: of a stream its frames, as JSON where they are that."""
        if self.kind.startswith("application/json"):
            return [json.loads(self.content)]
        lines = self.content.decode().splitlines()
        if self.kind.startswith("text/event-stream"):
            lines = [line[6:] for line in lines if line.startswith("data: ")]
        return [json.loads(line) if line.startswith("{") else line for line in lines if line]


class Tap:
    """Listens on a port of this machine for a server on another one.

    Args:
        server: its port.
    """

    def __init__(self, server: int):
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lines: list[_Line] = []
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def said(self) -> list[Said]:
        """All answers since this was last asked, those of one connection in their order."""
        return [answer for line in self._lines for answer in line.answers()]

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                self._lines.append(_Line(client, socket.create_connection(("127.0.0.1", self._server))))


class _Line:
    """One connection through the pipe."""

    def __init__(self, client: socket.socket, server: socket.socket):
        self._heard = bytearray()
        self._over = threading.Event()
        for ends in ((client, server, bytearray(), threading.Event()), (server, client, self._heard, self._over)):
            threading.Thread(target=_pump, args=ends, daemon=True).start()

    def answers(self) -> list[Said]:
        """Those that have not been given yet. An end that is still on its way is waited for."""
        for _ in range(1000):
            over = self._over.is_set()
            heard = bytes(self._heard)
            found, complete = _answers(heard)
            if over or complete:
                break
            self._over.wait(0.005)
        del self._heard[: len(heard)]
        return found


def _pump(source: socket.socket, sink: socket.socket, heard: bytearray, over: threading.Event) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE):
            heard += piece
            sink.sendall(piece)
    over.set()
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Heard(io.BytesIO):
    """Bytes in place of a connection, which stay open behind an answer."""

    def makefile(self, mode: str) -> "_Heard":
        return self

    def close(self) -> None:
        """There may be more."""


def _answers(heard: bytes) -> tuple[list[Said], bool]:
    """What was said, and whether all of it is complete."""
    found, source, complete = [], _Heard(heard), True
    while complete and source.tell() < len(heard):
        answer = http.client.HTTPResponse(source)  # type: ignore[arg-type]  # of a socket it takes the file only
        try:
            answer.begin()
            content = answer.read()
        except http.client.IncompleteRead as left:
            content, complete = left.partial, False
        found.append(Said(answer.status, answer.headers["content-type"], content))
    return found, complete
