"""A server in a process of its own, under load: what stresses, measures and fuzzes it, over a few requests."""

import asyncio
import json
import random

import fuzz_server
import measure_server
import pytest
import stress_server
from served import Figures, Manner, Reply, Server, ask, frames

from mlx_gemma4_assist import Pair
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts
from mlx_gemma4_assist.server.service import Service

KEPT = 5_000_000  # bytes of prompts


@pytest.fixture(scope="module")
def server():
    options = ("--max-waiting", "4", "--prefix-cache-bytes", str(KEPT), "--max-stall", "0.05")
    with Server(*options) as running:
        yield running


def test_many_at_once_say_what_they_say_alone(server, capsys):
    """Twenty, of every kind; some leave, some are slow, and more come than may wait."""
    rng, words = random.Random(8), str(bundled_prompts()["prose"]).split()
    cases = [stress_server.random_case(rng, words) for _ in range(20)]
    assert any(case.manner.looks is not None for case in cases)
    assert any(case.manner.pause for case in cases)
    assert stress_server.stress(server, Pair.load("tiny"), [cases], KEPT) == []
    assert "20 at once" in capsys.readouterr().out


def test_what_is_wrong_is_found():
    """A text, a status and an end that should not be; what is left behind."""
    rng, words = random.Random(1), ["a", "b"] * 500
    case = stress_server.random_case(rng, words)._replace(
        protocol=stress_server.PROTOCOLS[1], manner=Manner(), answers=1
    )
    said = b'data: {"choices": [{"index": 0, "text": "x"}]}\n\ndata: [DONE]\n\n'
    replies = [Reply(200, {}, said, True), Reply(200, {}, said, False), Reply(500, {}, b"", True)]
    for text, count in (("x", 2), ("y", 3)):
        wave = stress_server.Wave(replies, 0, stress_server.Counter(reply.status for reply in replies))
        assert len(stress_server.complaints(wave, [case] * 3, lambda _, text=text: {0: text})) == count
    before, after = Figures(0, 0, 100, 0, 5, 5), Figures(0, 1, 1000, 0, 6, 5)
    assert len(stress_server.not_back(before, after, 100)) == 3
    assert stress_server.not_back(before, before, 0) == []


def test_streams_are_read():
    assert list(frames(b'event: a\ndata: {"x": 1}\n\ndata: [DONE]\n\n{"y": 2}\n')) == [{"x": 1}, {"y": 2}]


def test_what_is_measured(server):
    """A table, whatever its figures."""
    service = Service(Checkpoint.open("tiny"))
    try:
        args = measure_server.arguments().parse_args(["--turns", "1", "--tokens", "4", "--prompt-tokens", "60"])
        table = measure_server.table(args, server, service)
    finally:
        service.close()
    assert table[1] == "|---|---|---|"
    assert all(row.count("|") == 4 for row in table)


def test_malformed_bodies_are_refused(server):
    """By the server that is asked and its document; what else would come back is found."""
    document = json.loads(server.get("/openapi.json"))
    cases = {number: fuzz_server.malformed(random.Random(f"3/{number}"), document) for number in range(80)}
    assert len({bad.path for bad in cases.values()}) > 8
    statuses, wrong = fuzz_server.try_out(cases, lambda bad: asyncio.run(ask(server.port, bad.path, bad.content)))
    assert wrong == []
    assert sum(statuses.values()) == 80
    answers = [Reply(200, {}, b"{}"), Reply(400, {}, b"{}"), Reply(400, {}, b'{"error": "Traceback"}'), Reply()]
    for reply in answers:
        assert len(fuzz_server.try_out({0: cases[0]}, lambda bad, reply=reply: reply)[1]) == 1
