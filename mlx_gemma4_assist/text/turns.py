"""A conversation's messages as Gemma 4's turns: what one side says until the other does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputError
from .messages import SOURCES, Message

SYSTEM = ("system", "developer")
_PARTS = ("text", "image_url", *SOURCES)

Content = str | Sequence[Mapping[str, Any]]


class Call(NamedTuple):
    """A call of a tool in a message.

    Attributes:
        id: None where the message has none.
        name: of the tool.
        arguments: as read.
    """

    id: str | None
    name: str
    arguments: Mapping[str, Any]


class ToolAnswer(NamedTuple):
    """What a tool answered: its name, and the content of its message."""

    name: str
    content: Content


@dataclass
class Step:
    """A stretch of a turn. Of the model's: what it thought, said, called, and was answered, in this order.

    Attributes:
        contents: of messages that follow one another.
        place: of the last of its messages among all.
    """

    place: int
    contents: list[Content] = field(default_factory=list)
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: list[ToolAnswer] = field(default_factory=list)


@dataclass
class Turn:
    """A turn.

    Attributes:
        role: ``system``, ``user`` or ``model``.
        steps: one, but of the model's turns as many as its calls make.
    """

    role: str
    steps: list[Step]


def mended(messages: Sequence[Message]) -> list[Message]:
    """Messages as ``check_messages`` wants them, where it is clear what is meant.

    What a tool answered becomes text where it is none; an assistant's message may have no content; a role ``model`` is
    ``assistant``.
    """
    return [_mended(message) if isinstance(message, Mapping) else message for message in messages]


def _mended(message: Message) -> Message:
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        return {**message, "content": content if _is_content(content) else _text_of(content)}
    if role in ("assistant", "model"):
        return {**message, "role": "assistant", "content": "" if content is None else content}
    return message


def _is_content(content: Any) -> bool:
    """Whether a tool's answer is text or parts of a message rather than a value."""
    if isinstance(content, list):
        return all(isinstance(part, Mapping) and part.get("type") in _PARTS for part in content)
    return isinstance(content, str)


def _text_of(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def read_turns(messages: Sequence[Message]) -> list[Turn]:
    """The turns of messages that ``check_messages`` has passed.

    Raises:
        InputError: calls that are none; a tool's answer without a call before it.
    """
    turns: list[Turn] = []
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            _add_answer(turns, place, message)
        elif role == "assistant":
            _add_step(turns, place, message)
        else:
            turns.append(Turn("system" if role in SYSTEM else role, [Step(place, [message["content"]])]))
    return turns


def _add_step(turns: list[Turn], place: int, message: Message) -> None:
    """An assistant's message goes on with its last step, unless that has called, or both have thoughts or the order of
    text and thoughts would be lost."""
    thought = str(message.get("reasoning") or message.get("reasoning_content") or "")
    calls = [_call(place, call) for call in _listed(place, message.get("tool_calls") or ())]
    if not turns or turns[-1].role != "model":
        turns.append(Turn("model", []))
    steps = turns[-1].steps
    if not steps or steps[-1].calls or (thought and (steps[-1].thought or any(steps[-1].contents))):
        steps.append(Step(place))
    step = steps[-1]
    step.place, step.thought, step.calls = place, step.thought or thought, calls
    step.contents.append(message["content"])


def _listed(place: int, calls: Any) -> Sequence[Any]:
    if not isinstance(calls, list | tuple):
        raise InputError(f"message {place + 1} has tool_calls that are no list")
    return calls


def _call(place: int, call: Any) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise InputError(f"message {place + 1} has a tool call without a function's name")
    arguments = _arguments(function.get("arguments"))
    if arguments is None:
        raise InputError(f"message {place + 1} calls {function['name']} with arguments that are no JSON object")
    identity = call.get("id")
    return Call(identity if isinstance(identity, str) else None, function["name"], arguments)


def _arguments(given: Any) -> Mapping[str, Any] | None:
    """Read, if they are text; None if they are no object."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else {}
        except ValueError:
            return None
    given = {} if given is None else given
    return given if isinstance(given, Mapping) else None


def _add_answer(turns: list[Turn], place: int, message: Message) -> None:
    steps = turns[-1].steps if turns and turns[-1].role == "model" else []
    _join_unanswered(steps)
    if not steps or not steps[-1].calls:
        raise InputError(f"message {place + 1} is a tool's answer, but the message before it calls no tool")
    step = steps[-1]
    step.answers.append(ToolAnswer(_answered(step, message), message["content"]))


def _join_unanswered(steps: list[Step]) -> None:
    """Make one step of the last calls that nobody has answered, and what was said behind them.

    Some clients send a message for each of several calls, and texts behind them.
    """
    answered = next((i for i in range(len(steps), 0, -1) if steps[i - 1].answers), 0)
    first = next((i for i in range(answered, len(steps)) if steps[i].calls), len(steps))
    joined = steps[first:]
    if len(joined) > 1:
        contents = [content for step in joined for content in step.contents]
        thoughts = "\n".join(step.thought for step in joined if step.thought)
        steps[first:] = [Step(joined[-1].place, contents, thoughts, [call for step in joined for call in step.calls])]


def _answered(step: Step, message: Message) -> str:
    """The name of the tool that answers: by the call's id, by its own name, by its place."""
    identity = message.get("tool_call_id")
    named = [call.name for call in step.calls if identity is not None and call.id == identity]
    if named:
        return named[-1]
    name, place = message.get("name") or message.get("tool_name"), len(step.answers)
    if isinstance(name, str):
        return name
    return step.calls[place].name if place < len(step.calls) else "unknown"
