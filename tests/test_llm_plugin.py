"""The plugin of the ``llm`` command, with the real ``llm`` where it is installed, and a backend told what to say."""

import json
import tomllib

import pytest
from support.paths import PHOTO, ROOT
from support.scripted_backend import ScriptedBackend, said

from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.server.exchange import RequestError
from mlx_gemma4_assist.text.deltas import CallArguments, CallBegun, CallEnded

llm = pytest.importorskip("llm")
plugin = pytest.importorskip("mlx_gemma4_assist.integrations.llm_plugin")


@pytest.fixture
def answering(monkeypatch):
    """A model that answers by scripts, and its backend."""

    def of(*scripts):
        backend = ScriptedBackend(*scripts)
        monkeypatch.setattr(plugin, "_backend", lambda model: backend)
        return plugin.Gemma4("google/gemma-4-E2B-it", "gemma4/E2B"), backend

    return of


def test_it_is_an_entry_point():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["llm"]
    assert points == {"gemma4": plugin.__name__}


def test_its_models(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    (tmp_path / plugin.MORE).write_text('["mlx-community/gemma-4-E2B-it-4bit", 5]')
    found = {}
    plugin.register_models(lambda model, aliases=(): found.update({model.model_id: aliases}))
    assert found["gemma4/E2B"] == ("gemma-4-e2b",)
    assert found.keys() == {f"gemma4/{name}" for name in (*families(), "tiny", "gemma-4-E2B-it-4bit")}
    (tmp_path / plugin.MORE).write_text("[")
    plugin.register_models(lambda model, aliases=(): None)


def test_a_conversation(answering):
    model, backend = answering(said("Be", "cause."), said("No."))
    conversation = model.conversation()
    first = conversation.prompt("Why?", system="Be brief.", temperature=0.5, thinking=True)
    assert list(first) == ["Be", "cause."]
    assert (first.input_tokens, first.output_tokens) == (7, 2)
    assert first.token_details["accepted"] == 4
    assert conversation.prompt("Really?", system="Be brief.").text() == "No."
    asked, again = backend.requests
    assert (asked.model, asked.options, asked.thinking) == ("google/gemma-4-E2B-it", {"temperature": 0.5}, True)
    assert list(again.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "Really?"},
    ]


def test_a_schema_and_a_picture(answering):
    model, backend = answering(said('{"a": 1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    model.prompt("What?", schema=schema, attachments=[llm.Attachment(path=str(PHOTO))]).text()
    (request,) = backend.requests
    assert request.options["json_schema"] == schema
    picture, text = request.messages[0]["content"]
    assert (picture["type"], picture["url"][:22], text["text"]) == ("image", "data:image/jpeg;base64", "What?")


def test_tools_over_two_turns(answering):
    called = [CallBegun(0, "call_1", "add"), CallArguments(0, '{"a": 1, '), CallArguments(0, '"b": 2}'), CallEnded(0)]
    model, backend = answering(said(deltas=called), said("It is 3."))

    def add(a: int, b: int) -> str:
        """Add numbers."""
        return str(a + b)

    assert model.chain("Add 1 and 2.", tools=[add]).text() == "It is 3."
    first, second = backend.requests
    assert first.tools[0]["function"]["name"] == "add"
    assert first.tools[0]["function"]["parameters"]["required"] == ["a", "b"]
    question, call, result = second.messages
    assert question == {"role": "user", "content": "Add 1 and 2."}
    assert call["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1, "b": 2}}
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "3"}


def test_an_error_is_one_of_llm(answering):
    model, _ = answering(RequestError(503, "no room"))
    with pytest.raises(llm.ModelError, match="no room"):
        model.prompt("Why?").text()


def test_who_stops_reading_cancels(answering):
    model, backend = answering(said("On", "ce"))
    reading = iter(model.prompt("Tell."))
    assert next(reading) == "On"
    reading.close()
    assert backend.tickets[0].cancelled


def test_the_tool_schema_is_json(answering):
    model, backend = answering(said("Hi."))
    model.prompt("Hi.", tools=[llm.Tool(name="now", description=None, input_schema={}, implementation=None)]).text()
    assert json.dumps(backend.requests[0].tools)
