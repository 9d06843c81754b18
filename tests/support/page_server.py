"""A server for the page alone: its files, and answers that a test has written."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import PurePath
from typing import Any

from mlx_gemma4_assist.server.page_files import POLICY

from .paths import PACKAGE

PAGE = PACKAGE / "server" / "page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
ROUNDS = (0, 3, 2, 0, 1, 3, 3, 2, 4, 1)  # drafts that stood

Body = dict[str, Any]
Token = tuple[str, int]
Script = Callable[[Body], Iterable["Body | float"]]  # chunks, and seconds between them


class PageServer(ThreadingHTTPServer):
    """Answers come from ``script``; ``asked`` has the requests' bodies, ``keys`` what they were authorized by."""

    def __init__(self, script: Script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[Body] = []
        self.keys: list[str | None] = []
        self.key: str | None = None  # without which nobody learns of models
        self.refusal: tuple[int, str] | None = None
        self.model: Body = {"id": "google/gemma-4-E2B-it", "capabilities": ["vision", "thinking"], "assistant": "it"}
        self.ended: list[str] = []
        self.broken_off = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        name = {"/": "index.html"}.get(self.path, self.path.removeprefix("/page/"))
        if self.path == "/v1/models" and self.server.key not in (None, self.headers["Authorization"]):
            self._refuse(401, "This server wants a key.")
        elif self.path == "/v1/models":
            self._whole(200, "application/json", json.dumps({"data": [self.server.model]}).encode())
        elif name in {file.name for file in PAGE.iterdir()}:
            self._whole(200, TYPES[PurePath(name).suffix], (PAGE / name).read_bytes())
        else:
            self._whole(404, "text/plain", b"")

    def do_POST(self) -> None:
        if self.path.startswith("/v1/thoughts/"):
            self.server.ended.append(self.path)
            self._whole(200, "application/json", b"{}")
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        if self.server.refusal:
            self._refuse(*self.server.refusal)
        else:
            self._stream(self.server.script(body))

    def _refuse(self, status: int, message: str) -> None:
        self._whole(status, "application/json", json.dumps({"error": {"message": message}}).encode())

    def _whole(self, status: int, kind: str, content: bytes) -> None:
        self._head(status, kind)
        self.wfile.write(content)

    def _head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()

    def _stream(self, script: Iterable[Body | float]) -> None:
        self._head(200, "text/event-stream")
        try:
            for each in script:
                if isinstance(each, float):
                    time.sleep(each)
                else:
                    self.wfile.write(f"data: {json.dumps(each)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the client has gone away
            self.server.broken_off.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


def in_rounds(text: str, rounds: Iterable[int] = ROUNDS) -> Iterator[list[Token]]:
    """The tokens of a text, by rounds with so many drafts each, again and again."""
    tokens = iter(re.findall(r" ?[A-Za-z0-9']+|\s+|[^\w\s]|\w", text))
    for drafts in cycle(rounds):
        places = [*range(1, drafts + 1), 0]
        found = list(islice(tokens, len(places)))
        if not found:
            return
        yield list(zip(found, places, strict=False))


def chunk(tokens: Sequence[Token], field: str = "content", **more: Any) -> Body:
    """A chunk of a round."""
    text = "".join(text for text, _ in tokens)
    return {"choices": [{"index": 0, "delta": {field: text}, "finish_reason": None}], "drafts": tokens, **more}


def last(tokens: Sequence[int], rounds: int, seconds: float, finish: str = "stop") -> Iterator[Body]:
    """The chunks that end an answer of so many (accepted, rejected, cached, read) tokens."""
    accepted, rejected, cached, prompt = tokens
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    usage: Mapping[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": accepted + rounds,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected},
    }
    yield {
        "choices": [],
        "usage": usage,
        "timings": {"prompt_ms": 41.0, "predicted_ms": seconds * 1000, "rounds": rounds},
    }


def answer(text: str, thought: str = "", pause: float = 0.0, plain: bool = False) -> Iterator[Body | float]:
    """All chunks of an answer, with so many seconds behind each round; plain ones have no drafts."""
    count = accepted = 0
    for field, content in (("reasoning_content", thought), ("content", text)):
        for tokens in in_rounds(content, (0,) if plain else ROUNDS):
            yield chunk(tokens, field)
            yield pause
            count += 1
            accepted += len(tokens) - 1
    yield from last((accepted, accepted // 3, 24, 61), count, count * 0.021)
