"""HTTP as a client of a server elsewhere: JSON asked and read, streams read line by line, errors in one sentence."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import certifi

from ..errors import InputError, OptionError, first_line
from .exchange import RequestError

CONNECT = 10.0  # seconds for a server to take the connection
ANSWER = 30.0  # seconds for an answer that is no stream
SILENCE = 900.0  # seconds without a byte, as of servers that give no sign of life while they read a long prompt
LONGEST = 300  # characters of an answer that is quoted
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


class Site:
    """A server's address, and the key that it asks for.

    Args:
        url: such as ``http://127.0.0.1:8080``, with or without ``/v1`` behind it, or ``host:port``.
        key: None where there is none.

    Attributes:
        root: the address without ``/v1``.

    Raises:
        OptionError: it is no such address, or no key that can be sent.
    """

    def __init__(self, url: str, key: str | None = None):
        parts = _parts(url)
        if parts is None:
            raise OptionError("{server} is {value!r}, expected an address such as http://127.0.0.1:8080", value=url)
        key = None if key is None else key.strip()
        if key is not None and not (key.isascii() and key.isprintable()):
            raise OptionError("{api_key} has characters in it that no key can have")
        path = parts.path.rstrip("/").removesuffix("/v1")
        self.root = f"{parts.scheme}://{parts.netloc}{path}"
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._path, self._key = path, key

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """The JSON object that a path answers with.

        Raises:
            RequestError: nobody answers, or with an error, or with something else.
        """
        connection = Connection(self, ANSWER)
        try:
            return json_object(connection.request(method, path, body).read(), self.root)
        except (OSError, http.client.HTTPException) as error:
            raise self.unreachable(error) from None
        finally:
            connection.close()

    def connection(self, seconds: float) -> http.client.HTTPConnection:
        """One that is not open yet; ``seconds`` is how long it waits for each byte."""
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        paths = ssl.get_default_verify_paths()
        # Python as python.org installs it on macOS comes without certificates.
        context = ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())
        return http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=context)

    def address(self, path: str) -> str:
        """A path behind that of the server."""
        return f"{self._path}{path}"

    @property
    def headers(self) -> dict[str, str]:
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **key}

    def refused(self, status: int, content: bytes) -> RequestError:
        """What an answer with an error says, in one sentence."""
        if status in (UNAUTHORIZED, FORBIDDEN):
            asks = "asks for a key: --api-key, or OPENAI_API_KEY" if self._key is None else "does not take this key"
            return RequestError(status, f"{self.root} {asks}")
        said = _message(content)
        why = f": {said}" if said else ""
        return RequestError(status, said if said and status < 500 else f"{self.root} answers with {status}{why}")

    def unreachable(self, error: BaseException) -> RequestError:
        """What a connection has failed with, in one sentence."""
        if isinstance(error, ConnectionRefusedError):
            return RequestError(503, f"nobody answers at {self.root}: is a server running there?")
        if isinstance(error, TimeoutError):
            return RequestError(503, f"{self.root} does not answer in time")
        if isinstance(error, socket.gaierror):
            return RequestError(503, f"the host of {self.root} is not known here")
        return RequestError(503, f"the connection to {self.root} has failed: {first_line(error)}")


class Connection:
    """A connection for one request, which another thread may end at any time.

    Args:
        site: to which.
        silence: seconds without a byte after which it has failed.
    """

    def __init__(self, site: Site, silence: float = SILENCE):
        self._site, self._silence = site, silence
        self._http = site.connection(CONNECT)
        self._lock = threading.Lock()
        self._closed = False

    def request(self, method: str, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        """What comes back, once its headers are there.

        Raises:
            RequestError: it is an error.
            OSError, http.client.HTTPException: the connection has failed, or has been ended.
        """
        self._http.connect()
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("it was ended")
            self._http.sock.settimeout(self._silence)
        content = None if body is None else json.dumps(body).encode()
        self._http.request(method, self._site.address(path), content, self._site.headers)
        response = self._http.getresponse()
        if response.status >= 400:
            raise self._site.refused(response.status, response.read(1 << 16))
        if response.status != 200:
            raise RequestError(502, f"{self._site.root} answers with {response.status}: is it an OpenAI server?")
        return response

    def end(self) -> None:
        """For another thread: who waits for bytes is woken, and the server sees that nobody reads any longer."""
        with self._lock:
            self._closed = True
            sock = self._http.sock
        if sock is not None:
            with suppress(OSError):  # it has ended already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """For the thread that has asked: nothing more is read."""
        self._http.close()


def events(response: http.client.HTTPResponse, place: str) -> Iterator[Mapping[str, Any] | None]:
    """The objects of a stream of server-sent events as they come; None is the mark of its end.

    Raises:
        RequestError: what comes is something else.
    """
    for line in response:
        text = line.strip()
        if text == b"data: [DONE]":
            yield None
        elif text.startswith(b"data:"):
            yield json_object(text[5:], place)
        elif text and not text.startswith((b":", b"event:", b"id:", b"retry:")):
            raise _strange(place)


def _parts(url: str) -> SplitResult | None:
    """The parts of a server's address; None if it is none."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host = (parts.hostname or "").encode("idna")
        return parts if parts.scheme in ("http", "https") and host and parts.port != 0 else None
    except ValueError:  # of addresses, ports, and names that no host can have
        return None


def json_object(content: bytes, place: str) -> Mapping[str, Any]:
    """An object in JSON.

    Raises:
        RequestError: it is none.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _strange(place) from None
    if not isinstance(found, dict):
        raise _strange(place)
    return found


def _strange(place: str) -> RequestError:
    return RequestError(502, f"{place} answers with what is no JSON: is it an OpenAI server?")


def _message(content: bytes) -> str:
    """The sentence in an error's body, in any of the shapes that servers give it; empty if there is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    if isinstance(found, dict):
        found = found.get("message")
    return " ".join(found.split())[:LONGEST] if isinstance(found, str) else ""


def as_input_error(error: RequestError) -> InputError:
    """The error of a request as one of input."""
    return InputError(error.message)
