"""What the ``llm`` command asks for, as a request of the server's, and the answer as ``llm`` takes it."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from ..server.endpoint import Backend
from ..server.exchange import Answer, ChatRequest, Event, Failed, Finished, Piece, RequestError
from ..text.deltas import AnswerDelta
from ..text.messages import Message

OF_REQUEST = ("thinking",)
"""Options of the plugin that are none of ``GenerationOptions``."""


class Attachment(Protocol):
    """A picture or sound, as ``llm.Attachment``."""

    def resolve_type(self) -> str: ...

    def content_bytes(self) -> bytes: ...


class Tool(Protocol):
    """As ``llm.Tool``."""

    name: str
    description: str | None
    input_schema: Mapping[str, Any]


class ToolCall(Protocol):
    """As ``llm.ToolCall``."""

    name: str
    arguments: Mapping[str, Any]
    tool_call_id: str | None


class ToolResult(Protocol):
    """As ``llm.ToolResult``."""

    output: str
    tool_call_id: str | None


class Options(Protocol):
    """As ``llm.Options``."""

    def model_dump(self) -> Mapping[str, Any]: ...


class Prompt(Protocol):
    """As ``llm.Prompt``."""

    prompt: str | None
    system: str | None
    schema: Mapping[str, Any] | None
    attachments: Sequence[Attachment]
    tools: Sequence[Tool]
    tool_results: Sequence[ToolResult]
    options: Options


class Response(Protocol):
    """An earlier answer, as ``llm.Response``."""

    prompt: Prompt

    def text_or_raise(self) -> str: ...

    def tool_calls_or_raise(self) -> Sequence[ToolCall]: ...


def chat_request(model: str, prompt: Prompt, earlier: Sequence[Response]) -> ChatRequest:
    """A prompt and what came before it."""
    given = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
    options = {name: value for name, value in given.items() if name not in OF_REQUEST}
    if prompt.schema is not None:
        options["json_schema"] = prompt.schema
    return ChatRequest(
        model=model,
        messages=_messages(prompt, earlier),
        options=options,
        tools=[_tool(tool) for tool in prompt.tools],
        thinking=given.get("thinking"),
        stream=True,
    )


def answer_of(backend: Backend, request: ChatRequest, answer: Answer) -> Iterator[str]:
    """The text of an answer as it is made; what else there is, ``answer`` takes. Closing it cancels the request.

    Raises:
        RequestError: it is refused, or has failed.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    ticket = backend.submit(request, events.put)
    try:
        while True:
            event = events.get()
            answer.take(event)
            if text := _text(event):
                yield text
            if isinstance(event, Finished | Failed):
                return
    finally:
        ticket.cancel()


def _text(event: Event) -> str:
    if not isinstance(event, Piece):
        return ""
    return "".join(delta.text for delta in event.deltas if isinstance(delta, AnswerDelta))


def _messages(prompt: Prompt, earlier: Sequence[Response]) -> list[Message]:
    messages: list[Message] = []
    system: str | None = None
    for response in earlier:
        messages += _asked(response.prompt, system)
        system = response.prompt.system or system
        messages.append(_answered(response))
    return [*messages, *_asked(prompt, system)]


def _asked(prompt: Prompt, system: str | None) -> Iterator[Message]:
    """What a prompt says; ``system`` is what the conversation had before as its system prompt."""
    if prompt.system and prompt.system != system:
        yield {"role": "system", "content": prompt.system}
    for result in prompt.tool_results:
        yield {"role": "tool", "tool_call_id": result.tool_call_id, "content": result.output}
    if prompt.prompt or prompt.attachments:
        parts = [_part(each) for each in prompt.attachments]
        text = prompt.prompt or ""
        yield {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def _answered(response: Response) -> Message:
    message: dict[str, Any] = {"role": "assistant", "content": response.text_or_raise()}
    calls = response.tool_calls_or_raise()
    if calls:
        message["tool_calls"] = [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in calls
        ]
    return message


def _part(attachment: Attachment) -> dict[str, str]:
    kind = attachment.resolve_type()
    content = base64.b64encode(attachment.content_bytes()).decode()
    return {"type": kind.partition("/")[0], "url": f"data:{kind};base64,{content}"}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description or "", "parameters": dict(tool.input_schema)}
    return {"type": "function", "function": function}


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments as an object.

    Raises:
        RequestError: they are none.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(500, "the model has written a call whose arguments are no object", "server_error")
    return found
