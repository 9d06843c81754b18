"""A chat as a document for people, or as JSON for programs."""

import base64
import json
import mimetypes
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import InputError
from ..files import replacing, why_not_written
from ..text.messages import SOURCES, Kind, Message

if TYPE_CHECKING:
    from ..engine.session import Session

MARKDOWN = (".md", ".markdown")
JSON = ".json"

_ROLES = {"user": "User", "assistant": "Assistant", "model": "Assistant", "tool": "Tool"}
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_DATA_URL = re.compile(r"data:([^;,]*)[^,]*;base64,")
_KEYS = ("role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id")
_OPENAI_SOUNDS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav", "x-flac": "flac"}
# Where mimetypes differs from one machine to the next.
_ENDINGS = {
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/mpeg": ".mp3",
    "audio/flac": ".flac",
    "image/heic": ".heic",
}

_Part = Mapping[str, Any]


def as_markdown(session: "Session", title: str, files: Mapping[str, str] | None = None) -> str:
    """The current branch as Markdown: a heading for each message, thoughts folded, calls of tools as code.

    Args:
        session: the chat.
        title: the first heading.
        files: addresses, relative to the document, by the ``data:`` URLs of what is shown; what has none is only
            named, such as ``[picture 1]``.
    """
    labels = _labels(session)
    blocks = [f"# {' '.join(title.split())}"]
    for message in session.messages:
        blocks.append(f"## {_ROLES.get(message['role'], 'System')}{_tool_name(message)}")
        blocks += _thought(message)
        blocks += _content(message, labels, files or {})
        blocks += map(_call, message.get("tool_calls") or ())
    return "\n\n".join(block for block in blocks if block) + "\n"


def as_json(session: "Session") -> str:
    """The current branch as ``{"messages": [...]}``, as OpenAI's chat completions take it, thoughts and media in it."""
    messages = [_openai_message(message) for message in session.messages]
    return json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n"


def export(session: "Session", path: Path, title: str | None = None) -> None:
    """Write the current branch to a new file, which only its owner can read.

    Args:
        session: the chat.
        path: ends in ``.md``, beside which a folder gets what is shown, or in ``.json``.
        title: the first heading; None is the file's name.

    Raises:
        InputError: another ending, there is such a file already, or it cannot be written.
    """
    path = path.expanduser()
    if path.suffix.lower() not in (*MARKDOWN, JSON):
        raise InputError(f"{path.name!r:.80} ends in neither .md nor .json: a chat is exported as one of them")
    try:
        if path.exists():
            raise InputError(f"there is a file {path} already")
        if path.suffix.lower() == JSON:
            _write(path, as_json(session))
        else:
            _export_markdown(session, path, path.stem if title is None else title)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {why_not_written(error)}") from None
    except ValueError:
        raise InputError(f"cannot write {str(path)!r:.80}: there can be no such file") from None


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # halves of surrogate pairs, as JSON escapes them


def _export_markdown(session: "Session", path: Path, title: str) -> None:
    contents = {url: content for url in _labels(session) if (content := _content_of(url)) is not None}
    if not contents:
        return _write(path, as_markdown(session, title))
    folder = path.with_name(f"{path.stem}-files")
    if folder.exists():
        raise InputError(f"cannot write {path}: what it shows would go to {folder}, which is there already")
    folder.mkdir(mode=0o700)  # a new one: nothing of anybody's is replaced
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        names = {url: _file_name(label, url) for url, label in _labels(session).items() if url in contents}
        for url, name in names.items():
            with replacing(folder / name) as file:
                file.write(contents[url])
        _write(path, as_markdown(session, title, {url: quote(f"{folder.name}/{name}") for url, name in names.items()}))
        undo.pop_all()
    return None


def _labels(session: "Session") -> dict[str, str]:
    """Names such as ``picture 1`` by the URLs of what is shown, in its order; the same picture has one name."""
    labels: dict[str, str] = {}
    counts = dict.fromkeys(Kind, 0)
    for message in session.messages:
        for part in _parts(message):
            if part["type"] in SOURCES and (url := _url(part)) not in labels:
                kind = Kind(part["type"])
                counts[kind] += 1
                labels[url] = f"{kind.noun} {counts[kind]}"
    return labels


def _parts(message: Message) -> list[_Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content or ())


def _url(part: _Part) -> str:
    key = next(key for key in SOURCES[part["type"]] if part.get(key) is not None)
    return f"data:;base64,{part[key]}" if key == "base64" else str(part[key])


def _content_of(url: str) -> bytes | None:
    found = _DATA_URL.match(url)
    try:
        return None if found is None else base64.b64decode(url[found.end() :], validate=True)
    except ValueError:
        return None


def _file_name(label: str, url: str) -> str:
    found = _DATA_URL.match(url)
    kind = found[1] if found else ""
    return label.replace(" ", "-") + (_ENDINGS.get(kind) or mimetypes.guess_extension(kind) or ".bin")


# Markdown


def _tool_name(message: Message) -> str:
    name = message.get("name")
    return f" {_code(name)}" if message["role"] == "tool" and isinstance(name, str) else ""


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _thought(message: Message) -> Iterator[str]:
    if thought := message.get("reasoning_content"):
        inside = re.sub(r"(?i)<(?=/?(details|summary)\b)", "&lt;", _closed(thought.strip()))
        yield f"<details>\n<summary>Thought</summary>\n\n{inside}\n\n</details>"


def _content(message: Message, labels: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    for part in _parts(message):
        if part["type"] in SOURCES:
            yield _shown(part, labels, files)
        elif message["role"] == "tool":
            yield _fenced(part["text"])
        else:
            yield _closed(part["text"].strip("\n"))


def _shown(part: _Part, labels: Mapping[str, str], files: Mapping[str, str]) -> str:
    label = labels[_url(part)]
    file = files.get(_url(part))
    if file is None:
        return f"\\[{label}\\]"
    return f"![{label}]({file})" if part["type"] == Kind.PICTURE else f"[{label}]({file})"


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    given = function.get("arguments")
    text = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False, indent=2)
    return f"Calls {_code(function['name'])}:\n\n{_fenced(text, 'json')}"


def _fenced(text: str, language: str = "") -> str:
    """Code between fences that are longer than any within it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _closed(text: str) -> str:
    """A text that leaves no code block open, as an answer that was cut off may: what follows it is not code."""
    fence = ""
    for line in text.splitlines():
        found = _FENCE.fullmatch(line)
        if found is None:
            continue
        if not fence:
            fence = "" if found[1][0] == "`" and "`" in found[2] else found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


# OpenAI's messages


def _openai_message(message: Message) -> dict[str, Any]:
    made = {key: value for key, value in message.items() if key in _KEYS}
    made["role"] = "assistant" if message["role"] == "model" else message["role"]
    if isinstance(message.get("content"), list):
        made["content"] = [_openai_part(part) for part in message["content"]]
    if message.get("tool_calls"):
        made["tool_calls"] = [_openai_call(call) for call in message["tool_calls"]]
    return made


def _openai_part(part: _Part) -> dict[str, Any]:
    """A part; videos, which OpenAI's have none of, as the servers of open models take them."""
    if part["type"] not in SOURCES:
        return dict(part)
    url = _url(part)
    if part["type"] == Kind.SOUND and (found := _DATA_URL.match(url)):
        kind = found[1].rpartition("/")[2]
        sound = {"data": url[found.end() :], "format": _OPENAI_SOUNDS.get(kind, kind or "wav")}
        return {"type": "input_audio", "input_audio": sound}
    kind = f"{part['type']}_url"
    return {"type": kind, kind: {"url": url}}


def _openai_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    given = function.get("arguments")
    function["arguments"] = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
    return {**call, "type": "function", "function": function}
