"""Who may use the server: the host that is asked for, the page that asks, and the key that it brings."""

import hashlib
import hmac
import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address

from .exchange import RequestError
from .settings import ServerSettings, is_loopback

Headers = Mapping[str, str]
"""By names in lower case."""

CONTAINERS = ("host.docker.internal", "host.containers.internal")
"""Under which programs in containers reach their host; nobody can own these names."""
KEPT = 600
"""Seconds for which a browser need not ask again whether a page may use the server."""
EXPOSED = "x-request-id, request-id, retry-after"

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@?#\s]+)(:(?P<port>\d*))?")


class Guard:
    """Checks of requests.

    Args:
        settings: what is allowed beside what always is.
    """

    def __init__(self, settings: ServerSettings):
        self._settings = settings
        self._key = _digest(settings.api_key) if settings.api_key is not None else None
        own = {socket.gethostname().lower()} if settings.public else set()
        bound = set() if _is_numeric(settings.host) else {settings.host.lower()}
        own |= {f"{name.partition('.')[0]}.local" for name in own}
        self._hosts = {*own, *bound, *CONTAINERS, *(name.lower().rstrip(".") for name in settings.allowed_hosts)}
        self._origins = [_pattern(origin) for origin in settings.allowed_origins]

    def check_source(self, headers: Headers) -> None:
        """Refuse hosts that are not the server's, behind which a foreign page may stand, and pages that are not named.

        Raises:
            RequestError: 403, or 400 where no host is named.
        """
        host = headers.get("host", "")
        if not host:
            raise RequestError(400, "The request has no Host header.")
        if not self._is_own(host):
            raise RequestError(
                403,
                f"The host {host[:200]!r} is not this server's: allow it with --allow-host.",
                "permission_error",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._may_use(origin, host):
            raise RequestError(
                403,
                f"Pages of {origin[:200]!r} may not use this server: allow them with --allow-origin.",
                "permission_error",
                code="origin_not_allowed",
            )

    def has_key(self, headers: Headers) -> bool:
        """Whether a request brings the key, if one is asked for. It takes the same time for every wrong one."""
        if self._key is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        brought = [headers.get("x-api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]
        same = [hmac.compare_digest(_digest(each), self._key) for each in brought]
        return any(same)

    def check_key(self, headers: Headers) -> None:
        """Refuse a request without the key, if one is asked for.

        Raises:
            RequestError: 401.
        """
        if not self.has_key(headers):
            raise RequestError(
                401,
                "The API key is missing or wrong: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                "authentication_error",
                code="invalid_api_key",
            )

    def shared_with(self, headers: Headers) -> dict[str, str]:
        """Headers that let a page that is named read the answer; none for others."""
        origin = headers.get("origin")
        if origin is None or self._is_same(origin, headers.get("host", "")):
            return {"cross-origin-resource-policy": "same-origin"}
        if not any(pattern.fullmatch(origin) for pattern in self._origins):
            return {"cross-origin-resource-policy": "same-origin", "vary": "Origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED,
            "cross-origin-resource-policy": "cross-origin",
            "vary": "Origin",
        }

    def preflight(self, headers: Headers, methods: str) -> dict[str, str]:
        """Headers that answer a browser's question whether a page may send a request."""
        if "origin" not in headers or "access-control-request-method" not in headers:
            return {}
        answer = {
            "access-control-allow-methods": methods,
            "access-control-allow-headers": headers.get("access-control-request-headers", "*"),
            "access-control-max-age": str(KEPT),
        }
        if headers.get("access-control-request-private-network") == "true":
            answer["access-control-allow-private-network"] = "true"
        return answer

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].strip("[]").lower().rstrip(".")
        if "*" in self._hosts or name in self._hosts or _is_numeric(name) or is_loopback(name):
            return True
        return name.endswith(".localhost") or any(
            each.startswith("*.") and name.endswith(each[1:]) for each in self._hosts
        )

    def _may_use(self, origin: str, host: str) -> bool:
        return self._is_same(origin, host) or any(pattern.fullmatch(origin) for pattern in self._origins)

    @staticmethod
    def _is_same(origin: str, host: str) -> bool:
        scheme, _, rest = origin.lower().partition("://")
        port = {"http": ":80", "https": ":443"}.get(scheme)
        return port is not None and rest.removesuffix(port) == host.lower().removesuffix(port)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _pattern(origin: str) -> re.Pattern[str]:
    """What an origin must be, ``*`` standing for a port, for all behind ``://``, or for everything."""
    spelled = re.escape(origin).replace(r"\*", "[^/]*" if origin != "*" else ".*")
    return re.compile(spelled, re.IGNORECASE | re.DOTALL)
