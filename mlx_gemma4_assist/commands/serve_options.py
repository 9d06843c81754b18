"""Options of ``serve``: where it listens, who may ask, what it may use, what it tells."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, OptionError
from ..files import why_not_written
from ..media.config import MediaOptions
from .options import MaxSoftTokens

HOST, PORT = "127.0.0.1", 8080
KEY_VARIABLE = "MLX_GEMMA4_ASSIST_API_KEY"
MAX_WAITING = 64
MAX_STALL = 0.15


class LogLevel(StrEnum):
    """What is told while it runs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Address:
    """Where it listens, and who may ask."""

    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; any but this machine's own needs a key.")
    ] = HOST
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = PORT
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", help=f"The key that clients must send. Default: {KEY_VARIABLE}, if that is set."),
    ] = None
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-origin",
            "--allow-origin",
            help="A web page's origin that may ask, such as https://a.b; may be repeated.",
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host", "--allow-host", help="A further name that the server is asked by; may be repeated."
        ),
    ] = None
    allow_media_urls: Annotated[
        bool, typer.Option("--allow-media-urls", help="Fetch pictures, sound and video that requests name by URL.")
    ] = False

    @property
    def key(self) -> str | None:
        """That clients must send; None asks for none."""
        return (os.environ.get(KEY_VARIABLE) or None) if self.api_key is None else self.api_key


@dataclass(frozen=True)
class Limits:
    """What it may use.

    Raises:
        OptionError: what is no size, or out of its range; a cache folder that cannot be written.
    """

    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="What MLX may use, such as 12GB; what the device recommends unless told."),
    ] = None
    prefix_cache_bytes: Annotated[
        str | None,
        typer.Option("--prefix-cache-bytes", help="Of that, what prompts are kept in, such as 2GB; 0 keeps none."),
    ] = None
    prefix_cache_folder: Annotated[
        Path | None, typer.Option("--prefix-cache-folder", help="Keep prompts there too, for later runs.")
    ] = None
    max_stall: Annotated[
        float, typer.Option("--max-stall", help="Seconds that answers wait at most for others' prompts.")
    ] = MAX_STALL
    max_waiting: Annotated[int, typer.Option("--max-waiting", help="How many requests may wait for a place.")] = (
        MAX_WAITING
    )
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", help="Seconds without a request after which the model is freed, until the next one."),
    ] = None

    def __post_init__(self) -> None:
        _ = self.sizes
        if not 0 <= self.max_stall < float("inf"):
            raise OptionError("{max_stall} is {value}, expected seconds, 0 or more", value=self.max_stall)
        if self.max_waiting < 0:
            raise OptionError("{max_waiting} is {value}, expected 0 or more", value=self.max_waiting)
        if self.ttl is not None and not 0 < self.ttl < float("inf"):
            raise OptionError("{ttl} is {value}, expected seconds above 0", value=self.ttl)
        if self.prefix_cache_folder is not None and self.sizes["prefix_cache_bytes"] == 0:
            raise OptionError("{prefix_cache_folder} needs memory, but {prefix_cache_bytes} is 0")

    @property
    def sizes(self) -> Mapping[str, int | None]:
        """``memory_limit`` and ``prefix_cache_bytes`` in bytes."""
        found = {name: size_of(name, vars(self)[name]) for name in ("memory_limit", "prefix_cache_bytes")}
        if found["memory_limit"] == 0:
            raise OptionError("{memory_limit} is 0, expected a size above that")
        return found

    def check_folder(self) -> None:
        """Try to write to the cache folder, which is made if it is not there.

        Raises:
            InputError: with the reason why not.
        """
        if self.prefix_cache_folder is None:
            return
        folder = self.prefix_cache_folder.expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"cannot write to the cache folder {folder}: {why_not_written(error)}") from None


@dataclass(frozen=True)
class Prompts:
    """How requests are read that do not say.

    Raises:
        OptionError: a number of soft tokens that is none.
    """

    thinking: Annotated[
        bool, typer.Option("--thinking", help="Let the model think first where a request does not say.")
    ] = False
    max_soft_tokens: MaxSoftTokens = None

    def __post_init__(self) -> None:
        _ = self.media

    @property
    def media(self) -> MediaOptions:
        """How many soft tokens a picture takes."""
        return MediaOptions(max_soft_tokens=self.max_soft_tokens)


@dataclass(frozen=True)
class Telling:
    """What it tells."""

    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="A further name that the model answers to; may be repeated.")
    ] = None
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="What to tell while it runs.")] = LogLevel.INFO
    log_json: Annotated[bool, typer.Option("--log-json", help="A JSON object per line instead of text.")] = False


@dataclass(frozen=True)
class Keeping:
    """How it is kept up.

    Raises:
        OptionError: two of these at once.
    """

    restart: Annotated[
        bool, typer.Option("--restart", help="Begin the server anew when it dies, or says that it is stuck.")
    ] = False
    install_agent: Annotated[
        bool, typer.Option("--install-agent", help="On a Mac: run it from login on, with the other options given here.")
    ] = False
    remove_agent: Annotated[bool, typer.Option("--remove-agent", help="On a Mac: run it so no longer.")] = False

    def __post_init__(self) -> None:
        if self.install_agent and self.remove_agent:
            raise OptionError("{install_agent} and {remove_agent} exclude each other")


def size_of(name: str, text: str | None) -> int | None:
    """A size in bytes, from a number with or without a unit such as MB or GB.

    Raises:
        OptionError: it is none; ``name`` is the option's.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise OptionError(f"{{{name}}} is {{value!r}}, expected a size such as 2GB", value=text)
    unit = found[2].upper()
    base = 1024 if "i" in text.lower() else 1000
    return int(float(found[1]) * base ** ("KMGT".index(unit) + 1 if unit else 0))
