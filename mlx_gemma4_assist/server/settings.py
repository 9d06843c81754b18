"""How the server listens, and whom it lets in: every option of HTTP, checked before anything is loaded."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from ..errors import InputError, described

LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_PORT = 65535
MEGABYTE = 2**20

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\*|[^/*?#@\s]*(:\*)?)", re.IGNORECASE)
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of the HTTP side.

    Attributes:
        host: address or name to listen on.
        port: to listen on; 0 for any that is free.
        api_key: what requests must bring, as ``Authorization: Bearer KEY`` or ``x-api-key: KEY``. None asks for none,
            which only loopback addresses allow.
        allowed_origins: pages, beside the server's own, that browsers may let use it, such as
            ``https://chat.example.org``, ``http://localhost:*``, ``app://*``, or ``*`` for every page, which takes a
            key.
        allowed_hosts: names, beside loopback's and this machine's, under which it is reached: ``gemma.example.org``,
            ``*.example.org``. Numeric addresses are always allowed, since no foreign page can be behind one.
        max_body: bytes of a request's body.
        aliases: names that the model has besides its own.
        log_level: the least of what is logged, one of ``LOG_LEVELS``.
        log_json: whether each line of the log is a JSON object.
        grace: seconds that running answers have to finish when the server is told to stop.
        life: seconds after which a stream without news gets a sign of life, as long as the engine makes progress.
        stall: seconds that a reader may take nothing before it is cut off.
        header_time: seconds that a request's headers may take to arrive, from when the connection is there.
        body_time: seconds that a body may take to arrive.
        max_pending: events of one answer that may wait for its reader.

    Raises:
        InputError: a value that cannot be, or a public address without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 64 * MEGABYTE
    aliases: tuple[str, ...] = ()
    log_level: str = "info"
    log_json: bool = False
    grace: float = 10.0
    life: float = 10.0
    stall: float = 30.0
    header_time: float = 60.0
    body_time: float = 60.0
    max_pending: int = 4096

    def __post_init__(self) -> None:
        self._check_address()
        self._check_key()
        _each("allow-origin", self.allowed_origins, _is_origin, "an origin such as https://chat.example.org")
        _each("allow-host", self.allowed_hosts, _is_host, "a host name such as gemma.example.org, without a port")
        _each("alias", self.aliases, _is_name, "a name without blanks")
        if self.log_level not in LOG_LEVELS:
            raise InputError(f"the log level is {described(self.log_level)}, expected one of {', '.join(LOG_LEVELS)}")
        for name in ("max_body", "grace", "life", "stall", "header_time", "body_time", "max_pending"):
            if not vars(self)[name] > 0:
                raise InputError(f"{name} is {vars(self)[name]!r}, expected more than 0")

    @property
    def public(self) -> bool:
        """Whether other machines can reach it."""
        return not is_loopback(self.host)

    @property
    def address(self) -> str:
        """The host as it stands in an address: a numeric one of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def _check_address(self) -> None:
        if not isinstance(self.port, int) or not 0 <= self.port <= MAX_PORT:
            raise InputError(f"the port is {described(self.port)}, expected 0 to {MAX_PORT}")
        if not self.host or any(sign.isspace() or sign in "/@[]" for sign in self.host):
            raise InputError(f"the host is {described(self.host)}, expected an address or a name, without a port")

    def _check_key(self) -> None:
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("the API key is empty or has blanks or letters that HTTP headers cannot carry")
        if self.api_key is None and self.public:
            raise InputError(
                f"other machines can reach {self.host}: give an API key with --api-key, or listen on 127.0.0.1"
            )
        if self.api_key is None and "*" in self.allowed_origins:
            raise InputError("every page may use the server with --allow-origin '*': give an API key with --api-key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; of names only ``localhost`` is known to be so."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _each(option: str, values: Iterable[str], fits: Callable[[str], bool], expected: str) -> None:
    for value in values:
        if not isinstance(value, str) or not fits(value):
            raise InputError(f"--{option} is {described(value)}, expected {expected}")


def _is_origin(text: str) -> bool:
    return text in ("*", "null") or _ORIGIN.fullmatch(text) is not None


def _is_host(text: str) -> bool:
    return text == "*" or _HOST_NAME.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(sign.isspace() for sign in text)
