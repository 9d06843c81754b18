"""Tools, as OpenAI's requests declare and choose them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .endpoint import Body
from .exchange import Model, Tool, ToolChoice, bad_request
from .fields import FLAG, OBJECT, TEXT, Schema, either, listed, one_of, optional, record

NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"}
"""Names that Gemma's syntax of calls holds; OpenAI allows fewer."""

FUNCTION = record({"name": NAME, **optional({"description": TEXT, "parameters": OBJECT, "strict": FLAG})}, "name")
TOOL = record({"type": one_of("function"), "function": FUNCTION}, "type", "function")
CHOSEN = record(
    {"type": one_of("function"), "function": record({"name": TEXT}, "name")},
    "type",
    "function",
)
WORDS = one_of("none", "auto", "required")
ALLOWED = record(
    {
        "type": one_of("allowed_tools"),
        "allowed_tools": record({"mode": one_of("auto", "required"), "tools": listed(CHOSEN)}, "mode", "tools"),
    },
    "type",
    "allowed_tools",
)

TOOLS: Mapping[str, Schema] = optional(
    {
        "tools": listed(TOOL),
        "tool_choice": either(WORDS, CHOSEN, ALLOWED),
        "parallel_tool_calls": FLAG,
        "functions": listed(FUNCTION),
        "function_call": either(one_of("none", "auto"), record({"name": TEXT}, "name")),
    }
)
"""Fields of a chat; the last two are what they were called before there were tools."""


class ToolUse(NamedTuple):
    """Tools, and whether they are called: fields of ``ChatRequest``."""

    tools: Sequence[Tool] = ()
    choice: ToolChoice = ToolChoice.AUTO
    named: str | None = None
    parallel: bool = True


def tool_use(body: Body, model: Model) -> ToolUse:
    """What a chat says of tools.

    Raises:
        RequestError: tools that the model does not call, or a choice of one that is not there.
    """
    if is_old(body):
        return _old_use(body, model)
    tools = [_tool(tool["function"]) for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        tools = only(tools, [each["function"]["name"] for each in allowed["tools"]])
        choice = allowed["mode"]
    named = choice["function"]["name"] if isinstance(choice, Mapping) else None
    word = ToolChoice.NAMED if named is not None else ToolChoice(choice or "auto")
    return chosen(ToolUse(tools, word, named, body.get("parallel_tool_calls") is not False), model)


def is_old(body: Body) -> bool:
    """Whether a chat speaks of functions, as before there were tools; then there is one call at most."""
    return bool(body.get("functions")) and not body.get("tools")


def _old_use(body: Body, model: Model) -> ToolUse:
    tools = [_tool(function) for function in body["functions"]]
    choice = body.get("function_call")
    named = choice["name"] if isinstance(choice, Mapping) else None
    word = ToolChoice.NAMED if named is not None else ToolChoice(choice or "auto")
    return chosen(ToolUse(tools, word, named, parallel=False), model, "functions", "function_call")


def _tool(function: Mapping[str, Any]) -> Tool:
    """A function as a tool, without fields that are null."""
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def only(tools: Sequence[Tool], names: Sequence[str]) -> list[Tool]:
    """The tools of these names, in their own order.

    Raises:
        RequestError: there is none of a name.
    """
    there = {tool["function"]["name"] for tool in tools}
    for name in names:
        if name not in there:
            raise bad_request(f"tool_choice allows the tool {name!r:.200}, which tools does not have", "tool_choice")
    return [tool for tool in tools if tool["function"]["name"] in names]


def chosen(use: ToolUse, model: Model, tools: str = "tools", choice: str = "tool_choice") -> ToolUse:
    """Tools and a choice that fit each other.

    Args:
        use: as asked for.
        model: that is to call them.
        tools, choice: fields that an error names.

    Raises:
        RequestError: they do not.
    """
    names = [tool["function"]["name"] for tool in use.tools]
    if names and not model.tools:
        raise bad_request("the model calls no tools", tools)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise bad_request(f"{tools} has two of the name {twice!r:.200}", tools)
    if use.named is not None and use.named not in names:
        raise bad_request(f"{choice} names the tool {use.named!r:.200}, which {tools} does not have", choice)
    if use.choice is ToolChoice.REQUIRED and not names:
        raise bad_request(f"{choice} asks for a call, but there are no {tools}", choice)
    return use
