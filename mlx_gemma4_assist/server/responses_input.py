"""The input of the Responses API, a text or items, to messages: neighbouring items of one turn become one message."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from ..text.messages import Message
from . import openai_parts
from .endpoint import Body
from .exchange import Model, bad_request
from .fields import OBJECT, TEXT, either, listed, one_of, optional, record
from .openai_messages import Conversation, call
from .responses_tools import INPUT, qualified

_SAID = listed(record({"text": TEXT}, "text"))
ITEM = either(
    record(
        {"role": one_of("user", "system", "developer"), "content": openai_parts.CONTENT, "type": one_of("message")},
        "role",
        "content",
    ),
    record({"role": one_of("assistant"), "content": openai_parts.TEXTS, "type": one_of("message")}, "role", "content"),
    record(
        {
            "type": one_of("function_call"),
            "call_id": TEXT,
            "name": TEXT,
            "arguments": TEXT,
            **optional({"namespace": TEXT}),
        },
        "type",
        "call_id",
        "name",
        "arguments",
    ),
    record(
        {
            "type": one_of("custom_tool_call"),
            "call_id": TEXT,
            "name": TEXT,
            "input": TEXT,
            **optional({"namespace": TEXT}),
        },
        "type",
        "call_id",
        "name",
        "input",
    ),
    record({"type": one_of("local_shell_call"), "call_id": TEXT, "action": OBJECT}, "type", "call_id", "action"),
    record(
        {
            "type": one_of("function_call_output", "custom_tool_call_output"),
            "call_id": TEXT,
            "output": openai_parts.CONTENT,
        },
        "type",
        "call_id",
        "output",
    ),
    record(
        {
            "type": one_of("reasoning"),
            **optional({"summary": _SAID, "content": _SAID, "encrypted_content": TEXT}),
        },
        "type",
    ),
    record(
        {
            "type": {
                **TEXT,
                "pattern": "^(?!(message|function_call|custom_tool_call|local_shell_call|function_call_output"
                "|custom_tool_call_output|reasoning)$)",
            }
        },
        "type",
    ),
)
"""Items of other types are left out: those that tell of tools that only OpenAI runs."""
GIVEN = either(TEXT, listed(ITEM, 1))

SEAL = "gemma4."
"""What the opaque form of a thought begins with."""


def sealed(thought: str) -> str:
    """A thought as ``encrypted_content``, which clients keep and send back where they drop what they can read."""
    return SEAL + base64.b64encode(thought.encode()).decode()


def unsealed(content: str | None) -> str:
    """The thought of ``sealed``; nothing of what another server has made."""
    if not content or not content.startswith(SEAL):
        return ""
    try:
        return base64.b64decode(content.removeprefix(SEAL), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


class Items:
    """Messages that come together from items.

    Args:
        model: that is to read them.
    """

    def __init__(self, model: Model):
        self.conversation, self._model = Conversation(), model
        self._text, self._thought = "", ""
        self._calls: list[dict[str, Any]] = []

    def add(self, item: Mapping[str, Any], place: str) -> None:
        """The next item.

        Raises:
            RequestError: it shows what the model does not take, answers a call that nothing has made, or refers to
                what is not kept.
        """
        match item.get("type", "message"):
            case "message":
                self._message(item, place)
            case "reasoning":
                self._begin_anew()
                self._thought += _thought(item)
            case "function_call" | "custom_tool_call" | "local_shell_call":
                self._calls.append(_call(item))
            case "function_call_output" | "custom_tool_call_output":
                self.finish_turn()
                output = openai_parts.result(item["output"], self._model, f"{place}.output")
                self.conversation.result(item["call_id"], output, f"{place}.call_id")
            case "item_reference":
                raise bad_request(f"{place} refers to an item, and items are not kept: send it", place)

    def _message(self, item: Mapping[str, Any], place: str) -> None:
        if item["role"] == "assistant":
            self._begin_anew()
            self._text += openai_parts.text(item["content"])
            return
        self.finish_turn()
        content = openai_parts.content(item["content"], self._model, f"{place}.content")
        self.conversation.say(item["role"], content)

    def _begin_anew(self) -> None:
        """What has said something and called nothing is a message for itself."""
        if self._text and not self._calls:
            self.finish_turn()

    def finish_turn(self) -> None:
        """What the model said, thought and called is complete."""
        if self._text or self._thought or self._calls:
            self.conversation.answer(self._text, self._thought, self._calls)
        self._text, self._thought, self._calls = "", "", []


def _thought(item: Mapping[str, Any]) -> str:
    """What was thought: in full, sealed, or in short."""
    full = "".join(part["text"] for part in item.get("content") or ())
    short = "\n\n".join(part["text"] for part in item.get("summary") or ())
    return full or unsealed(item.get("encrypted_content")) or short


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    match item["type"]:
        case "function_call":
            name = qualified(item["name"], item.get("namespace"))
            return call(item["call_id"], name, item["arguments"])
        case "custom_tool_call":
            name = qualified(item["name"], item.get("namespace"))
            return call(item["call_id"], name, {INPUT: item["input"]})
        case _:
            return call(item["call_id"], "local_shell", item["action"])


def conversation(body: Body, model: Model) -> list[Message]:
    """The messages of a request, its instructions before them.

    Raises:
        RequestError: as of ``Items.add``.
    """
    items, given = Items(model), body["input"]
    if instructions := body.get("instructions"):
        items.conversation.say("system", instructions)
    if isinstance(given, str):
        items.conversation.say("user", given)
    else:
        for number, item in enumerate(given):
            items.add(item, f"input[{number}]")
    items.finish_turn()
    messages = items.conversation.messages
    if not messages:
        raise bad_request("input has no message", "input")
    return messages
