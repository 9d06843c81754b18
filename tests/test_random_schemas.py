"""Answers that schemas hold, from weights that know nothing: each is of its schema, and nobody beside it notices.

``RANDOM_SCHEMAS`` says how many schemas are tried; 200 take some minutes.
"""

import json
import os
import queue
import random
from collections import Counter
from typing import Any

import mlx.core as mx
import pytest
from jsonschema import Draft202012Validator
from mlx.utils import tree_map
from support.random_schemas import random_schema

from mlx_gemma4_assist import Pair, stream_generate
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.server.exchange import ChatRequest, Event, Failed, Finished, RequestError, collected
from mlx_gemma4_assist.server.service import Service

COUNT = int(os.environ.get("RANDOM_SCHEMAS", "6"))
TOGETHER = 6
PATIENCE = 120  # seconds, after which a test has failed
MAX_TOKENS = 60
PROMPT = "Who is Mr. Darcy?"


def with_random_weights(pair: Pair) -> Pair:
    """The same networks, whose matrices are noise: every token is about as likely as any other."""
    mx.random.seed(11)

    def noise(array: mx.array) -> mx.array:
        if array.ndim < 2 or not mx.issubdtype(array.dtype, mx.floating):
            return array
        return (mx.random.normal(array.shape) * mx.std(array.astype(mx.float32))).astype(array.dtype)

    for network in (pair.target, pair.assistant):
        assert network is not None
        network.update(tree_map(noise, network.parameters()))
        mx.eval(network.parameters())
    return pair


@pytest.fixture(scope="module")
def pair():
    return with_random_weights(Pair.load("tiny"))


@pytest.fixture(scope="module")
def service(pair):
    made = Service(Checkpoint.open("tiny"), load=lambda: pair)
    yield made
    made.close()


def request_of(**options: Any) -> ChatRequest:
    messages = [{"role": "user", "content": PROMPT}]
    return ChatRequest(model="tiny", messages=messages, options={"max_tokens": MAX_TOKENS} | options, stream=True)


def drawn(rng: random.Random) -> dict[str, Any]:
    """Options that draw, with drafts of either kind; repeatable, so that as many answers end at every run."""
    drafts = {"num_assistant_tokens": rng.choice([1, 2, 3, None]), "draft_temperature": rng.choice([0.0, 1.0])}
    return {"temperature": 1.0, "seed": rng.randrange(2**32), **drafts}


def answered(service: Service, requests: list[ChatRequest]) -> list[tuple[str, str]]:
    """Texts of requests at once, and why they ended; a refusal is an end too."""
    boxes: list[queue.Queue[Event]] = []
    refusals = {}
    for number, request in enumerate(requests):
        boxes.append(queue.Queue())
        try:
            service.submit(request, boxes[-1].put)
        except RequestError as error:
            refusals[number] = (error.message, "refused")
    return [refusals.get(number) or told(box) for number, box in enumerate(boxes)]


def told(box: "queue.Queue[Event]") -> tuple[str, str]:
    events = [box.get(timeout=PATIENCE)]
    while not isinstance(events[-1], Finished | Failed):
        events.append(box.get(timeout=PATIENCE))
    (choice,) = collected(events).choices
    assert choice.finished is not None
    return choice.answer, str(choice.finished.reason)


def test_whatever_the_schema_its_answers_are_of_it(service, pair):
    """Drawn at temperature 1, with drafts, beside others; those whom no schema holds say what they say alone."""
    rng, ends = random.Random(5), Counter[str]()
    beside = [{"temperature": float(i % 2), "seed": i, "max_tokens": 20 + 15 * i} for i in range(2)]
    alone = [
        "".join(one.text for one in stream_generate(pair.target, pair.processor, PROMPT, pair.assistant, **options))
        for options in beside
    ]
    for begin in range(0, COUNT, TOGETHER):
        schemas = [random_schema(rng) for _ in range(min(TOGETHER, COUNT - begin))]
        held = [request_of(json_schema=schema, **drawn(rng)) for schema in schemas]
        *answers, first, second = answered(service, [*held, *(request_of(**options) for options in beside)])
        assert [text for text, _ in (first, second)] == alone
        for schema, (text, end) in zip(schemas, answers, strict=True):
            ends[end] += 1
            if end == "stop":
                Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
                    json.loads(text)
                )
            elif end == "refused":
                assert "json_schema is not supported: " in text
    print(dict(ends))
    assert ends["stop"] > 0.5 * COUNT
    assert ends["refused"] < 0.1 * COUNT
