"""What Anthropic's servers take and this one does not, told of in one sentence each.

This is looked for before a body is held to its schema, which would say what it expects, not why.
"""

from collections.abc import Iterator
from typing import Any

from .anthropic_schema import DOCUMENTS, HOSTED
from .endpoint import Body
from .exchange import bad_request

_SCHEMALESS = ("bash", "text_editor", "computer", "memory")
"""How types of tools begin whose schemas only Anthropic's models know."""
_ELSEWHERE = {
    "mcp_servers": "servers of tools are not connected to from here, so give their tools in tools",
    "container": "there are no containers here",
}


def refuse(body: Body) -> None:
    """Refuse fields, types of tools and kinds of documents that are not supported.

    Args:
        body: as JSON is read; what is of a wrong type in it is passed over.

    Raises:
        RequestError: with the reason, and the field as ``param``.
    """
    for field, reason in _ELSEWHERE.items():
        if body.get(field):
            raise bad_request(f"{field} is not supported: {reason}", field)
    for number, tool in enumerate(_listed(body.get("tools"))):
        _check_tool(tool.get("type"), f"tools[{number}].type")
    for number, message in enumerate(_listed(body.get("messages"))):
        for place, block in _blocks(message.get("content"), f"messages[{number}].content"):
            _check_document(block, place)


def _check_tool(kind: Any, place: str) -> None:
    if not isinstance(kind, str) or kind == "custom" or kind.startswith(HOSTED):
        return
    why = "which is not known here"
    if kind.startswith(_SCHEMALESS):
        why = "whose schema only Anthropic's models know"
    message = f"{place} is {kind!r:.100}, {why}: give the tool without a type, with a name and an input_schema"
    raise bad_request(message, place)


def _check_document(block: Body, place: str) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if block.get("type") == "document" and isinstance(kind, str) and kind not in DOCUMENTS:
        message = (
            f"{place} is a document whose source is of the type {kind!r:.100}: PDF and other files are not read here, "
            "so send its text, as a source of the type 'text'"
        )
        raise bad_request(message, f"{place}.source")


def _listed(value: Any) -> list[Body]:
    return [each if isinstance(each, dict) else {} for each in value] if isinstance(value, list) else []


def _blocks(content: Any, place: str) -> Iterator[tuple[str, Body]]:
    """The blocks of a content, those in a tool's result too, and where they are."""
    for number, block in enumerate(_listed(content)):
        here = f"{place}[{number}]"
        yield here, block
        for inner, each in enumerate(_listed(block.get("content"))):
            yield f"{here}.content[{inner}]", each
