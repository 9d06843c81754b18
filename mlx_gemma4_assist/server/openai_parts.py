"""Parts of messages, as OpenAI's requests have them, to parts as the text room takes them."""

import re
from collections.abc import Mapping
from typing import Any

from .exchange import Model, bad_request
from .fields import OBJECT, TEXT, Schema, either, listed, one_of, optional, record

Part = Mapping[str, Any]

URL: Schema = record({"url": TEXT, **optional({"detail": TEXT})}, "url")
WRITTEN = either(
    record({"type": one_of("text", "input_text", "output_text"), "text": TEXT}, "type", "text"),
    record({"type": one_of("refusal"), "refusal": TEXT}, "type", "refusal"),
)
SHOWN = either(
    record({"type": one_of("image_url"), "image_url": either(URL, TEXT)}, "type", "image_url"),
    record({"type": one_of("input_image"), **optional({"image_url": TEXT, "file_id": TEXT, "detail": TEXT})}, "type"),
    record(
        {"type": one_of("input_audio"), "input_audio": record({"data": TEXT, "format": TEXT}, "data", "format")},
        "type",
        "input_audio",
    ),
    record({"type": one_of("audio_url"), "audio_url": either(URL, TEXT)}, "type", "audio_url"),
    record({"type": one_of("video_url"), "video_url": either(URL, TEXT)}, "type", "video_url"),
    record({"type": one_of("file", "input_file")}, "type"),
)
TEXTS = either(TEXT, listed(WRITTEN))
CONTENT = either(TEXT, listed(either(WRITTEN, SHOWN)))
"""``content`` of messages that hold text only, and of those that also show something."""

CALLS = listed(
    record(
        {
            "id": TEXT,
            "function": record({"name": TEXT, "arguments": either(TEXT, OBJECT)}, "name"),
            **optional({"type": one_of("function")}),
        },
        "id",
        "function",
    )
)

_KINDS = {
    "image_url": ("image", "pictures"),
    "input_image": ("image", "pictures"),
    "input_audio": ("audio", "sound"),
    "audio_url": ("audio", "sound"),
    "video_url": ("video", "video"),
}
_SCHEMES = re.compile(r"(?i)(data:|https?://)")


def content(given: Any, model: Model, place: str) -> str | list[dict[str, Any]]:
    """A message's content: text, or parts where something is shown.

    Raises:
        RequestError: it shows what the model does not take, or names a file.
    """
    if isinstance(given, str) or given is None:
        return given or ""
    parts = [_part(part, model, f"{place}[{number}]") for number, part in enumerate(given)]
    if all(part["type"] == "text" for part in parts):
        return str(parts[0]["text"]) if len(parts) == 1 else parts
    return parts


def text(given: Any) -> str:
    """The text of content that shows nothing."""
    if isinstance(given, str) or given is None:
        return given or ""
    return "".join(written for part in given if (written := _written(part)) is not None)


def result(given: Any, model: Model, place: str) -> str | list[dict[str, Any]]:
    """What a tool answers: one text, or parts where something is shown.

    Raises:
        RequestError: as of ``content``.
    """
    parts = content(given, model, place)
    shows = not isinstance(parts, str) and any(part["type"] != "text" for part in parts)
    return parts if shows else text(given)


def _written(part: Part) -> str | None:
    if part["type"] == "refusal":
        return str(part["refusal"])
    return str(part["text"]) if part["type"] in ("text", "input_text", "output_text") else None


def _part(part: Part, model: Model, place: str) -> dict[str, Any]:
    if (written := _written(part)) is not None:
        return {"type": "text", "text": written}
    if part["type"] not in _KINDS:
        raise bad_request(f"{place} is a file, and files are not supported", place, "unsupported_value")
    kind, noun = _KINDS[part["type"]]
    if not {"pictures": model.pictures, "sound": model.sound, "video": model.video}[noun]:
        raise bad_request(f"{place} is of type {part['type']}, but the model takes no {noun}", place)
    return {"type": kind, "url": _address(part, place)}


def _address(part: Part, place: str) -> str:
    """Where a part's media are: within the request, or on the web, never a path.

    Raises:
        RequestError: elsewhere.
    """
    given = part.get(part["type"] if part["type"] != "input_image" else "image_url")
    if part["type"] == "input_audio":
        return _sound(part["input_audio"])
    address = given["url"] if isinstance(given, Mapping) else given
    if address is None or not _SCHEMES.match(address):
        raise bad_request(f"{place} needs a URL that begins with data:, http:// or https://", place)
    return str(address)


def _sound(given: Mapping[str, str]) -> str:
    data = given["data"]
    return data if data.startswith("data:") else f"data:audio/{given['format']};base64,{data}"
