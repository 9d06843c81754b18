"""Bodies of requests: broken, long, slow, odd; each a clean error, or read."""

import asyncio
import json
import logging
import random

import pytest
from support.serving import (
    ask,
    client_of,
)

from mlx_gemma4_assist.server.body import MAX_DEPTH, parse_body
from mlx_gemma4_assist.server.exchange import RequestError
from mlx_gemma4_assist.server.settings import ServerSettings


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
