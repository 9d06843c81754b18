"""The server's HTTP: routes, doors, bodies, streams, clients that go away, and its end."""

import asyncio
import http.client
import json
import logging
import os
import random
import re
import signal
import socket
import threading
import time

import pytest
from support.serving import (
    ENDPOINTS,
    LOOKUPS,
    MODEL,
    Client,
    ScriptedBackend,
    answering,
    echo,
    events_of,
    finished,
    piece,
    served,
    until,
    wait_for,
)

from mlx_gemma4_assist import extras
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.server.app import app_of, create_app
from mlx_gemma4_assist.server.body import MAX_DEPTH, parse_body
from mlx_gemma4_assist.server.endpoint import Framing
from mlx_gemma4_assist.server.exchange import Failed, Frame, Progress, RequestError, Started
from mlx_gemma4_assist.server.framing import encoded
from mlx_gemma4_assist.server.log import JsonLines
from mlx_gemma4_assist.server.names import check_name, is_known
from mlx_gemma4_assist.server.page_files import page_files
from mlx_gemma4_assist.server.run import bind, check_installed, url
from mlx_gemma4_assist.server.settings import ServerSettings
from mlx_gemma4_assist.server.site import Site

LOOPBACK = ServerSettings(port=0)
KEY = "correct-horse"


def client_of(backend=None, settings=LOOPBACK, endpoints=ENDPOINTS, page=None, **headers):
    site = Site(backend or ScriptedBackend(), settings)
    client = Client(app_of(site, endpoints, LOOKUPS, page or {}), **headers)
    client.site = site
    return client


def ask(client, *arguments, **named):
    return asyncio.run(client.ask(*arguments, **named))


# Settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": "0.0.0.0"}, "other machines can reach 0.0.0.0: give an API key with --api-key"),
        ({"host": "::"}, "other machines can reach ::"),
        ({"host": "gemma.example.org"}, "other machines can reach gemma.example.org"),
        ({"host": ""}, "the host is ''"),
        ({"host": "http://127.0.0.1"}, "the host is 'http://127.0.0.1'"),
        ({"port": 65536}, "the port is 65536, expected 0 to 65535"),
        ({"port": -1}, "the port is -1"),
        ({"api_key": ""}, "the API key is empty or has blanks"),
        ({"api_key": "two words"}, "the API key is empty or has blanks"),
        ({"api_key": "naïve"}, "the API key is empty or has blanks"),
        ({"allowed_origins": ("*",)}, "every page may use the server"),
        ({"allowed_origins": ("example.org",)}, "--allow-origin is 'example.org', expected an origin such as"),
        ({"allowed_origins": ("https://example.org/page",)}, "--allow-origin is 'https://example.org/page'"),
        ({"allowed_hosts": ("example.org:80",)}, "--allow-host is 'example.org:80', expected a host name"),
        ({"aliases": ("two words",)}, "--alias is 'two words', expected a name without blanks"),
        ({"log_level": "loud"}, "the log level is 'loud', expected one of debug, info, warning, error"),
        ({"max_body": 0}, "max_body is 0, expected more than 0"),
        ({"grace": -1.0}, "grace is -1.0, expected more than 0"),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(InputError) as error:
        ServerSettings(**given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."])
def test_loopback_needs_no_key(host):
    assert not ServerSettings(host=host).public


def test_public_addresses_with_a_key():
    settings = ServerSettings(host="0.0.0.0", api_key=KEY, allowed_origins=("*", "app://*", "http://localhost:*"))
    assert settings.public
    assert ServerSettings(host="::1").address == "[::1]"


# Names


@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-4-test",
        "Google/Gemma-4-Test",
        "gemma-4-test",
        "gemma-4-test:latest",
        "pet",
        "extra",
        "default",
        "",
        "gpt-5.2-mini",
        "claude-opus-4-5[1m]",
        "gemini-3-pro",
    ],
)
def test_names_that_are_the_models(name):
    assert is_known(name, MODEL, ("extra",))


@pytest.mark.parametrize(
    "name", ["google", "gemma-4", "gpt", "claude", "test", "other/gemma-4-test", "../gemma", "o\n"]
)
def test_names_that_are_not(name):
    with pytest.raises(RequestError, match="there is google/gemma-4-test, pet, extra") as error:
        check_name(name, MODEL, ("extra",))
    assert (error.value.status, error.value.code, error.value.param) == (404, "model_not_found", "model")


def test_an_unknown_model_is_an_error_of_the_protocol():
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi", "model": "nobody/nothing"})
    assert reply.status == 404
    assert reply.json["wrong"].startswith("The model 'nobody/nothing' does not exist here")


# Routes


@pytest.mark.parametrize(
    "path",
    ["/v1/echo", "/echo", "/v1/echo/", "/echo/", "/v1/echo?", "/v1/echo?beta=true&x", "//v1//echo", "/v1/echo//"],
)
def test_paths_as_apps_write_them(path):
    reply = ask(client_of(), "POST", path, {"text": "hi"})
    assert reply.status == 200
    assert reply.json["texts"] == ["Hello, world"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["id"] == f"echo-{reply.headers['x-request-id']}"


def test_lookups():
    client = client_of()
    for path in ("/v1/models", "/models/", "/v1/models?"):
        assert ask(client, "GET", path).json == {"data": [MODEL.id]}
    assert ask(client, "GET", "/v1/models/google/gemma-4-test/").json == {"name": "google/gemma-4-test"}
    assert ask(client, "POST", "/v1/tokens", {"text": "ab"}).json == {"ids": [97, 98]}
    assert ask(client, "POST", "/v1/tokens", b"[1]").json["status"] == 400


def test_head_is_get_without_a_body():
    client = client_of()
    reply, whole = ask(client, "HEAD", "/v1/models"), ask(client, "GET", "/v1/models")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/echo", "OPTIONS, POST"),
        ("HEAD", "/v1/echo", "OPTIONS, POST"),
        ("DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
        ("NONSENSE", "/v1/tokens", "OPTIONS, POST"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_wrong_methods(method, path, allowed):
    reply = ask(client_of(), method, path)
    assert reply.status == 405
    assert reply.headers["allow"] == allowed
    if method != "HEAD":
        assert allowed in (reply.json["wrong"] if "wrong" in reply.json else reply.json["error"]["message"])
    options = ask(client_of(), "OPTIONS", path)
    assert (options.status, options.headers["allow"], options.body) == (204, allowed, b"")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/etc/passwd", "/../../etc/passwd", "/%2e%2e", "/page/../app.py", "/v1"]
)
def test_unknown_routes(path):
    reply = ask(client_of(), "POST", path, {"text": "hi"})
    assert reply.status == 404
    error = reply.json["error"]
    assert error["type"] == "not_found_error"
    assert error.keys() == {"message", "type", "param", "code"}


def test_the_first_of_two_operations_on_a_path_counts():
    client = client_of(endpoints=(echo(), echo(whole=lambda exchange, answer: {"second": True})))
    assert "texts" in ask(client, "POST", "/v1/echo", {"text": "hi"}).json


def test_the_whole_application_comes_together():
    """With the page of the package, and the protocols' own table."""
    from mlx_gemma4_assist.server.routes import ENDPOINTS, LOOKUPS

    client = Client(create_app(ScriptedBackend(), LOOPBACK, ENDPOINTS, LOOKUPS))
    assert ask(client, "GET", "/health").status == 200
    assert ask(client, "GET", "/openapi.json").json["openapi"] == "3.1.0"


# Doors


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "127.0.0.1",
        "[::1]:8080",
        "192.168.1.7:8080",
        "a.localhost",
        "host.docker.internal",
    ],
)
def test_hosts_that_are_the_servers(host):
    assert ask(client_of(), "GET", "/health", headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "evil.example.com:8080", "127.0.0.1.evil.com", "localhost.evil.com", "a@localhost", "a b"],
)
def test_foreign_hosts_are_refused(host):
    """A page of a foreign name may have got it to stand for this address."""
    backend = ScriptedBackend()
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi"}, headers={"host": host})
    assert reply.status == 403
    assert "allow it with --allow-host" in reply.json["wrong"]
    assert backend.requests == []
    assert ask(client_of(), "GET", "/nothing", headers={"host": host}).status == 403
    assert ask(client_of(), "OPTIONS", "/v1/echo", headers={"host": host}).status == 403


def test_no_host():
    assert ask(client_of(), "GET", "/health", headers={"host": ""}).status == 400


def test_named_hosts():
    settings = ServerSettings(allowed_hosts=("gemma.example.org", "*.home.arpa"))
    for host, status in [("Gemma.example.org:1", 200), ("x.home.arpa", 200), ("home.arpa", 403), ("xhome.arpa", 403)]:
        assert ask(client_of(settings=settings), "GET", "/health", headers={"host": host}).status == status


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://127.0.0.1:8081",
        "https://127.0.0.1:80",
        "",
        "file://",
    ],
)
def test_foreign_pages_are_refused(origin):
    backend = ScriptedBackend()
    reply = ask(client_of(backend), "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin})
    assert reply.status == 403
    assert "--allow-origin" in reply.json["wrong"]
    assert backend.requests == []
    assert "access-control-allow-origin" not in reply.headers
    asked = {"origin": origin, "access-control-request-method": "POST"}
    preflight = ask(client_of(), "OPTIONS", "/v1/echo", headers=asked)
    assert preflight.status == 403
    assert "access-control-allow-methods" not in preflight.headers


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://localhost", "localhost:80"),
        ("https://gemma.localhost", "gemma.localhost"),
    ],
)
def test_the_servers_own_page(origin, host):
    reply = ask(client_of(), "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin, "host": host})
    assert reply.status == 200
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("named", "origin", "status"),
    [
        ("https://chat.example.org", "https://chat.example.org", 200),
        ("https://chat.example.org", "https://chat.example.org.evil.com", 403),
        ("https://chat.example.org", "http://chat.example.org", 403),
        ("http://localhost:*", "http://localhost:3000", 200),
        ("http://localhost:*", "http://localhost.evil.com:3000", 403),
        ("app://*", "app://obsidian.md", 200),
        ("null", "null", 200),
    ],
)
def test_named_pages(named, origin, status):
    client = client_of(settings=ServerSettings(allowed_origins=(named,)))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi"}, headers={"origin": origin})
    assert reply.status == status
    if status == 200:
        assert reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["vary"] == "Origin"


def test_a_browsers_question():
    """It is asked without a key, and answered so that the request may bring one."""
    settings = ServerSettings(allowed_origins=("https://chat.example.org",), api_key=KEY)
    asked = {
        "origin": "https://chat.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
        "access-control-request-private-network": "true",
    }
    reply = ask(client_of(settings=settings), "OPTIONS", "/v1/echo", headers=asked)
    assert reply.status == 204
    assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert reply.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": "wrong", "authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"x-api-key": "", "authorization": ""}, 401),
        ({"x-api-key": "é"}, 401),
    ],
)
def test_keys(headers, status):
    backend = ScriptedBackend()
    client = client_of(backend, ServerSettings(api_key=KEY))
    reply = ask(client, "POST", "/v1/echo", {"text": "hi"}, headers=headers)
    assert reply.status == status
    if status == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
        assert KEY not in reply.body.decode()
        assert reply.json["status"] == 401
        assert backend.requests == []


def test_what_needs_a_key():
    client = client_of(settings=ServerSettings(api_key=KEY), page=page_files())
    for path in ("/v1/models", "/metrics"):
        assert ask(client, "GET", path).status == 401
        assert ask(client, "GET", path, headers={"x-api-key": KEY}).status == 200
    assert ask(client, "POST", "/v1/thoughts/x/end").status == 401
    assert ask(client, "GET", "/openapi.json").status == 200
    assert ask(client, "GET", "/health").json == {"status": "ok"}
    assert ask(client, "GET", "/health", headers={"x-api-key": KEY}).json["model"] == MODEL.id


def test_without_a_key_any_is_taken():
    assert ask(client_of(), "GET", "/v1/models", headers={"authorization": "Bearer sk-none"}).status == 200


# Bodies


def broken_bodies() -> list[bytes]:
    """Bodies that are no JSON objects, made in many ways, and objects that are no requests."""
    good = json.dumps({"text": 'hällo \\ " \n', "n": 2, "stream": False, "more": [1, {"a": None}]}).encode()
    chance = random.Random(0)
    cut = [good[:length] for length in range(1, len(good))]
    wrong = [b"[]", b"1", b'"text"', b"null", b"true", b"[" * 5000, b'{"a":' * 5000, b"{" * 200_000]
    wrong += [b'{"text": "a", "n": %s}' % each for each in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 21)]
    wrong += [
        b'{"text": "a", "n": %s}' % each for each in (b"9" * 5000, b"-1e9999", b"01", b"+1", b"0x1", b"1_0", b"1.")
    ]
    wrong += [b'{"text": "a", "text": "b"}', b"{'text': 'a'}", b'{"text": "a",}', b'{"text": "a"}{}', b'{"text" "a"}']
    wrong += [b'{"text": "\xff"}', b"\xff\xfe{\x00}\x00", b'{"text": "a\nb"}', b'{"text": "\\x"}', b'{"text": "\\u12"}']
    wrong += [b'{"text": "a", "deep": %s}' % (b"[" * depth + b"]" * depth) for depth in (MAX_DEPTH, 500, 3000)]
    wrong += [json.dumps(each).encode() for each in ({}, {"text": 1}, {"text": None}, {"text": ["a"]}, {"text": {}})]
    wrong += [json.dumps({"text": "a", "n": each}).encode() for each in (0, -1, 1.5, True, "1", None, [], {}, 10**19)]
    wrong += [b"", b" \n", b"text=a&n=1", b"--x\r\nContent-Disposition: form-data\r\n", b"\x00", b"\x1f\x8b\x08\x00"]
    for _ in range(100):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.choice(b'{}[]",:\\\xff\x00')
        wrong.append(bytes(broken))
    return cut + wrong


def test_broken_bodies_are_clean_errors(caplog):
    """Each is told as an error of the client, in the protocol's shape, or is a request after all."""
    bodies = broken_bodies()
    assert len(bodies) > 200
    client = client_of()

    async def all_of_them():
        return [await client.ask("POST", "/v1/echo", body) for body in bodies]

    replies = asyncio.run(all_of_them())
    statuses = [reply.status for reply in replies]
    assert set(statuses) <= {200, 400, 404}
    assert statuses.count(400) > 0.9 * len(bodies)
    for body, reply in zip(bodies, replies, strict=True):
        if reply.status == 200:
            assert isinstance(json.loads(body)["text"], str)
        else:
            assert reply.json["wrong"]
            assert len(reply.body) < 1000
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": "\xff"}', "The body is not UTF-8: byte 7 is 0xff."),
        (b"[]", "The body is a list, expected a JSON object."),
        (b"true", "The body is a boolean, expected a JSON object."),
        (b"1.5", "The body is a number, expected a JSON object."),
        (b'{"a": NaN}', "The body has NaN, which is not JSON."),
        (b'{"a": 1e400}', "The body has the number 1e400, which is too large."),
        (b'{"a": 123456789012345678901}', "The body has an integer of more than 20 digits."),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "The body has the key 'b' twice in one object."),
        (b'{"a": }', "The body is not JSON: Expecting value in line 1, column 7."),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "The body has more than 100 levels of lists and objects."),
        (b'{"a": ' + b"[" * 100_000, "The body has more than 100 levels of lists and objects."),
    ],
)
def test_what_is_told_of_a_body(body, message):
    with pytest.raises(RequestError) as error:
        parse_body(body)
    assert (error.value.status, error.value.message) == (400, message)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"", {}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": -18446744073709551615, "b": 1e308}', {"a": -18446744073709551615, "b": 1e308}),
        (b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}", None),
        (rb'{"\ud83d": ["\ud83d\ude00", "a\ude00b"]}', {"\ufffd": ["\U0001f600", "a\ufffdb"]}),
    ],
)
def test_bodies_that_are_taken(body, value):
    assert parse_body(body) == (json.loads(body) if value is None else value)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json; charset=utf-8", "application/octet-stream"])
def test_any_type_of_content(kind):
    assert ask(client_of(), "POST", "/v1/echo", {"text": "hi"}, headers={"content-type": kind}).status == 200


def test_compressed_bodies_are_refused():
    reply = ask(client_of(), "POST", "/v1/echo", b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert (reply.status, reply.json["status"]) == (415, 415)


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/tokens"])
def test_long_bodies(path):
    """They are refused as they come, whatever their length is said to be."""
    client = client_of(settings=ServerSettings(max_body=1000))
    body = json.dumps({"text": "a" * 980}).encode()
    assert len(body) < 1000
    assert ask(client, "POST", path, body, chunk=100).status == 200
    reply = ask(client, "POST", path, body + b" " * 200, chunk=100)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert reply.json["wrong"] == "The body is longer than 1000 bytes."
    assert ask(client, "POST", path, body * 1000, chunk=100).status == 413


def test_a_body_that_does_not_come():
    settings = ServerSettings(body_time=0.05)

    async def without_end():
        async def receive():
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b" ", "more_body": True}

        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/echo", "headers": [(b"host", b"localhost")]}
        await client_of(settings=settings)._app(scope | {"query_string": b"", "root_path": ""}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(without_end()) == 408


def test_unknown_fields_are_noted_once(caplog):
    client = client_of()
    with caplog.at_level(logging.INFO, "mlx_gemma4_assist.server"):
        for _ in range(2):
            assert ask(client, "POST", "/v1/echo", {"text": "hi", "new\nfield": 1}).status == 200
    notes = [record.getMessage() for record in caplog.records if "ignores" in record.getMessage()]
    assert notes == [r'test.echo ignores the field "new\nfield" of requests, which it does not know']


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
    listeners = []

    class Mute(ScriptedBackend):
        def submit(self, request, listener):
            listeners.append(listener)
            return super().submit(request, lambda event: None)

    async def give_up():
        leave = asyncio.Event()
        asking = asyncio.create_task(client_of(Mute()).ask("POST", "/v1/echo", {"text": "hi"}, leave=leave))
        while not listeners:
            await asyncio.sleep(0.01)
        leave.set()
        await asking

    asyncio.run(give_up())
    listeners[0](piece("late"))


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
        leave.set()
        await asking
        return reply, await client.ask("POST", f"/v1/thoughts/chatcmpl-{identity}/end")

    reply, late = asyncio.run(end_it())
    assert (reply.status, reply.json["ended"]) == (200, True)
    assert backend.tickets[0].thought_ended.is_set()
    assert (late.status, late.json["error"]["type"]) == (404, "not_found_error")


# Health, figures, log, document, page


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 200), ("loading", 200), ("unloaded", 200), ("stuck", 503), ("dead", 503)]
)
def test_health(status, code):
    backend = ScriptedBackend()
    backend.status = status
    reply = ask(client_of(backend), "GET", "/health")
    assert (reply.status, reply.json["status"], reply.json["model"]) == (code, status, MODEL.id)
    assert reply.json["active_memory"] == 1000


def test_metrics():
    client = client_of()
    for stream in (False, True):
        ask(client, "POST", "/v1/echo", {"text": "hi", "stream": stream, "n": 2})
    ask(client, "POST", "/v1/echo", {})
    ask(client, "GET", "/nothing")
    text = ask(client, "GET", "/metrics").body.decode()
    for line in (
        'gemma4_requests_total{endpoint="test.echo",status="200"} 2.0',
        'gemma4_requests_total{endpoint="test.echo",status="400"} 1.0',
        'gemma4_requests_total{endpoint="unknown",status="404"} 1.0',
        "gemma4_prompt_tokens_total 20.0",
        "gemma4_cached_prompt_tokens_total 8.0",
        "gemma4_prefix_hits_total 2.0",
        "gemma4_completion_tokens_total 24.0",
        'gemma4_accepted_tokens_total{place="1"} 8.0',
        'gemma4_accepted_tokens_total{place="2"} 4.0',
        'gemma4_drafted_tokens_total{place="2"} 8.0',
        "gemma4_first_token_seconds_count 2.0",
        "gemma4_tokens_per_round_sum 8.0",
        "gemma4_running_requests 2.0",
        "gemma4_active_memory_bytes 1000.0",
        'gemma4_status{status="ok"} 1.0',
        'gemma4_status{status="dead"} 0.0',
    ):
        assert line in text.splitlines()


def test_each_server_counts_for_itself():
    one, other = client_of(), client_of()
    ask(one, "POST", "/v1/echo", {"text": "hi"})
    assert "test.echo" not in ask(other, "GET", "/metrics").body.decode()


def test_a_line_for_each_request(caplog):
    with caplog.at_level(logging.INFO, "mlx_gemma4_assist.server.requests"):
        ask(client_of(), "POST", "/v1/echo?key=secret", {"text": "private"}, headers={"x-api-key": "secret"})
        ask(client_of(), "GET", "/a\nb", headers={"x-api-key": "secret"})
    lines = [record for record in caplog.records if record.name.endswith(".requests")]
    assert len(lines) == 2
    first, second = (record.getMessage() for record in lines)
    assert first.startswith("POST /v1/echo 200 id=")
    for word in ("endpoint=test.echo", "prompt_tokens=10", "cached_tokens=4", "tokens_per_round=2.0", "finish=stop"):
        assert word in first.split()
    assert second.startswith(r'GET "/a\nb" 404 ')
    assert "secret" not in caplog.text
    assert "private" not in caplog.text
    told = json.loads(JsonLines().format(lines[0]))
    assert (told["path"], told["status"], told["completion_tokens"], told["level"]) == ("/v1/echo", 200, 6, "info")


def test_the_document():
    document = ask(client_of(), "GET", "/openapi.json").json
    assert {"/v1/echo", "/v1/lines", "/v1/models/{name}", "/health", "/metrics"} <= document["paths"].keys()
    operation = document["paths"]["/v1/echo"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert operation["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}

    def followed(reference):
        found = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
        return found

    schema = followed(reference)
    assert followed(schema["properties"]["part"]["$ref"]) == {"type": "object"}
    assert "security" not in document
    locked = ask(client_of(settings=ServerSettings(api_key=KEY)), "GET", "/openapi.json").json
    assert locked["security"] == [{"bearer": []}]


@pytest.fixture
def page(tmp_path):
    for name, text in {
        "index.html": "<p>",
        "app.js": "1",
        "style.css": "p{}",
        "deep/i.svg": "<svg/>",
        ".x": "s",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return client_of(page=page_files(tmp_path))


def test_the_page(page):
    reply = ask(page, "GET", "/")
    assert (reply.status, reply.body) == (200, b"<p>")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.split(" ", 1) for each in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*", reply.headers["content-security-policy"])
    for path, kind in {"app.js": "text/javascript", "style.css": "text/css", "deep/i.svg": "image/svg+xml"}.items():
        assert ask(page, "GET", f"/page/{path}").headers["content-type"].split(";")[0] == kind
    assert ask(page, "GET", "/index.html").body == b"<p>"
    assert ask(page, "HEAD", "/").body == b""
    again = ask(page, "GET", "/", headers={"if-none-match": reply.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/.x", "/page/deep", "/page", "/page/../index.html", "/page/index.html", "/page/%2e%2e/index.html"]
)
def test_nothing_else_is_opened(page, path):
    assert ask(page, "GET", path).status == 404


# A real server


def connect(port, seconds=5):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)


def post(connection, body, path="/v1/echo"):
    connection.request("POST", path, json.dumps(body))
    return connection.getresponse()


def test_over_a_socket():
    """Several requests on one connection, of every kind."""

    def work(port):
        connection = connect(port)
        reply = post(connection, {"text": "hi"})
        assert json.load(reply)["texts"] == ["Hello, world"]
        reply = post(connection, {"text": "hi", "stream": True})
        assert events_of(reply.read())[-1] == "[DONE]"
        assert "server" not in {name.lower() for name in reply.headers}
        connection.request("HEAD", "/v1/models")
        assert connection.getresponse().read() == b""
        reply = post(connection, {"text": "hi"}, "/nothing")
        assert (reply.status, json.load(reply)["error"]["code"]) == (404, "not_found")
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
        return "done"

    assert served(ScriptedBackend(), LOOPBACK, work) == "done"


def test_a_long_body_over_a_socket():
    """The sender gets to read why, although it sends all of it first."""

    def work(port):
        reply = post(connect(port), {"text": "a" * 3_000_000})
        return reply.status, json.load(reply)["wrong"]

    settings = ServerSettings(port=0, max_body=1_000_000)
    assert served(ScriptedBackend(), settings, work) == (413, "The body is longer than 1000000 bytes.")


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_cancels(stream):
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))

    def work(port):
        connection = connect(port)
        body = json.dumps({"text": "hi", "stream": stream})
        connection.request("POST", "/v1/echo", body)
        assert wait_for(lambda: len(backend.tickets) == 1)
        if stream:
            connection.getresponse().read(10)
        connection.close()
        return wait_for(backend.tickets[0].cancelled.is_set)

    assert served(backend, LOOPBACK, work)


def test_a_reader_that_stops_is_dropped():
    """Its connection is closed, and what it gets has no end, as HTTP knows it."""

    def script(request, ticket):
        yield Started(1, 0)
        while not ticket.cancelled.is_set():
            yield piece("long " * 20_000)
            time.sleep(0.001)

    backend = ScriptedBackend(script)

    def work(port):
        raw = socket.create_connection(("127.0.0.1", port), 5)
        body = b'{"text": "hi", "stream": true}'
        raw.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert wait_for(lambda: len(backend.tickets) == 1)
        assert wait_for(backend.tickets[0].cancelled.is_set)
        while part := raw.recv(1 << 20):
            end = part
        return end

    assert not served(backend, ServerSettings(port=0, stall=0.2), work).endswith(b"0\r\n\r\n")


def test_told_to_stop_it_lets_answers_end():
    """And admits no more meanwhile."""

    def script(request, ticket):
        yield Started(1, 0)
        for _ in range(60):
            yield piece("on ")
            time.sleep(0.01)
        yield finished()

    def work(port):
        idle = connect(port)
        idle.request("GET", "/health")
        idle.getresponse().read()
        reply = post(connect(port), {"text": "hi", "stream": True})
        reply.read(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        refused = post(idle, {"text": "hi"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        with pytest.raises(ConnectionRefusedError):
            connect(port).connect()
        return events_of(reply.read())

    assert served(ScriptedBackend(script), LOOPBACK, work, stop=False)[-1] == "[DONE]"


def test_told_to_stop_it_ends_answers_that_take_too_long():
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Started(1, 0)))

    def work(port):
        reply = post(connect(port), {"text": "hi", "stream": True})
        reply.read(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return events_of(reply.read())

    events = served(backend, ServerSettings(port=0, grace=0.2), work, stop=False)
    assert events[-1] == {"wrong": "The server is being stopped.", "status": 503, "field": None}
    assert backend.tickets[0].cancelled.is_set()


def test_ports_that_cannot_be_had():
    with bind(LOOPBACK) as taken:
        port = taken.getsockname()[1]
        assert url(taken, LOOPBACK) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError) as error:
            bind(ServerSettings(port=port))
    assert str(error.value) == f"port {port} of 127.0.0.1 is taken by another program: choose another with --port"
    bind(ServerSettings(port=port)).close()
    with pytest.raises(InputError, match=r"this machine has no address 192\.0\.2\.1: choose one"):
        bind(ServerSettings(host="192.0.2.1", api_key=KEY))
    with pytest.raises(InputError, match="the host a..b is not known here"):
        bind(ServerSettings(host="a..b", api_key=KEY))


def test_libraries_that_are_missing(monkeypatch):
    def missing(name):
        if name == "uvicorn":
            raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(InputError, match=r'the server needs uvicorn: pip install "mlx-gemma4-assist\[server\]"'):
        check_installed()
