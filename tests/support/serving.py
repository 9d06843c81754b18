"""A backend that follows a script, a small protocol of its own, and ways to ask a server."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gemma4_assist.server.app import app_of
from mlx_gemma4_assist.server.endpoint import Endpoint, Framing, Health, Lookup
from mlx_gemma4_assist.server.exchange import (
    ChatRequest,
    Failed,
    Finished,
    FinishReason,
    Frame,
    Model,
    Piece,
    Progress,
    RequestError,
    Started,
    TextRequest,
    TokenInfo,
    Usage,
    bad_request,
)
from mlx_gemma4_assist.server.run import bind, serve
from mlx_gemma4_assist.server.settings import ServerSettings
from mlx_gemma4_assist.server.site import Site
from mlx_gemma4_assist.text.deltas import AnswerDelta

MODEL = Model(id="google/gemma-4-test", aliases=("pet",), created=1, context=4096, max_tokens=100)
USAGE = Usage(completion_tokens=6, drafted=4, accepted=3, rounds=3, accepted_at=(2, 1), drafted_at=(2, 2))


# The backend


class FakeTicket:
    """A ticket that remembers what was asked of it."""

    def __init__(self):
        self.cancelled, self.thought_ended = threading.Event(), threading.Event()

    def cancel(self):
        self.cancelled.set()

    def end_thought(self):
        self.thought_ended.set()


def piece(text: str, choice: int = 0) -> Piece:
    """One token's worth of an answer."""
    return Piece(choice, (AnswerDelta(text),), (TokenInfo(1, text),))


def finished(choice: int = 0, usage: Usage = USAGE) -> Finished:
    """The end of an answer."""
    return Finished(choice, FinishReason.STOP, None, usage, queued=0.1, prompt=0.2, generation=0.3)


def answering(*texts: str):
    """A script that says these pieces."""

    def script(request, ticket):
        yield Progress(1, 2)
        yield Started(10, 4)
        prompts = len(request.prompts) if isinstance(request, TextRequest) else 1
        for choice in range(request.answers * prompts):
            yield from (piece(text, choice) for text in texts)
            yield finished(choice)

    return script


class ScriptedBackend:
    """A backend whose answers a script writes, each in a thread of its own.

    Args:
        script: (request, ticket) -> events. An exception of the script is raised where the request is handed over if it
            comes before the first event.
    """

    def __init__(self, script=None, model: Model = MODEL):
        self.script = script or answering("Hello", ", ", "world")
        self.model = model
        self.status = "ok"
        self.tickets: list[FakeTicket] = []
        self.requests: list[Any] = []

    def submit(self, request, listener):
        ticket = FakeTicket()
        events = iter(self.script(request, ticket))
        first = next(events, None)  # what refuses the request is raised here
        self.tickets.append(ticket)
        self.requests.append(request)
        threading.Thread(target=self._say, args=(first, events, ticket, listener), daemon=True).start()
        return ticket

    def _say(self, first, events, ticket, listener):
        if first is not None:
            listener(first)
        for event in events:
            if ticket.cancelled.is_set():
                return
            listener(event)

    def tokens(self, request):
        return [2, 3]

    def tokenize(self, text):
        return list(text.encode())

    def detokenize(self, tokens):
        if not all(0 <= token < 128 for token in tokens):
            raise bad_request("ids beyond the vocabulary", "tokens")
        return bytes(tokens).decode()

    def render(self, request):
        return "rendered"

    def health(self):
        return Health(self.status, self.model.id, len(self.tickets), 0, 0.5, 1000, 2000)


# A protocol


def read_echo(body: Mapping[str, Any], model: Model) -> ChatRequest:
    """``{"text": ..., "stream": ..., "n": ..., "model": ...}``."""
    if not isinstance(body.get("text"), str):
        raise bad_request("text is missing", "text")
    answers, stream, name = body.get("n", 1), body.get("stream", False), body.get("model", "default")
    if not isinstance(answers, int) or isinstance(answers, bool) or not 1 <= answers <= 9:
        raise bad_request("n is wrong", "n")
    if not isinstance(stream, bool) or not isinstance(name, str):
        raise bad_request("stream or model is wrong")
    messages = [{"role": "user", "content": body["text"]}]
    return ChatRequest(model=name, messages=messages, answers=answers, stream=stream)


class EchoWriter:
    """A frame for each piece, one for each end, and a mark behind the last."""

    def __init__(self, exchange):
        self._left = exchange.request.answers

    def take(self, event):
        match event:
            case Progress(done, total):
                yield Frame({"done": done, "of": total}, event="life")
            case Piece(choice, deltas, _):
                yield Frame({"choice": choice, "text": "".join(delta.text for delta in deltas)})
            case Finished(choice):
                yield Frame({"choice": choice, "end": event.reason.value})
                self._left -= 1
                if not self._left:
                    yield Frame("[DONE]")
            case Failed(error):
                yield Frame(echo_error(error))


def echo_error(error: RequestError) -> dict[str, Any]:
    """An error in the protocol's own shape."""
    return {"wrong": error.message, "status": error.status, "field": error.param}


def echo_whole(exchange, answer) -> dict[str, Any]:
    """The whole answer."""
    return {
        "id": f"echo-{exchange.id}",
        "texts": [each.answer for each in answer.choices],
        "used": answer.prompt_tokens,
    }


ECHO_SCHEMA = {
    "type": "object",
    "properties": {key: {} for key in ("text", "stream", "n", "model")} | {"part": {"$ref": "#/$defs/Part"}},
    "$defs": {"Part": {"type": "object"}},
}


def echo(path: str = "/echo", **changes: Any) -> Endpoint:
    """The protocol's endpoint."""
    given = {"name": "test.echo", "paths": (path,), "read": read_echo, "whole": echo_whole, "writer": EchoWriter}
    return Endpoint(**{**given, "error": echo_error, "body_schema": ECHO_SCHEMA, **changes})


LINES = echo("/lines", name="test.lines", framing=Framing.LINES)
MODELS = Lookup("test.models", "GET", ("/models",), lambda backend, _, body: {"data": [backend.model.id]}, echo_error)
ONE_MODEL = Lookup(
    "test.model", "GET", ("/models/{name:path}",), lambda backend, words, body: {"name": words["name"]}, echo_error
)
TOKENS = Lookup(
    "test.tokens", "POST", ("/tokens",), lambda backend, _, body: {"ids": backend.tokenize(body["text"])}, echo_error
)
ENDPOINTS, LOOKUPS = (echo(), LINES), (MODELS, ONE_MODEL, TOKENS)


# Asking within the process


@dataclass
class Reply:
    """What came back; ``parts`` as they were sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    complete: bool = False
    aborted: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks an application as a server of ASGI would.

    Args:
        app: that is asked.
        site: what it consists of, for tests that look at it.
    """

    def __init__(self, app, site: Site | None = None):
        self._app, self.site = app, site
        self._headers = {"host": "127.0.0.1:8080"}

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict | None = None,
        headers: Mapping[str, str] | None = None,
        leave: asyncio.Event | None = None,
        stop_reading: bool = False,
        chunk: int = 1 << 20,
    ) -> Reply:
        """One request; ``leave`` tells when the client goes away, ``stop_reading`` that it takes no piece."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        path, _, query = path.partition("?")
        reply = Reply()
        parts = [content[i : i + chunk] for i in range(0, len(content), chunk)] or [b""]

        async def receive():
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                return
            if stop_reading:
                await asyncio.Event().wait()
            reply.parts.append(message.get("body", b""))
            reply.complete = not message.get("more_body", False)

        def abort():
            reply.aborted = True

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "root_path": "",
            "client": ("127.0.0.1", 1234),
            "headers": [
                (name.encode(), value.encode()) for name, value in {**self._headers, **(headers or {})}.items()
            ],
            "state": {"abort": abort},
        }
        await self._app(scope, receive, send)
        return reply


LOOPBACK = ServerSettings(port=0)
KEY = "correct-horse"


def client_of(backend=None, settings=LOOPBACK, endpoints=ENDPOINTS, page=None) -> Client:
    """A client of an application of its own; ``site`` is what it consists of."""
    site = Site(backend or ScriptedBackend(), settings)
    return Client(app_of(site, endpoints, LOOKUPS, page or {}), site)


def ask(client: Client, *arguments: Any, **named: Any) -> Reply:
    """As ``Client.ask``, in an event loop of its own, and within 5 seconds."""
    return asyncio.run(asyncio.wait_for(client.ask(*arguments, **named), 5))


def events_of(body: bytes) -> list[Any]:
    """The data of server-sent events, as JSON where it is that."""
    data = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(each) if each.startswith("{") else each for each in data]


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


# Asking a real server


def served(backend, settings: ServerSettings, work: Callable[[int], Any], stop: bool = True) -> Any:
    """What ``work`` returns, given the port of a server that runs in this thread meanwhile.

    Args:
        stop: whether the server is told to stop behind it; else the work does that.
    """
    listening = bind(settings)
    port = listening.getsockname()[1]
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(port))
        except BaseException as error:
            errors.append(error)
        if stop or errors:
            os.kill(os.getpid(), signal.SIGTERM)

    def harmless(number, frame):
        """One that comes too late."""

    before = signal.signal(signal.SIGTERM, harmless)
    try:
        thread = threading.Thread(target=run, daemon=True)
        serve(backend, settings, listening, endpoints=ENDPOINTS, lookups=LOOKUPS, started=lambda _: thread.start())
        assert signal.getsignal(signal.SIGTERM) is harmless
        thread.join(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    if errors:
        raise errors[0]
    return results[0]


def until(ticket: FakeTicket, *events: Any) -> Iterator[Any]:
    """Pieces over and over until the request is cancelled, behind some events."""
    yield from events
    while not ticket.cancelled.wait(0.005):
        yield piece("again ")
