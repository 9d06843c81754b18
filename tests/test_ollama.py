"""Ollama's API: bodies to requests, events to what Ollama's own client takes."""

import json
from dataclasses import replace

import httpx
import ollama
import pytest
from jsonschema import Draft202012Validator
from support.exchanges import (
    MODEL,
    TALK,
    WEATHER,
    WORK,
    check_refusals,
    exchange,
    script,
    streamed,
    strict,
    token,
    whole,
)

from mlx_gemma4_assist.server.endpoint import Framing, Health
from mlx_gemma4_assist.server.exchange import (
    Failed,
    FinishReason,
    Piece,
    Progress,
    RequestError,
    Started,
    TextRequest,
)
from mlx_gemma4_assist.server.ollama import ENDPOINTS, LOOKUPS
from mlx_gemma4_assist.text.deltas import AnswerDelta, CallArguments, CallBegun
from mlx_gemma4_assist.text.messages import split_media

CHAT, GENERATE = ENDPOINTS
HI = {"role": "user", "content": "Hi"}
SHORT = {"model": "gemma:latest", "messages": [HI]}
PROMPT = {"model": "gemma", "prompt": "Hi"}
SHOWN = {"type": "image", "url": "data:;base64,aGk="}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": WEATHER}}
USE = {"function": {"name": "f"}}
FULL = {
    "model": "gemma:latest",
    "stream": False,
    "keep_alive": "5m",
    "think": True,
    "format": WEATHER,
    "logprobs": True,
    "top_logprobs": 2,
    "options": {
        "num_ctx": 8192,
        "num_predict": 64,
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["END", ""],
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "mirostat": 0,
    },
    "tools": [TOOL],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look.", "images": ["aGk="]},
        {
            "role": "assistant",
            "content": "I look it up.",
            "thinking": "Weather.",
            "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
                {"id": "mine", "function": {"name": "now", "index": 1}},
            ],
        },
        {"role": "tool", "tool_name": "now", "content": "noon"},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny", "images": ["aGk="]},
    ],
}
FULL_PROMPT = {**{name: FULL[name] for name in FULL if name not in ("messages", "tools")}, "prompt": "Look."} | {
    "system": "Be brief.",
    "images": ["aGk="],
    "raw": False,
}


def read(body):
    return CHAT.read({**SHORT, **body}, MODEL)


def generate(body):
    return GENERATE.read({**PROMPT, **body}, MODEL)


# Requests


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, FULL), (GENERATE, FULL_PROMPT)])
def test_options_are_read(endpoint, body):
    request = endpoint.read(body, MODEL)
    assert request.model == "gemma"
    assert not request.stream
    assert request.thinking
    assert request.options == {
        "max_tokens": 64,
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["END"],
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "json_schema": WEATHER,
        "top_logprobs": 2,
    }


def test_messages_are_read():
    request = read(FULL)
    split_media(request.messages)
    system, asked, called, noon, sunny = request.messages
    assert system == {"role": "system", "content": "Be brief."}
    assert asked == {"role": "user", "content": [SHOWN, {"type": "text", "text": "Look."}]}
    first, second = called.pop("tool_calls")
    assert called == {"role": "assistant", "content": "I look it up.", "reasoning_content": "Weather."}
    assert first["function"] == {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert second == {"id": "mine", "type": "function", "function": {"name": "now", "arguments": {}}}
    assert noon == {"role": "tool", "tool_call_id": "mine", "name": "now", "content": "noon"}
    assert (sunny["tool_call_id"], sunny["name"]) == (first["id"], "get_weather")
    assert sunny["content"] == [{"type": "text", "text": "sunny"}, SHOWN]
    assert list(request.tools) == [TOOL]


def test_calls_of_one_tool_are_answered_in_their_order():
    calls = [{"id": name, "function": {"name": "f"}} for name in "abc"]
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2", "tool_call_id": "c"}]
    results += [{"role": "tool", "content": "3", "name": "f"}]
    found = read({"messages": [HI, {"role": "assistant", "tool_calls": calls}, *results]}).messages
    assert [each["tool_call_id"] for each in found[2:]] == ["a", "c", "b"]


def test_streams_unless_told_otherwise():
    assert read({}).stream
    assert not read({"stream": False}).stream
    assert generate({"stream": None}).stream


@pytest.mark.parametrize(
    ("think", "expected"),
    [(None, (None, None)), (True, (True, None)), (False, (False, None)), ("low", (True, 1024)), ("high", (True, None))],
)
def test_thinking(think, expected):
    request = read({"think": think})
    assert (request.thinking, request.thinking_budget) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": -1, "seed": -1, "top_k": -1, "stop": ""}, {"top_k": 0}),
        ({"num_predict": 0, "stop": "END"}, {"stop": ["END"]}),
        ({"num_ctx": 4096, "num_gpu": 99, "temperature": None}, {}),
    ],
)
def test_options_that_leave_it_open(options, expected):
    assert read({"options": options}).options == expected


@pytest.mark.parametrize(
    ("form", "schema"), [("json", {"type": "object"}), (WEATHER, WEATHER), ("", None), ({}, {"type": "object"})]
)
def test_formats(form, schema):
    assert read({"format": form}).options.get("json_schema") == schema


def test_an_answer_that_was_begun_is_continued():
    request = read({"messages": [HI, {"role": "assistant", "content": "{"}]})
    assert request.continue_last
    assert not read({}).continue_last
    request = read({"messages": [HI, {"role": "assistant", "content": ""}]})
    assert (request.messages, request.continue_last) == ([HI], False)


def test_raw_text():
    request = generate({"raw": True, "prompt": "<bos>Hi"})
    assert isinstance(request, TextRequest)
    assert request.prompts == ["<bos>Hi"]


@pytest.mark.parametrize(
    ("endpoint", "fields", "says"),
    [
        (CHAT, {"model": None}, "model is null"),
        (CHAT, {"options": {"temperature": "hot"}}, "options.temperature is 'hot'"),
        (CHAT, {"options": {"repeat_penalty": 0}}, "penalty is 0"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "no call asked for"),
        (CHAT, {"messages": [{"role": "system", "images": ["aGk="]}]}, "which has no images"),
        (CHAT, {"messages": [HI, {"role": "assistant", "tool_calls": [USE]}]}, "whose results are missing"),
        (CHAT, {"tools": [TOOL, TOOL]}, "two of the name"),
        (CHAT, {"format": "xml"}, "format is 'xml'"),
        (GENERATE, {"raw": True, "images": ["aGk="]}, "images have no place"),
        (GENERATE, {"template": "{{ .Prompt }}"}, "template is not supported"),
        (GENERATE, {"context": [1, 2]}, "context is not supported"),
        (GENERATE, {"suffix": "x"}, "suffix is not supported"),
        (GENERATE, {"messages": [HI]}, "messages is not supported: send messages to /api/chat"),
        (GENERATE, {"raw": True, "system": "x"}, "a system text has no place in a raw prompt"),
        (GENERATE, {"raw": True, "think": True}, "thinking has no place in a raw prompt"),
        (CHAT, {"template": "{{ .Prompt }}"}, "template is not supported: the model has its own template"),
        (CHAT, {"raw": True}, "raw is not supported: send raw text to /api/generate"),
        (CHAT, {"context": [1]}, "context is not supported"),
        (CHAT, {"suffix": "x"}, "suffix is not supported"),
        (CHAT, {"system": "x"}, "system is not supported: say it in a message of the role system"),
        (
            CHAT,
            {"options": {"num_assistant_tokens": -1}},
            "options.num_assistant_tokens is -1, expected an integer of 0 to 32",
        ),
        (
            CHAT,
            {"format": {"type": "object"}, "options": {"json_schema": {}}},
            "format and json_schema exclude each other",
        ),
    ],
)
def test_refusals(endpoint, fields, says):
    with pytest.raises(RequestError) as raised:
        endpoint.read({**(SHORT if endpoint is CHAT else PROMPT), **fields}, MODEL)
    assert raised.value.status == 400
    assert says in raised.value.message


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, FULL), (GENERATE, FULL_PROMPT)])
def test_pictures_are_refused_where_the_model_takes_none(endpoint, body):
    with pytest.raises(RequestError, match="has a picture, but the model takes none"):
        endpoint.read(body, replace(MODEL, pictures=False))


def test_a_model_that_does_not_think_is_not_told_to():
    with pytest.raises(RequestError, match="does not support thinking"):
        CHAT.read({**SHORT, "think": True}, replace(MODEL, thinking=False))


@pytest.mark.parametrize(("endpoint", "body"), [(CHAT, FULL), (GENERATE, FULL_PROMPT)])
def test_wrong_bodies_are_refused(endpoint, body):
    check_refusals(endpoint, body)


# Answers

UNKNOWN = ("id", "index")
"""Fields of calls that Go's and JavaScript's clients know, and Python's does not."""


def without_unknown(data):
    """What Python's client takes of an answer."""
    if isinstance(data, dict):
        return {name: without_unknown(value) for name, value in data.items() if name not in UNKNOWN}
    return [without_unknown(each) for each in data] if isinstance(data, list) else data


def check_chat(data):
    strict(ollama.ChatResponse, without_unknown(data), frozenset())
    Draft202012Validator(CHAT.answer_schema).validate(data)


def check_generate(data):
    strict(ollama.GenerateResponse, data, frozenset())
    Draft202012Validator(GENERATE.answer_schema).validate(data)


MIXED = [Progress(10, 20), *script(*TALK, *WORK, reason=FinishReason.TOOL_CALLS)]
CALLED = {"id": "call_1", "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}}


def test_a_whole_chat():
    made = whole(CHAT, SHORT, script(*WORK, reason=FinishReason.TOOL_CALLS))
    check_chat(made)
    message = {"role": "assistant", "content": "One moment. ", "thinking": "Look it up.", "tool_calls": [CALLED]}
    assert made == {
        "model": "gemma:latest",
        "created_at": "2027-01-15T08:00:00Z",
        "message": message,
        "done": True,
        "done_reason": "stop",
        "total_duration": 2_750_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_count": 20,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 12,
        "eval_duration": 2_000_000_000,
    }


def test_a_whole_text():
    made = whole(GENERATE, PROMPT, script(*TALK, reason=FinishReason.LENGTH))
    check_generate(made)
    assert (made["response"], made["thinking"], made["done_reason"]) == ("Hello world", "Let me see.", "length")


def test_every_line_is_one_of_the_clients():
    lines = streamed(CHAT, SHORT, MIXED)
    for line in lines:
        check_chat(line)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    said = [line["message"] for line in lines]
    assert said[0] == said[-1] == {"role": "assistant", "content": ""}
    assert "".join(each["content"] for each in said) == "Hello worldOne moment. "
    assert "".join(each.get("thinking", "") for each in said) == "Let me see.Look it up."
    assert [each["tool_calls"] for each in said if "tool_calls" in each] == [[CALLED]]


def test_lines_of_text():
    lines = streamed(GENERATE, PROMPT, [Progress(1, 2), *script(*TALK)])
    for line in lines:
        check_generate(line)
    assert "".join(line["response"] for line in lines) == "Hello world"


def test_a_call_that_is_cut_off_is_no_call():
    events = script(CallBegun(0, "a", "f"), CallArguments(0, '{"x": '), reason=FinishReason.LENGTH)
    assert "tool_calls" not in whole(CHAT, SHORT, events)["message"]
    assert len(streamed(CHAT, SHORT, events)) == 1


def test_log_probabilities():
    body = {**SHORT, "logprobs": True, "top_logprobs": 2}
    pieces = [Piece(0, (AnswerDelta("ab"), AnswerDelta("c")), (token("a"), token("bc"))), Piece(0, (), (token("d"),))]
    start, *_, end = script()
    events = [start, *pieces, end]
    one, two, three, _ = lines = streamed(CHAT, body, events)
    for line in (*lines, whole(CHAT, body, events)):
        check_chat(line)
    assert [each["token"] for each in one["logprobs"]] == ["a", "bc"]
    assert "logprobs" not in two
    assert three["message"]["content"] == ""
    likely, impossible = three["logprobs"][0]["top_logprobs"]
    assert (likely, impossible["logprob"]) == ({"token": "d", "logprob": -0.5}, -9999)
    assert "logprobs" not in whole(CHAT, SHORT, events)


def test_errors():
    assert CHAT.error(RequestError(404, "No.")) == {"error": "No."}
    assert streamed(CHAT, SHORT, [Started(1, 0), Failed(RequestError(503, "No."))]) == [{"error": "No."}]


# Nothing asked


@pytest.mark.parametrize(
    ("keep", "told"), [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0s", "unload")]
)
@pytest.mark.parametrize(("endpoint", "check"), [(CHAT, check_chat), (GENERATE, check_generate)])
def test_a_model_is_loaded_by_asking_nothing(endpoint, check, keep, told):
    body = {"model": "gemma", "keep_alive": keep}
    request = endpoint.read(body, MODEL)
    assert request.options == {"max_tokens": 1}
    events = [Progress(0, 4), *script(AnswerDelta("Hello"), reason=FinishReason.LENGTH)]
    made = whole(endpoint, body, events)
    check(made)
    assert streamed(endpoint, body, events) == [made]
    assert (made["done"], made["done_reason"]) == (True, told)
    assert "Hello" not in str(made)


def test_the_client_puts_lines_together():
    def answer(request):
        body = json.loads(request.content)
        lines = streamed(CHAT, body, MIXED)
        return httpx.Response(200, text="".join(f"{json.dumps(line)}\n" for line in lines))

    client = ollama.Client(host="http://x", transport=httpx.MockTransport(answer))
    parts = list(client.chat("gemma", [HI], stream=True))
    assert "".join(part.message.content for part in parts) == "Hello worldOne moment. "
    assert parts[-1].eval_count == 12


# Models


class Loaded:
    """A backend of which only facts are asked."""

    model = replace(MODEL, size=1000, parameters="2B", quantization="4bit", assistant="google/gemma-4-E2B-it-assistant")

    def __init__(self, status="ok"):
        self.status = status

    def health(self):
        return Health(self.status, self.model.id, active_memory=5000)


def look(name, body=(), status="ok"):
    (lookup,) = (each for each in LOOKUPS if each.name == name)
    told = lookup.answer(Loaded(status), {}, dict(body))
    Draft202012Validator(lookup.answer_schema).validate(told)
    return told


def lax(kind, told, unknown=frozenset()):
    """Told as the client's type has it, which reads times and sizes itself."""
    read = kind.model_validate(told).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read.keys() == told.keys() - unknown
    return read


def test_models():
    told = look("ollama.tags")
    (read,) = lax(ollama.ListResponse, told)["models"]
    assert read == {name: value for name, value in told["models"][0].items() if name != "name"}
    assert read["model"] == MODEL.id
    (running,) = look("ollama.ps")["models"]
    (read,) = lax(ollama.ProcessResponse, {"models": [running]})["models"]
    assert read == running
    assert (running["size_vram"], running["context_length"]) == (5000, 131072)
    assert look("ollama.ps", status="unloaded") == {"models": []}


def test_what_a_model_can_do():
    told = look("ollama.show", {"model": "gemma-4-E2B-it:latest"})
    assert lax(ollama.ShowResponse, told) == told
    assert told["capabilities"] == ["completion", "tools", "thinking", "vision", "audio"]
    assert told["model_info"]["gemma4.context_length"] == 131072
    assert look("ollama.show", {"name": MODEL.id}) == told
    for body, status in (({}, 400), ({"model": 5}, 400), ({"model": "llama3"}, 404)):
        with pytest.raises(RequestError) as raised:
            look("ollama.show", body)
        assert raised.value.status == status


def test_versions_are_new_enough():
    assert tuple(map(int, look("ollama.version")["version"].split("."))) > (0, 20)


def test_where_it_answers():
    assert [endpoint.paths for endpoint in ENDPOINTS] == [("/api/chat",), ("/api/generate",)]
    assert {endpoint.framing for endpoint in ENDPOINTS} == {Framing.LINES}
    paths = [(lookup.method, *lookup.paths) for lookup in LOOKUPS]
    assert paths == [("GET", "/api/version"), ("GET", "/api/tags"), ("GET", "/api/ps"), ("POST", "/api/show")]
    assert {each.prefixes for each in (*ENDPOINTS, *LOOKUPS)} == {("",)}
    assert exchange(CHAT, SHORT).request.model == "gemma"
