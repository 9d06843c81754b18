"""Reading the JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from .errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file is missing, unreadable, no JSON, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As ``read_json``; a missing file counts as an empty object."""
    return read_json(path) if path.exists() else {}
