"""What a server gives to many at once, what a conversation's second turn waits for, and what HTTP costs.

    python tools/measure_server.py [--model tiny] [--turns 5] [--tokens 128] [--prompt-tokens 4000]

A Markdown table of medians and ranges over turns, in which what is compared takes turns:

- tokens per second of 8 streams at once over those of one;
- seconds to the first token of a conversation's second turn over the first's, whose prompt is new each time;
- what a streamed token costs more over HTTP than from the same backend in this process, over the seconds of a round,
  and beside it the computing time of the server's thread of HTTP, which other programs disturb less.
"""

import argparse
import asyncio
import json
import os
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from command_line import parser_for, positive, run_tool
from served import Server, frames
from stress_server import openai_texts

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.evaluation.benchmark import Spread, bundled_prompts
from mlx_gemma4_assist.server.exchange import Event, Failed, Finished, TextRequest
from mlx_gemma4_assist.server.service import Service

AT_ONCE = 8
DRAFTS = 3
PROMPT_TOKENS = 40


class Streamed(NamedTuple):
    """An answer over HTTP.

    Attributes:
        text: of it.
        first, whole: seconds to its first text, and to its end.
        tokens, rounds: as the server counts them.
    """

    text: str
    first: float
    whole: float
    tokens: int
    rounds: int


async def streamed(port: int, path: str, body: dict[str, Any]) -> Streamed:
    """Ask for a stream, and time it.

    Raises:
        InputError: it is refused.
    """
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    reading, writing = await asyncio.open_connection("127.0.0.1", port)
    begun, first, received = time.perf_counter(), 0.0, b""
    writing.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + content
    )
    async for line in reading:
        received += line if line.startswith(b"data:") else b""
        if not first and (b'"content":"' in line or b'"text":"' in line):
            first = time.perf_counter() - begun if any(openai_texts(frames(line)).values()) else 0.0
    writing.close()
    found = list(frames(received))
    if not found:
        raise InputError("the server has refused a request; --log-level shows why")
    timings = found[-1]["timings"]
    whole = time.perf_counter() - begun
    return Streamed(openai_texts(found)[0], first, whole, timings["predicted_n"], timings["rounds"])


# Many at once


def continued(words: Sequence[int], place: int, tokens: int) -> dict[str, Any]:
    """A body that has a piece of a text go on for so many tokens."""
    begin = place * PROMPT_TOKENS % (len(words) - PROMPT_TOKENS)
    prompt = [2, *words[begin : begin + PROMPT_TOKENS]]
    # No token that ends a turn: texts are as long as each other.
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logit_bias": {"1": -100, "106": -100}}


def throughput(server: Server, bodies: Sequence[dict[str, Any]]) -> float:
    """Tokens per second of streams that begin at once."""

    async def all_of_them() -> list[Streamed]:
        return await asyncio.gather(*(streamed(server.port, "/v1/completions", body) for body in bodies))

    begin = time.perf_counter()
    found = asyncio.run(all_of_them())
    return sum(one.tokens for one in found) / (time.perf_counter() - begin)


# A second turn


def turns(server: Server, text: str) -> tuple[float, float]:
    """Seconds to the first token of a conversation's first turn, and of its second."""
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 16, "temperature": 0}
    one = asyncio.run(streamed(server.port, "/v1/chat/completions", body))
    server.at_rest(60)
    time.sleep(0.5)  # somebody reads the answer
    messages += [{"role": "assistant", "content": one.text}, {"role": "user", "content": "And then?"}]
    return one.first, asyncio.run(streamed(server.port, "/v1/chat/completions", body)).first


# HTTP


def without_http(service: Service, body: dict[str, Any]) -> float:
    """Seconds of a stream from a backend in this process.

    Raises:
        InputError: it has failed.
    """
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    options = {name: value for name, value in body.items() if name != "prompt"}
    options["logit_bias"] = {int(token): bias for token, bias in options["logit_bias"].items()}
    begin = time.perf_counter()
    service.submit(TextRequest(model="default", prompts=[body["prompt"]], options=options, stream=True), heard.put)
    while not isinstance(event := heard.get(), Finished):
        if isinstance(event, Failed):
            raise InputError(event.error.message)
    return time.perf_counter() - begin


def computing(server: Server) -> float:
    """Seconds that the thread of a server's HTTP, its first, has computed; 0 where the system has no /proc."""
    file = Path("/proc") / str(server.pid) / "task" / str(server.pid) / "stat"
    if not file.exists():
        return 0.0
    figures = file.read_text().rpartition(")")[2].split()
    return sum(map(int, figures[11:13])) / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """What HTTP costs a streamed token, over the seconds of a round.

    Attributes:
        waited: what comes later.
        computed: by the thread of HTTP.
    """

    waited: float
    computed: float


def cost(server: Server, service: Service, body: dict[str, Any]) -> Cost:
    """From one stream over HTTP and the same without."""
    alone = without_http(service, body)
    before = computing(server)
    served = asyncio.run(streamed(server.port, "/v1/completions", body))
    computed = computing(server) - before
    a_round = alone / served.rounds
    return Cost((served.whole - alone) / served.tokens / a_round, computed / served.tokens / a_round)


# All


def table(args: argparse.Namespace, server: Server, service: Service) -> list[str]:
    """Rows of a table, after a round of everything that warms up."""
    text = str(bundled_prompts()["prose"])
    words = list(service.tokenize(text))
    characters = args.prompt_tokens * len(text) // len(words)
    found: dict[str, list[float]] = {name: [] for name in ("one", "many", "ratio", "first", "second", "share")}
    found |= {"waited": [], "computed": []}
    for turn in range(args.turns + 1):
        bodies = [continued(words, AT_ONCE * turn + place, args.tokens) for place in range(AT_ONCE)]
        one, many = throughput(server, bodies[:1]), throughput(server, bodies)
        prose = f"{turn}. " + (text * (1 + characters // len(text)))[:characters]
        first, second = turns(server, prose)
        costs = cost(server, service, bodies[0] | {"max_tokens": 2 * args.tokens, "num_assistant_tokens": DRAFTS})
        if turn:
            values = (one, many, many / one, first, second, second / first, costs.waited, costs.computed)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    return rows(found, args)


def rows(found: dict[str, list[float]], args: argparse.Namespace) -> list[str]:
    """Of a Markdown table."""

    def spread(name: str, form: str) -> str:
        one = Spread.of(found[name])
        return f"{one.median:{form}} ({one.low:{form}} to {one.high:{form}})"

    return [
        "| | median (range) | wanted |",
        "|---|---|---|",
        f"| one stream, tokens/s | {spread('one', '.0f')} | |",
        f"| {AT_ONCE} at once, tokens/s | {spread('many', '.0f')} | |",
        f"| {AT_ONCE} at once over one | {spread('ratio', '.2f')} | >= 3 |",
        f"| first turn of {args.prompt_tokens:,} tokens, s to the first token | {spread('first', '.3f')} | |",
        f"| second turn | {spread('second', '.3f')} | |",
        f"| second over first | {spread('share', '.3f')} | <= 0.1 |",
        f"| HTTP, later per streamed token over a round | {spread('waited', '.3f')} | < 0.05 |",
        f"| HTTP, computed per streamed token over a round | {spread('computed', '.3f')} | < 0.05 |",
    ]


def main(args: argparse.Namespace) -> None:
    service = Service(Checkpoint.open(args.model))
    try:
        service.load()
        with Server("--model", args.model) as server:
            print("\n".join(table(args, server, service)))
    finally:
        service.close()


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="a folder, a repo on the Hub, or tiny")
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--tokens", type=positive, default=128, help="of each answer")
    parser.add_argument("--prompt-tokens", type=positive, default=4000, help="of a conversation's first turn")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), main)
