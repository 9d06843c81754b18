"""Anthropic's Messages API, which Claude Code speaks: requests to the server's own, and who answers them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .anthropic_answers import MessageWriter, error, whole
from .anthropic_messages import conversation
from .anthropic_refusals import refuse
from .anthropic_schema import COUNT_ANSWER, COUNT_BODY, MESSAGE_ANSWER, MESSAGE_BODY, OPTIONS
from .endpoint import Backend, Body, Endpoint, Lookup
from .exchange import ChatRequest, Model, Tool, ToolChoice, bad_request
from .fields import check
from .openai_options import EFFORTS, generation_options, renamed
from .openai_tools import ToolUse, chosen
from .parts import continued

FORMAT = "output_config.format"
_CHOICES = {
    "auto": ToolChoice.AUTO,
    "any": ToolChoice.REQUIRED,
    "tool": ToolChoice.NAMED,
    "none": ToolChoice.NONE,
}


def read(body: Body, model: Model) -> ChatRequest:
    """A request for a message.

    Raises:
        RequestError: a field is wrong or not supported.
    """
    refuse(body)
    check(body, MESSAGE_BODY)
    return _request(body, model)


def count_tokens(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """How many tokens the prompt of a message has.

    Raises:
        RequestError: a field is wrong or not supported.
    """
    refuse(body)
    check(body, COUNT_BODY)
    return {"input_tokens": len(backend.tokens(_request(body, backend.model)))}


def _request(body: Body, model: Model) -> ChatRequest:
    messages, continues = continued(conversation(body, model))
    use = _tool_use(body, model)
    thinking, budget = _thinking(body, model)
    return ChatRequest(
        model=body["model"],
        messages=messages,
        options=_options(body),
        tools=use.tools,
        tool_choice=use.choice,
        named_tool=use.named,
        parallel_tool_calls=use.parallel,
        thinking=thinking,
        thinking_budget=budget,
        continue_last=continues,
        stream=bool(body.get("stream")),
        fields=renamed(_form(body), FORMAT),
    )


def _options(body: Body) -> dict[str, Any]:
    """Keywords of ``GenerationOptions``.

    Raises:
        RequestError: a value out of its range.
    """
    given = {"stop": body.get("stop_sequences"), **{name: body.get(name) for name in OPTIONS}}
    return generation_options(given, _form(body), FORMAT)


def _form(body: Body) -> Body | None:
    """What the answer must be, as OpenAI has it."""
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return {**form, "json_schema": form} if form else None


def _thinking(body: Body, model: Model) -> tuple[bool | None, int | None]:
    """Whether the model is to think, None if that is left to the server, and the most tokens of a thought."""
    thinking = body.get("thinking") or {}
    kind = thinking.get("type")
    if kind is None or kind == "disabled" or not model.thinking:
        return (False if kind == "disabled" else None), None
    if kind == "enabled":
        return True, int(thinking["budget_tokens"])
    effort = (body.get("output_config") or {}).get("effort")
    return True, EFFORTS[effort] if effort else None


def _tool_use(body: Body, model: Model) -> ToolUse:
    """The tools that the client runs, and whether they are called.

    Raises:
        RequestError: two tools of one name, or a choice of one that is not there.
    """
    given = body.get("tools") or ()
    choice = body.get("tool_choice") or {"type": "auto"}
    named = choice["name"] if choice["type"] == "tool" else None
    hosted = {tool.get("name"): tool["type"] for tool in given if _is_hosted(tool)}
    if named in hosted and named is not None:
        message = f"tool_choice names a tool of type {hosted[named]!r:.200}, which Anthropic's servers run"
        raise bad_request(message, "tool_choice")
    tools = [_tool(tool) for tool in given if not _is_hosted(tool)]
    parallel = not choice.get("disable_parallel_tool_use")
    return chosen(ToolUse(tools, _CHOICES[choice["type"]], named, parallel), model)


def _is_hosted(tool: Mapping[str, Any]) -> bool:
    return tool.get("type") not in (None, "custom")


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


MESSAGES = Endpoint(
    name="anthropic.messages",
    paths=("/messages",),
    read=read,
    whole=whole,
    writer=MessageWriter,
    error=error,
    body_schema=MESSAGE_BODY,
    answer_schema=MESSAGE_ANSWER,
)
COUNT_TOKENS = Lookup(
    name="anthropic.count_tokens",
    method="POST",
    paths=("/messages/count_tokens",),
    answer=count_tokens,
    error=error,
    body_schema=COUNT_BODY,
    answer_schema=COUNT_ANSWER,
)
ENDPOINTS: Sequence[Endpoint] = (MESSAGES,)
LOOKUPS: Sequence[Lookup] = (COUNT_TOKENS,)
