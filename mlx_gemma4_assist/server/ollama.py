"""Ollama's API, which Home Assistant, Raycast and others speak: requests to the server's own, and who answers them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..text.messages import Message
from .endpoint import Body, Endpoint, Framing, Lookup
from .exchange import ChatRequest, Model, TextRequest, Tool, bad_request
from .fields import check
from .names import LATEST
from .ollama_answers import CHAT, GENERATE, error
from .ollama_messages import conversation, user_message
from .ollama_models import LOOKUPS as OF_MODELS
from .ollama_schema import CHAT_ANSWER, CHAT_BODY, GENERATE_ANSWER, GENERATE_BODY, OPTIONS
from .openai_options import EFFORTS, generation_options, renamed
from .openai_tools import ToolUse, chosen
from .parts import check_pictures, continued

_UNSUPPORTED = {
    "suffix": "the model does not fill in what lies between two texts",
    "template": "the model has its own template",
    "context": "send what was said before as messages of /api/chat",
}
_OF_CHAT = {**_UNSUPPORTED, "messages": "send messages to /api/chat", "tools": "send tools to /api/chat"}
_OF_GENERATE = {
    **_UNSUPPORTED,
    "raw": "send raw text to /api/generate",
    "prompt": "say it in messages",
    "system": "say it in a message of the role system",
    "images": "show them in a message",
}
_NOT_RAW = {"images": "images have", "system": "a system text has", "think": "thinking has"}


def read_chat(body: Body, model: Model) -> ChatRequest:
    """A request to ``/api/chat``.

    Raises:
        RequestError: a field is wrong or not supported.
    """
    check(body, CHAT_BODY)
    _refuse(body, _OF_GENERATE)
    if CHAT.loads(body):
        return _load(body)
    tools: list[Tool] = [{"type": "function", "function": _function(tool)} for tool in body.get("tools") or ()]
    use = chosen(ToolUse(tools), model)
    return _chat(body, model, conversation(body["messages"], model), use.tools)


def read_generate(body: Body, model: Model) -> ChatRequest | TextRequest:
    """A request to ``/api/generate``: a conversation of one message, or raw text.

    Raises:
        RequestError: a field is wrong or not supported.
    """
    check(body, GENERATE_BODY)
    _refuse(body, _OF_CHAT)
    if GENERATE.loads(body):
        return _load(body)
    if body.get("raw"):
        return _text(body)
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    asked = user_message(body["prompt"], body.get("images") or ())
    check_pictures(asked, model, "images")
    return _chat(body, model, [*system, asked])


def _refuse(body: Body, fields: Mapping[str, str]) -> None:
    for field, reason in fields.items():
        if body.get(field):
            raise bad_request(f"{field} is not supported: {reason}", field)


def _load(body: Body) -> ChatRequest:
    """The shortest request, whose answer nobody sees: when it comes, the model is loaded."""
    messages = [{"role": "user", "content": "Hi"}]
    return ChatRequest(model=_name(body), messages=messages, options={"max_tokens": 1}, stream=_streams(body))


def _text(body: Body) -> TextRequest:
    for field, has in _NOT_RAW.items():
        if body.get(field):
            raise bad_request(f"{has} no place in a raw prompt", field)
    return TextRequest(
        model=_name(body),
        prompts=[body["prompt"]],
        options=_options(body),
        stream=_streams(body),
        fields=_renamed(body),
    )


def _chat(body: Body, model: Model, messages: list[Message], tools: Sequence[Tool] = ()) -> ChatRequest:
    thinking, budget = _thinking(body, model)
    messages, continues = continued(messages)
    return ChatRequest(
        model=_name(body),
        messages=messages,
        options=_options(body),
        tools=tools,
        thinking=thinking,
        thinking_budget=budget,
        continue_last=continues,
        stream=_streams(body),
        fields=_renamed(body),
    )


def _name(body: Body) -> str:
    return str(body["model"]).removesuffix(LATEST)


def _streams(body: Body) -> bool:
    return body.get("stream") is not False


def _function(tool: Body) -> dict[str, Any]:
    return {name: value for name, value in tool["function"].items() if value is not None}


def _thinking(body: Body, model: Model) -> tuple[bool | None, int | None]:
    """Whether the model is to think, None if that is left to the server, and the most tokens of a thought.

    Raises:
        RequestError: it does not think, and should.
    """
    think = body.get("think")
    if think and not model.thinking:
        raise bad_request(f"{model.id} does not support thinking", "think")
    return (True, EFFORTS[think]) if isinstance(think, str) else (think, None)


def _options(body: Body) -> dict[str, Any]:
    """Keywords of ``GenerationOptions``.

    Raises:
        RequestError: a value out of its range, or two that exclude each other.
    """
    given = {name: value for name, value in (body.get("options") or {}).items() if name in OPTIONS["properties"]}
    length, stops = given.get("num_predict"), given.get("stop") or []
    given["stop"] = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop] or None
    given["max_tokens"] = length if length is not None and length > 0 else None
    options = generation_options(given, _form(body), "format")
    return options | ({"top_logprobs": int(body.get("top_logprobs") or 0)} if body.get("logprobs") else {})


def _form(body: Body) -> Body | None:
    """What the answer must be, as OpenAI has it."""
    form = body.get("format")
    if form is None or form == "":
        return None
    schema = {"type": "object"} if form == "json" else form
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _renamed(body: Body) -> dict[str, str]:
    return renamed(_form(body), "format")


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint(
        name="ollama.chat",
        paths=("/api/chat",),
        read=read_chat,
        whole=CHAT.whole,
        writer=CHAT.writer,
        error=error,
        framing=Framing.LINES,
        prefixes=("",),
        body_schema=CHAT_BODY,
        answer_schema=CHAT_ANSWER,
    ),
    Endpoint(
        name="ollama.generate",
        paths=("/api/generate",),
        read=read_generate,
        whole=GENERATE.whole,
        writer=GENERATE.writer,
        error=error,
        framing=Framing.LINES,
        prefixes=("",),
        body_schema=GENERATE_BODY,
        answer_schema=GENERATE_ANSWER,
    ),
)
LOOKUPS: Sequence[Lookup] = OF_MODELS
