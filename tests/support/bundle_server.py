"""A server of files for tests of downloads, with what servers and networks do wrong. It needs the standard library.

``python bundle_server.py`` prints its address, http://127.0.0.1:PORT, and ends once its standard input does, or after
half an hour. Files are put there with PUT, and lie in memory: ``PUT /NAME/FILE``, ``GET /BEHAVIOUR/NAME/FILE``, where a
behaviour is words joined by ``+``, which manifests are not meant by:

=============  ===========================================================================================
plain          ranges are served
whole          they are not: every answer has the whole file
cut=N          the connection is closed after N bytes of an answer's body
wrong=FILE     a byte of this file is another one
wrongonce=FILE the same, until it was asked for once
slow=N         N bytes, then nothing more until whoever asks leaves
status=N       nothing but this status
shifted        answers to ranges begin a byte late, and say so
=============  ===========================================================================================

``GET /requests/NAME`` tells which requests of this name there were: [method, file, range, status] each, JSON.
"""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LONGEST = 1800.0  # seconds
PATIENCE = 60.0  # seconds that a slow answer waits
PIECE = 1 << 16


class BundleServer(ThreadingHTTPServer):
    """Files by their paths, and what was asked for by the names they begin with."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: dict[str, list[list[str | int | None]]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: BundleServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def do_PUT(self) -> None:
        self.server.files[unquote(self.path).lstrip("/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201, b"")

    def do_GET(self) -> None:
        first, _, rest = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if first == "requests":
            self._answer(200, json.dumps(self.server.requests.get(rest, [])).encode())
            return
        self.behaviours = dict(word.partition("=")[::2] for word in first.split("+"))
        self.name, _, self.file = rest.partition("/")
        content = self.server.files.get(rest)
        if "status" in self.behaviours and self.file != "manifest.json":
            self._answer(int(self.behaviours["status"]), b"no")
        elif content is None:
            self._answer(404, b"no such file")
        else:
            self._serve(self._damaged(content))

    def _damaged(self, content: bytes) -> bytes:
        once = self.behaviours.get("wrongonce") == self.file and self._seen() == 0
        if once or self.behaviours.get("wrong") == self.file:
            middle = len(content) // 2
            return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        return content

    def _seen(self) -> int:
        """How often this file was asked for."""
        return sum(file == self.file for _, file, *_ in self.server.requests.get(self.name, []))

    def _serve(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None or "whole" in self.behaviours:
            self._answer(200, content)
            return
        begin = int(asked[1]) + ("shifted" in self.behaviours)
        if begin >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            told = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
            self._answer(206, content[begin:], told)

    def _answer(self, status: int, content: bytes, told: dict[str, str] | None = None) -> None:
        if self.command == "GET" and not self.path.startswith("/requests/"):
            line = [self.command, self.file, self.headers.get("Range"), status]
            self.server.requests.setdefault(self.name, []).append(line)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(told or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(content)

    def _write(self, content: bytes) -> None:
        usual = self.command == "PUT" or self.path.startswith("/requests/") or self.file == "manifest.json"
        behaviours = {} if usual else self.behaviours
        most = int(behaviours.get("cut") or behaviours.get("slow") or len(content))
        for begin in range(0, min(most, len(content)), PIECE):
            self.wfile.write(content[begin : min(begin + PIECE, most)])
        if most < len(content):
            self.close_connection = True
            if "slow" in behaviours:
                self.connection.settimeout(PATIENCE)
                self.rfile.read(1)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # whoever asked has left
            self.close_connection = True


def main() -> None:
    server = BundleServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    print(server.address, flush=True)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    ended.wait(LONGEST)  # all threads are daemons


if __name__ == "__main__":
    main()
