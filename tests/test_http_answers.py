"""Answers of the server, whole and streamed; errors before and within them; clients that go away."""

import asyncio
import json
import logging
import threading
import time

import pytest
from support.serving import (
    FakeTicket,
    ScriptedBackend,
    answering,
    ask,
    client_of,
    echo,
    events_of,
    finished,
    piece,
    until,
    wait_for,
)

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.server.endpoint import Framing
from mlx_gemma4_assist.server.exchange import Failed, Frame, Progress, RequestError, Started
from mlx_gemma4_assist.server.framing import encoded
from mlx_gemma4_assist.server.mailbox import Mailbox
from mlx_gemma4_assist.server.settings import ServerSettings

# Answers


def test_a_stream():
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi", "stream": True})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.complete
    events = [event for event in events_of(reply.body) if "done" not in event]
    assert events == [
        {"choice": 0, "text": "Hello"},
        {"choice": 0, "text": ", "},
        {"choice": 0, "text": "world"},
        {"choice": 0, "end": "stop"},
        "[DONE]",
    ]


def test_lines():
    reply = ask(client_of(), "POST", "/lines", {"text": "hi", "stream": True})
    assert reply.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    lines = reply.body.decode().splitlines()
    assert {"choice": 0, "text": "world"} in [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(stream):
    """Nothing ends before the last of them has."""
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi", "n": 3, "stream": stream})
    if stream:
        texts = dict.fromkeys(range(3), "")
        for event in events_of(reply.body):
            if "text" in event:
                texts[event["choice"]] += event["text"]
        assert texts == dict.fromkeys(range(3), "Hello, world")
    else:
        assert reply.json["texts"] == ["Hello, world"] * 3


@pytest.mark.parametrize("end", [finished(), Failed(RequestError(503, "no memory"))])
def test_nothing_comes_behind_the_end(end):
    """Whatever else a backend says, and however soon."""
    backend = ScriptedBackend(lambda request, ticket: iter([Started(1, 0), piece("a"), end, piece("late"), finished()]))
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi", "stream": True})
    assert b"late" not in reply.body
    assert reply.body.count(b"stop") <= 1


def test_frames():
    assert encoded(Frame({"a": "é\n"}, "x"), Framing.EVENTS) == 'event: x\ndata: {"a":"é\\n"}\n\n'.encode()
    assert encoded(Frame("a\nb\r\nc"), Framing.EVENTS) == b"data: a\ndata: b\ndata: c\n\n"
    assert encoded(Frame({"a": 1}, "x"), Framing.LINES) == b'{"a":1}\n'
    assert encoded(Frame({"a": "\ud800"}), Framing.LINES) == b'{"a":"\\ud800"}\n'


def refusing(error):
    def script(request, ticket):
        raise error
        yield

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_errors_before_an_answer(stream, late):
    """Whether the backend refuses at once or after a while: HTTP's own status says it."""
    error = RequestError(503, "The queue is full.", "overloaded_error", retry_after=7)
    script = (lambda request, ticket: iter([Failed(error)])) if late else refusing(error)
    reply = ask(client_of(ScriptedBackend(script)), "POST", "/v1/echo", {"text": "hi", "stream": stream})
    assert (reply.status, reply.headers["retry-after"]) == (503, "7")
    assert reply.json == {"wrong": "The queue is full.", "status": 503, "field": None}


def test_an_error_within_a_stream():
    def script(request, ticket):
        yield Started(1, 0)
        yield piece("Hel")
        time.sleep(0.05)
        yield Failed(RequestError(503, "no memory"))

    reply = ask(client_of(ScriptedBackend(script)), "POST", "/v1/echo", {"text": "hi", "stream": True})
    assert (reply.status, reply.complete) == (200, True)
    assert events_of(reply.body)[-1] == {"wrong": "no memory", "status": 503, "field": None}


def test_bad_input_that_a_protocol_lets_through():
    backend = ScriptedBackend(refusing(InputError("the prompt is empty")))
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi"})
    assert (reply.status, reply.json["wrong"]) == (400, "the prompt is empty")


class Broken:
    """A writer that fails over an event; over all behind it too, if it is ``for_good``."""

    def __init__(self, for_good=False):
        self._for_good, self._seen = for_good, 0

    def take(self, event):
        self._seen += 1
        if isinstance(event, Failed) and not self._for_good:
            return [Frame({"wrong": event.error.message})]
        if self._seen > 2:
            raise ZeroDivisionError("secret")
        return [Frame({"fine": True})]


def slowly(request, ticket):
    for event in (Started(1, 0), *[piece("a")] * 5, finished()):
        yield event
        time.sleep(0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {"read": lambda body, model: {}["secret"]},
        {"whole": lambda exchange, answer: {}["secret"]},
        {"whole": lambda exchange, answer: {"secret": float("nan")}},
    ],
)
def test_bugs_are_logged_and_not_told(changes, caplog):
    reply = ask(client_of(endpoints=(echo(**changes),)), "POST", "/v1/echo", {"text": "hi"})
    assert (reply.status, reply.json["status"]) == (500, 500)
    assert "secret" not in reply.body.decode()
    assert "test.echo has failed" in caplog.text
    assert "Traceback" in caplog.text


def test_bugs_within_a_stream(caplog):
    client = client_of(ScriptedBackend(slowly), endpoints=(echo(writer=lambda exchange: Broken()),))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi", "stream": True})
    assert (reply.status, reply.complete) == (200, True)
    assert events_of(reply.body)[-1]["wrong"].startswith("The server has failed")
    assert "ZeroDivisionError: secret" in caplog.text


def test_bugs_that_leave_nothing_to_say():
    """A part of an answer must not look like the whole."""
    backend = ScriptedBackend(slowly)
    client = client_of(backend, endpoints=(echo(writer=lambda exchange: Broken(for_good=True)),))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi", "stream": True})
    assert (reply.aborted, reply.complete) == (True, False)
    assert backend.tickets[0].cancelled.is_set()


def test_bugs_of_lookups(caplog):
    reply = ask(client_of(), "POST", "/v1/tokens", {})
    assert (reply.status, reply.json["status"]) == (500, 500)
    assert "test.tokens has failed" in caplog.text


def test_signs_of_life():
    """The last one comes again while the engine makes progress, and none while it does not."""
    go_on = threading.Event()

    def script(request, ticket):
        yield Progress(5, 9)
        go_on.wait(5)
        yield from answering("fine")(request, ticket)

    backend = ScriptedBackend(script)
    client = client_of(backend, ServerSettings(life=0.03))

    async def watch():
        asking = asyncio.create_task(client.ask("POST", "/v1/echo", {"text": "hi", "stream": True}))
        await asyncio.sleep(0.3)
        backend.status = "stuck"
        await asyncio.sleep(0.3)
        go_on.set()
        return await asking

    signs = [event for event in events_of(asyncio.run(watch()).body) if "of" in event and event["of"] == 9]
    assert 3 <= len(signs) <= 12


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies(stream):
    def script(request, ticket):
        backend.status = "dead"
        yield Progress(1, 2)
        ticket.cancelled.wait(5)

    backend = ScriptedBackend(script)
    client = client_of(backend, ServerSettings(life=0.02))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi", "stream": stream})
    told = events_of(reply.body)[-1] if stream else reply.json
    assert told["wrong"] == "The engine has died."
    assert reply.status == (200 if stream else 503)


# Clients that go away, or do not read


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away(stream, caplog):
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))
    client = client_of(backend)

    async def leave_soon():
        leave = asyncio.Event()
        asking = asyncio.create_task(client.ask("POST", "/v1/echo", {"text": "hi", "stream": stream}, leave=leave))
        await asyncio.sleep(0.1)
        assert len(client.site.running) == 1
        leave.set()
        await asyncio.wait_for(asking, 1)

    with caplog.at_level(logging.INFO, "mlx_gemma4_assist.server"):
        asyncio.run(leave_soon())
    assert backend.tickets[0].cancelled.is_set()
    assert len(client.site.running) == 0
    assert "/v1/echo 499" in caplog.text


def test_a_client_that_leaves_while_its_request_is_handed_over():
    """The ticket comes too late, and is cancelled nevertheless."""
    handed_over = threading.Event()

    def script(request, ticket):
        handed_over.wait(5)
        return until(ticket, Started(1, 0))

    backend = ScriptedBackend(script)

    async def leave_early():
        leave = asyncio.Event()
        leave.set()
        await client_of(backend).ask("POST", "/v1/echo", {"text": "hi"}, leave=leave)
        assert backend.tickets == []
        handed_over.set()

    asyncio.run(leave_early())
    assert wait_for(lambda: backend.tickets and backend.tickets[0].cancelled.is_set())


def test_a_client_that_stops_reading():
    """After a while it is cut off; what it has not read must not look like the end."""
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))
    client = client_of(backend, ServerSettings(stall=0.1))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi", "stream": True}, stop_reading=True)
    assert (reply.aborted, reply.complete) == (True, False)
    assert backend.tickets[0].cancelled.is_set()


def test_a_client_that_reads_more_slowly_than_an_answer_is_written():
    """What waits for it is bounded."""
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))
    client = client_of(backend, ServerSettings(stall=60, max_pending=20))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi", "stream": True}, stop_reading=True)
    assert (reply.aborted, reply.complete) == (True, False)
    assert backend.tickets[0].cancelled.is_set()


def test_a_backend_that_speaks_too_late():
    """When the loop has ended, nobody listens, and nothing is raised in the backend's thread."""
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop, 5)
    loop.close()
    mailbox.put(piece("late"))
    mailbox.close()
    mailbox.put(piece("later"))


def test_a_thought_is_ended_before_its_request_is_handed_over():
    ticket = FakeTicket()
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop, 5)
    loop.close()
    mailbox.end_thought()
    mailbox.bring(ticket)
    assert ticket.thought_ended.is_set()
    assert not ticket.cancelled.is_set()


def test_thoughts_are_ended():
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))
    client = client_of(backend)

    async def end_it():
        leave = asyncio.Event()
        asking = asyncio.create_task(client.ask("POST", "/v1/echo", {"text": "hi"}, leave=leave))
        while not backend.tickets:
            await asyncio.sleep(0.01)
        (identity,) = client.site.running._boxes
        reply = await client.ask("POST", f"/v1/thoughts/chatcmpl-{identity}/end")
        assert await asyncio.to_thread(backend.tickets[0].thought_ended.wait, 5)
        leave.set()
        await asking
        return reply, await client.ask("POST", f"/v1/thoughts/chatcmpl-{identity}/end")

    reply, late = asyncio.run(end_it())
    assert (reply.status, reply.json["ended"]) == (200, True)
    assert (late.status, late.json["error"]["type"]) == (404, "not_found_error")
