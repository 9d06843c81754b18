"""Reading a request's body: bounded in bytes, in time, and in what JSON it may hold."""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from .endpoint import Body
from .exchange import RequestError, bad_request
from .faults import ClientGone

MAX_DEPTH = 100
"""Objects and lists within each other. Whatever follows a value down does so by recursion."""
MAX_DIGITS = 20
"""Of an integer: those of 64 bits without a sign."""
DRAINED = 8
"""How many times the largest body is still taken, and dropped, so that its sender gets to read why."""
DRAIN_TIME = 5.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_HALF_OF_A_PAIR = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int, seconds: float) -> bytes:
    """The bytes of a body.

    Args:
        receive: of ASGI.
        headers: of the request, by names in lower case.
        limit: the most bytes.
        seconds: the most time.

    Raises:
        RequestError: it is too long, compressed, or does not come.
        ClientGone: the client does not finish it.
    """
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise RequestError(415, "Compressed bodies are not supported: send the body without a Content-Encoding.")
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive, limit)
    except TimeoutError:
        raise RequestError(408, f"The body did not arrive within {seconds:g} seconds.") from None


async def _collect(receive: Receive, limit: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        part, more = await _next_part(receive)
        size += len(part)
        if size > limit:
            await _drain(receive, more, limit)
            raise RequestError(413, f"The body is longer than {limit} bytes.", code="request_too_large")
        parts.append(part)
    return b"".join(parts)


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _drain(receive: Receive, more: bool, limit: int) -> None:
    """Drop the rest of a long body: most clients read no answer before they have sent all of it."""
    dropped = 0
    try:
        async with asyncio.timeout(DRAIN_TIME):
            while more and dropped < DRAINED * limit:
                part, more = await _next_part(receive)
                dropped += len(part)
    except TimeoutError:
        pass


def parse_body(content: bytes) -> Body:
    """A body as the JSON object that it is; no content counts as an object without fields.

    What a half of a surrogate pair stands for, as texts have that were cut within an emoji, is replaced.

    Raises:
        RequestError: it is no JSON object in UTF-8, or has keys twice, numbers beyond 64 bits, or too many levels.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8: byte {error.start} is {content[error.start]:#04x}.") from None
    if not text.strip():
        return {}
    value = _parsed(text)
    if not isinstance(value, dict):
        raise bad_request(f"The body is {_kind(value)}, expected a JSON object.")
    if _depth_exceeds(value, MAX_DEPTH):
        raise bad_request(f"The body has more than {MAX_DEPTH} levels of lists and objects.")
    return _whole_letters(value) if _HALF_OF_A_PAIR.search(text) else value


def _parsed(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise bad_request(f"The body has more than {MAX_DEPTH} levels of lists and objects.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise bad_request(f"The body has the key {twice[:100]!r} twice in one object.")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise bad_request(f"The body has an integer of more than {MAX_DIGITS} digits.")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise bad_request(f"The body has the number {text[:40]}, which is too large.")
    return number


def _no_constant(name: str) -> float:
    raise bad_request(f"The body has {name}, which is not JSON.")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects lie deeper within each other, without recursion."""
    level = [value]
    for _ in range(limit):
        level = [child for each in level for child in _children(each) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _whole_letters(value: Any) -> Any:
    """The same without lone surrogates, which no encoding of text has."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_letters(each) for each in value]
    if isinstance(value, dict):
        return {_whole_letters(key): _whole_letters(each) for key, each in value.items()}
    return value
