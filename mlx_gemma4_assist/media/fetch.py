"""Where pictures, sound and video come from: a file, bytes, or a URL read within bounds of size, time and redirects."""

import base64
import binascii
import contextlib
import http.client
import io
import os
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import certifi

from .. import __version__
from ..errors import InputError, first_line
from ..text.messages import Media
from .public import PublicHTTP, PublicHTTPS

T = TypeVar("T")
Encoded = str | os.PathLike[str] | bytes
PIECE = 1 << 16


@dataclass(frozen=True)
class Bounds:
    """How far a download may go.

    Attributes:
        size: bytes.
        seconds: from the call to the last byte, name resolution and redirects included.
        redirects: how many are followed.
        public: whether only addresses that are everybody's may be asked, and no proxy.
    """

    size: int = 256 << 20
    seconds: float = 60
    redirects: int = 5
    public: bool = False


def shown(source: Any) -> str:
    """A source as an error message may name it: never a whole data URL or array."""
    if isinstance(source, bytes):
        return f"the {len(source):,} bytes given"
    if not isinstance(source, str | os.PathLike):
        return f"the {type(source).__name__} given"
    name = os.fspath(source)
    if _scheme(name) == "data":
        name = name.partition(",")[0][:60] + ",..."
    return name if len(name) <= 120 else name[:117] + "..."


def open_source(source: Encoded, bounds: Bounds = Bounds()) -> Path | io.BytesIO:
    """What libraries can read: the path of a file that exists, or the bytes given or downloaded.

    Args:
        source: a path, which ``~`` may begin; a ``file``, ``http``, ``https`` or ``data`` URL; the bytes of a file.
        bounds: for URLs.

    Raises:
        InputError: no such file, or a URL that cannot be had within the bounds.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str) and _scheme(source):
        return io.BytesIO(fetch(source, bounds))
    return _file(source)


def check_sources(media: Media) -> None:
    """Refuse files that are not there, before anything is loaded for them. URLs, bytes and arrays are left alone.

    Raises:
        InputError: there is no such file, or it is a folder.
    """
    for sources in media.by_kind.values():
        for source in sources:
            if isinstance(source, os.PathLike) or (isinstance(source, str) and not _scheme(source)):
                _file(source)


def _file(source: str | os.PathLike[str]) -> Path:
    """The path of a file that exists, also from a ``file`` URL or below a home folder.

    Raises:
        InputError: there is none.
    """
    exists = False
    for name in _spellings(source):
        try:
            path = Path(name)
            if path.is_file():
                return path
            exists = exists or path.exists()
        except (OSError, ValueError):  # a name too long, or with a null character
            continue
    raise InputError(f"{shown(source)} is no file" if exists else f"there is no file {shown(source)}")


def _spellings(source: str | os.PathLike[str]) -> Iterator[str]:
    """A path as it may be meant: as it is written, which a home folder's sign is part of if there is such a file."""
    name = os.fspath(source)
    yield name
    if name.startswith("~"):
        yield os.path.expanduser(name)
    elif name[:5].lower() == "file:":
        with contextlib.suppress(ValueError):  # a host that is none
            address = urllib.parse.urlsplit(name)
            if address.hostname in (None, "localhost"):
                yield urllib.request.url2pathname(address.path)


def fetch(url: str, bounds: Bounds = Bounds()) -> bytes:
    """The content of an ``http``, ``https`` or ``data`` URL.

    Raises:
        InputError: it cannot be had, or not within ``bounds``.
    """
    if _scheme(url) == "data":
        content = _decode_data_url(url)
        if len(content) > bounds.size:
            raise InputError(_too_large(url, bounds))
        return content
    try:
        return _within(bounds.seconds, lambda: _download(url, bounds))
    except InputError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a malformed URL
        raise InputError(_why_not(error, url, bounds)) from None


def _why_not(error: Exception, url: str, bounds: Bounds) -> str:
    """Why a download has failed, in one sentence."""
    if isinstance(error, TimeoutError):
        return f"{shown(url)} did not arrive within {bounds.seconds:g} seconds"
    reason: object = first_line(error)
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (301, 302, 303, 307, 308):
            return f"{shown(url)} redirects more than {bounds.redirects} times, or to what is not http"
        reason = f"HTTP {error.code} {error.reason}"
    elif isinstance(error, urllib.error.URLError):
        reason = first_line(error.reason) if isinstance(error.reason, BaseException) else error.reason
    return f"cannot download {shown(url)}: {reason}"


def _scheme(source: str) -> str:
    """One of "http", "https" and "data", or "" for anything else, which is a path then."""
    scheme = source[:8].partition(":")[0].lower()
    if scheme == "data" and source[4:5] == ":":
        return scheme
    return scheme if scheme in ("http", "https") and source[len(scheme) :].startswith("://") else ""


def _too_large(url: str, bounds: Bounds) -> str:
    return f"{shown(url)} is larger than {bounds.size:,} bytes"


def _decode_data_url(url: str) -> bytes:
    header, comma, data = url.partition(",")
    if not comma:
        raise InputError(f"{shown(url)} is no data URL: it has no comma")
    content = urllib.parse.unquote_to_bytes(data)
    if not header.lower().endswith(";base64"):
        return content
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as error:
        raise InputError(f"{shown(url)} is no base64: {error}") from None


def _download(url: str, bounds: Bounds) -> bytes:
    deadline = time.monotonic() + bounds.seconds
    request = urllib.request.Request(url, headers={"User-Agent": f"mlx-gemma4-assist/{__version__}"})
    with _opener(bounds).open(request, timeout=bounds.seconds) as response:
        expected = response.headers.get("Content-Length", "")
        expected = int(expected) if expected.isdecimal() else None
        if expected is not None and expected > bounds.size:
            raise InputError(_too_large(url, bounds))
        content = bytearray()
        while piece := response.read1(PIECE):
            content += piece
            if len(content) > bounds.size:
                raise InputError(_too_large(url, bounds))
            if time.monotonic() > deadline:
                raise TimeoutError
    if expected is not None and len(content) < expected:
        raise InputError(f"{shown(url)} broke off after {len(content):,} of {expected:,} bytes")
    return bytes(content)


def _opener(bounds: Bounds) -> urllib.request.OpenerDirector:
    """http and https only, whatever a redirect asks for."""

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = bounds.redirects
        max_repeats = bounds.redirects

    paths = ssl.get_default_verify_paths()
    # Python as python.org installs it on macOS comes without certificates.
    context = ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if bounds.public else None),
        urllib.request.UnknownHandler(),
        PublicHTTP() if bounds.public else urllib.request.HTTPHandler(),
        PublicHTTPS(context) if bounds.public else urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _within(seconds: float, work: Callable[[], T]) -> T:
    """``work``'s result; it runs in a thread that is left behind when time is up, for not all of it can be timed out.

    Raises:
        TimeoutError: time is up. Otherwise whatever ``work`` raises.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="download").start()
    return done.result(timeout=seconds)
