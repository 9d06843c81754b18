"""OpenAI's own client against the translations, without a socket: what its streams put together is what was said."""

import json
from collections.abc import Callable

import httpx
import openai
import pytest
from pydantic import BaseModel
from support.exchanges import TALK, USAGE, WEATHER, WORK, exchange, script

from mlx_gemma4_assist.server.exchange import Event, FinishReason, Frame, RequestError, collected
from mlx_gemma4_assist.server.openai import ENDPOINTS
from mlx_gemma4_assist.text.deltas import AnswerDelta

ASKED = {"model": "default", "messages": [{"role": "user", "content": "Weather?"}]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


def served(events: Callable[[], list[Event]]) -> openai.OpenAI:
    """A client of a server that always says the same."""

    def answer(request: httpx.Request) -> httpx.Response:
        (endpoint,) = [each for each in ENDPOINTS if request.url.path == f"/v1{each.paths[0]}"]
        try:
            made = exchange(endpoint, json.loads(request.content))
        except RequestError as error:
            return httpx.Response(error.status, json=endpoint.error(error))
        if not made.request.stream:
            return httpx.Response(200, json=endpoint.whole(made, collected(events())))
        writer = endpoint.writer(made)
        content = "".join(_sent(frame) for event in events() for frame in writer.take(event))
        return httpx.Response(200, text=content, headers={"content-type": endpoint.framing.value})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


def _sent(frame: Frame) -> str:
    data = frame.data if isinstance(frame.data, str) else json.dumps(frame.data)
    return f"event: {frame.event}\ndata: {data}\n\n" if frame.event else f"data: {data}\n\n"


def working() -> list[Event]:
    return script(*WORK, reason=FinishReason.TOOL_CALLS)


def test_a_chat_is_put_together():
    client = served(working)
    whole = client.chat.completions.create(**ASKED, tools=[TOOL])
    with client.chat.completions.stream(**ASKED, tools=[TOOL], stream_options={"include_usage": True}) as stream:
        made = stream.until_done().get_final_completion()
    for each in (whole, made):
        (choice,) = each.choices
        assert (choice.message.content, choice.finish_reason) == ("One moment. ", "tool_calls")
        (call,) = choice.message.tool_calls
        assert (call.id, call.function.name, json.loads(call.function.arguments)) == (
            "call_1",
            "get_weather",
            {"city": "Paris"},
        )
        assert choice.message.reasoning_content == "Look it up."
        assert each.usage.completion_tokens_details.accepted_prediction_tokens == USAGE.accepted


class City(BaseModel):
    city: str


def test_answers_of_a_type_are_read():
    client = served(lambda: script(AnswerDelta('{"city": "Paris"}')))
    parsed = client.chat.completions.parse(**ASKED, response_format=City)
    assert parsed.choices[0].message.parsed == City(city="Paris")
    assert client.responses.parse(model="default", input="Where?", text_format=City).output_parsed == City(city="Paris")


def test_a_response_is_put_together():
    client = served(working)
    whole = client.responses.create(model="default", input="Weather?")
    with client.responses.stream(model="default", input="Weather?") as stream:
        seen = [event.type for event in stream]
        made = stream.get_final_response()
    assert seen[0] == "response.created"
    for each in (whole, made):
        assert each.output_text == "One moment. "
        assert [item.type for item in each.output] == ["reasoning", "message", "function_call"]
        assert each.output[2].arguments == '{"city": "Paris"}'
        assert each.usage.output_tokens == USAGE.completion_tokens
    again = client.responses.create(model="default", input=[*made.output, *ANSWERED])
    assert again.output_text == "One moment. "


ANSWERED = [{"type": "function_call_output", "call_id": "call_1", "output": "sunny"}]


def test_a_completion_is_put_together():
    client = served(lambda: script(*TALK[2:]))
    assert client.completions.create(model="default", prompt="Hi").choices[0].text == "Hello world"
    chunks = client.completions.create(model="default", prompt="Hi", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello world"


def test_a_refusal_is_raised():
    client = served(working)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASKED, extra_body={"grammar": "root ::= x"})
    assert (caught.value.param, caught.value.code) == ("grammar", "unsupported_parameter")
