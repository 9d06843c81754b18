"""Ollama's messages as the server's own: pictures, thoughts, calls of tools, and results without ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..text.messages import Message
from .exchange import bad_request

Given = Mapping[str, Any]


def conversation(given: Sequence[Given]) -> list[Message]:
    """The messages of a body that its schema allows.

    Calls without ids get some, and each result without one gets that of the first call of its tool that has none yet.

    Raises:
        RequestError: a result that no call asked for, pictures where the model sees none.
    """
    messages: list[Message] = []
    waiting: list[Mapping[str, Any]] = []
    for number, message in enumerate(given):
        match message["role"]:
            case "assistant":
                messages.append(_assistant(message, number))
                waiting = list(messages[-1].get("tool_calls", ()))
            case "tool":
                messages.append(_result(message, number, waiting))
                messages += _shown_behind(message)
            case "user":
                messages.append(user_message(message.get("content") or "", message.get("images") or ()))
            case role:
                _refuse_pictures(message, number)
                messages.append({"role": role, "content": message.get("content") or ""})
    return messages


def user_message(text: str, images: Sequence[str]) -> Message:
    """What a user says, pictures first."""
    if not images:
        return {"role": "user", "content": text}
    parts = [{"type": "image", "url": _address(image)} for image in images]
    return {"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}


def _address(image: str) -> str:
    """A picture's data, which may already say that it is that; nothing else is looked for."""
    return image if image.startswith("data:") else f"data:;base64,{image}"


def _assistant(given: Given, number: int) -> Message:
    _refuse_pictures(given, number)
    message: dict[str, Any] = {"role": "assistant", "content": given.get("content") or ""}
    if given.get("thinking"):
        message["reasoning_content"] = given["thinking"]
    if given.get("tool_calls"):
        message["tool_calls"] = [_call(call, f"call_{number}_{i}") for i, call in enumerate(given["tool_calls"])]
    return message


def _call(given: Given, identity: str) -> dict[str, Any]:
    function = {"name": given["function"]["name"], "arguments": given["function"].get("arguments") or {}}
    return {"id": given.get("id") or identity, "type": "function", "function": function}


def _result(given: Given, number: int, waiting: list[Mapping[str, Any]]) -> Message:
    """A tool's message; the call that it answers waits no longer."""
    identity, name = given.get("tool_call_id"), given.get("tool_name") or given.get("name")
    fitting = [call for call in waiting if identity in (None, "", call["id"])]
    fitting = [call for call in fitting if identity or not name or call["function"]["name"] == name]
    if not fitting:
        raise bad_request(f"messages[{number}] is a tool's result that no call asked for", f"messages[{number}]")
    waiting.remove(fitting[0])
    return {"role": "tool", "tool_call_id": fitting[0]["id"], "content": given.get("content") or ""}


def _shown_behind(given: Given) -> list[Message]:
    """What a tool's result shows, in the user's place: a tool's message is text."""
    return [user_message("", given["images"])] if given.get("images") else []


def _refuse_pictures(given: Given, number: int) -> None:
    if given.get("images"):
        message = f"messages[{number}] is of the role {given['role']}, which has no images: only users and tools do"
        raise bad_request(message, f"messages[{number}].images")
