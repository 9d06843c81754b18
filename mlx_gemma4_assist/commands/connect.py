"""``connect``: what an app has to be told of the server, shown or written where it belongs."""

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from ..errors import InputError, OptionError
from ..files import parse_json
from .serve_options import HOST, KEY_VARIABLE, PORT
from .streams import note

if TYPE_CHECKING:
    from ..integrations.apps import Connection, Place, Served

URL = f"http://{HOST}:{PORT}"
UNAUTHORIZED = 401
PATIENCE = 2.0  # seconds for a server to say what it serves
DEFAULT_MODEL, DEFAULT_CONTEXT = "default", 32_768  # a server answers to that name
MOST_TOKENS = 8_192  # that apps may ask of an answer, where the context is large


def connect(
    app: Annotated[str, typer.Argument(help="xcode, zed, continue, opencode, codex, claude, raycast or llm.")],
    url: Annotated[str, typer.Option("--url", help="The server's address.")] = URL,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help=f"The server's key. Default: {KEY_VARIABLE}, if that is set.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model's name; the server is asked unless it is given.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens of its context; the server is asked unless it is given.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the lines into the app's file, of which a copy is kept beside it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what --write would change, and change nothing.")
    ] = False,
) -> int:
    """Show what an app needs to be told of the server: a file, and lines for it.

    Lines go to standard output, what to do with them to standard error.
    """
    from ..integrations.apps import APPS

    if app not in APPS:
        raise InputError(f"there is no app {app!r} here, expected {', '.join(APPS)}")
    if context is not None and context < 1:
        raise OptionError("{context} is {value}, expected a positive integer", value=context)
    served = _served(_address(url), api_key or os.environ.get(KEY_VARIABLE), model, context)
    connection = APPS[app](served, Path.home())
    if not (write or dry_run):
        _show(connection)
        return 0
    if connection.place is None:
        raise InputError(f"{app} keeps its settings itself: nothing can be written, without --write they are shown")
    _change(connection.place, connection.after, dry_run)
    return 0


def _address(url: str) -> str:
    """Without a path, which each app appends by itself. A bare word is none; with a port or a scheme it may be."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        named = "//" in url or parts.port is not None or "." in parts.netloc or parts.hostname == "localhost"
    except ValueError:
        right = named = False
    if not (right and named):
        raise OptionError("{url} is {value!r}, expected an address such as http://127.0.0.1:8080", value=url)
    return f"{parts.scheme}://{parts.netloc}"


def _served(url: str, key: str | None, model: str | None, context: int | None) -> "Served":
    """What the server says of its model; what was typed goes before that."""
    from ..integrations.apps import Served

    guessed = model is None or context is None
    found = _asked(url, key, known=guessed)
    if found is None and guessed:
        note(f"No server answers at {url}: a name and a context that were not given are guessed.")
    about = found or {}
    tokens = context or _number(about, "context_length", "max_model_len", "context_window") or DEFAULT_CONTEXT
    abilities = about.get("capabilities")
    able = abilities if isinstance(abilities, list) else ["vision", "thinking", "tools"]
    return Served(
        url,
        model or _text(about, "id") or DEFAULT_MODEL,
        tokens,
        min(MOST_TOKENS, max(tokens // 2, 1)),
        key,
        pictures="vision" in able,
        thinking="thinking" in able,
        tools="tools" in able,
    )


def _asked(url: str, key: str | None, *, known: bool) -> dict[str, Any] | None:
    """The first of the models that a server lists; None where no server answers so.

    Args:
        url, key: of the server.
        known: whether there must be a machine of its name.

    Raises:
        OptionError: it wants a key, or another one; there is no machine of that name.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=PATIENCE
        ) as answer:
            content = parse_json(answer.read().decode("utf-8", "replace"), url)
    except urllib.error.HTTPError as error:
        if error.code == UNAUTHORIZED:
            which = "a key" if key is None else "another key"
            sentence = "the server at {address} asks for {which}: {api_key}, or {variable}"
            raise OptionError(sentence, address=url, which=which, variable=KEY_VARIABLE) from None
        return None
    except urllib.error.URLError as error:
        if known and isinstance(error.reason, socket.gaierror):
            raise OptionError("{url} is {value!r}, but no machine of that name is known here", value=url) from None
        return None
    except (OSError, InputError):
        return None
    models = content.get("data") if isinstance(content, dict) else None
    return models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else None


def _text(about: dict[str, Any], name: str) -> str | None:
    value = about.get(name)
    return value if isinstance(value, str) else None


def _number(about: dict[str, Any], *names: str) -> int | None:
    values = (about.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _show(connection: "Connection") -> None:
    for sentence in connection.before:
        note(sentence)
    if connection.place is not None and connection.in_file:
        note(f"In {connection.place.file}, which --write puts it into:")
    print(connection.lines.rstrip())
    for sentence in connection.after:
        note(sentence)


def _change(place: "Place", after: tuple[str, ...], dry_run: bool) -> None:
    from ..integrations.settings_file import Change

    change = Change.of(*place)
    if not change:
        note(f"{change.file} has it already.")
    elif dry_run:
        print(change.difference)
        note("Nothing was changed.")
        return
    else:
        backup = change.make()
        note(f"{change.file} is written" + ("." if backup is None else f"; what was there is kept as {backup.name}."))
    for sentence in after:
        note(sentence)
