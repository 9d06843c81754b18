"""The server as an application of ASGI: which path is answered by what."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .endpoint import Backend, Endpoint, Lookup
from .faults import openai_error
from .openapi import document
from .operations import endpoint_operation, lookup_operation, own_operations, page_operation
from .page_files import PageFile, page_files
from .resource import ErrorBody, Operation, Resource
from .settings import ServerSettings
from .site import Site

Table = dict[str, dict[str, Operation]]
"""Operations by path and method."""


def create_app(
    backend: Backend, settings: ServerSettings, endpoints: Sequence[Endpoint], lookups: Sequence[Lookup]
) -> Starlette:
    """An application that answers by a backend.

    Args:
        backend: that answers.
        settings: of HTTP.
        endpoints, lookups: of all protocols; where two have the same path and method, the first one's counts.
    """
    return app_of(Site(backend, settings), endpoints, lookups, page_files())


def app_of(
    site: Site, endpoints: Sequence[Endpoint], lookups: Sequence[Lookup], page: Mapping[str, PageFile]
) -> Starlette:
    """The application of a site whose parts are at hand, and of a page."""
    told = document(endpoints, lookups, site.settings.api_key is not None)
    table: Table = {path: dict(operations) for path, operations in own_operations(told).items()}
    _add(table, [(each.paths, each.prefixes, "POST", endpoint_operation(each)) for each in endpoints])
    _add(table, [(each.paths, each.prefixes, each.method, lookup_operation(each)) for each in lookups])
    _add(table, [((path,), ("",), "GET", page_operation(file)) for path, file in page.items()])
    # Those without parameters come first, since a parameter may stand for anything.
    routes = [Route(path, Resource(site, table[path])) for path in sorted(table, key=lambda path: "{" in path)]
    app = Starlette(routes=routes, middleware=[Middleware(Tidy)])
    app.router.redirect_slashes = False
    app.router.default = Resource(site, {}, partial(_error_near, table))
    return app


def _error_near(table: Table, path: str) -> ErrorBody:
    """How an error is told of at a path where there is nothing: as where the paths are that begin like it."""
    near = max(table, key=lambda known: (_shared(known, path), -known.count("/")))
    return next(iter(table[near].values())).error if _shared(near, path) else openai_error


def _shared(known: str, path: str) -> int:
    """How many parts of two paths are the same from the first on."""
    pairs = zip(known.split("/")[1:], path.split("/")[1:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] != "", pairs))


def _add(table: Table, operations: Iterable[tuple[Sequence[str], Sequence[str], str, Operation]]) -> None:
    for paths, prefixes, method, operation in operations:
        for path in (prefix + path for prefix in prefixes for path in paths):
            table.setdefault(path, {}).setdefault(method, operation)


class Tidy:
    """Takes slashes at a path's end, and doubled ones, for what was meant: they come from addresses put together.

    Args:
        app: that is asked.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            scope = {**scope, "path": "/" + "/".join(filter(None, scope["path"].split("/")))}
        await self._app(scope, receive, send)
