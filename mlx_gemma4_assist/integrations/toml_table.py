"""A table in a TOML file: appended or replaced, with comments and all else left as they were."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError

Value = str | int | bool
ODD = "it is written in a way that cannot be edited safely"


def toml_lines(path: Sequence[str], values: Mapping[str, Value]) -> str:
    """A table as a file has it."""
    return "\n".join([f"[{'.'.join(path)}]", *(f"{name} = {_value(each)}" for name, each in values.items())]) + "\n"


def with_table(text: str, path: Sequence[str], values: Mapping[str, Value]) -> str:
    """The text with a table, in the place of one of the same name.

    Raises:
        InputError: it is no TOML, or has that table in another form than under its header.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"it is not valid TOML: {error}") from None
    wanted = _expected(content, path, values)
    if wanted == content:
        return text
    edited = _edited(text, path, toml_lines(path, values))
    if _content(edited) != wanted:
        raise InputError(ODD)
    return edited


def _edited(text: str, path: Sequence[str], table: str) -> str:
    header = f"[{'.'.join(path)}]"
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip() == header), None)
    if start is None:
        return f"{text.rstrip()}\n\n{table}" if text.strip() else table
    end = next((i for i in range(start + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
    while end < len(lines) and lines[end - 1].lstrip().startswith("#"):  # the next table's
        end -= 1
    gap = "\n" if end < len(lines) else ""
    return "".join(lines[:start]) + table + gap + "".join(lines[end:])


def _expected(content: Any, path: Sequence[str], values: Mapping[str, Value]) -> Any:
    """What the file is to hold."""
    if not path:
        return dict(values)
    if not isinstance(content, dict):
        raise InputError(ODD)
    return {**content, path[0]: _expected(content.get(path[0], {}), path[1:], values)}


def _content(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _value(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
