"""Servers in threads of the tests' own process: this package's, and a stranger's that a test has written."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from uvicorn import Config

from mlx_gemma4_assist.server.app import app_of
from mlx_gemma4_assist.server.endpoint import Backend
from mlx_gemma4_assist.server.routes import ENDPOINTS, LOOKUPS
from mlx_gemma4_assist.server.run import bind
from mlx_gemma4_assist.server.settings import ServerSettings
from mlx_gemma4_assist.server.site import Site
from mlx_gemma4_assist.server.uvicorn_server import GracefulServer, protocol_of

PATIENCE = 20
ANY_PORT = ServerSettings(port=0)


@contextmanager
def running(backend: Backend, settings: ServerSettings = ANY_PORT) -> Iterator[str]:
    """The address of this package's server, with all its protocols."""
    listening, there = bind(settings), threading.Event()
    site = Site(backend, settings)
    config = Config(
        app_of(site, ENDPOINTS, LOOKUPS, {}), http=protocol_of(settings), ws="none", lifespan="off", log_config=None
    )
    server = GracefulServer(config, site, there.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    assert there.wait(PATIENCE)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


class Stranger(ThreadingHTTPServer):
    """A server that has models and chats, and nothing else.

    Args:
        chat: (body, write) -> status and body of an answer that is not streamed; or None behind what was written.
        models: that it lists.

    Attributes:
        asked: bodies of chats so far.
        keys: what each request was authorized by.
        gone: set when a client has left in an answer's middle.
    """

    def __init__(self, chat: Callable[..., tuple[int, Any] | None], models: Sequence[dict[str, Any]] = ({"id": "m"},)):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.chat = chat
        self.listed: Any = {"object": "list", "data": list(models)}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.gone = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Stranger
    begun = False

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        if self.path == "/v1/models":
            self._whole(200, self.server.listed)
        else:
            self._whole(404, {"error": "no such path"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.append(self.headers["Authorization"])
        if self.path != "/v1/chat/completions":
            self._whole(404, {"error": "no such path"})
            return
        self.server.asked.append(body)
        answer = self.server.chat(body, self._write)
        if answer is not None:
            self._whole(*answer)

    def _write(self, *chunks: Any) -> None:
        """Send events; what is no text is sent as JSON. The first call sends the head."""
        if not self.begun:
            self.begun = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
        try:
            for chunk in chunks:
                text = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"
                self.wfile.write(text.encode())
                self.wfile.flush()
        except OSError:
            self.server.gone.set()
            raise

    def _whole(self, status: int, content: Any) -> None:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Nothing."""
