"""Answers of protocols without an engine: events that were written down, and what a client's types make of frames."""

import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from mlx_gemma4_assist.server.endpoint import Endpoint, Exchange
from mlx_gemma4_assist.server.exchange import (
    Event,
    Finished,
    FinishReason,
    Model,
    Piece,
    RequestError,
    Started,
    TokenInfo,
    Usage,
    collected,
)
from mlx_gemma4_assist.text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, ThoughtDelta

MODEL = Model(
    id="google/gemma-4-E2B-it",
    aliases=("gemma",),
    created=1_700_000_000,
    context=131072,
    max_tokens=4096,
    pictures=True,
    sound=True,
    video=True,
    thinking=True,
    tools=True,
    dtype="bfloat16",
)
USAGE = Usage(12, 3, drafted=10, accepted=7, rounds=5, accepted_at=(4, 3), drafted_at=(5, 5))
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = (
    CallBegun(0, "call_1", "get_weather"),
    CallArguments(0, '{"city"'),
    CallArguments(0, ': "Paris"}'),
    CallEnded(0),
)


def exchange(endpoint: Endpoint, body: Mapping[str, Any], model: Model = MODEL) -> Exchange:
    """A body on its way."""
    return Exchange(endpoint.read(body, model), body, model, "0123456789abcdef01234567", 1_800_000_000)


def finished(choice: int = 0, reason: FinishReason = FinishReason.STOP) -> Finished:
    """An end."""
    return Finished(choice, reason, None, USAGE, 0.25, 0.5, 2.0)


def token(text: str, draft: int = 0) -> TokenInfo:
    """A token with one other that was likely, and one that was impossible."""
    return TokenInfo(7, text, draft, -0.5, ((7, text, -0.5), (8, "x", float("-inf"))))


def script(*deltas: Any, choice: int = 0, reason: FinishReason = FinishReason.STOP) -> list[Event]:
    """An answer of these deltas, each in a piece of its own."""
    return [Started(20, 8), *(Piece(choice, (delta,)) for delta in deltas), finished(choice, reason)]


TALK = (ThoughtDelta("Let me "), ThoughtDelta("see."), AnswerDelta("Hello"), AnswerDelta(" world"))
"""A thought, and an answer."""
WORK = (ThoughtDelta("Look it up."), AnswerDelta("One moment. "), *CALL)
"""A thought, text, and a call."""


def streamed(endpoint: Endpoint, body: Mapping[str, Any], events: list[Event]) -> list[Any]:
    """The data of all frames of an answer."""
    writer = endpoint.writer(exchange(endpoint, body))
    return [frame.data for event in events for frame in writer.take(event)]


def whole(endpoint: Endpoint, body: Mapping[str, Any], events: list[Event]) -> Any:
    """The body of an answer that is not streamed."""
    made = endpoint.whole(exchange(endpoint, body), collected(events))
    Draft202012Validator(endpoint.answer_schema).validate(made)
    return made


def strict(kind: Any, data: Any, extensions: frozenset[str]) -> None:
    """Data are of a client's type: nothing has a wrong type, gets lost, or is unknown to it but these extensions."""
    adapter = _adapter(kind)
    parsed = adapter.validate_python(data, strict=True)
    assert adapter.dump_python(parsed, by_alias=True, exclude_unset=True, warnings="error") == data
    assert set(_extras(parsed)) <= extensions


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _extras(value: Any) -> Iterator[str]:
    """Names of fields that types do not know."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _extras(vars(value)[name])
    elif isinstance(value, list):
        for each in value:
            yield from _extras(each)


# Wrong bodies

ODD = (None, True, False, 0, 1, -1, 2.5, 1e300, 10**19, "", "x", "auto", [], [1], ["x"], [[]], [{}], {}, {"x": 1})
TYPED = ({"type": "text"}, {"type": "function"}, {"type": "x"}, [{"type": "text"}], [{"role": "user"}])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything within a body."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def spoiled(body: Mapping[str, Any], path: tuple[Any, ...], odd: Any) -> dict[str, Any]:
    """The body with something else in one place."""
    made: Any = deepcopy(dict(body))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    return made


def wrong_bodies(endpoint: Endpoint, good: Mapping[str, Any], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Every known field with some odd values, then bodies with odd values in random places."""
    draw, paths = random.Random(seed), list(places(good))
    for name in endpoint.body_schema["properties"]:
        for odd in draw.sample((*ODD, *TYPED), 8):
            yield {**good, name: odd}
    for _ in range(count):
        body: Mapping[str, Any] = good
        for _ in range(draw.randint(1, 3)):
            path = draw.choice(paths)
            try:
                body = spoiled(body, path, draw.choice((*ODD, *TYPED)))
            except (KeyError, IndexError, TypeError):
                break  # an earlier one has taken the place away
        yield dict(body)


def check_refusals(endpoint: Endpoint, good: Mapping[str, Any], count: int = 400, seed: int = 0) -> None:
    """Bodies are read or refused with status 400, never anything else; what the schema does not allow is refused."""
    schema = Draft202012Validator(endpoint.body_schema)
    schema.check_schema(endpoint.body_schema)
    endpoint.read(good, MODEL)
    assert schema.is_valid(good)
    read = refused = 0
    for body in wrong_bodies(endpoint, good, count, seed):
        refusal = _refusal(endpoint, body)
        assert refusal is None or refusal.message
        assert refusal is None or refusal.status == 400
        assert refusal is not None or schema.is_valid(body), body
        read, refused = read + (refusal is None), refused + (refusal is not None)
    assert read > 20
    assert refused > 200


def _refusal(endpoint: Endpoint, body: Mapping[str, Any]) -> RequestError | None:
    try:
        endpoint.read(body, MODEL)
    except RequestError as error:
        return error
    return None
