"""OpenAI's Responses API: items to requests, events to what OpenAI's own types accept, as Codex asks for it."""

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from support.exchanges import (
    CALL,
    MODEL,
    TALK,
    WEATHER,
    WORK,
    check_refusals,
    exchange,
    finished,
    script,
    streamed,
    strict,
    token,
    whole,
)

from mlx_gemma4_assist.server.exchange import (
    Failed,
    FinishReason,
    Piece,
    Progress,
    RequestError,
    Started,
    ToolChoice,
)
from mlx_gemma4_assist.server.responses import RESPONSES
from mlx_gemma4_assist.text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, ThoughtDelta

EXTENSIONS = frozenset({"timings", "accepted_prediction_tokens", "rejected_prediction_tokens", "store", "name"})
"""Of these OpenAI itself sends the last two."""
TOOL = {"type": "function", "name": "get_weather", "description": "Tells it.", "parameters": WEATHER, "strict": True}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}
MCP = {"type": "namespace", "name": "mcp__files__", "description": "Files.", "tools": [{**TOOL, "name": "read"}]}
CODEX = {
    "model": "gpt-5-codex",
    "instructions": "You are Codex.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandboxed."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look."}], "encrypted_content": "gAAAA"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "read",
            "namespace": "mcp__files__",
            "arguments": '{"a": 1}',
        },
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin"},
        {"type": "function_call_output", "call_id": "c1", "output": "text"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "done"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            ],
        },
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
    ],
    "tools": [TOOL, PATCH, MCP, {"type": "web_search", "external_web_access": False}, {"type": "local_shell"}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0190",
    "text": {"verbosity": "low"},
    "client_metadata": {"x": "y"},
}


def read(**fields):
    return RESPONSES.read({"input": "Hi", **fields}, MODEL)


def told(frames, kind):
    return [frame for frame in frames if frame["type"] == kind]


# Requests


def test_what_codex_asks_for():
    request = RESPONSES.read(CODEX, MODEL)
    assert request.messages == [
        {"role": "system", "content": "You are Codex."},
        {"role": "developer", "content": "Sandboxed."},
        {"role": "user", "content": "Fix it."},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "mcp__files__read", "arguments": {"a": 1}}},
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "apply_patch", "arguments": {"input": "*** Begin"}},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "mcp__files__read", "content": "text"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "name": "apply_patch",
            "content": [{"type": "text", "text": "done"}, {"type": "image", "url": "data:image/png;base64,AAAA"}],
        },
    ]
    functions = {tool["function"]["name"]: tool["function"] for tool in request.tools}
    assert list(functions) == ["get_weather", "apply_patch", "mcp__files__read"]
    assert functions["get_weather"]["parameters"] == WEATHER
    assert list(functions["apply_patch"]["parameters"]["properties"]) == ["input"]
    assert 'start: "x"' in functions["apply_patch"]["description"]
    assert (request.thinking, request.thinking_budget, request.stream) == (True, 8192, True)
    assert request.options == {}
    assert not request.continue_last


def test_a_text_is_a_message():
    assert read().messages == [{"role": "user", "content": "Hi"}]
    easy = read(input=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}])
    assert easy.messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert easy.continue_last


def test_thoughts_come_back_in_any_form():
    item = _output(whole(RESPONSES, {"input": "Hi", "include": ["reasoning.encrypted_content"]}, script(*WORK)))[0]
    full, opaque = {**item, "encrypted_content": None}, {**item, "content": None}
    for each in (full, opaque, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look it up."}]}):
        request = read(input=[{"role": "user", "content": "Hi"}, each, {"role": "assistant", "content": "Ho"}])
        assert request.messages[1]["reasoning_content"] == "Look it up."
    for foreign in ("gAAAA", "gemma4.!", "gemma4./w==", ""):
        messages = read(input=[{"role": "user", "content": "Hi"}, {"type": "reasoning", "encrypted_content": foreign}])
        assert messages.messages == [{"role": "user", "content": "Hi"}]


def test_turns_are_put_together():
    said, asked = {"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}
    thought = {"type": "reasoning", "summary": [{"text": "t"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": ""}
    shapes = []
    for items in (
        [said, said],
        [thought, said, thought, said],
        [said, call, said, result],
        [call, result, said, asked],
    ):
        messages = read(input=items).messages
        shapes.append([(m["role"], m["content"], m.get("reasoning_content"), "tool_calls" in m) for m in messages])
    assert shapes == [
        [("assistant", "a", None, False)] * 2,
        [("assistant", "a", "t", False)] * 2,
        [("assistant", "aa", None, True), ("tool", "", None, False)],
        [
            ("assistant", "", None, True),
            ("tool", "", None, False),
            ("assistant", "a", None, False),
            ("user", "q", None, False),
        ],
    ]


def test_a_shell_call_of_another_model_is_a_call():
    items = [
        {
            "type": "local_shell_call",
            "call_id": "c",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "function_call_output", "call_id": "c", "output": "a.txt"},
    ]
    assert read(input=items).messages[1]["name"] == "local_shell"


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"max_output_tokens": 5, "temperature": 0, "top_p": 0.5}, {"max_tokens": 5, "temperature": 0, "top_p": 0.5}),
        ({"text": {"format": {"type": "json_object"}}}, {"json_schema": {"type": "object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": WEATHER, "strict": True}}},
            {"json_schema": WEATHER},
        ),
        ({"top_logprobs": 2}, {"top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 0}),
        ({"seed": 5, "stop": ["x"], "num_assistant_tokens": 0}, {"seed": 5, "stop": ["x"], "num_assistant_tokens": 0}),
    ],
)
def test_options(fields, options):
    assert read(**fields).options == options


@pytest.mark.parametrize(("namespace", "name"), [("mcp__files__", "mcp__files__read"), ("git", "git__read")])
def test_tools_of_a_namespace_have_its_name_before_theirs(namespace, name):
    request = read(tools=[{**MCP, "name": namespace}])
    assert [tool["function"]["name"] for tool in request.tools] == [name]


def test_a_choice_of_tools():
    assert read(tools=[MCP], tool_choice={"type": "function", "name": "mcp__files__read"}).named_tool == (
        "mcp__files__read"
    )
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "apply_patch"}]}
    request = read(tools=[TOOL, PATCH], tool_choice=allowed)
    assert (request.tool_choice, len(request.tools)) == (ToolChoice.REQUIRED, 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "lark": "start: x"}, "text.format"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "x"}]}]}, "tools[0].tools[0].type"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "always"}, "truncation"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_odd_bodies_are_refused_and_nothing_else():
    check_refusals(RESPONSES, CODEX)


# Answers


def _output(made) -> list:
    """The items of an answer without their ids, which are as random as their request's."""
    return [{name: value for name, value in item.items() if name != "id"} for item in made["output"]]


BODIES = (
    {"input": "Hi"},
    {"input": "Hi", "tools": [TOOL], "tool_choice": "required", "metadata": {"a": "b"}, "temperature": 0.5},
    {"input": "Hi", "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "a", "schema": WEATHER, "strict": True}}},
)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        (TALK, FinishReason.STOP),
        (WORK, FinishReason.TOOL_CALLS),
        (TALK[:1], FinishReason.LENGTH),
        (WORK[:4], FinishReason.LENGTH),
        ((), FinishReason.STOP),
        ((CallBegun(0, "a", "f"), CallEnded(0), CallBegun(1, "b", "g"), CallEnded(1)), FinishReason.TOOL_CALLS),
    ],
)
def test_answers_are_of_their_types_and_streams_say_the_same(body, deltas, reason):
    made = whole(RESPONSES, body, script(*deltas, reason=reason))
    strict(Response, made, EXTENSIONS)
    frames = streamed(RESPONSES, body, [Progress(0, 9), Progress(5, 9), *script(*deltas, reason=reason)])
    for frame in frames:
        strict(ResponseStreamEvent, frame, EXTENSIONS)
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert [frame["type"] for frame in frames[:3]] == ["response.created"] + ["response.in_progress"] * 2
    assert frames[-1]["response"] == made
    cut = reason is FinishReason.LENGTH
    assert frames[-1]["type"] == ("response.incomplete" if cut else "response.completed")
    assert made["incomplete_details"] == ({"reason": "max_output_tokens"} if cut else None)
    assert [frame["item"] for frame in told(frames, "response.output_item.done")] == made["output"]
    assert not any(frame["item"].get("content") for frame in told(frames, "response.output_item.added"))
    _check_order(frames)


def _check_order(frames) -> None:
    """Each item begins, grows and ends before the next one, and its pieces are what it has in the end."""
    opened, done = None, 0
    for frame in frames:
        kind = frame["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert opened is None
            opened, grown = frame["item"]["id"], ""
            assert frame["output_index"] == done
        elif kind == "output_item.done":
            assert frame["item"]["id"] == opened
            opened, done = None, done + 1
        elif "item_id" in frame:
            assert (frame["item_id"], frame["output_index"]) == (opened, done)
            if kind.endswith(".delta"):
                grown += frame["delta"]
            for name in ("text", "arguments", "input"):
                assert frame.get(name, grown) == grown
    assert opened is None


def test_frames_are_named():
    writer = RESPONSES.writer(exchange(RESPONSES, {"input": "Hi"}))
    frames = [frame for event in script(*TALK) for frame in writer.take(event)]
    assert all(frame.event == frame.data["type"] for frame in frames)


def test_items():
    made = whole(RESPONSES, {"input": "Hi"}, script(*WORK, reason=FinishReason.TOOL_CALLS))
    assert _output(made) == [
        {
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Look it up."}],
        },
        {
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "One moment. ", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": '{"city": "Paris"}',
        },
    ]
    assert made["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {
            "reasoning_tokens": 3,
            "accepted_prediction_tokens": 7,
            "rejected_prediction_tokens": 3,
        },
        "total_tokens": 32,
    }


def test_what_is_cut_off_is_incomplete():
    made = whole(RESPONSES, {"input": "Hi"}, script(*WORK[:4], reason=FinishReason.LENGTH))
    assert [item["status"] for item in made["output"]] == ["completed", "completed", "incomplete"]
    assert made["output"][-1]["arguments"] == '{"city"'
    assert made["status"] == "incomplete"


def test_tools_are_named_as_they_were_declared():
    deltas = (
        CallBegun(0, "c0", "mcp__files__read"),
        CallArguments(0, "{}"),
        CallEnded(0),
        CallBegun(1, "c1", "apply_patch"),
        CallArguments(1, '{"input": '),
        CallArguments(1, '"*** Begin"}'),
        CallEnded(1),
        CallBegun(2, "c2", "apply_patch"),
        CallArguments(2, '{"inp'),
    )
    body = {"input": "Hi", "tools": [PATCH, MCP]}
    made = whole(RESPONSES, body, script(*deltas, reason=FinishReason.LENGTH))
    strict(Response, made, EXTENSIONS)
    assert [item.get("namespace") for item in made["output"]] == ["mcp__files__", None, None]
    assert [item["name"] for item in made["output"]] == ["read", "apply_patch", "apply_patch"]
    assert [item.get("input") for item in made["output"]] == [None, "*** Begin", '{"inp']
    frames = streamed(RESPONSES, body, script(*deltas, reason=FinishReason.LENGTH))
    for frame in frames:
        strict(ResponseStreamEvent, frame, EXTENSIONS)
    assert frames[-1]["response"]["output"] == made["output"]
    again = read(input=[{"role": "user", "content": "Hi"}, *made["output"]], tools=[PATCH, MCP])
    assert [call["function"] for call in again.messages[1]["tool_calls"]] == [
        {"name": "mcp__files__read", "arguments": {}},
        {"name": "apply_patch", "arguments": {"input": "*** Begin"}},
        {"name": "apply_patch", "arguments": {"input": '{"inp'}},
    ]


def test_empty_deltas_take_no_frames():
    empty = (AnswerDelta(""), ThoughtDelta(""), AnswerDelta(""))
    frames = streamed(RESPONSES, {"input": "Hi"}, script(*empty, *TALK, *empty))
    assert frames == streamed(RESPONSES, {"input": "Hi"}, script(*TALK))


def test_a_summary_is_shown_where_one_is_asked_for():
    frames = streamed(RESPONSES, {"input": "Hi", "reasoning": {"summary": "auto"}}, script(*TALK))
    assert "".join(each["delta"] for each in told(frames, "response.reasoning_summary_text.delta")) == "Let me see."
    assert not told(frames, "response.reasoning_text.delta")
    frames = streamed(RESPONSES, {"input": "Hi"}, script(*TALK))
    assert "".join(each["delta"] for each in told(frames, "response.reasoning_text.delta")) == "Let me see."


def test_log_probabilities():
    events = [
        Started(2, 0),
        Piece(0, (AnswerDelta("Hel"),), (token("Hel"),)),
        Piece(0, (), (token("l"),)),
        Piece(0, (AnswerDelta("lo"),), (token("o"),)),
        finished(),
    ]
    for body, tokens in (({"input": "Hi", "top_logprobs": 1}, ["Hel", "l", "o"]), ({"input": "Hi"}, [])):
        frames = streamed(RESPONSES, body, events)
        for frame in frames:
            strict(ResponseStreamEvent, frame, EXTENSIONS)
        deltas = told(frames, "response.output_text.delta")
        assert [each["token"] for delta in deltas for each in delta["logprobs"]] == tokens
        made = whole(RESPONSES, body, events)
        strict(Response, made, EXTENSIONS)
        assert [each["token"] for each in made["output"][0]["content"][0]["logprobs"]] == tokens


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError(500, "broken", "server_error"), "server_error"),
        (RequestError(503, "no room", "overloaded_error"), "rate_limit_exceeded"),
        (RequestError(400, "wrong"), "invalid_prompt"),
    ],
)
def test_what_fails_within_a_stream(error, code):
    for before in ([], [Started(1, 0), Piece(0, (ThoughtDelta("a"),))]):
        frames = streamed(RESPONSES, {"input": "Hi"}, [*before, Failed(error)])
        for frame in frames:
            strict(ResponseStreamEvent, frame, EXTENSIONS)
        assert frames[-1]["type"] == "response.failed"
        assert frames[-1]["response"]["error"] == {"code": code, "message": error.message}


def test_a_context_that_is_too_long_is_called_so():
    error = RequestError(400, "over the maximum context length", code="context_length_exceeded")
    assert RESPONSES.error(error)["error"]["code"] == "context_length_exceeded"
    frames = streamed(RESPONSES, {"input": "Hi"}, [Failed(error)])
    assert frames[-1]["response"]["error"]["code"] == "context_length_exceeded"


def test_calls_without_declared_tools_go_out_as_they_are():
    made = whole(RESPONSES, {"input": "Hi"}, script(*CALL, reason=FinishReason.TOOL_CALLS))
    assert made["output"][0]["name"] == "get_weather"
