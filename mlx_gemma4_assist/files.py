"""Reading text, and the JSON files of a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError

DEEPEST = 100
"""Objects and lists within one another, of which the files of a checkpoint have five or so."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, which may begin with a byte order mark.

    Raises:
        InputError: the file is missing, unreadable, no JSON, nested too deep, or holds something else than an object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    content = parse_json(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As ``read_json``; a missing file counts as an empty object."""
    return read_json(path) if path.exists() else {}


def read_part(values: Mapping[str, Any], name: str, *, file: str = "config.json") -> Mapping[str, Any]:
    """The object of a name within another one; null or none at all counts as an empty one.

    Raises:
        InputError: there is something else by that name.
    """
    part = values.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise InputError(f"{file}: {name} is {part!r:.100}, expected an object")
    return part


def _is_deep(content: object) -> bool:
    """Whether a JSON value is nested deeper than what messages can quote without recursion being exhausted."""
    level = [content]
    for _ in range(DEEPEST):
        lists = [part for part in level if isinstance(part, list)]
        objects = [part for part in level if isinstance(part, dict)]
        level = [each for part in lists for each in part] + [each for part in objects for each in part.values()]
        if not level:
            return False
    return True


def read_text(path: Path) -> str:
    """The text of a file. A byte order mark is not part of it, and every line ends with a line feed.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return decode_text(content, str(path))


def decode_text(content: bytes, name: str) -> str:
    """The text of bytes that were read from what the caller calls ``name``; as ``read_text``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, name: str) -> Any:
    """What JSON says, of whatever kind.

    Raises:
        InputError: it is no JSON, or nested deeper than what messages can quote.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deep") from None
    if _is_deep(content):
        raise InputError(f"{name} is nested too deep: more than {DEEPEST} objects and lists within one another")
    return content
