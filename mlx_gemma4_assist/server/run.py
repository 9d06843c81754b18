"""Serving on a port until the process is told to stop. What it takes is imported only when it does."""

import errno
import socket
from collections.abc import Callable, Sequence

from ..errors import InputError, first_line
from ..extras import library
from .endpoint import Backend, Endpoint, Lookup
from .settings import ServerSettings

BACKLOG = 512
LIBRARIES = ("starlette", "uvicorn", "prometheus_client")


def check_installed() -> None:
    """Refuse to serve without the libraries of the extra ``server``.

    Raises:
        InputError: which one is missing, and how to get it.
    """
    for name in LIBRARIES:
        library(name, "the server", "server")


def bind(settings: ServerSettings) -> socket.socket:
    """Take the port: the socket listens, and clients that connect wait for ``serve``. Made for the time before a model
    is loaded.

    Raises:
        InputError: libraries are missing; the port is taken, or not allowed; the address is not this machine's.
    """
    check_installed()
    family, address = _resolved(settings)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port that a server has just left is free; one that another listens on is not.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise InputError(_complaint(error, settings)) from None
    return listening


def url(listening: socket.socket, settings: ServerSettings) -> str:
    """The address of a server, for browsers and apps on this machine."""
    name = settings.address
    if settings.host in ("0.0.0.0", "::"):
        name = "127.0.0.1"
    return f"http://{name}:{listening.getsockname()[1]}"


def serve(
    backend: Backend,
    settings: ServerSettings,
    listening: socket.socket | None = None,
    *,
    endpoints: Sequence[Endpoint] | None = None,
    lookups: Sequence[Lookup] | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Told to stop, it admits no more, gives running answers ``settings.grace`` seconds, then ends them with an error. A
    second SIGINT ends them at once. The backend is the caller's to close.

    Args:
        backend: that answers.
        settings: of HTTP.
        listening: of ``bind``; it is closed in the end.
        endpoints, lookups: what is served, every protocol if not given.
        started: called with the address once requests are answered, in the event loop's thread.

    Raises:
        InputError: as of ``bind``.
    """
    listening = bind(settings) if listening is None else listening
    from .routes import ENDPOINTS, LOOKUPS
    from .uvicorn_server import run_server

    served = ENDPOINTS if endpoints is None else endpoints, LOOKUPS if lookups is None else lookups
    address = url(listening, settings)
    with listening:
        run_server(backend, settings, listening, served, lambda: started(address) if started else None)


def _resolved(settings: ServerSettings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The family and the address to bind; of several of a name IPv4's, which programs try first or next."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        raise InputError(f"the host {settings.host} is not known here: {first_line(error)}") from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address  # type: ignore[return-value]  # IPv6's has two numbers more, which bind takes


def _complaint(error: OSError, settings: ServerSettings) -> str:
    place = f"port {settings.port} of {settings.host}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is taken by another program: choose another with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{place} may not be used by you: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {settings.host}: choose one that it has with --host"
    return f"cannot listen on {place}: {error.strerror or first_line(error)}"
