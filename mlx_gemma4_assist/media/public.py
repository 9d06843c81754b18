"""Downloads from public addresses only: whoever names a URL must not reach by it what only this machine can reach.

Addresses are looked at where connections are made, so that neither a redirect nor a name that changes its address
between two look-ups leads elsewhere.
"""

import http.client
import ipaddress
import socket
import ssl
import urllib.request
from functools import partial
from typing import Any

_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses as a gateway is asked for them


class NotPublic(OSError):
    """A name that belongs to an address that is not everybody's."""


def is_public(address: str) -> bool:
    """Whether a numeric address is everybody's: not this machine's, a private network's, or a group's."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found in _TRANSLATED or found.teredo is not None:
            return False
        found = found.ipv4_mapped or found.sixtofour or found
    return found.is_global and not found.is_multicast


def connect(host: str, port: int, seconds: float | None) -> socket.socket:
    """A connection to a host all of whose addresses are public.

    Raises:
        NotPublic: one of them is not.
        OSError: there is no such host, or it does not answer.
    """
    addresses = [each[4][0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(isinstance(address, str) and is_public(address) for address in addresses):
        raise NotPublic(f"{host} has no public address")
    failure: OSError = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return socket.create_connection((str(address), port), seconds)
        except OSError as error:
            failure = error
    raise failure


class _Plain(http.client.HTTPConnection):
    """HTTP to public addresses."""

    def connect(self) -> None:
        """Connect."""
        self.sock = connect(self.host, self.port, self.timeout)


class _Encrypted(http.client.HTTPSConnection):
    """HTTPS to public addresses."""

    def __init__(self, host: str, *, context: ssl.SSLContext, **options: Any):
        super().__init__(host, context=context, **options)
        self._tls = context

    def connect(self) -> None:
        """Connect, and agree on a key for the name that was asked for."""
        self.sock = self._tls.wrap_socket(connect(self.host, self.port, self.timeout), server_hostname=self.host)


class PublicHTTP(urllib.request.HTTPHandler):
    """Opens ``http`` URLs of public addresses."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """The response."""
        return self.do_open(_Plain, request)


class PublicHTTPS(urllib.request.HTTPSHandler):
    """Opens ``https`` URLs of public addresses."""

    def __init__(self, context: ssl.SSLContext):
        super().__init__(context=context)
        self._tls = context

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """The response."""
        return self.do_open(partial(_Encrypted, context=self._tls), request)
