"""What each app needs to be told of the server: a file, lines for it, and what else a person does.

None of these was tried on a Mac: they follow the apps' documentation of autumn 2026.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .jsonc import with_value
from .toml_table import toml_lines, with_table
from .yaml_list import listed, with_item

NAME = "gemma4"
"""By which apps know the server."""
KEY_VARIABLE = "GEMMA4_API_KEY"
"""From which Zed and Codex take the key, by that name."""
ANY_KEY = "local"
"""What is written where an app wants a key and the server has none."""


@dataclass(frozen=True)
class Served:
    """What a server offers.

    Attributes:
        url: its address, without a path.
        model: a name that it answers to.
        context: tokens of prompt and answer together.
        max_tokens: of an answer.
        key: that it asks for; None where it asks for none.
        pictures, thinking, tools: whether the model takes, does, calls such.
    """

    url: str
    model: str
    context: int
    max_tokens: int
    key: str | None = None
    pictures: bool = True
    thinking: bool = True
    tools: bool = True

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def key_or_any(self) -> str:
        return self.key or ANY_KEY

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model.rpartition('/')[2]} (local)"


class Place(NamedTuple):
    """A file, and what changes its text to one with the lines in it."""

    file: Path
    edit: Callable[[str], str]


@dataclass(frozen=True)
class Connection:
    """How an app is pointed at a server.

    Attributes:
        lines: to paste.
        place: where they belong; None where the app keeps its settings itself.
        before, after: what a person should know or do, a sentence each.
        in_file: whether the lines stand in that file as they are.
    """

    lines: str
    place: Place | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    in_file: bool = True

    def followed_by(self, *sentences: str) -> "Connection":
        """With more of what comes after."""
        return replace(self, after=(*self.after, *sentences))


def xcode(served: Served, home: Path) -> Connection:
    """Xcode 26 and later keep providers themselves."""
    address = urlsplit(served.url)
    local = address.hostname in ("127.0.0.1", "localhost", "::1") and served.key is None
    lines = f"Locally Hosted, port {address.port or 80}"
    if not local:
        lines = f"Internet Hosted\nURL: {served.url}\nAPI Key: {served.key_or_any}\nAPI Key Header: x-api-key"
    return Connection(
        lines + f"\nDescription: {served.title}",
        before=("In Xcode: Settings, Intelligence, Add a Model Provider.",),
        after=("Xcode keeps this itself: there is no file to write.",),
    )


def zed(served: Served, home: Path) -> Connection:
    """As a provider of its own among those that are compatible with OpenAI's."""
    model = {
        "name": served.model,
        "display_name": served.title,
        "max_tokens": served.context,
        "max_output_tokens": served.max_tokens,
        "capabilities": {
            "tools": served.tools,
            "images": served.pictures,
            "parallel_tool_calls": served.tools,
            "prompt_cache_key": False,
        },
    }
    path = ("language_models", "openai_compatible", NAME)
    found = _in_json(
        home / ".config" / "zed" / "settings.json", path, {"api_url": served.v1, "available_models": [model]}
    )
    key = f"Zed takes the key from its Agent Settings, or the environment: {KEY_VARIABLE}={served.key_or_any}"
    return found.followed_by(key if served.key else f"{key} (any will do)", "Then choose the model in the Agent Panel.")


def continue_(served: Served, home: Path) -> Connection:
    """A model in the user's own configuration."""
    capabilities = [name for name, has in (("tool_use", served.tools), ("image_input", served.pictures)) if has]
    model = {
        "name": served.title,
        "provider": "openai",
        "model": served.model,
        "apiBase": served.v1,
        "apiKey": served.key_or_any,
        "roles": ["chat", "edit", "apply"],
        "capabilities": capabilities,
        "defaultCompletionOptions": {"contextLength": served.context, "maxTokens": served.max_tokens},
    }
    beginning = {"name": "Local", "version": "0.0.1", "schema": "v1"}
    return _in_yaml(home / ".continue" / "config.yaml", "models", model, "name", beginning)


def opencode(served: Served, home: Path) -> Connection:
    """A provider by the AI SDK's package for servers that are compatible with OpenAI's."""
    model = {
        "name": served.title,
        "limit": {"context": served.context, "output": served.max_tokens},
        "modalities": {"input": ["text", *(["image"] if served.pictures else [])], "output": ["text"]},
        "attachment": served.pictures,
        "reasoning": served.thinking,
        "tool_call": served.tools,
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Gemma 4 (local)",
        "options": {"baseURL": served.v1, "apiKey": served.key_or_any},
        "models": {served.model: model},
    }
    file = home / ".config" / "opencode" / "opencode.json"
    commented = file.with_suffix(".jsonc")
    found = _in_json(commented if commented.exists() else file, ("provider", NAME), provider)
    return found.followed_by(f"Then: opencode --model {NAME}/{served.model}")


def codex(served: Served, home: Path) -> Connection:
    """A provider beside the one that is in use: which of both is chosen when Codex is started."""
    values: dict[str, str | int | bool] = {"name": "Gemma 4 (local)", "base_url": served.v1, "wire_api": "responses"}
    start = f"codex -c model_provider={NAME} -c model_context_window={served.context} -m {served.model}"
    if served.key:
        values["env_key"] = KEY_VARIABLE
        start = f"{KEY_VARIABLE}={served.key} {start}"
    path = ("model_providers", NAME)
    folder = Path(os.environ.get("CODEX_HOME") or home / ".codex")
    return Connection(
        toml_lines(path, values),
        Place(folder / "config.toml", lambda text: with_table(text, path, values)),
        after=(f"Then: {start}",),
    )


def claude(served: Served, home: Path) -> Connection:
    """Variables of the environment, which Claude Code also reads from its settings."""
    variables = {
        "ANTHROPIC_BASE_URL": served.url,
        "ANTHROPIC_AUTH_TOKEN": served.key_or_any,
        "ANTHROPIC_MODEL": served.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": served.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": served.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": served.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }

    def edit(text: str) -> str:
        for name, value in variables.items():
            text = with_value(text, ("env", name), value)
        return text

    file = home / ".claude" / "settings.json"
    return Connection(
        "".join(f"export {name}={json.dumps(value)}\n" for name, value in variables.items()) + "claude\n",
        Place(file, edit),
        before=(f"For a shell, and the sessions that are begun there; --write sets them for all sessions, in {file}:",),
        after=(f"What --write has written are members of env in {file}; remove them there to go back.",),
        in_file=False,
    )


def raycast(served: Served, home: Path) -> Connection:
    """A custom provider of Raycast AI."""
    abilities = {
        "temperature": {"supported": True},
        "system_message": {"supported": True},
        "vision": {"supported": served.pictures},
        "tools": {"supported": served.tools},
    }
    model = {"id": served.model, "name": served.title, "context": served.context, "abilities": abilities}
    provider: dict[str, Any] = {"id": NAME, "name": "Gemma 4 (local)", "base_url": served.v1, "models": [model]}
    if served.key:
        provider["api_keys"] = {NAME: served.key}
        model["provider"] = NAME
    found = _in_yaml(home / ".config" / "raycast" / "ai" / "providers.yaml", "providers", provider, "id", {})
    return found.followed_by("In Raycast: Settings, AI, Custom Providers must be on.")


def llm(served: Served, home: Path) -> Connection:
    """A model of the ``llm`` command, by way of the server."""
    model: dict[str, Any] = {
        "model_id": NAME,
        "model_name": served.model,
        "api_base": served.v1,
        "can_stream": True,
        "reasoning": served.thinking,
        "vision": served.pictures,
        "supports_tools": served.tools,
        "supports_schema": True,
    }
    if served.key:
        model["api_key_name"] = NAME
    keys = (f"llm keys set {NAME} --value {served.key}",) if served.key else ()
    found = _in_yaml(_llm_folder(home) / "extra-openai-models.yaml", None, model, "model_id", {})
    return found.followed_by(*keys, f"Then: llm -m {NAME} 'Why is the sky blue?'")


def _llm_folder(home: Path) -> Path:
    """Where ``llm`` keeps what is the user's."""
    if named := os.environ.get("LLM_USER_PATH"):
        return Path(named)
    folder = home / "Library" / "Application Support" if sys.platform == "darwin" else home / ".config"
    return folder / "io.datasette.llm"


APPS: Mapping[str, Callable[[Served, Path], Connection]] = {
    "xcode": xcode,
    "zed": zed,
    "continue": continue_,
    "opencode": opencode,
    "codex": codex,
    "claude": claude,
    "raycast": raycast,
    "llm": llm,
}
"""What an app needs, from what is served and the user's home folder."""


def _in_json(file: Path, path: tuple[str, ...], value: Any) -> Connection:
    return Connection(with_value("", path, value), Place(file, lambda text: with_value(text, path, value)))


def _in_yaml(
    file: Path, name: str | None, item: Mapping[str, Any], by: str, beginning: Mapping[str, Any]
) -> Connection:
    place = Place(file, lambda text: with_item(text, name, item, by, beginning))
    return Connection(listed(name, item), place)
