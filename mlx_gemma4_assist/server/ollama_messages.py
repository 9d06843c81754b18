"""Ollama's messages as the server's own: pictures, thoughts, calls of tools, and results without ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..text.messages import Message
from .exchange import Model, bad_request
from .parts import Part, answered, check_pictures

Given = Mapping[str, Any]


def conversation(given: Sequence[Given], model: Model) -> list[Message]:
    """The messages of a body that its schema allows.

    Calls without ids get some, and each result without one gets that of the first call of its tool that has none yet.

    Raises:
        RequestError: a result that no call asked for, pictures where the model sees none.
    """
    messages: list[Message] = []
    waiting: list[Mapping[str, Any]] = []
    for number, message in enumerate(given):
        made = _message(message, number, waiting)
        check_pictures(made, model, f"messages[{number}]")
        if made["role"] == "assistant":
            waiting = list(made.get("tool_calls", ()))
        messages.append(made)
    return messages


def _message(given: Given, number: int, waiting: list[Mapping[str, Any]]) -> Message:
    text, images = given.get("content") or "", given.get("images") or ()
    if given["role"] == "user":
        return user_message(text, images)
    if given["role"] == "tool":
        call = _answered(given, number, waiting)
        content = answered([text], [_picture(image) for image in images])
        return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}
    if images:
        message = f"messages[{number}] is of the role {given['role']}, which has no images: only users and tools do"
        raise bad_request(message, f"messages[{number}].images")
    return _assistant(given, number) if given["role"] == "assistant" else {"role": given["role"], "content": text}


def user_message(text: str, images: Sequence[str]) -> Message:
    """What a user says, pictures first."""
    if not images:
        return {"role": "user", "content": text}
    pictures = [_picture(image) for image in images]
    return {"role": "user", "content": [*pictures, *([{"type": "text", "text": text}] if text else [])]}


def _picture(image: str) -> Part:
    """A picture's data, which may already say that it is that; nothing else is looked for."""
    return {"type": "image", "url": image if image.startswith("data:") else f"data:;base64,{image}"}


def _assistant(given: Given, number: int) -> Message:
    message: dict[str, Any] = {"role": "assistant", "content": given.get("content") or ""}
    if given.get("thinking"):
        message["reasoning_content"] = given["thinking"]
    if given.get("tool_calls"):
        message["tool_calls"] = [_call(call, f"call_{number}_{i}") for i, call in enumerate(given["tool_calls"])]
    return message


def _call(given: Given, identity: str) -> dict[str, Any]:
    function = {"name": given["function"]["name"], "arguments": given["function"].get("arguments") or {}}
    return {"id": given.get("id") or identity, "type": "function", "function": function}


def _answered(given: Given, number: int, waiting: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The call that a result answers; it waits no longer.

    Raises:
        RequestError: there is none.
    """
    identity, name = given.get("tool_call_id"), given.get("tool_name") or given.get("name")
    fitting = [call for call in waiting if identity in (None, "", call["id"])]
    fitting = [call for call in fitting if identity or not name or call["function"]["name"] == name]
    if not fitting:
        raise bad_request(f"messages[{number}] is a tool's result that no call asked for", f"messages[{number}]")
    waiting.remove(fitting[0])
    return fitting[0]
