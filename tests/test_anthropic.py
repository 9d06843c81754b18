"""Anthropic's Messages API: bodies to requests, events to what Anthropic's own client takes."""

import json
from dataclasses import replace

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from jsonschema import Draft202012Validator
from support.exchanges import (
    CALL,
    MODEL,
    TALK,
    WEATHER,
    WORK,
    check_refusals,
    exchange,
    script,
    strict,
    whole,
)

from mlx_gemma4_assist.server.anthropic import COUNT_TOKENS, ENDPOINTS, LOOKUPS, MESSAGES, read
from mlx_gemma4_assist.server.exchange import (
    Answer,
    Failed,
    Finished,
    FinishReason,
    Progress,
    RequestError,
    Started,
    ToolChoice,
    Usage,
    bad_request,
    collected,
)
from mlx_gemma4_assist.text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, ThoughtDelta
from mlx_gemma4_assist.text.messages import split_media

BILLING = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=sdk-cli; cch=36ee5;"
BUDGET = "<total_tokens>14999436 tokens left</total_tokens>"
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
SHOWN = {"type": "image", "url": "data:image/png;base64,aGk="}
TOOL = {"name": "get_weather", "description": "Of a city.", "input_schema": WEATHER}
HI = {"role": "user", "content": "Hi"}
SHORT = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": [HI]}
FULL = {
    "model": "claude-sonnet-5",
    "max_tokens": 32000,
    "stream": True,
    "temperature": 1,
    "top_p": 0.9,
    "top_k": 40,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 4000, "display": "summarized"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": WEATHER}},
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "tools": [
        {**TOOL, "cache_control": {"type": "ephemeral"}, "strict": True},
        {"type": "custom", "name": "Read", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "system": [
        {"type": "text", "text": BILLING},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                {"type": "text", "text": "Look."},
                PICTURE,
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
            ],
        },
        {"role": "system", "content": [{"type": "text", "text": "Plan mode is on."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Weather.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look "},
                {"type": "text", "text": "it up."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "down", "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "a"}, PICTURE]},
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "system", "content": BUDGET},
    ],
}


def body(**fields):
    return {**SHORT, **fields}


def messages(*given, **fields):
    """The neutral messages of a body, which the chat template's own check takes."""
    found = read(body(messages=list(given), **fields), MODEL).messages
    split_media(found)
    return found


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def text(words):
    return {"type": "text", "text": words}


# Requests


def test_a_request_of_claude_code_is_read_in_full():
    request = read(FULL, MODEL)
    assert request.model == "claude-sonnet-5"
    assert request.stream
    options = {"max_tokens": 32000, "temperature": 1, "top_p": 0.9, "top_k": 40, "stop": ["END"]}
    assert request.options == {**options, "json_schema": WEATHER}
    assert (request.thinking, request.thinking_budget) == (True, 4000)
    assert (request.tool_choice, request.named_tool, request.parallel_tool_calls) == (ToolChoice.AUTO, None, False)
    weather = {"name": "get_weather", "description": "Of a city.", "parameters": WEATHER, "strict": True}
    read_tool = {"name": "Read", "parameters": {"type": "object"}}
    assert list(request.tools) == [{"type": "function", "function": tool} for tool in (weather, read_tool)]
    assert not request.continue_last
    split_media(request.messages)


def test_its_messages_stand_in_their_order():
    system, asked, told, called, failed, seen, more = read(FULL, MODEL).messages
    assert system == {"role": "system", "content": "You are Claude Code.\n\nBe brief."}
    reminder = text("<system-reminder>x</system-reminder>\nLook.")
    remote = {"type": "image", "url": "https://example.org/a.png"}
    assert asked == {"role": "user", "content": [reminder, SHOWN, remote, text("T\nD")]}
    assert told == {"role": "system", "content": "Plan mode is on."}
    calls = [("toolu_1", "get_weather", {"city": "Paris"}), ("toolu_2", "Read", {})]
    assert called == {
        "role": "assistant",
        "content": "I look it up.",
        "reasoning_content": "Weather.",
        "tool_calls": [
            {"id": i, "type": "function", "function": {"name": name, "arguments": given}} for i, name, given in calls
        ],
    }
    weather, see = {"tool_call_id": "toolu_1", "name": "get_weather"}, {"tool_call_id": "toolu_2", "name": "Read"}
    assert failed == {"role": "tool", **weather, "content": "Error: down"}
    assert seen == {"role": "tool", **see, "content": [text("a"), SHOWN]}
    assert more == {"role": "user", "content": "Go on."}


def test_results_come_first_and_need_no_words_behind_them():
    calls = [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in ("a", "b")]
    results = [
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_reference", "tool_name": "Edit"}]},
    ]
    _, _, *found = messages(HI, {"role": "assistant", "content": calls}, user(*results))
    assert [(each["role"], each["tool_call_id"], each["content"]) for each in found] == [
        ("tool", "b", ""),
        ("tool", "a", "Edit"),
    ]
    found = messages(HI, {"role": "assistant", "content": calls}, user(text("late"), *results))
    assert [each["role"] for each in found[2:]] == ["tool", "tool", "user"]


@pytest.mark.parametrize("told", ["Error: no file", "<tool_use_error>no</tool_use_error>", "error 5"])
def test_a_result_that_says_that_it_is_an_error_is_not_told_twice(told):
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": told, "is_error": True}
    assert messages(HI, {"role": "assistant", "content": [call]}, user(result))[-1]["content"] == told


def test_a_result_that_says_nothing_but_that_it_is_an_error():
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": [PICTURE]}
    found = messages(HI, {"role": "assistant", "content": [call]}, user(result))
    assert found[-1]["content"] == [text("Error"), SHOWN]


def test_pictures_are_refused_where_the_model_takes_none():
    with pytest.raises(RequestError, match=r"messages\[1\] has a picture, but the model takes none"):
        read(body(messages=[HI, user(PICTURE)]), replace(MODEL, pictures=False))


def test_documents_and_search_results_are_texts():
    search = {"type": "search_result", "source": "https://a", "title": "T", "content": [text("found")]}
    source = {"type": "content", "content": [text("page"), PICTURE]}
    (found,) = messages(user(search, {"type": "document", "context": "C", "source": source}, text("?")))
    assert found["content"] == [text("T\nhttps://a\nfound\nC\npage"), SHOWN, text("?")]


@pytest.mark.parametrize(
    "noise",
    [BILLING, BUDGET, f"{BILLING}\n", "x-anthropic-billing-header: cc_version=2.1.214.abc; cc_prev_req=req_1;"],
)
def test_noise_is_left_out(noise):
    plain = messages(HI, {"role": "assistant", "content": "Yes?"}, HI, system="Be brief.")
    system = [text(noise), text("Be brief.")]
    marked = {"role": "system", "content": [text(noise)]}
    assert messages(HI, marked, {"role": "assistant", "content": "Yes?"}, HI, marked, system=system) == plain


@pytest.mark.parametrize(
    "words",
    [
        f"{BILLING} And more.",
        f"What is {BUDGET}?",
        "x-anthropic-billing-header: all",
        "<total_tokens>few</total_tokens>",
    ],
)
def test_what_only_resembles_noise_stays(words):
    assert messages(HI, system=[text(words)])[0] == {"role": "system", "content": words}


def test_users_may_say_what_is_noise_elsewhere():
    assert messages(user(text(BUDGET))) == [{"role": "user", "content": BUDGET}]


def test_an_answer_that_was_begun_is_continued():
    request = read(body(messages=[HI, {"role": "assistant", "content": [text("{")]}]), MODEL)
    assert request.continue_last
    assert request.messages[-1] == {"role": "assistant", "content": "{"}
    request = read(
        body(messages=[HI, {"role": "assistant", "content": "{"}, {"role": "system", "content": BUDGET}]), MODEL
    )
    assert request.continue_last


@pytest.mark.parametrize("nothing", ["", [], [{"type": "thinking", "thinking": "Hm.", "signature": ""}]])
def test_an_empty_answer_is_not(nothing):
    request = read(body(messages=[HI, {"role": "assistant", "content": nothing}]), MODEL)
    assert not request.continue_last
    assert request.messages == [HI]


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, None, (None, None)),
        ({"type": "disabled"}, "high", (False, None)),
        ({"type": "enabled", "budget_tokens": 2048}, None, (True, 2048)),
        ({"type": "adaptive"}, None, (True, None)),
        ({"type": "adaptive", "display": "omitted"}, "low", (True, 1024)),
        ({"type": "adaptive"}, "max", (True, None)),
    ],
)
def test_thinking(thinking, effort, expected):
    request = read(body(thinking=thinking, output_config={"effort": effort}), MODEL)
    assert (request.thinking, request.thinking_budget) == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, (ToolChoice.AUTO, None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (ToolChoice.REQUIRED, None, False)),
        ({"type": "tool", "name": "get_weather"}, (ToolChoice.NAMED, "get_weather", True)),
        ({"type": "none"}, (ToolChoice.NONE, None, True)),
        ({"type": "auto", "name": []}, (ToolChoice.AUTO, None, True)),
    ],
)
def test_tool_choices(choice, expected):
    request = read(body(tools=[TOOL], tool_choice=choice), MODEL)
    assert (request.tool_choice, request.named_tool, request.parallel_tool_calls) == expected


USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
HOSTED = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "max_tokens is null, expected an integer"),
        ({"messages": []}, "messages is a list of 0, expected a list of at least 1"),
        ({"messages": [{"role": "system", "content": BUDGET}]}, "messages has nothing that could be answered"),
        ({"messages": [user({"type": "sound"})]}, "messages[0].content[0].type is 'sound'"),
        (
            {"messages": [user({**PICTURE, "source": {"type": "url", "url": "/etc/passwd"}})]},
            "messages[0].content[0].source.url is '/etc/passwd'",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64", "data": "x"}})]},
            "is a document whose source is of the type 'base64': PDF and other files are not read here",
        ),
        (
            {
                "messages": [
                    HI,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
                ]
            },
            "messages end with calls of tools whose results are missing",
        ),
        ({"messages": [user({"type": "tool_result", "tool_use_id": "b"})]}, "the tool_use_id 'b', which no message"),
        ({"tools": [HOSTED], "tool_choice": {"type": "tool", "name": "web_search"}}, "which Anthropic's servers run"),
        ({"tools": [HOSTED], "tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "names the tool 'x'"),
        ({"tools": [TOOL, TOOL]}, "two of the name 'get_weather'"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tools[0].type is 'bash_20250124', whose schema only Anthropic's models know: give the tool without a",
        ),
        (
            {"tools": [{"type": "robot", "name": "arm"}]},
            "tools[0].type is 'robot', which is not known here: give the tool without a",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema is missing"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name is 'a b'"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers is not supported"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing"),
        ({"temperature": -1}, "temperature is -1"),
        ({"service_tier": "fast"}, "service_tier is 'fast', expected 'auto' or 'standard_only'"),
        (
            {"messages": [user({"type": "document", "source": {"type": "file", "file_id": "x"}})]},
            "messages[0].content[0] is a document whose source is of the type 'file'",
        ),
    ],
)
def test_refusals(fields, says):
    with pytest.raises(RequestError) as raised:
        read(body(**fields), MODEL)
    assert raised.value.status == 400
    assert says in raised.value.message


def test_wrong_bodies_are_refused():
    check_refusals(MESSAGES, FULL)


# Answers


@pytest.mark.parametrize("deltas", [TALK, WORK, (), (AnswerDelta("a"), ThoughtDelta("b"), AnswerDelta("c"))])
def test_whole_answers_are_messages(deltas):
    strict(Message, whole(MESSAGES, SHORT, script(*deltas)), frozenset())


def test_a_whole_answer():
    reason = FinishReason.TOOL_CALLS
    made = whole(MESSAGES, SHORT, script(*WORK, reason=reason))
    thought, said, call = made.pop("content")
    assert (thought["thinking"], said["text"]) == ("Look it up.", "One moment. ")
    assert call == {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}}
    assert made == {
        "id": "msg_0123456789abcdef01234567",
        "type": "message",
        "role": "assistant",
        "model": MODEL.id,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 8,
            "output_tokens": 12,
        },
    }


@pytest.mark.parametrize(
    ("reason", "stop", "told"),
    [
        (FinishReason.STOP, None, ("end_turn", None)),
        (FinishReason.STOP, "END", ("stop_sequence", "END")),
        (FinishReason.LENGTH, None, ("max_tokens", None)),
        (FinishReason.TOOL_CALLS, None, ("tool_use", None)),
    ],
)
def test_stop_reasons(reason, stop, told):
    events = [Started(3, 0), Finished(0, reason, stop, Usage(1))]
    made = whole(MESSAGES, SHORT, events)
    assert (made["stop_reason"], made["stop_sequence"]) == told
    delta = next(data["delta"] for data in frames(events) if data["type"] == "message_delta")
    assert (delta["stop_reason"], delta["stop_sequence"]) == told


@pytest.mark.parametrize("written", ['{"x": ', '{"x": 1}', ""])
def test_a_call_that_is_cut_off_is_no_call(written):
    """Also where what there is of it could be all."""
    events = script(CallBegun(0, "a", "f"), CallArguments(0, written), reason=FinishReason.LENGTH)
    made = whole(MESSAGES, SHORT, events)
    assert (made["content"], made["stop_reason"]) == ([], "max_tokens")
    assert [data["type"] for data in frames(events)][-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_nothing_was_generated():
    Draft202012Validator(MESSAGES.answer_schema).validate(MESSAGES.whole(exchange(MESSAGES, SHORT), Answer()))


# Streams


def frames(events, given=SHORT):
    """Data of all frames; each is named after its type."""
    writer = MESSAGES.writer(exchange(MESSAGES, given))
    found = [frame for event in events for frame in writer.take(event)]
    assert [frame.event for frame in found] == [frame.data["type"] for frame in found]
    return [frame.data for frame in found]


MIXED = [
    Progress(10, 20),
    Progress(20, 20),
    *script(
        ThoughtDelta(""),
        *TALK,
        ThoughtDelta("Again."),
        *CALL,
        CallBegun(1, "call_2", "now"),
        CallEnded(1),
        AnswerDelta(" bye"),
        reason=FinishReason.TOOL_CALLS,
    ),
]


def test_every_event_is_one_of_the_clients():
    for data in frames(MIXED):
        if data["type"] != "ping":  # which the client's types do not know
            strict(RawMessageStreamEvent, data, frozenset())


def test_the_order_of_events():
    found = frames(MIXED)
    assert [data["type"] for data in found[:3]] == ["message_start", "ping", "ping"]
    started = [data["content_block"]["type"] for data in found if data["type"] == "content_block_start"]
    assert started == ["thinking", "text", "thinking", "tool_use", "tool_use", "text"]
    opened: list[int] = []
    for data in found[3:-2]:
        if data["type"] == "content_block_start":
            opened.append(data["index"])
        assert data["index"] == opened[-1]
    assert opened == list(range(6))
    ends = [data["index"] for data in found if data["type"] == "content_block_stop"]
    assert ends == opened
    signed = [data["index"] for data in found if data.get("delta", {}).get("type") == "signature_delta"]
    assert signed == [0, 2]


def test_the_first_event_tells_what_is_known_of_the_prompt():
    usage = [data["message"]["usage"] for data in frames(MIXED) if data["type"] == "message_start"]
    assert [(each["input_tokens"], each["cache_read_input_tokens"]) for each in usage] == [(20, 0)]
    usage = [data["message"]["usage"] for data in frames(script(*TALK)) if data["type"] == "message_start"]
    assert [(each["input_tokens"], each["cache_read_input_tokens"]) for each in usage] == [(12, 8)]


def test_thoughts_may_be_left_out():
    given = body(thinking={"type": "adaptive", "display": "omitted"})
    block = whole(MESSAGES, given, script(*TALK))["content"][0]
    assert block["thinking"] == ""
    assert block["signature"]
    deltas = [data["delta"] for data in frames(script(*TALK), given) if data["type"] == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == ["signature_delta", "text_delta", "text_delta"]
    assert deltas[0]["signature"] == block["signature"]


def served(given, events):
    """Anthropic's own client, with an answer for whatever it asks."""

    def answer(request):
        assert request.url.path == "/v1/messages"
        if not json.loads(request.content).get("stream"):
            return httpx2.Response(200, json=whole(MESSAGES, given, events))
        sent = "".join(f"event: {data['type']}\ndata: {json.dumps(data)}\n\n" for data in frames(events, given))
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=sent)

    transport = httpx2.MockTransport(answer)
    return anthropic.Anthropic(api_key="k", base_url="http://x", http_client=httpx2.Client(transport=transport))


@pytest.mark.parametrize("deltas", [TALK, WORK, ()])
def test_the_client_puts_together_what_is_not_streamed(deltas):
    events = [Progress(5, 20), *script(*deltas)]
    client = served(SHORT, events)
    with client.messages.stream(**SHORT) as stream:
        together = stream.get_final_message()
    at_once = client.messages.create(**SHORT)
    assert together.to_dict() == at_once.to_dict() == whole(MESSAGES, SHORT, events)


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_types(status, kind):
    told = MESSAGES.error(RequestError(status, "No."))
    assert told == {"type": "error", "error": {"type": kind, "message": "No."}}
    if kind != "request_too_large":  # which Anthropic documents, and the client's types lack
        strict(anthropic.types.ErrorResponse, told, frozenset())


def test_a_prompt_that_is_too_long_is_called_so():
    refused = bad_request("the maximum context length is 10 tokens", "messages", "context_length_exceeded")
    told = MESSAGES.error(refused)["error"]["message"]
    assert told == "prompt is too long: the maximum context length is 10 tokens"


def test_errors_within_a_stream():
    events = [*script(*TALK)[:-1], Failed(RequestError(503, "No memory."))]
    *_, last = frames(events)
    assert last == {"type": "error", "error": {"type": "overloaded_error", "message": "No memory."}}
    with (
        pytest.raises(anthropic.APIStatusError, match="No memory"),
        served(SHORT, events).messages.stream(**SHORT) as stream,
    ):
        stream.get_final_message()
    assert [data["type"] for data in frames([Failed(RequestError(500, "No."))])] == ["error"]
    with pytest.raises(RequestError):
        collected(events)


# Counting


class Counting:
    """A backend whose prompts have a token for each message."""

    model = MODEL

    def tokens(self, request):
        return list(range(len(request.messages)))


def test_counting_tokens():
    given = {name: value for name, value in FULL.items() if name in COUNT_TOKENS.body_schema["properties"]}
    assert "max_tokens" not in given
    told = COUNT_TOKENS.answer(Counting(), {}, given)
    assert told == {"input_tokens": 7}
    strict(MessageTokensCount, told, frozenset())
    with pytest.raises(RequestError, match="messages is missing"):
        COUNT_TOKENS.answer(Counting(), {}, {"model": "x"})


def test_where_it_answers():
    assert [path for endpoint in ENDPOINTS for path in endpoint.paths] == ["/messages"]
    assert [(lookup.method, lookup.paths) for lookup in LOOKUPS] == [("POST", ("/messages/count_tokens",))]
