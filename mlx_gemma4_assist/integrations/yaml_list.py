"""An item of a list in a YAML file: added or replaced, with comments and all else left as they were."""

from collections.abc import Mapping
from typing import Any

import yaml

from ..errors import InputError

ODD = "it is written in a way that cannot be edited safely"


def with_item(text: str, name: str | None, item: Mapping[str, Any], by: str, beginning: Mapping[str, Any]) -> str:
    """The text with an item in a list, where one that is equal ``by`` a key is replaced.

    Args:
        text: of the file.
        name: of the list; None where the file is one.
        item: what is to be there.
        by: a key of items.
        beginning: what an empty file gets before the list.

    Raises:
        InputError: it is no YAML, holds something else than that list, or is written as nobody would.
    """
    try:
        content, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"it is not valid YAML: {' '.join(str(error).split())}") from None
    wanted = _expected(content, name, item, by, beginning)
    if wanted == content:
        return text
    edited = _edited(text, root, name, item, by, beginning)
    if _content(edited) != wanted:
        raise InputError(ODD)
    return edited


def listed(name: str | None, item: Mapping[str, Any]) -> str:
    """An item as a file that has no other one would have it."""
    return _lines(item, 0) if name is None else f"{name}:\n{_lines(item, 2)}"


def _content(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _expected(content: Any, name: str | None, item: Mapping[str, Any], by: str, beginning: Mapping[str, Any]) -> Any:
    """What the file is to hold; a new item goes first."""
    if name is not None:
        if not isinstance(content, dict | None):
            raise InputError("it holds no mapping")
        whole = dict(beginning) if content is None else content
        return {**whole, name: _expected(whole.get(name), None, item, by, {})}
    if not isinstance(content, list | None):
        raise InputError("it holds no list where one is expected")
    items = content or []
    if any(_is_it(each, item, by) for each in items):
        return [dict(item) if _is_it(each, item, by) else each for each in items]
    return [dict(item), *items]


def _is_it(each: Any, item: Mapping[str, Any], by: str) -> bool:
    return isinstance(each, dict) and each.get(by) == item[by]


def _edited(
    text: str, root: Any, name: str | None, item: Mapping[str, Any], by: str, beginning: Mapping[str, Any]
) -> str:
    if root is None:
        return _ended(text) + (_dumped(beginning) if beginning else "") + listed(name, item)
    key, found = (None, root) if name is None else _of(root, name)
    if found is None:
        if root.flow_style:
            raise InputError(ODD)
        return _ended(text) + listed(name, item)
    if not isinstance(found, yaml.SequenceNode) or not found.value:  # null, or an empty list
        rest = text[found.end_mark.index :].lstrip(" ")
        return f"{text[: found.start_mark.index].rstrip(' ')}\n{_lines(item, 2)}{rest.removeprefix(chr(10))}"
    if found.flow_style:
        raise InputError(ODD)
    for each in found.value:
        if _is_it(yaml.safe_load(yaml.serialize(each)), item, by):
            return _replaced(text, each, found.start_mark.column, item)
    start = found.start_mark.index - found.start_mark.column
    if key is not None:  # above comments on the item that was the first
        start = text.find("\n", key.end_mark.index) + 1
    return text[:start] + _lines(item, found.start_mark.column) + text[start:]


def _replaced(text: str, node: Any, column: int, item: Mapping[str, Any]) -> str:
    """With another item in the place of a node; blank lines and comments behind it stay."""
    start = text.rfind("\n", 0, node.start_mark.index) + 1
    kept = text[start : node.end_mark.index].splitlines(keepends=True)
    while kept and (not kept[-1].strip() or kept[-1].lstrip().startswith("#")):
        kept.pop()
    return text[:start] + _lines(item, column) + text[start + sum(map(len, kept)) :]


def _of(root: Any, name: str) -> tuple[Any, Any]:
    """A key of a mapping and its value, as nodes."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next(((key, value) for key, value in pairs if key.value == name), (None, None))


def _lines(item: Mapping[str, Any], column: int) -> str:
    """An item of a list as lines."""
    return "".join(" " * column + line for line in _dumped([dict(item)]).splitlines(keepends=True))


def _dumped(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _ended(text: str) -> str:
    return f"{text.rstrip()}\n" if text.strip() else ""
