"""Conversations, as OpenAI's chats have them, to messages as the text room takes them."""

import json
from collections.abc import Mapping
from typing import Any

from ..text.messages import Message
from . import openai_parts
from .endpoint import Body
from .exchange import Model, bad_request
from .fields import FLAG, TEXT, either, listed, maybe, one_of, optional, record

FUNCTION_CALL = record({"name": TEXT, "arguments": TEXT}, "name", "arguments")
MESSAGE = either(
    record(
        {"role": one_of("system", "developer"), "content": openai_parts.TEXTS, **optional({"name": TEXT})},
        "role",
        "content",
    ),
    record({"role": one_of("user"), "content": openai_parts.CONTENT, **optional({"name": TEXT})}, "role", "content"),
    record(
        {
            "role": one_of("assistant"),
            **optional(
                {
                    "content": openai_parts.TEXTS,
                    "refusal": TEXT,
                    "name": TEXT,
                    "reasoning_content": TEXT,
                    "reasoning": TEXT,
                    "tool_calls": openai_parts.CALLS,
                    "function_call": FUNCTION_CALL,
                }
            ),
        },
        "role",
    ),
    record(
        {"role": one_of("tool"), "tool_call_id": TEXT, "content": openai_parts.CONTENT, **optional({"name": TEXT})},
        "role",
        "tool_call_id",
        "content",
    ),
    record({"role": one_of("function"), "name": TEXT, "content": maybe(TEXT)}, "role", "name", "content"),
)
MESSAGES = listed(MESSAGE, 1)
CONTINUING = optional({"continue_final_message": FLAG, "add_generation_prompt": FLAG})


def arguments(given: Any) -> dict[str, Any]:
    """A call's arguments as an object.

    What is no JSON object, as of a call that was cut off, becomes an argument itself: the model can read it, and the
    conversation, which has it for good, goes on.
    """
    if not isinstance(given, str):
        return dict(given or {})
    try:
        read = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return {"arguments": given}
    if read is None:
        return {}
    return read if isinstance(read, dict) else {"arguments": read}


def call(identity: str, name: str, given: Any) -> dict[str, Any]:
    """A call of a tool, as a message has it."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments(given)}}


class Conversation:
    """Messages as they come together, of any of OpenAI's protocols.

    Attributes:
        messages: so far.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._called: dict[str, str] = {}

    def say(self, role: str, content: str | list[dict[str, Any]]) -> None:
        """A message that calls nothing and thinks nothing."""
        self.messages.append({"role": role, "content": content})

    def answer(self, content: str, thought: str = "", calls: list[dict[str, Any]] | None = None) -> None:
        """A message of the model's."""
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
            self._called |= {call["id"]: call["function"]["name"] for call in calls}
        self.messages.append(message)

    def result(self, identity: str, content: str | list[dict[str, Any]], place: str) -> None:
        """A tool's answer.

        Raises:
            RequestError: nothing called it.
        """
        if identity not in self._called:
            raise bad_request(f"{place} answers the call {identity!r:.200}, which no message before it has", place)
        name = self._called[identity]
        self.messages.append({"role": "tool", "tool_call_id": identity, "name": name, "content": content})

    def last_call(self, name: str) -> str | None:
        """The id of the last call of a function, None if there is none."""
        return next((identity for identity, called in reversed(self._called.items()) if called == name), None)


def conversation(body: Body, model: Model) -> list[Message]:
    """The messages of a chat.

    Raises:
        RequestError: a message shows what the model does not take, or answers a call that nothing has made.
    """
    made = Conversation()
    for number, message in enumerate(body["messages"]):
        _add(made, message, model, f"messages[{number}]")
    return made.messages


def _add(made: Conversation, message: Mapping[str, Any], model: Model, place: str) -> None:
    given = message.get("content")
    match message["role"]:
        case "assistant":
            _add_answer(made, message, place)
        case "tool":
            content = openai_parts.result(given, model, f"{place}.content")
            made.result(message["tool_call_id"], content, f"{place}.tool_call_id")
        case "function":
            identity = made.last_call(message["name"]) or message["name"]
            made.result(identity, given or "", f"{place}.name")
        case role:
            made.say(role, openai_parts.content(given, model, f"{place}.content"))


def _add_answer(made: Conversation, message: Mapping[str, Any], place: str) -> None:
    text = openai_parts.text(message.get("content")) or message.get("refusal") or ""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    calls = [
        call(each["id"], each["function"]["name"], each["function"].get("arguments"))
        for each in message.get("tool_calls") or ()
    ]
    if old := message.get("function_call"):
        calls.append(call(f"call_{place}", old["name"], old["arguments"]))
    made.answer(text, thought, calls)


def continued(body: Body, messages: list[Message]) -> bool:
    """Whether the last message is to be continued: an assistant's with text is, unless the body says otherwise.

    Raises:
        RequestError: it is asked for, and there is no such message.
    """
    wanted, opened = body.get("continue_final_message"), body.get("add_generation_prompt")
    last = messages[-1]
    may = last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")
    if wanted and not may:
        raise bad_request(
            "continue_final_message needs a last message of the assistant's, with text and without calls",
            "continue_final_message",
        )
    if opened is False and not (may and wanted is not False):
        raise bad_request("add_generation_prompt can be false only where the last message is continued")
    return may if wanted is None and not opened else bool(wanted)
