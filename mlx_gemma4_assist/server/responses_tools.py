"""Tools of the Responses API: functions, alone and in namespaces, and tools of free text; those that the server would
have to run itself are left out."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .endpoint import Body
from .exchange import Model, Tool, ToolChoice
from .fields import FLAG, OBJECT, TEXT, Schema, either, listed, one_of, optional, record
from .openai_tools import NAME, WORDS, ToolUse, chosen, only

FUNCTION = record(
    {
        "type": one_of("function"),
        "name": NAME,
        **optional({"description": TEXT, "parameters": OBJECT, "strict": FLAG}),
    },
    "type",
    "name",
)
FREE = record(
    {"type": one_of("custom"), "name": NAME, **optional({"description": TEXT, "format": OBJECT})}, "type", "name"
)
NAMESPACE = record(
    {"type": one_of("namespace"), "name": NAME, "tools": listed(either(FUNCTION, FREE))}, "type", "name", "tools"
)
HOSTED = record({"type": {**TEXT, "pattern": "^(?!(function|custom|namespace)$)"}}, "type")
CHOSEN = record({"type": one_of("function", "custom"), "name": TEXT}, "type", "name")
ALLOWED = record(
    {"type": one_of("allowed_tools"), "mode": one_of("auto", "required"), "tools": listed(CHOSEN)},
    "type",
    "mode",
    "tools",
)
TOOLS: Mapping[str, Schema] = optional(
    {
        "tools": listed(either(FUNCTION, FREE, NAMESPACE, HOSTED)),
        "tool_choice": either(WORDS, CHOSEN, ALLOWED),
        "parallel_tool_calls": FLAG,
    }
)

INPUT = "input"
"""The only argument of a tool of free text, as the model sees it."""


class Declared(NamedTuple):
    """A tool as its request has it.

    Attributes:
        tool: the entry.
        namespace: it is in, None if in none.
    """

    tool: Mapping[str, Any]
    namespace: str | None = None

    @property
    def name(self) -> str:
        """By which the model calls it."""
        return qualified(self.tool["name"], self.namespace)

    @property
    def free(self) -> bool:
        """Whether it takes free text rather than arguments."""
        return bool(self.tool["type"] == "custom")


def qualified(name: str, namespace: str | None) -> str:
    """A tool's name with that of its namespace before it."""
    if not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def declared(body: Body) -> dict[str, Declared]:
    """The tools that a request declares and somebody else runs, by the names that the model calls them by."""
    return {each.name: each for each in _entries(body)}


def _entries(body: Body) -> Iterator[Declared]:
    for tool in body.get("tools") or ():
        if tool["type"] in ("function", "custom"):
            yield Declared(tool)
        elif tool["type"] == "namespace":
            yield from (Declared(inner, tool["name"]) for inner in tool["tools"])


def tool_use(body: Body, model: Model) -> ToolUse:
    """What a request says of tools.

    Raises:
        RequestError: tools that the model does not call, or a choice of one that is not there.
    """
    tools, choice = [_function(each) for each in _entries(body)], body.get("tool_choice")
    if isinstance(choice, Mapping) and choice["type"] == "allowed_tools":
        tools, choice = only(tools, [each["name"] for each in choice["tools"]]), choice["mode"]
    named = choice["name"] if isinstance(choice, Mapping) else None
    word = ToolChoice.NAMED if named is not None else ToolChoice(choice or "auto")
    return chosen(ToolUse(tools, word, named, body.get("parallel_tool_calls") is not False), model)


def _function(each: Declared) -> Tool:
    """A tool as chats have it."""
    tool = each.tool
    function = {name: tool[name] for name in ("description", "parameters", "strict") if tool.get(name) is not None}
    if each.free:
        function = {"description": _description(tool), "parameters": _FREE_PARAMETERS, "strict": True}
    return {"type": "function", "function": {"name": each.name, **function}}


_FREE_PARAMETERS = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}


def _description(tool: Mapping[str, Any]) -> str:
    """What a tool of free text does, and what the text must be."""
    form, description = tool.get("format") or {}, tool.get("description") or ""
    if form.get("type") != "grammar":
        return description
    return f"{description}\nThe input follows this {form.get('syntax', '')} grammar:\n{form.get('definition', '')}"
