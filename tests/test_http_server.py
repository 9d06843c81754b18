"""The server on a port: settings, sockets, connections that close, and its end."""

import http.client
import json
import os
import signal
import socket
import time

import pytest
from support.serving import (
    KEY,
    LOOPBACK,
    ScriptedBackend,
    events_of,
    finished,
    piece,
    served,
    until,
    wait_for,
)

from mlx_gemma4_assist import extras
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.server.exchange import Started
from mlx_gemma4_assist.server.run import bind, check_installed, url
from mlx_gemma4_assist.server.settings import ServerSettings

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
        reply = post(connect(port), {"text": "a" * 20_000_000})
        return reply.status, json.load(reply)["wrong"]

    settings = ServerSettings(port=0, max_body=4_000_000)
    assert served(ScriptedBackend(), settings, work) == (413, "The body is longer than 4000000 bytes.")


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


def test_headers_that_do_not_end():
    """Their connection is closed in time, whatever trickles in; others are not."""

    def work(port):
        slow, silent = (socket.create_connection(("127.0.0.1", port), 5) for _ in range(2))
        used = connect(port)
        used.request("GET", "/health")
        assert used.getresponse().read()
        begun = time.monotonic()
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        try:
            for number in range(200):
                slow.sendall(b"X-%d: 1\r\n" % number)
                time.sleep(0.02)
        except OSError:
            pass
        assert 0.2 < time.monotonic() - begun < 3
        assert silent.recv(100) == b""
        used.request("GET", "/health")  # which was idle for as long
        assert used.getresponse().read()
        used.sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        time.sleep(0.1)
        used.sock.sendall(b"\r\n")
        assert used.sock.recv(100).startswith(b"HTTP/1.1 200 ")
        used.sock.sendall(b"GET /health HTTP/1.1\r\n")
        return b"".join(iter(lambda: used.sock.recv(1000), b""))

    settings = ServerSettings(port=0, header_time=0.4)
    assert b"HTTP/1.1 408 " in served(ScriptedBackend(), settings, work)


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
    with pytest.raises(
        InputError, match=r'the server needs uvicorn: pip install "\.\[server\]" in the folder of this package'
    ):
        check_installed()
