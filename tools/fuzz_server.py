"""Malformed bodies for a server: each must be refused with a status from 400 to 499 and an error of its protocol.

    python tools/fuzz_server.py [--model tiny] [--cases 1000] [--seed 0] [--only N]

Bodies that are no JSON, or no object: cut off, with bytes that are no UTF-8, keys twice, numbers beyond all bounds,
nested too deep. And bodies with values that the served OpenAPI document does not allow: examples of each protocol in
which values are replaced, added or left out at random places until the schema there says that they are wrong. Case N
follows from the seed and its number. The exit code is 1 if anything else comes back.
"""

import argparse
import asyncio
import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from command_line import parser_for, positive, run_tool
from jsonschema import Draft202012Validator
from served import Reply, Server, ask

LONGEST = 2000  # characters of an error
SHOWN = 300
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
]
FORM = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
CHAT = {"model": "default", "messages": TALK, "tools": TOOLS, "response_format": FORM, "stop": ["a"], "logprobs": True}
COMPLETION = {"model": "default", "prompt": ["a", "b"], "max_tokens": 2, "n": 2, "stream_options": {}, "logprobs": 1}
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
]
RESPONSE = {"input": ITEMS, "tools": [{"type": "function", **FUNCTION}], "text": {"format": {"type": "text"}}}
BLOCKS = [{"type": "text", "text": "a"}, {"type": "tool_result", "tool_use_id": "t", "content": "1"}]
MESSAGE = {
    "model": "claude-x",
    "max_tokens": 2,
    "system": [{"type": "text", "text": "a"}],
    "messages": [USER, {"role": "assistant", "content": "a"}, {"role": "user", "content": BLOCKS}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
OLLAMA = {"model": "default", "options": {"num_predict": 2, "seed": 1, "stop": ["a"]}, "format": {"type": "object"}}
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSE,
    "/v1/responses/input_tokens": RESPONSE,
    "/v1/messages": MESSAGE,
    "/v1/messages/count_tokens": {name: MESSAGE[name] for name in ("model", "system", "messages", "tools")},
    "/api/chat": {**OLLAMA, "messages": [USER, {"role": "assistant", "content": "a"}], "tools": TOOLS},
    "/api/generate": {**OLLAMA, "prompt": "a", "system": "b"},
    "/api/v0/chat/completions": CHAT,
    "/api/v0/completions": COMPLETION,
    "/v1/tokenize": {"content": "a"},
    "/v1/detokenize": {"tokens": [1, 2]},
    "/v1/apply-template": {"messages": TALK},
}
ODD = (
    None,
    True,
    0,
    -1,
    0.5,
    1e300,
    2**63,
    "",
    "x",
    "\0",
    [],
    [None],
    [[]],
    {},
    {"a": 1},
    [{"type": "x"}],
    {"type": 1},
)


class Bad(NamedTuple):
    """A body that must be refused.

    Attributes:
        path: that it is sent to.
        what: is wrong with it, in words.
        content: as it is sent.
    """

    path: str
    what: str
    content: bytes


def malformed(rng: random.Random, document: Mapping[str, Any]) -> Bad:
    """Any body that is wrong.

    Args:
        rng: chooses.
        document: of OpenAPI, as it is served.
    """
    path = rng.choice(list(EXAMPLES))
    if rng.random() < 0.3:
        what, content = no_object(rng, json.dumps(EXAMPLES[path]))
        return Bad(path, what, content)
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    what, body = off_its_schema(rng, EXAMPLES[path], validator(schema, document))
    return Bad(path, what, json.dumps(body).encode())


def validator(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Draft202012Validator:
    """Of a schema within a document."""
    return Draft202012Validator({**schema, "components": document["components"]})


def no_object(rng: random.Random, text: str) -> tuple[str, bytes]:
    """What is wrong, and a body that cannot be read as a JSON object, or not within the server's bounds."""
    place, depth = rng.randrange(1, len(text)), rng.choice([101, 1000, 100_000])
    head = text[:-1] + ', "extra": '
    ways: dict[str, bytes] = {
        "cut off": text[:place].encode(),
        "not UTF-8": text[:place].encode()
        + rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80"])
        + text[place:].encode(),
        "more behind it": (text + rng.choice(["}", "x", "{}", ","])).encode(),
        "no object": rng.choice([f"[{text}]", json.dumps(text), "null", "true", "5"]).encode(),
        "too deep": (head + "[" * depth + "]" * depth + "}").encode(),
        "objects too deep": (head + '{"a":' * depth + "1" + "}" * depth + "}").encode(),
        "no number of JSON": (head + rng.choice(["NaN", "Infinity", "-Infinity", "01", "+1", ".5"]) + "}").encode(),
        "too large a number": (head + rng.choice(["1" * 30, "1e999", "9" * 5000]) + "}").encode(),
        "a key twice": (head + '1, "extra": 2}').encode(),
        "control characters": (head + '"\n"}').encode(),
    }
    what = rng.choice(list(ways))
    return what, ways[what]


def off_its_schema(
    rng: random.Random, example: Mapping[str, Any], schema: Draft202012Validator
) -> tuple[str, dict[str, Any]]:
    """What is wrong, and the example changed until its schema does not allow it."""
    while True:
        body = copy.deepcopy(dict(example))
        changed = [change(rng, body, schema) for _ in range(rng.randint(1, 3))]
        if not schema.is_valid(body):
            return "; ".join(changed), body


def change(rng: random.Random, body: dict[str, Any], schema: Draft202012Validator) -> str:
    """Replace, leave out or add a value somewhere; what was done, in words."""
    way, there = rng.random(), list(places(body))
    if way < 0.2 or not there:
        name, value = rng.choice(list(known(schema))), copy.deepcopy(rng.choice(ODD))
        body[name] = value
        return f"{name} is {value!r}"
    holder, key = rng.choice(there)
    if way < 0.35:
        del holder[key]
        return f"without {key}"
    holder[key] = value = copy.deepcopy(rng.choice(ODD))
    return f"{key} is {value!r}"


def known(schema: Draft202012Validator) -> Mapping[str, Any]:
    """The fields of a body that its schema names."""
    whole = schema.schema
    found: Mapping[str, Any] = whole["components"]["schemas"][whole["$ref"].rpartition("/")[2]]["properties"]
    return found


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value's holder and its key there."""
    for key, item in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def complaint(status: int, content: bytes) -> str | None:
    """What is wrong with an answer to a malformed body."""
    if not 400 <= status < 500:
        return f"the status is {status}"
    try:
        error = json.loads(content)["error"]
        message = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        return "it is no error of a protocol"
    if not message or "\n" in message or len(message) > LONGEST or "Traceback" in message:
        return f"the error is {message[:SHOWN]!r}"
    return None


def try_out(cases: Mapping[int, Bad], post: Callable[[Bad], Reply]) -> tuple[Counter[int], list[str]]:
    """How often each status came, and what is wrong."""
    statuses: Counter[int] = Counter()
    wrong = []
    for number, bad in cases.items():
        reply = post(bad)
        statuses[reply.status] += 1
        found = complaint(reply.status, reply.content)
        if found is not None:
            told = f"{bad.content[:SHOWN]!r}: {found}: {reply.content[:SHOWN]!r}"
            wrong.append(f"case {number}, {bad.path}, {bad.what}: {told}")
    return statuses, wrong


def main(args: argparse.Namespace) -> int:
    numbers = range(args.cases) if args.only is None else [args.only]
    with Server("--model", args.model) as server:
        document = json.loads(server.get("/openapi.json"))
        cases = {number: malformed(random.Random(f"{args.seed}/{number}"), document) for number in numbers}
        statuses, wrong = try_out(cases, lambda bad: asyncio.run(ask(server.port, bad.path, bad.content)))
    print("\n".join(wrong))
    print(f"seed {args.seed}: {len(cases)} malformed bodies, {len(wrong)} answered otherwise than they should be")
    print(", ".join(f"{count} times {status}" for status, count in sorted(statuses.items())))
    return int(bool(wrong))


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="a folder, a repo on the Hub, or tiny")
    parser.add_argument("--cases", type=positive, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), main)
