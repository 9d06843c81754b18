"""What answers paths: endpoints, look-ups, and what the server has beside protocols."""

import asyncio
from collections.abc import Mapping
from typing import Any

from .body import parse_body, read_body
from .endpoint import Body, Endpoint, Health, Lookup
from .framing import json_bytes
from .log import Record
from .metrics import KIND
from .page_files import HEADERS, PageFile
from .resource import Operation
from .site import Site
from .streaming import answer
from .wire import Wire

WELL = ("ok", "loading", "unloaded")
"""How an engine does that answers what it is asked, now or as soon as it has been loaded."""
NOT_KEPT = {"cache-control": "no-store"}


def endpoint_operation(endpoint: Endpoint) -> Operation:
    """Text, in an endpoint's way."""

    async def run(site: Site, wire: Wire, record: Record) -> None:
        await answer(site, endpoint, wire, record)

    return Operation(endpoint.name, run, endpoint.error)


def lookup_operation(lookup: Lookup) -> Operation:
    """What is answered at once; in a thread, since long texts take their time to be turned into tokens."""

    async def run(site: Site, wire: Wire, record: Record) -> None:
        content = b""
        if lookup.method != "GET":
            content = await read_body(wire.receive, wire.headers, site.settings.max_body, site.settings.body_time)

        def found() -> bytes:
            body = parse_body(content)
            site.unknown.note(lookup.name, body, lookup.body_schema)
            return json_bytes(lookup.answer(site.backend, wire.parameters, body))

        await wire.respond(200, await asyncio.to_thread(found), headers=NOT_KEPT)

    return Operation(lookup.name, run, lookup.error)


def page_operation(file: PageFile) -> Operation:
    """A file of the page. It needs no key: a browser sends none before the page has asked for it."""

    async def run(site: Site, wire: Wire, record: Record) -> None:
        headers = {**HEADERS, "etag": file.tag}
        if file.tag in wire.headers.get("if-none-match", ""):
            await wire.respond(304, headers=headers)
        else:
            await wire.respond(200, file.content, file.kind, headers)

    return Operation("page", run, open=True)


def document_operation(document: Body) -> Operation:
    """The OpenAPI document."""
    content = json_bytes(document)

    async def run(site: Site, wire: Wire, record: Record) -> None:
        await wire.respond(200, content, headers=NOT_KEPT)

    return Operation("openapi", run, open=True)


async def tell_health(site: Site, wire: Wire, record: Record) -> None:
    """How the engine does: 200 if requests are answered, 503 if it is stuck or dead; figures only with the key."""
    health = site.backend.health()
    told = _told(health) if site.guard.has_key(wire.headers) else {"status": health.status}
    await wire.respond(200 if health.status in WELL else 503, json_bytes(told), headers=NOT_KEPT)


async def tell_metrics(site: Site, wire: Wire, record: Record) -> None:
    """All figures."""
    await wire.respond(200, site.metrics.text(), KIND, NOT_KEPT)


async def end_thought(site: Site, wire: Wire, record: Record) -> None:
    """Let the model stop thinking over a request, and answer."""
    identity = wire.parameters["id"]
    site.running.end_thought(identity)
    await wire.respond(200, json_bytes({"id": identity, "ended": True}), headers=NOT_KEPT)


def own_operations(document: Body) -> Mapping[str, Mapping[str, Operation]]:
    """What the server has beside protocols: operations by path and method."""
    ending = {"POST": Operation("thoughts.end", end_thought)}
    return {
        "/health": {"GET": Operation("health", tell_health, open=True)},
        "/v1/health": {"GET": Operation("health", tell_health, open=True)},
        "/metrics": {"GET": Operation("metrics", tell_metrics)},
        "/openapi.json": {"GET": document_operation(document)},
        "/v1/thoughts/{id}/end": ending,
        "/thoughts/{id}/end": ending,
    }


def _told(health: Health) -> dict[str, Any]:
    return {
        "status": health.status,
        "model": health.model,
        "running": health.running,
        "waiting": health.waiting,
        "idle_seconds": health.idle,
        "active_memory": health.active_memory,
        "peak_memory": health.peak_memory,
    }
