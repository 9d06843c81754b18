"""Anthropic's messages as the server's own: blocks to texts, pictures, thoughts, calls of tools and their results.

Some clients put text into the system's part that changes from request to request, though it tells the model nothing.
It is left out, or no prompt would begin as the one before did.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..text.messages import Message
from .exchange import Model, bad_request
from .parts import Part, answered, check_pictures

Block = Mapping[str, Any]

NOISE = re.compile(
    r"x-anthropic-billing-header:( ?[\w-]+=[^;\s]*;)+|<total_tokens>\d+ tokens left</total_tokens>", re.ASCII
)
"""All that a text is which is left out: who pays for a request, and what remains of a budget.

The budget is told behind every message. Each of these is left out, not only the last one: the last one is no longer the
last in the request that follows, and what comes behind it would then be read again.
"""


def conversation(body: Mapping[str, Any], model: Model) -> list[Message]:
    """The messages of a body that its schema allows, the system's text first.

    Results of tools become messages of their own, before what else their message says.

    Raises:
        RequestError: a result of a call that no message before it has; a picture, and the model takes none.
    """
    messages = _system(_blocks(body.get("system") or ""))
    called: dict[str, str] = {}
    for number, message in enumerate(body["messages"]):
        for made in _READ[message["role"]](_blocks(message["content"])):
            check_pictures(made, model, f"messages[{number}]")
            called |= {call["id"]: call["function"]["name"] for call in made.get("tool_calls", ())}
            messages.append(made if made["role"] != "tool" else _named(made, called, f"messages[{number}]"))
    return messages


def _named(result: Message, called: Mapping[str, str], place: str) -> Message:
    """A tool's message with the tool's name.

    Raises:
        RequestError: no message before it has the call.
    """
    identity = result["tool_call_id"]
    if identity not in called:
        message = f"{place} has a tool_result of the tool_use_id {identity!r:.200}, which no message before it has"
        raise bad_request(message, place)
    return {**result, "name": called[identity]}


def _blocks(content: str | list[Block]) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _system(blocks: Iterable[Block]) -> list[Message]:
    texts = [block["text"] for block in blocks if block["text"] and not NOISE.fullmatch(block["text"].strip())]
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def _user(blocks: Iterable[Block]) -> list[Message]:
    results = [_result(block) for block in blocks if block["type"] == "tool_result"]
    content = _joined(part for block in blocks if block["type"] != "tool_result" for part in _parts(block))
    return [*results, {"role": "user", "content": content}] if content or not results else results


def _assistant(blocks: Iterable[Block]) -> list[Message]:
    """One message; its text stands before its calls, as the model wrote it."""
    of = {kind: [block for block in blocks if block["type"] == kind] for kind in ("text", "thinking", "tool_use")}
    message: dict[str, Any] = {"role": "assistant", "content": "".join(block["text"] for block in of["text"])}
    thoughts = [block["thinking"] for block in of["thinking"] if block["thinking"]]
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if of["tool_use"]:
        message["tool_calls"] = [_call(block) for block in of["tool_use"]]
    return [message]


_READ = {"user": _user, "assistant": _assistant, "system": _system}


def _call(block: Block) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": block["input"]}
    return {"id": block["id"], "type": "function", "function": function}


def _result(block: Block) -> Message:
    parts = [part for inner in _blocks(block.get("content") or "") for part in _parts(inner)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    told = "".join(texts).lstrip().lower().startswith(("error", "<tool_use_error>"))
    if block.get("is_error") and not told:
        texts[:1] = [f"Error: {texts[0]}" if texts else "Error"]
    content = answered(texts, [part for part in parts if part["type"] != "text"])
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}


def _parts(block: Block) -> Iterator[Part]:
    """The texts and pictures that a block consists of."""
    match block["type"]:
        case "text":
            yield {"type": "text", "text": block["text"]}
        case "image":
            yield {"type": "image", "url": _address(block["source"])}
        case "document":
            yield from _document(block)
        case "search_result":
            yield {"type": "text", "text": f"{block['title']}\n{block['source']}"}
            for inner in block["content"]:
                yield from _parts(inner)
        case "tool_reference":
            yield {"type": "text", "text": block["tool_name"]}


def _document(block: Block) -> Iterator[Part]:
    for field in ("title", "context"):
        if block.get(field):
            yield {"type": "text", "text": block[field]}
    source = block["source"]
    if source["type"] == "text":
        yield {"type": "text", "text": source["data"]}
        return
    for inner in _blocks(source["content"]):
        yield from _parts(inner)


def _address(source: Mapping[str, str]) -> str:
    if source["type"] == "url":
        return source["url"]
    return f"data:{source['media_type']};base64,{source['data']}"


def _joined(parts: Iterable[Part]) -> str | list[Part]:
    """Parts in their order, neighbouring texts in lines of one; a single text is no list."""
    joined: list[Part] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": f"{joined[-1]['text']}\n{part['text']}"}
        else:
            joined.append(part)
    if not joined:
        return ""
    return joined[0]["text"] if len(joined) == 1 and joined[0]["type"] == "text" else joined
