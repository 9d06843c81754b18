"""What a server does under many requests at once, of which some leave and some read slowly.

    python tools/stress_server.py [--model tiny] [--requests 200] [--waves 2] [--prefix-cache 20MB] [--seed 0]

A wave is that many streaming requests begun at once, of every protocol, with random prompts of which some begin alike,
temperatures, seeds, stops, penalties, several answers, log-probabilities, schemas. Some leave at random points, some
read a few bytes at a time. Who is refused with 503 asks again. Then the server is looked at until it does nothing more.

Wrong are a status from 500 on but 503, a stream that ends early, a text that is not that of ``stream_generate`` alone,
here, with the same options, and whatever is not as before: requests in hand, open files, memory beyond the prefix
cache. The exit code is 1 if anything is wrong.
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from command_line import parser_for, positive, run_tool
from served import Figures, Manner, Reply, Server, ask

from mlx_gemma4_assist import Pair, stream_generate
from mlx_gemma4_assist.commands.serve_options import size_of
from mlx_gemma4_assist.evaluation.benchmark import bundled_prompts

REST = 30.0  # seconds after which a server without clients must be at rest
MOST_WAIT = 0.5  # seconds that who is refused waits, whatever it is told
TRIES = 300
ROUNDED_UP = 1.2  # what MLX takes for many small arrays over what they hold
WAITING = 150  # requests that may wait in the server; more are refused
LEAVE, SLOW = 0.2, 0.15  # of all requests
TEXT = {"type": "string", "maxLength": 8}
SCHEMA = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "b"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
Frames = Sequence[Mapping[str, Any]]
Texts = dict[int, str]


class Case(NamedTuple):
    """A request.

    Attributes:
        protocol: that it is made in.
        prompt: its text.
        options: keywords of ``GenerationOptions``.
        answers: how many are wanted.
        manner: how the client reads.
    """

    protocol: "Protocol"
    prompt: str
    options: dict[str, Any]
    answers: int
    manner: Manner


class Protocol(NamedTuple):
    """A way to ask.

    Attributes:
        path: that is asked.
        body: of a case.
        texts: of the answers, from a stream.
        is_chat: whether the prompt is a message.
        draws: whether it has seeds, and what goes with them.
        counts: whether it has several answers.
        tells: whether it has log-probabilities.
    """

    path: str
    body: Callable[[Case], dict[str, Any]]
    texts: Callable[[Frames], Texts]
    is_chat: bool = True
    draws: bool = True
    counts: bool = False
    tells: bool = False


# Bodies


def messages(case: Case) -> list[dict[str, str]]:
    return [{"role": "user", "content": case.prompt}]


def openai_body(case: Case) -> dict[str, Any]:
    given = {name: value for name, value in case.options.items() if name not in ("json_schema", "top_logprobs")}
    if "json_schema" in case.options:
        given["response_format"] = {"type": "json_schema", "json_schema": {"schema": case.options["json_schema"]}}
    return {**given, "stream": True, "n": case.answers}


def chat_body(case: Case) -> dict[str, Any]:
    told = case.options.get("top_logprobs")
    more = {} if told is None else {"logprobs": True, "top_logprobs": told}
    return {"messages": messages(case), **openai_body(case), **more}


def completions_body(case: Case) -> dict[str, Any]:
    told = case.options.get("top_logprobs")
    return {"prompt": case.prompt, **openai_body(case), **({} if told is None else {"logprobs": told})}


def responses_body(case: Case) -> dict[str, Any]:
    given = {name: value for name, value in case.options.items() if name not in ("json_schema", "max_tokens")}
    given |= {"input": case.prompt, "max_output_tokens": case.options["max_tokens"], "stream": True}
    if "json_schema" in case.options:
        given["text"] = {"format": {"type": "json_schema", "name": "s", "schema": case.options["json_schema"]}}
    return given


def anthropic_body(case: Case) -> dict[str, Any]:
    options = case.options
    given = {"model": "claude-x", "messages": messages(case), "max_tokens": options["max_tokens"], "stream": True}
    given |= {"temperature": options["temperature"], "stop_sequences": options.get("stop", [])}
    if "json_schema" in options:
        given["output_format"] = {"type": "json_schema", "schema": options["json_schema"]}
    return given


def ollama_body(case: Case) -> dict[str, Any]:
    options = dict(case.options)
    options["num_predict"] = options.pop("max_tokens")
    form = {"format": options.pop("json_schema")} if "json_schema" in options else {}
    told = options.pop("top_logprobs", None)
    more = {} if told is None else {"logprobs": True, "top_logprobs": told}
    return {"model": "default", "options": options, **form, **more}


def ollama_chat_body(case: Case) -> dict[str, Any]:
    return {**ollama_body(case), "messages": messages(case)}


def ollama_text_body(case: Case) -> dict[str, Any]:
    return {**ollama_body(case), "prompt": case.prompt}


# Texts


def openai_texts(frames: Frames) -> Texts:
    texts: Texts = {}
    for frame in frames:
        for choice in frame["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content")
            texts[choice["index"]] = texts.get(choice["index"], "") + (piece or "")
    return texts


def responses_texts(frames: Frames) -> Texts:
    return {0: "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta")}


def anthropic_texts(frames: Frames) -> Texts:
    deltas = [frame["delta"] for frame in frames if frame["type"] == "content_block_delta"]
    return {0: "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")}


def ollama_texts(frames: Frames) -> Texts:
    return {0: "".join(frame["message"]["content"] if "message" in frame else frame["response"] for frame in frames)}


PROTOCOLS = (
    Protocol("/v1/chat/completions", chat_body, openai_texts, counts=True, tells=True),
    Protocol("/v1/completions", completions_body, openai_texts, is_chat=False, counts=True, tells=True),
    Protocol("/v1/responses", responses_body, responses_texts, tells=True),
    Protocol("/v1/messages", anthropic_body, anthropic_texts, draws=False),
    Protocol("/api/chat", ollama_chat_body, ollama_texts, tells=True),
    Protocol("/api/generate", ollama_text_body, ollama_texts, tells=True),
    Protocol("/api/v0/chat/completions", chat_body, openai_texts, counts=True, tells=True),
)


def random_case(rng: random.Random, words: Sequence[str]) -> Case:
    """Any request. Half of the prompts begin alike; one of twenty is long."""
    protocol = rng.choice(PROTOCOLS)
    count = rng.randint(400, 900) if rng.random() < 0.05 else rng.randint(2, 120)
    begin = 0 if rng.random() < 0.5 else rng.randrange(len(words) - 1)
    options: dict[str, Any] = {"max_tokens": rng.randint(1, 60), "temperature": 0.0}
    if protocol.draws and rng.random() < 0.6:
        options |= {"temperature": rng.uniform(0.3, 1.3), "seed": rng.randrange(2**32)}
        options |= {"top_k": rng.choice([0, 40]), "top_p": rng.choice([1.0, 0.9])}
        options |= {"repetition_penalty": 1.2} if rng.random() < 0.2 else {}
    if rng.random() < 0.2:
        options["stop"] = rng.sample(["e", "th", " her", "\n", ". ", "nd", "not"], rng.randint(1, 3))
    elif rng.random() < 0.2:
        options |= {"json_schema": SCHEMA, "max_tokens": 120}
    if protocol.tells and rng.random() < 0.15:
        options["top_logprobs"] = rng.randint(1, 9)
    answers = rng.randint(2, 4) if protocol.counts and rng.random() < 0.2 else 1
    looks = rng.randint(0, 25) if rng.random() < LEAVE else None
    manner = Manner(rng.uniform(0.002, 0.02) if rng.random() < SLOW else 0.0, looks)
    return Case(protocol, " ".join(words[begin : begin + count]), options, answers, manner)


def alone(pair: Pair, case: Case) -> Texts:
    """The texts of a case without a server, one after the other."""

    def text(number: int) -> str:
        options = dict(case.options)
        if "seed" in options:
            options["seed"] += number
        made = stream_generate(
            pair.target, pair.text(), case.prompt, pair.assistant, chat=case.protocol.is_chat, **options
        )
        return "".join(response.text for response in made)

    return {number: text(number) for number in range(case.answers)}


class Wave(NamedTuple):
    """What became of requests.

    Attributes:
        replies: to each case, the last if it was refused.
        refused: answers of 503.
        statuses: of all other answers.
    """

    replies: list[Reply]
    refused: int
    statuses: Counter[int]


async def run_wave(port: int, cases: Sequence[Case]) -> Wave:
    """All cases at once."""
    refused: Counter[int] = Counter()

    async def one(case: Case) -> Reply:
        for _ in range(TRIES):
            reply = await ask(port, case.protocol.path, case.protocol.body(case), case.manner)
            if reply.status != 503:
                return reply
            refused[503] += 1
            await asyncio.sleep(min(MOST_WAIT, float(reply.headers["retry-after"])))
        return reply

    replies = await asyncio.gather(*map(one, cases))
    return Wave(replies, refused[503], Counter(reply.status for reply in replies if reply.status))


def complaints(wave: Wave, cases: Sequence[Case], texts: Callable[[Case], Texts]) -> list[str]:
    """What is wrong with the answers of a wave."""
    found = [f"{count} answers have the status {status}" for status, count in wave.statuses.items() if status != 200]
    for number, (case, reply) in enumerate(zip(cases, wave.replies, strict=True)):
        if reply.status == 200 and not reply.whole and case.manner.looks is None:
            found.append(f"request {number} has ended early: {reply.content[-200:]!r}")
        if reply.status == 200 and reply.whole:
            said, wanted = case.protocol.texts(reply.frames()), texts(case)
            if said != wanted:
                found.append(f"request {number} ({case.protocol.path} {case.options}) says {said}, alone {wanted}")
    return found


def not_back(before: Figures, after: Figures, kept: int) -> list[str]:
    """What is not as before, when a server is at rest; ``kept`` bytes may be in its prefix cache."""
    found = [] if after.idle else [f"{after.running} requests run and {after.waiting} wait, but nobody asks"]
    if after.files > before.files:
        found.append(f"{after.files} files are open, {before.files} were")
    if after.active > before.active + ROUNDED_UP * kept:
        found.append(f"MLX has {after.active:,} bytes, {before.active:,} before and at most {kept:,} of prompts")
    return found


def row(name: str, figures: Figures) -> str:
    return (
        f"| {name} | {figures.running} | {figures.waiting} | {figures.active / 1e6:.2f} | "
        f"{figures.resident / 1e6:.0f} | {figures.files} | {figures.threads} |"
    )


def summary(cases: Sequence[Case], wave: Wave) -> str:
    whole = sum(reply.status == 200 and reply.whole for reply in wave.replies)
    slow = sum(case.manner.pause > 0 for case in cases)
    leaving = sum(case.manner.looks is not None for case in cases)
    return (
        f"{len(cases)} at once, {slow} of them slow, {leaving} leaving; {wave.refused} times 503; {whole} streams to "
        f"their end"
    )


def stress(server: Server, pair: Pair, waves: Sequence[Sequence[Case]], kept: int) -> list[str]:
    """What is wrong, after a table of figures."""
    wrong: list[str] = []
    asyncio.run(run_wave(server.port, waves[0][:1]))  # what is made once is there
    before = server.at_rest(REST)
    print("| | running | waiting | MLX, MB | process, MB | files | threads |\n|---|---|---|---|---|---|---|")
    print(row("before", before), flush=True)
    for number, cases in enumerate(waves, 1):
        wave = asyncio.run(run_wave(server.port, cases))
        after = server.at_rest(REST, before.files)
        print(row(f"wave {number}: {summary(cases, wave)}", after), flush=True)
        wrong += complaints(wave, cases, partial(alone, pair)) + not_back(before, after, kept)
    for (endpoint, status), count in server.statuses().items():
        if int(status) >= 500 and status != "503":
            wrong.append(f"{count} requests of {endpoint} have the status {status}")
    return wrong


def main(args: argparse.Namespace) -> int:
    kept = size_of("prefix_cache_bytes", args.prefix_cache) or 0
    pair = Pair.load(args.model)
    words = str(bundled_prompts()["prose"]).split() * 20
    rng = random.Random(args.seed)
    waves = [[random_case(rng, words) for _ in range(args.requests)] for _ in range(args.waves)]
    options = ["--model", args.model, "--max-waiting", str(WAITING), "--prefix-cache-bytes", args.prefix_cache]
    with Server(*options) as server:
        wrong = stress(server, pair, waves, kept)
    print("\n".join(wrong) if wrong else "every text that was finished equals its run alone; nothing is left behind")
    return int(bool(wrong))


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="a folder, a repo on the Hub, or tiny")
    parser.add_argument("--requests", type=positive, default=200, help="of each wave")
    parser.add_argument("--waves", type=positive, default=2)
    parser.add_argument("--prefix-cache", default="20MB", help="bytes that prompts may be kept in")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), main)
