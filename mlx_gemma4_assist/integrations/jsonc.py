"""JSON as editors write it, with comments and trailing commas: read, and edited in one place, the rest as it was."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import InputError

_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PLAIN = re.compile(r'[^\s,:\[\]{}"/]+')
DEEPEST = 100
INDENT = 2


@dataclass
class _Value:
    """A value in the text.

    Attributes:
        start, end: where it is.
        content: as ``json.loads`` gives it.
        members: of an object: the values by their names.
        comma: of an object: whether a comma follows its last member.
    """

    start: int
    end: int = 0
    content: Any = None
    members: "dict[str, _Value]" = field(default_factory=dict)
    comma: bool = False


def read_jsonc(text: str) -> Any:
    """What the text says; an object for an empty one.

    Raises:
        InputError: it is no JSON, not even with comments.
    """
    return _parsed(text).content if text.strip() else {}


def with_value(text: str, path: Sequence[str], value: Any) -> str:
    """The text with another value at a path of names; objects on the way are made, all else stays.

    Raises:
        InputError: it is no JSON, or something on the way is no object.
    """
    if not text.strip():
        return _dumped(_nested(path, value), "") + "\n"
    here = _parsed(text)
    for depth, name in enumerate(path):
        if not isinstance(here.content, dict):
            raise InputError(f"{'.'.join(path[:depth]) or 'the whole'} is no object there")
        if name not in here.members:
            return _inserted(text, here, name, _nested(path[depth + 1 :], value))
        here = here.members[name]
    if here.content == value:
        return text
    return text[: here.start] + _dumped(value, _margin(text, here.start)) + text[here.end :]


def _nested(path: Sequence[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _inserted(text: str, parent: _Value, name: str, value: Any) -> str:
    """With one more member at the object's end; a comment behind the last one stays with that."""
    outer = _margin(text, parent.start)
    last = max((each.end for each in parent.members.values()), default=parent.start + 1)
    first = min(parent.members.values(), key=lambda each: each.start, default=None)
    margin = outer + " " * INDENT
    if first is not None and "\n" in text[parent.start : first.start]:
        margin = _margin(text, first.start)
    comma = "," if parent.members and not parent.comma else ""
    before = text[:last] + comma + text[last : parent.end - 1].rstrip()
    return f"{before}\n{margin}{json.dumps(name)}: {_dumped(value, margin)}\n{outer}{text[parent.end - 1 :]}"


def _margin(text: str, position: int) -> str:
    """The white space that the line of a position begins with."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]


def _dumped(value: Any, margin: str) -> str:
    return json.dumps(value, indent=INDENT, ensure_ascii=False).replace("\n", f"\n{margin}")


def _parsed(text: str) -> _Value:
    reader = _Reader(text)
    value = reader.value(0)
    if reader.skip(value.end) != len(text):
        reader.fail(value.end)
    return value


class _Reader:
    """A parser that knows where everything is."""

    def __init__(self, text: str):
        self._text = text

    def skip(self, position: int) -> int:
        """Past white space and comments."""
        found = _SPACE.match(self._text, position)
        return position if found is None else found.end()

    def fail(self, position: int) -> NoReturn:
        """Say where it is no JSON."""
        raise InputError(f"it is not valid JSON at line {self._text.count(chr(10), 0, position) + 1}")

    def value(self, position: int, depth: int = 0) -> _Value:
        """The value that begins there, behind white space."""
        start = self.skip(position)
        first = self._text[start : start + 1]
        if depth > DEEPEST:
            self.fail(start)
        if first == "{":
            return self._object(start, depth)
        if first == "[":
            return self._list(start, depth)
        found = (_STRING if first == '"' else _PLAIN).match(self._text, start)
        if found is None:
            self.fail(start)
        try:
            return _Value(start, found.end(), json.loads(found[0], strict=False))
        except ValueError:
            self.fail(start)

    def _object(self, start: int, depth: int) -> _Value:
        made = _Value(start, content={})
        position = self.skip(start + 1)
        while self._text[position : position + 1] != "}":
            name = self.value(position, depth + 1)
            colon = self.skip(name.end)
            if not isinstance(name.content, str) or self._text[colon : colon + 1] != ":":
                self.fail(position)
            value = self.value(colon + 1, depth + 1)
            made.members[name.content], made.content[name.content] = value, value.content
            position, made.comma = self._next(value.end, "}")
        made.end = position + 1
        return made

    def _list(self, start: int, depth: int) -> _Value:
        made = _Value(start, content=[])
        position = self.skip(start + 1)
        while self._text[position : position + 1] != "]":
            value = self.value(position, depth + 1)
            made.content.append(value.content)
            position, _ = self._next(value.end, "]")
        made.end = position + 1
        return made

    def _next(self, position: int, closing: str) -> tuple[int, bool]:
        """Past a comma, to what follows it; and whether there was one."""
        position = self.skip(position)
        if self._text[position : position + 1] == ",":
            return self.skip(position + 1), True
        if self._text[position : position + 1] != closing:
            self.fail(position)
        return position, False
