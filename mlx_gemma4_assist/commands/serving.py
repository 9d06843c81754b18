"""Where the command meets HTTP and the engine: their settings from its options, and both put together."""

import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backend import readable
from ..cache.quantization import kv_quantization
from ..engine.engine import Engine
from ..engine.pair import Checkpoint
from ..errors import InputError, OptionError
from ..files import read_json
from ..integrations.apps import APPS
from ..machine.doctor import this_machine, weight_words
from ..machine.room import Needs, needs_of
from ..media.fetch import Bounds, fetch
from ..options import GenerationOptions
from ..server.run import serve, url
from ..server.service import Service, Settings, only_data
from ..server.settings import ServerSettings
from .serve_options import Address, Limits, Prompts, Telling
from .start_card import Card, show
from .supervisor import end_with_parent

if TYPE_CHECKING:
    from ..drafts.memory import DraftMemory

GRACE = 1.0  # seconds for the engine, once HTTP has ended all answers
DOWNLOAD = Bounds(size=64 << 20, seconds=30, redirects=3, public=True)
"""How far pictures and sound may be fetched that requests name: from no address that only this machine reaches."""


def http_settings(address: Address, telling: Telling) -> ServerSettings:
    """How it listens.

    Raises:
        InputError: a port that is none, a public address without a key, names that cannot be.
    """
    return ServerSettings(
        host=address.host,
        port=address.port,
        api_key=address.key,
        allowed_origins=tuple(address.allowed_origin or ()),
        allowed_hosts=tuple(address.allowed_host or ()),
        aliases=tuple(telling.alias or ()),
        log_level=telling.log_level.value,
        log_json=telling.log_json,
    )


def service_of(
    checkpoint: Checkpoint,
    values: Mapping[str, Any],
    limits: Limits,
    settings: ServerSettings,
    prompts: Prompts,
    *,
    media_urls: bool,
    memory: "DraftMemory | None",
) -> Service:
    """What answers; its model is not loaded yet.

    Args:
        checkpoint: the pair before its weights are read.
        values: keywords of ``GenerationOptions`` for requests that do not say otherwise.
        limits: what it may use.
        settings: of HTTP.
        prompts: how requests are read that do not say.
        media_urls: whether what requests name by URL is fetched.
        memory: where draft lengths are kept.
    """
    options = dict(values)
    most = {"max_tokens": options.pop("max_tokens")} if "max_tokens" in options else {}
    answering = Settings(
        aliases=settings.aliases,
        options=options,
        thinking=prompts.thinking,
        media=prompts.media,
        max_waiting=limits.max_waiting,
        ttl=limits.ttl,
        admit=_fetched if media_urls else only_data,
        **most,
    )
    engine = partial(
        Engine,
        memory=memory,
        prefix_cache_bytes=limits.sizes["prefix_cache_bytes"],
        prefix_cache_folder=limits.prefix_cache_folder,
        memory_limit=limits.sizes["memory_limit"],
        max_stall=limits.max_stall,
    )
    return Service(checkpoint, answering, engine=engine)


def run(service: Service, settings: ServerSettings, listening: socket.socket, card: Card) -> None:
    """Load the model, then answer until the process is told to end; the card is shown in between.

    Raises:
        InputError: the model cannot be loaded.
    """
    end_with_parent()
    try:
        service.load()
        serve(service, settings, listening, started=lambda _: show(card, list(APPS)))
    finally:
        service.close(GRACE)


def card_of(
    checkpoint: Checkpoint,
    options: GenerationOptions,
    limits: Limits,
    settings: ServerSettings,
    listening: socket.socket,
) -> Card:
    """What is shown of a server. Weights are not read for it.

    Raises:
        InputError: files that are missing or damaged; weights that leave no room for an answer.
    """
    assistant, quantization = checkpoint.assistant, kv_quantization(options, checkpoint.config)
    needs, memory = room_for(checkpoint, options, limits)
    return Card(
        model=str(checkpoint.source.path_or_repo),
        weights=weight_words(read_json(checkpoint.folder / "config.json")),
        assistant=None if assistant is None else str(assistant.path_or_repo),
        keys="not quantized" if quantization is None else str(quantization),
        context=needs.longest,
        fits=needs.room(memory, needs.longest),
        url=url(listening, settings),
        asks_for_key=settings.api_key is not None,
        local=not settings.public,
    )


def room_for(checkpoint: Checkpoint, options: GenerationOptions, limits: Limits) -> tuple[Needs, int]:
    """What a pair takes, and how much there is for it, in bytes.

    Raises:
        InputError: files that are missing or damaged; there is too little for any answer.
    """
    folder = None if checkpoint.assistant is None else checkpoint.assistant.folder
    quantization = kv_quantization(options, checkpoint.config)
    needs = needs_of(checkpoint.folder, folder, checkpoint.source.dtype, quantization)
    memory = limits.sizes["memory_limit"] or this_machine().usable
    if needs.weights + needs.least <= memory:
        return needs, memory
    takes = f"the weights take {readable(needs.weights)}, and the shortest answer {readable(needs.least)} more"
    if limits.memory_limit is None:
        raise InputError(f"{takes}, but MLX may use {readable(memory)} on this machine")
    raise OptionError(f"{{memory_limit}} is {{value}}, but {takes}", value=limits.memory_limit)


def _fetched(source: object) -> object:
    """As ``only_data``, and the content of a URL.

    Raises:
        InputError: it cannot be had.
    """
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        return fetch(source, DOWNLOAD)
    try:
        return only_data(source)
    except InputError:
        raise InputError("pictures, sound and video are taken as data:, http: and https: URLs only") from None
