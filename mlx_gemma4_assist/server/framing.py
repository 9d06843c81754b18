"""Frames of a streamed answer as bytes on the wire: server-sent events, or lines of JSON."""

import json
import re
from typing import Any

from .endpoint import Framing
from .exchange import Frame

_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(frame: Frame, framing: Framing) -> bytes:
    """A frame's bytes, the mark that ends it included."""
    text = frame.data if isinstance(frame.data, str) else as_json(frame.data)
    if framing is Framing.LINES:
        return _bytes(f"{text}\n")
    name = f"event: {frame.event}\n" if frame.event is not None else ""
    lines = "".join(f"data: {line}\n" for line in _LINE_ENDS.split(text))
    return _bytes(f"{name}{lines}\n")


def as_json(value: Any) -> str:
    """Compact JSON.

    Raises:
        ValueError: it has a number that JSON has not.
    """
    return _JSON.encode(value)


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8; raises as ``as_json`` does."""
    return _bytes(as_json(value))


def _bytes(text: str) -> bytes:
    # A lone surrogate, which UTF-8 has not, gets the escape that JSON has for it.
    return text.encode("utf-8", "backslashreplace")
