"""The clients that apps are built on, each in a conversation with a real server; all that it says is of their types.

What they put together is what ``stream_generate`` says alone.
"""

import asyncio
import json
import shutil
import subprocess
from functools import partial
from unittest.mock import ANY

import anthropic
import llm
import ollama
import openai
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from support.chat_server import CONTEXT, MAX_TOKENS, NAME, PLEASE, serving, write_model
from support.clients import (
    ASKED,
    ENCODED,
    FUNCTION,
    HELLO,
    PARAMETERS,
    PICTURE,
    QUESTION,
    SEEN,
    SHOWN,
    TOO_LONG,
    TOOL,
    Served,
    Sure,
    assert_called,
)
from support.commands import runner
from support.exchanges import strict
from support.paths import TESTS

PATIENCE = 90  # seconds for npm, and for what it has installed
OF_OPENAI = frozenset({"timings", "reasoning_content", "prompt_progress", "name", "store"})
"""Fields that OpenAI's client does not know."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("models") / "random")
    with serving(folder) as port:
        served = Served(folder, port)
        yield served
        served.tap.close()


@pytest.fixture
def served(server):
    server.heard()
    return server


# OpenAI


@pytest.fixture
def gpt(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def check_chats(served):
    served.check(ChatCompletion, ChatCompletionChunk, OF_OPENAI)


def test_openai_chats(served, gpt):
    (listed,) = gpt.models.list().data
    assert (listed.id, gpt.models.retrieve(NAME).id) == (NAME, NAME)
    assert len(served.heard()) == 2
    said = gpt.chat.completions.create(model=NAME, messages=HELLO)
    (choice,) = said.choices
    assert ("", choice.message.content, choice.finish_reason) == served.alone(HELLO)
    chunks = gpt.chat.completions.create(
        model=NAME, messages=HELLO, stream=True, stream_options={"include_usage": True}, logprobs=True
    )
    *chunks, trailer = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert trailer.usage.completion_tokens == said.usage.completion_tokens
    several = gpt.chat.completions.create(model=NAME, messages=HELLO, n=2, seed=3, temperature=0.7, stop=["e"])
    for number, each in enumerate(several.choices):
        alone = served.alone(HELLO, seed=3 + number, temperature=0.7, stop=["e"])
        assert ("", each.message.content, each.finish_reason) == alone
    check_chats(served)


def test_openai_tools(served, gpt):
    ask = partial(gpt.chat.completions.create, model=NAME, tools=[TOOL])
    first = ask(messages=ASKED, tool_choice="required", parallel_tool_calls=False)
    (choice,) = first.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "sky")
    assert_called(json.loads(call.function.arguments))
    named = {"type": "function", "function": {"name": "sky"}}
    with gpt.chat.completions.stream(
        model=NAME, tools=[TOOL], messages=ASKED, tool_choice=named, parallel_tool_calls=False
    ) as stream:
        (streamed,) = stream.get_final_completion().choices
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    answered = [*ASKED, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = ask(messages=answered)
    assert (second.choices[0].finish_reason, second.choices[0].message.tool_calls) == ("length", None)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    check_chats(served)


def test_openai_structures(served, gpt):
    made = gpt.chat.completions.parse(model=NAME, messages=HELLO, response_format=Sure)
    assert isinstance(made.choices[0].message.parsed, Sure)
    with gpt.chat.completions.stream(model=NAME, messages=HELLO, response_format=Sure) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == made.choices[0].message.parsed
    check_chats(served)


def test_openai_thinks(served, gpt):
    ask = partial(gpt.chat.completions.create, model=NAME, messages=HELLO)
    said = ask(reasoning_effort="high")
    message = said.choices[0].message
    thought, answer, reason = served.alone(HELLO, thinking=True)
    assert (message.reasoning_content, message.content, said.choices[0].finish_reason) == (thought, answer, reason)
    assert thought
    assert said.usage.completion_tokens_details.reasoning_tokens > 0
    deltas = [chunk.choices[0].delta for chunk in ask(reasoning_effort="high", stream=True)]
    told = [each.model_extra.get("reasoning_content", "") for each in deltas]
    assert ("".join(told), "".join(each.content or "" for each in deltas)) == (thought, answer)
    short = ask(extra_body={"thinking_budget": 3}).usage
    assert short.completion_tokens_details.reasoning_tokens <= 3
    check_chats(served)


def test_openai_sees(served, gpt):
    content = [{"type": "image_url", "image_url": {"url": SHOWN}}, {"type": "text", "text": QUESTION}]
    said = gpt.chat.completions.create(model=NAME, messages=[{"role": "user", "content": content}])
    alone = served.alone(SEEN)
    assert ("", said.choices[0].message.content, said.choices[0].finish_reason) == alone
    check_chats(served)


def test_openai_responses(served, gpt):
    said = gpt.responses.create(model=NAME, input=QUESTION)
    assert said.output_text == served.alone(HELLO)[1]
    with gpt.responses.stream(model=NAME, input=QUESTION, reasoning={"effort": "high"}) as stream:
        *_, last = stream
        made = last.response
    thought, answer, _ = served.alone(HELLO, thinking=True)
    assert (made.output[0].content[0].text, made.output_text) == (thought, answer)
    parsed = gpt.responses.parse(model=NAME, input=QUESTION, text_format=Sure)
    assert isinstance(parsed.output_parsed, Sure)
    tool = {"type": "function", **FUNCTION, "strict": True}
    ask = partial(gpt.responses.create, model=NAME, tools=[tool])
    called = ask(input=PLEASE, tool_choice="required", parallel_tool_calls=False)
    (call,) = called.output
    assert_called(json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    assert ask(input=[*ASKED, *called.output, result]).output_text
    shown = [{"type": "input_image", "image_url": SHOWN}, {"type": "input_text", "text": QUESTION}]
    assert gpt.responses.create(model=NAME, input=[{"role": "user", "content": shown}]).output_text
    served.check(
        Response, ResponseStreamEvent, OF_OPENAI | {"accepted_prediction_tokens", "rejected_prediction_tokens"}
    )


def test_openai_completes(served, gpt):
    said = gpt.completions.create(model=NAME, prompt="Once", max_tokens=9)
    chunks = gpt.completions.create(model=NAME, prompt="Once", max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == said.choices[0].text
    assert said.usage.completion_tokens == 9
    (whole, _) = served.heard()
    strict(Completion, *whole.data, OF_OPENAI)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_is_refused(served, gpt, stream):
    chat = partial(gpt.chat.completions.create, stream=stream)
    for ask in (partial(chat, messages=HELLO), partial(gpt.responses.create, input=QUESTION, stream=stream)):
        with pytest.raises(openai.NotFoundError, match=NAME) as unknown:
            ask(model="nobody/nothing")
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as wrong:
            ask(model=NAME, temperature=-1)
        assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens") as long:
        chat(model=NAME, messages=TOO_LONG)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    for answer in served.heard():
        strict(openai.types.ErrorObject, answer.data[0]["error"], frozenset())


# Anthropic


@pytest.fixture
def claude(served):
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


CLAUDE = {"model": NAME, "max_tokens": MAX_TOKENS}
OF_ANTHROPIC = {"name": "sky", "description": "Tells what the sky is like.", "input_schema": PARAMETERS}


def test_anthropic_chats(served, claude):
    said = claude.messages.create(**CLAUDE, messages=HELLO)
    (block,) = said.content
    assert block.text == served.alone(HELLO)[1]
    assert said.stop_reason == "max_tokens"
    with claude.messages.stream(**CLAUDE, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == block.text
        assert stream.get_final_message().usage.output_tokens == said.usage.output_tokens
    served.check(Message, RawMessageStreamEvent)
    counted = claude.messages.count_tokens(model=NAME, messages=HELLO)
    assert counted.input_tokens == said.usage.input_tokens + said.usage.cache_read_input_tokens
    served.check(MessageTokensCount, None)


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}])
def test_anthropic_tools(served, claude, thinking):
    asked = {"model": NAME, "max_tokens": 300, "tools": [OF_ANTHROPIC], "thinking": thinking}
    with claude.messages.stream(
        **asked, messages=ASKED, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    ) as stream:
        first = stream.get_final_message()
    *thoughts, call = first.content
    assert [each.type for each in thoughts] == ["thinking"] * (thinking["type"] == "enabled")
    assert (call.type, call.name, first.stop_reason) == ("tool_use", "sky", "tool_use")
    assert_called(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = claude.messages.create(**asked, messages=messages)
    assert second.content
    assert second.usage.cache_read_input_tokens >= first.usage.input_tokens + first.usage.cache_read_input_tokens
    served.check(Message, RawMessageStreamEvent)


def test_anthropic_structures(served, claude):
    made = claude.messages.parse(**CLAUDE, messages=HELLO, output_format=Sure)
    assert isinstance(made.parsed_output, Sure)
    served.check(Message, RawMessageStreamEvent)


def test_anthropic_thinks(served, claude):
    asked = {**CLAUDE, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    thought, text = claude.messages.create(**asked).content
    assert (thought.thinking, text.text) == served.alone(HELLO, thinking=True)[:2]
    with claude.messages.stream(**asked) as stream:
        again = stream.get_final_message()
    assert [each.model_dump(exclude_none=True) for each in again.content] == [
        each.model_dump(exclude_none=True) for each in (thought, text)
    ]
    served.check(Message, RawMessageStreamEvent)


def test_anthropic_sees(served, claude):
    source = {"type": "base64", "media_type": "image/png", "data": ENCODED}
    content = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    (block,) = claude.messages.create(**CLAUDE, messages=[{"role": "user", "content": content}]).content
    assert block.text == served.alone(SEEN)[1]
    served.check(Message, RawMessageStreamEvent)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_is_refused(served, claude, stream):
    ask = partial(claude.messages.create, stream=stream, max_tokens=9)
    with pytest.raises(anthropic.NotFoundError, match=NAME):
        ask(model="nobody/nothing", messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        ask(model=NAME, messages=TOO_LONG)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        ask(model=NAME, messages=HELLO, extra_body={"temperature": -1})
    for answer in served.heard():
        strict(anthropic.types.ErrorResponse, answer.data[0], frozenset())


# Ollama


@pytest.fixture
def llama(served):
    client = ollama.Client(served.url)
    yield client
    client._client.close()


UNKNOWN = ("id", "index")
"""Fields of calls that Go's and JavaScript's clients know, and Python's does not."""


def check_lines(served, kind=ollama.ChatResponse):
    for answer in served.heard():
        assert answer.status == 200
        for data in answer.data:
            for call in data.get("message", {}).get("tool_calls", ()):
                call.pop("id"), call["function"].pop("index")
            strict(kind, data, frozenset())


def test_ollama_chats(served, llama):
    assert [model.model for model in llama.list().models] == [NAME]
    assert "tools" in llama.show(NAME).capabilities
    assert [model.model for model in llama.ps().models] == [NAME]
    served.heard()
    said = llama.chat(NAME, HELLO)
    thought, answer, _ = served.alone(HELLO)
    assert (thought, said.message.content, said.done_reason) == ("", answer, "length")
    assert "".join(line.message.content for line in llama.chat(NAME, HELLO, stream=True)) == answer
    check_lines(served)
    written = [line.response for line in llama.generate(NAME, QUESTION, stream=True)]
    assert "".join(written) == llama.generate(NAME, QUESTION).response == answer
    check_lines(served, ollama.GenerateResponse)


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_tools(served, llama, stream):
    ask = partial(llama.chat, NAME, tools=[TOOL], stream=stream)
    said = ask(ASKED)
    messages = [line.message for line in said] if stream else [said.message]
    (called,) = [message for message in messages if message.tool_calls]
    (call,) = called.tool_calls
    assert call.function.name == "sky"
    assert_called(call.function.arguments)
    said = ask([*ASKED, called, {"role": "tool", "tool_name": "sky", "content": "sunny"}])
    assert "".join(line.message.content for line in (said if stream else [said]))
    check_lines(served)


def test_ollama_structures(served, llama):
    said = llama.chat(NAME, HELLO, format=Sure.model_json_schema())
    Sure.model_validate_json(said.message.content)
    assert isinstance(
        json.loads(llama.chat(NAME, HELLO, format="json", options={"num_predict": 200}).message.content), dict
    )
    check_lines(served)


def test_ollama_thinks_and_sees(served, llama):
    said = llama.chat(NAME, HELLO, think=True).message
    assert (said.thinking, said.content) == served.alone(HELLO, thinking=True)[:2]
    lines = [line.message for line in llama.chat(NAME, HELLO, think="low", stream=True)]
    assert "".join(line.thinking or "" for line in lines) == said.thinking
    said = llama.chat(NAME, [{"role": "user", "content": QUESTION, "images": [PICTURE]}]).message
    assert said.content == served.alone(SEEN)[1]
    check_lines(served)


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_is_refused(llama, stream):
    for status, said, model, messages, settings in (
        (404, "does not exist", "nobody/nothing", HELLO, {}),
        (400, "maximum context length", NAME, TOO_LONG, {}),
        (400, "temperature", NAME, HELLO, {"temperature": -1}),
    ):
        with pytest.raises(ollama.ResponseError, match=said) as refused:
            list(llama.chat(model, messages, options=settings, stream=stream))
        assert refused.value.status_code == status


# All at once


def test_clients_at_once(served):
    """Each with a seed of its own."""

    async def ask():
        asking = {"base_url": f"{served.url}/v1", "api_key": "none", "max_retries": 0}
        async with (
            openai.AsyncOpenAI(**asking) as gpt,
            anthropic.AsyncAnthropic(api_key="-", base_url=served.url) as claude,
        ):
            chats = [gpt.chat.completions.create(model=NAME, messages=HELLO, seed=seed) for seed in range(3)]
            message = claude.messages.create(**CLAUDE, messages=HELLO)
            lines = [line async for line in await ollama.AsyncClient(served.url).chat(NAME, HELLO, stream=True)]
            return await asyncio.gather(*chats, message), lines

    (*chats, message), lines = asyncio.run(ask())
    for seed, chat in enumerate(chats):
        assert chat.choices[0].message.content == served.alone(HELLO, seed=seed)[1]
    assert message.content[0].text == served.alone(HELLO)[1] == "".join(line.message.content for line in lines)


# llm


@pytest.fixture
def local(served, monkeypatch, capsys, tmp_path):
    """The model that ``connect llm --write`` tells the command of."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    assert runner(monkeypatch, capsys)("connect", "llm", "--url", served.url, "--write").returncode == 0
    served.heard()
    return llm.get_model("gemma4")


def test_llm_chats(served, local):
    talk = local.conversation()
    alone = served.alone(HELLO)[1]
    assert "".join(talk.prompt(QUESTION)) == alone
    again = [*HELLO, {"role": "assistant", "content": alone}, {"role": "user", "content": "And?"}]
    assert talk.prompt("And?", stream=False).text() == served.alone(again)[1]
    made = local.prompt(QUESTION, schema=Sure).text()
    Sure.model_validate_json(made)
    said = local.prompt(QUESTION, attachments=[llm.Attachment(type="image/png", content=PICTURE)]).text()
    assert said == served.alone([{"role": "user", "content": SEEN[0]["content"][::-1]}])[1]
    check_chats(served)


def test_llm_tools(served, local):
    called = []

    def implementation(city: str, now: bool) -> str:
        called.append((city, now))
        return "sunny"

    tool = llm.Tool("sky", "Tells what the sky is like.", PARAMETERS, implementation)
    assert local.chain(PLEASE, tools=[tool]).text()
    ((city, now),) = called
    assert_called({"city": city, "now": now})
    check_chats(served)


def test_llm_is_refused(served, local):
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        local.prompt(TOO_LONG[0]["content"]).text()


# The AI SDK of npm


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """A folder with the script and the packages that it needs, installed from a registry."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no npm")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copytree(TESTS / "npm", folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm has installed nothing for {PATIENCE} seconds")
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr.strip()[:300]}")
    return folder


def test_the_ai_sdk(served, node_modules):
    given = {"url": f"{served.url}/v1", "model": NAME, "question": QUESTION, "please": PLEASE, "picture": ENCODED}
    given["long"] = TOO_LONG[0]["content"]
    command = ["node", "conversation.mjs", json.dumps(given)]
    done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    thought, answer, reason = served.alone(HELLO)
    plain = told["plain"]
    assert (plain.get("reasoningText", ""), plain["text"], plain["finishReason"]) == (thought, answer, reason)
    assert plain["warnings"] == []
    assert told["streamed"] == {"text": answer, "reasoningText": "", "usage": ANY, "errors": []}
    assert told["streamed"]["usage"]["outputTokens"] == plain["usage"]["outputTokens"] > 0
    thought, answer, _ = served.alone(HELLO, thinking=True)
    for name in ("thinking", "thinkingStreamed"):
        assert (told[name]["reasoningText"], told[name]["text"]) == (thought, answer)
    Sure.model_validate(told["structure"])
    assert told["picture"]["text"] == served.alone(SEEN)[1]
    assert [step["finishReason"] for step in told["acting"]] == ["tool-calls", "length"]
    assert told["actingStreamed"]["text"] == told["acting"][-1]["text"] != ""
    for call in told["called"]:
        assert_called(call)
    assert [(each["name"], each["statusCode"], each["code"]) for each in told["errors"]] == [
        ("AI_APICallError", status, code) for status, code in REFUSALS for _ in range(2)
    ]
    check_chats(served)


REFUSALS = ((404, "model_not_found"), (400, "context_length_exceeded"), (400, None))
