"""OpenAI's chats and completions: bodies to requests, events to answers that OpenAI's own types accept."""

import json

import pytest
from jsonschema import Draft202012Validator
from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from support.exchanges import (
    CALL,
    MODEL,
    TALK,
    WEATHER,
    WORK,
    check_refusals,
    finished,
    script,
    streamed,
    strict,
    token,
    whole,
)

from mlx_gemma4_assist.errors import OptionError
from mlx_gemma4_assist.options import GenerationOptions
from mlx_gemma4_assist.server.exchange import (
    ChatRequest,
    Failed,
    FinishReason,
    Model,
    Piece,
    Progress,
    RequestError,
    Started,
    TextRequest,
    ToolChoice,
)
from mlx_gemma4_assist.server.fields import FLAG, INTEGER, NULL, TEXT, check, either, listed, one_of, record
from mlx_gemma4_assist.server.lookups import LOOKUPS
from mlx_gemma4_assist.server.ollama_schema import OPTIONS
from mlx_gemma4_assist.server.openai import ENDPOINTS
from mlx_gemma4_assist.server.openai_chat import CHAT
from mlx_gemma4_assist.server.openai_completions import COMPLETIONS
from mlx_gemma4_assist.server.openai_options import RANGES, UNSAID
from mlx_gemma4_assist.text.deltas import AnswerDelta, ThoughtDelta

EXTENSIONS = frozenset({"timings", "reasoning_content", "drafts", "prompt_progress"})
HI = {"model": "default", "messages": [{"role": "user", "content": "Hi"}]}
FUNCTION = {"name": "get_weather", "description": "Tells it.", "parameters": WEATHER, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
RICH = {
    **HI,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
            ],
        },
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "Look it up.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "logit_bias": {"5": -100, "6": 2.5},
    "seed": 7,
    "stop": ["a", "b"],
    "max_completion_tokens": 99,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "reasoning_effort": "low",
    "prediction": {"type": "content", "content": [{"type": "text", "text": "as "}, {"type": "text", "text": "before"}]},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": WEATHER, "strict": True}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    "metadata": {"a": "b"},
    "mirostat": 0,
    "what_is_this": ["?"],
}


def read(**fields) -> ChatRequest:
    return CHAT.read({**HI, **fields}, MODEL)


def refused(endpoint=CHAT, served=MODEL, **fields) -> RequestError:
    base = HI if endpoint is CHAT else {"prompt": "Hi"}
    with pytest.raises(RequestError) as caught:
        endpoint.read({**base, **fields}, served)
    assert caught.value.status == 400
    return caught.value


def say(*messages) -> list:
    return list(read(messages=list(messages)).messages)


# Requests


def test_a_chat_of_everything():
    request = CHAT.read(RICH, MODEL)
    assert request.options == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "logit_bias": {5: -100.0, 6: 2.5},
        "seed": 7,
        "stop": ["a", "b"],
        "max_tokens": 99,
        "top_logprobs": 3,
        "json_schema": WEATHER,
    }
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "url": PIXEL},
                {"type": "audio", "url": "data:audio/wav;base64,AAAA"},
                {"type": "video", "url": "https://example.org/a.mp4"},
            ],
        },
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "Look it up.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "sunny"},
    ]
    assert (request.tools, request.tool_choice, request.named_tool) == ([TOOL], ToolChoice.NAMED, "get_weather")
    assert not request.parallel_tool_calls
    assert (request.thinking, request.thinking_budget) == (True, 1024)
    assert (request.prediction, request.answers, request.stream, request.priority) == ("as before", 2, True, -1)


def test_a_chat_of_nothing():
    request = CHAT.read({"messages": HI["messages"]}, MODEL)
    assert request == ChatRequest(model="default", messages=[{"role": "user", "content": "Hi"}], tools=[])


def test_null_is_as_if_a_field_were_not_there():
    fields = [name for name in CHAT.body_schema["properties"] if name != "messages"]
    assert CHAT.read({**HI, **dict.fromkeys(fields)}, MODEL) == CHAT.read(HI, MODEL)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6.0}, {"max_tokens": 6}),
        ({"max_tokens": -1, "seed": -1}, {}),
        ({"seed": -2}, {"seed": 2**64 - 2}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"stop": "x"}, {"stop": "x"}),
        ({"logprobs": True}, {"top_logprobs": 0}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        ({"response_format": {"type": "json_object", "schema": WEATHER}}, {"json_schema": WEATHER}),
        ({"regex": "[0-9]+"}, {"regex": "[0-9]+"}),
        ({"num_assistant_tokens": 0}, {"num_assistant_tokens": 0}),
        ({"temperature": 0, "ignore_eos": False, "min_tokens": 0, "typical_p": 1.0}, {"temperature": 0}),
    ],
)
def test_options(fields, options):
    assert read(**fields).options == options


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, (None, None)),
        ({"reasoning_effort": "none"}, (False, None)),
        ({"reasoning_effort": "high"}, (True, None)),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, (True, None)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, (False, None)),
        ({"thinking_budget": 50}, (True, 50)),
        ({"thinking_budget": 0}, (False, None)),
        ({"thinking_budget": -1, "reasoning_effort": "low"}, (True, None)),
        ({"reasoning": {"effort": "low"}}, (True, 1024)),
        ({"reasoning": {"max_tokens": 9}}, (True, 9)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, (True, 2000)),
        ({"thinking": {"type": "disabled"}}, (False, None)),
    ],
)
def test_thinking(fields, thinking):
    request = read(**fields)
    assert (request.thinking, request.thinking_budget) == thinking


RANGED = [(CHAT.body_schema, name) for name in RANGES] + [(COMPLETIONS.body_schema, name) for name in RANGES]
RANGED += [(OPTIONS, name) for name in RANGES]


@pytest.mark.parametrize(
    ("schema", "name"), [(schema, name) for schema, name in RANGED if name in schema["properties"]]
)
def test_the_document_says_which_numbers_are_taken(schema, name):
    """At the ends of their ranges, and next to them; -1 stands for what is not said."""
    said = Draft202012Validator(schema["properties"][name])
    ends = RANGES[name].values()
    for value in {end + step for end in ends for step in (-1, 0, 1)} - {UNSAID}:
        try:
            GenerationOptions(**{"temperature": 1.0, name: value})
            taken = True
        except OptionError:
            taken = False
        assert said.is_valid(value) == taken or name == "seed", (name, value)


@pytest.mark.parametrize(
    ("tier", "priority"), [("auto", 0), ("default", 0), ("scale", 0), ("flex", -1), ("priority", 1)]
)
def test_service_tiers(tier, priority):
    assert read(service_tier=tier).priority == priority


def test_a_form_keeps_its_name():
    """By which what is wrong with it is told of, wherever that is found out."""
    form = {"type": "json_object"}
    assert read(response_format=form).fields == {"json_schema": "response_format"}
    assert read(json_schema={}).fields == read(response_format={"type": "text"}).fields == {}
    assert COMPLETIONS.read({"prompt": "Hi", "response_format": form}, MODEL).fields == {
        "json_schema": "response_format"
    }


def test_a_model_that_does_not_think_is_not_asked_to():
    request = CHAT.read({**HI, "reasoning_effort": "high"}, Model(id="a"))
    assert (request.thinking, request.thinking_budget) == (None, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"num_assistant_tokens": 1000}, "num_assistant_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"model": 5}, "model"),
        ({"service_tier": "fast"}, "service_tier"),
        ({"verbosity": "loud"}, "verbosity"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"reasoning_effort": "hard"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}, "json_schema": {}}, "response_format"),
        ({"prediction": {"type": "content", "content": [{"type": "image"}]}}, "prediction.content"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    assert refused(**fields).param == param


def test_a_wrong_type_is_told_in_words():
    assert str(refused(temperature="hot")) == "temperature is 'hot', expected a number of at least 0 or null"
    assert str(refused(stop=5)) == "stop is 5, expected a string that is not empty or a list of 0 to 16 or null"
    assert str(refused(num_assistant_tokens=-1)) == "num_assistant_tokens is -1, expected an integer of 0 to 32"
    assert str(refused(max_tokens=0)) == "max_tokens is 0, expected an integer of at least 1"
    assert str(refused(repetition_penalty=0)) == "repetition_penalty is 0, expected a number above 0"
    assert str(refused(stream="yes", messages=[])).startswith("messages is a list of 0")
    assert (
        str(refused(seed=True))
        == "seed is true, expected an integer of -9223372036854775808 to 18446744073709551615 or null"
    )
    assert str(refused(messages=None)) == "messages is null, expected a list of at least 1"
    assert str(refused(stop={})).startswith("stop is an object, expected a string")


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "~/a.png", "", "ftp://a/b", "../data:x"])
@pytest.mark.parametrize("kind", ["image_url", "audio_url", "video_url"])
def test_no_path_is_taken_for_a_picture(kind, url):
    for given in (url, {"url": url}):
        error = refused(messages=[{"role": "user", "content": [{"type": kind, kind: given}]}])
        assert error.param == "messages[0].content[0]"


@pytest.mark.parametrize(("kind", "noun"), [("image_url", "pictures"), ("audio_url", "sound"), ("video_url", "video")])
def test_a_model_is_shown_only_what_it_takes(kind, noun):
    shown = [{"role": "user", "content": [{"type": kind, kind: {"url": PIXEL}}]}]
    assert noun in str(refused(served=Model(id="a", tools=True), messages=shown))
    assert "tools" in str(refused(served=Model(id="a"), tools=[TOOL]))


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ('{"city": "Paris"}', {"city": "Paris"}),
        ({"city": "Paris"}, {"city": "Paris"}),
        ("", {}),
        ("null", {}),
        (None, {}),
        ('{"city": "Par', {"arguments": '{"city": "Par'}),
        ("[1]", {"arguments": [1]}),
    ],
)
def test_arguments_are_objects(given, read):
    function = {"name": "get_weather"} | ({} if given is None else {"arguments": given})
    (message,) = say({"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": function}]})
    assert message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": read}
    assert message["content"] == ""


def test_what_clients_call_thoughts():
    for name in ("reasoning_content", "reasoning"):
        assert say({"role": "assistant", "content": "Hi", name: "Hm."})[0]["reasoning_content"] == "Hm."


def test_what_tools_show():
    calls = [{"id": each, "type": "function", "function": {"name": "see", "arguments": "{}"}} for each in "ab"]
    text, shown = {"type": "text", "text": "dark"}, {"type": "image_url", "image_url": {"url": PIXEL}}
    messages = say(
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": [text, shown]},
        {"role": "tool", "tool_call_id": "b", "content": [text, text]},
    )
    assert messages[1]["content"] == [text, {"type": "image", "url": PIXEL}]
    assert messages[2]["content"] == "darkdark"


@pytest.mark.parametrize(
    ("fields", "last", "continued"),
    [
        ({}, {"role": "assistant", "content": "It is"}, True),
        ({"continue_final_message": False}, {"role": "assistant", "content": "It is"}, False),
        ({"add_generation_prompt": True}, {"role": "assistant", "content": "It is"}, False),
        ({"add_generation_prompt": False}, {"role": "assistant", "content": "It is"}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, {"role": "assistant", "content": "x"}, True),
        ({}, {"role": "assistant", "content": ""}, False),
        ({}, {"role": "user", "content": "Hi"}, False),
    ],
)
def test_a_last_answer_is_continued(fields, last, continued):
    assert read(messages=[*HI["messages"], last], **fields).continue_last is continued


def test_a_choice_of_tools():
    other = {"type": "function", "function": {"name": "b-2"}}
    chosen = {"type": "function", "function": {"name": "b-2"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [chosen]}}
    request = read(tools=[TOOL, other], tool_choice=allowed)
    assert (request.tools, request.tool_choice) == ([other], ToolChoice.REQUIRED)
    assert read(tools=[TOOL], tool_choice="none").tool_choice is ToolChoice.NONE


def test_functions_of_before():
    call = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    messages = [
        *HI["messages"],
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "sunny"},
    ]
    body = {"messages": messages, "functions": [FUNCTION], "function_call": {"name": "get_weather"}}
    request = CHAT.read(body, MODEL)
    assert (request.tools, request.tool_choice, request.parallel_tool_calls) == ([TOOL], ToolChoice.NAMED, False)
    assert request.messages[1]["tool_calls"][0]["id"] == request.messages[2]["tool_call_id"]
    made = whole(CHAT, body, script(*CALL, reason=FinishReason.TOOL_CALLS))
    assert made["choices"][0]["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert made["choices"][0]["finish_reason"] == "function_call"
    strict(ChatCompletion, made, EXTENSIONS)
    for chunk in streamed(CHAT, body, script(*CALL, reason=FinishReason.TOOL_CALLS))[:-1]:
        strict(ChatCompletionChunk, chunk, EXTENSIONS)


@pytest.mark.parametrize(
    ("endpoint", "good"),
    [(CHAT, RICH), (COMPLETIONS, {"prompt": ["Hi", [1, 2]], "n": 2, "logprobs": 2, "stop": ["x"], "seed": 5})],
)
def test_odd_bodies_are_refused_and_nothing_else(endpoint, good):
    check_refusals(endpoint, good)


def test_schemas_are_read_as_they_are_elsewhere():
    """What a schema allows is what the jsonschema package says it does."""
    schema = either(
        record({"type": one_of("a"), "n": {**INTEGER, "minimum": 1, "maximum": 3}}, "type"),
        record({"type": one_of("b"), "list": listed(either(FLAG, NULL), 1, 2)}, "type", "list"),
        listed({"type": "string", "pattern": "^x", "minLength": 2}),
        {**TEXT, "enum": ["yes"]},
    )
    values = [
        *({"type": "a", "n": n} for n in (0, 1, 1.0, 1.5, 3, 4, True, None)),
        *({"type": "b", "list": each} for each in ([], [True], [None], [1], [True] * 3, None)),
        *({"type": "c"}, {}, {"type": None}, {"type": "b"}, ["xy"], ["x"], ["yx"], [], "yes", "no", 1, None, True),
    ]
    body_schema = record({"value": schema}, "value")
    for body in ({}, *({"value": value} for value in values)):
        try:
            check(body, body_schema)
        except RequestError:
            allowed = False
        else:
            allowed = True
        assert allowed is Draft202012Validator(body_schema).is_valid(body), body


# Answers


@pytest.mark.parametrize(
    ("deltas", "reason"), [(TALK, FinishReason.STOP), (WORK, FinishReason.TOOL_CALLS), ((), FinishReason.LENGTH)]
)
def test_chats_are_of_their_types_and_streams_say_the_same(deltas, reason):
    body = {**HI, "stream_options": {"include_usage": True}}
    made = whole(CHAT, body, script(*deltas, reason=reason))
    strict(ChatCompletion, made, EXTENSIONS)
    *chunks, done = streamed(CHAT, body, script(*deltas, reason=reason))
    assert done == "[DONE]"
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk, EXTENSIONS)
        assert chunk.keys() >= {"id", "object", "created", "model", "choices", "system_fingerprint"}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = {
        name: "".join(choice["delta"].get(name, "") for choice in choices) for name in ("content", "reasoning_content")
    }
    message = made["choices"][0]["message"]
    assert said == {"content": message["content"] or "", "reasoning_content": message.get("reasoning_content", "")}
    assert _calls(choices) == message.get("tool_calls", [])
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [reason.value]
    assert choices[-1]["delta"] == {}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == made["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def _calls(choices) -> list:
    """Calls put together as a client does it."""
    calls: list = []
    for choice in choices:
        for part in choice["delta"].get("tool_calls", ()):
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return calls


def test_figures():
    made = whole(CHAT, HI, script(*TALK))
    assert made["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 12,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 3,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 7,
            "rejected_prediction_tokens": 3,
        },
    }
    timings = made["timings"]
    assert (timings["queued_ms"], timings["prompt_ms"], timings["predicted_ms"]) == (250, 500, 2000)
    assert (timings["cache_n"], timings["prompt_n"], timings["prompt_per_second"]) == (8, 12, 24)
    assert (timings["predicted_n"], timings["predicted_per_second"], timings["tokens_per_round"]) == (12, 6, 2.4)
    assert (timings["draft_n"], timings["draft_n_accepted"]) == (10, 7)
    assert (timings["drafted_at"], timings["accepted_at"]) == ([5, 5], [4, 3])
    assert streamed(CHAT, HI, script(*TALK))[-2]["timings"] == timings


def test_an_answer_that_only_calls_has_no_content():
    made = whole(CHAT, HI, script(*CALL, reason=FinishReason.TOOL_CALLS))
    assert made["choices"][0]["message"]["content"] is None
    assert whole(CHAT, HI, script())["choices"][0]["message"]["content"] == ""


def test_without_being_asked_a_stream_has_no_usage():
    chunks = streamed(CHAT, HI, script(*TALK))[:-1]
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_several_answers():
    body = {**HI, "n": 2, "stream_options": {"include_usage": True}}
    events = [
        Started(20, 8),
        Piece(1, (AnswerDelta("b"),)),
        Piece(0, (AnswerDelta("a"),)),
        finished(1),
        Piece(0, (AnswerDelta("a"),)),
        finished(0, FinishReason.LENGTH),
    ]
    made = whole(CHAT, body, events)
    strict(ChatCompletion, made, EXTENSIONS)
    assert [choice["message"]["content"] for choice in made["choices"]] == ["aa", "b"]
    assert made["usage"]["completion_tokens"] == 24
    *chunks, trailer, done = streamed(CHAT, body, events)
    assert done == "[DONE]"
    assert trailer["usage"] == made["usage"]
    for number, reason in ((0, "length"), (1, "stop")):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert own[0]["delta"]["role"] == "assistant"
        assert own[-1]["finish_reason"] == reason


def test_signs_of_life_come_before_anything_else():
    events = [Progress(0, 9000), Progress(4000, 9000), *script(*TALK)]
    chunks = streamed(CHAT, HI, events)[:-1]
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk, EXTENSIONS)
    assert [chunk.get("prompt_progress") for chunk in chunks[:4]] == [
        None,
        {"processed": 0, "total": 9000},
        {"processed": 4000, "total": 9000},
        None,
    ]
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:3]] == [{}, {}]
    assert sum("role" in chunk["choices"][0]["delta"] for chunk in chunks) == 1


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
def test_errors(endpoint):
    error = RequestError(503, "no room", "overloaded_error", param="max_tokens", code="overloaded", retry_after=3)
    body = HI if endpoint is CHAT else {"prompt": "Hi"}
    for events in ([Failed(error)], [Started(1, 0), Piece(0, (AnswerDelta("a"),)), Failed(error)]):
        *_, told, done = streamed(endpoint, body, events)
        assert done == "[DONE]"
        assert told == endpoint.error(error)
        strict(ErrorObject, told["error"], frozenset())
        assert told["error"] == {
            "message": "no room",
            "type": "overloaded_error",
            "param": "max_tokens",
            "code": "overloaded",
        }


@pytest.mark.parametrize("asked", [False, True])
def test_log_probabilities_and_drafts_lose_no_token(asked):
    body = {**HI, "logprobs": asked, "draft_info": asked}
    events = [
        Started(20, 8),
        Piece(0, (), (token("He"),)),  # its text is held back
        Piece(0, (AnswerDelta("Hello"),), (token("l", 1), token("lo", 2))),
        Piece(0, (), (token("<turn|>"),)),
        finished(),
    ]
    made = whole(CHAT, body, events)
    strict(ChatCompletion, made, EXTENSIONS)
    chunks = streamed(CHAT, body, events)[:-1]
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk, EXTENSIONS)
    if not asked:
        assert all(chunk["choices"][0]["logprobs"] is None and "drafts" not in chunk for chunk in chunks)
        assert made["choices"][0]["logprobs"] is None
        return
    assert [chunk["drafts"] for chunk in chunks] == [[], [["He", 0], ["l", 1], ["lo", 2]], [["<turn|>", 0]]]
    assert made["choices"][0]["drafts"] == [["He", 0], ["l", 1], ["lo", 2], ["<turn|>", 0]]
    told = [each for chunk in chunks for each in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert told == made["choices"][0]["logprobs"]["content"]
    assert told[0] == {
        "token": "He",
        "bytes": [72, 101],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "He", "bytes": [72, 101], "logprob": -0.5},
            {"token": "x", "bytes": [120], "logprob": -9999.0},
        ],
    }
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, HI), (COMPLETIONS, {"prompt": "Hi"})])
def test_empty_deltas_take_no_frames(endpoint, body):
    empty = (AnswerDelta(""), ThoughtDelta(""))
    frames = streamed(
        endpoint, body, [Started(1, 0), Piece(0, empty), Piece(0, (AnswerDelta("a"), *empty)), finished()]
    )
    assert frames == streamed(endpoint, body, [Started(1, 0), Piece(0, (AnswerDelta("a"),)), finished()])


# Completions


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", ["Hi"]),
        ("", [""]),
        (["Hi", "Ho"], ["Hi", "Ho"]),
        ([1, 2.0], [[1, 2]]),
        ([[1, 2], "Hi"], [[1, 2], "Hi"]),
    ],
)
def test_prompts(prompt, prompts):
    assert COMPLETIONS.read({"prompt": prompt}, MODEL).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"prompt": ["a"] * 100, "n": 2}, "n"),
    ],
)
def test_wrong_completions_are_named(fields, param):
    assert refused(COMPLETIONS, **fields).param == param


def test_completions_are_of_their_types_and_streams_say_the_same():
    body = {"prompt": ["a", "b"], "n": 2, "best_of": 2, "logprobs": 1, "stream_options": {"include_usage": True}}
    request = COMPLETIONS.read(body, MODEL)
    assert request == TextRequest(model="default", prompts=["a", "b"], options={"top_logprobs": 1}, answers=2)
    pieces = [Piece(i, (AnswerDelta(f"{i}!"),), (token(f"{i}"), token("!", 1))) for i in (2, 0, 3, 1)]
    pieces += [Piece(i, (AnswerDelta("ab"),), (token("ab"),)) for i in (0, 0)]
    reasons = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS, FinishReason.STOP)
    events = [Progress(1, 2), Started(9, 0), *pieces, *(finished(i, reasons[i]) for i in range(4))]
    made = whole(COMPLETIONS, body, events)
    strict(Completion, made, EXTENSIONS)
    assert [choice["text"] for choice in made["choices"]] == ["0!abab", "1!", "2!", "3!"]
    assert [choice["finish_reason"] for choice in made["choices"]] == ["stop", "length", "stop", "stop"]
    assert made["choices"][1]["logprobs"] == {
        "tokens": ["1", "!"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"1": -0.5, "x": -9999.0}, {"!": -0.5, "x": -9999.0}],
        "text_offset": [0, 1],
    }
    *chunks, trailer, done = streamed(COMPLETIONS, body, events)
    assert done == "[DONE]"
    strict(Completion, trailer, EXTENSIONS)
    assert trailer["usage"] == made["usage"]
    texts = [""] * 4
    for chunk in chunks:
        (choice,) = chunk["choices"]
        if choice["logprobs"]:
            assert choice["logprobs"]["text_offset"][0] == len(texts[choice["index"]])
        texts[choice["index"]] += choice["text"]
        # OpenAI's type has no choice that goes on, though its streams do.
        strict(CompletionChoice, {**choice, "finish_reason": choice["finish_reason"] or "stop"}, EXTENSIONS)
    assert texts == ["0!abab", "1!", "2!", "3!"]


# Look-ups


class Answering:
    """A backend whose tokens are code points."""

    model = MODEL

    def tokens(self, request):
        return [2, *self.tokenize(request.prompts[0] if isinstance(request, TextRequest) else self.render(request))]

    def tokenize(self, text):
        return [ord(letter) for letter in text]

    def detokenize(self, tokens):
        return "".join(map(chr, tokens))

    def render(self, request):
        return "".join(message["content"] for message in request.messages)


def look_up(path, body=None, **parameters):
    (found,) = [each for each in LOOKUPS if path in each.paths]
    made = found.answer(Answering(), parameters, {} if body is None else body)
    Draft202012Validator(found.answer_schema).validate(made)
    return made


def test_models():
    (model,) = look_up("/models")["data"]
    assert model == look_up("/models/{id:path}", id="gemma-4-E2B-it") == look_up("/models/{id:path}", id="gpt-5")
    assert (model["id"], model["context_length"], model["aliases"]) == (MODEL.id, 131072, ["gemma"])
    assert model["input_modalities"] == ["text", "image", "audio", "video"]
    with pytest.raises(RequestError, match="google/gemma-4-E2B-it") as caught:
        look_up("/models/{id:path}", id="llama")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_tokens_and_texts():
    assert look_up("/tokenize", {"content": "Hi"}) == {"tokens": [72, 105], "count": 2, "max_model_len": 131072}
    assert look_up("/tokenize", {"prompt": "Hi", "add_special_tokens": True})["tokens"] == [2, 72, 105]
    assert look_up("/tokenize", {"messages": HI["messages"]})["tokens"] == [2, 72, 105]
    assert look_up("/tokenize", {"content": "H", "with_pieces": True})["tokens"] == [{"id": 72, "piece": "H"}]
    assert look_up("/detokenize", {"tokens": [72, 105.0]}) == {"content": "Hi", "prompt": "Hi"}
    assert look_up("/apply-template", HI) == {"prompt": "Hi"}
    assert look_up("/responses/input_tokens", {"input": "Hi"})["input_tokens"] == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": 5}),
        ("/tokenize", {"messages": [{}]}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/apply-template", {}),
    ],
)
def test_wrong_look_ups(path, body):
    with pytest.raises(RequestError) as caught:
        look_up(path, body)
    assert caught.value.status == 400


def test_names_and_paths_are_one_each():
    both = [*ENDPOINTS, *LOOKUPS]
    paths = [path for each in both for path in each.paths]
    assert len({each.name for each in both}) == len(both)
    assert len(set(paths)) == len(paths)
    for each in both:
        Draft202012Validator.check_schema(each.body_schema)
        Draft202012Validator.check_schema(each.answer_schema)
