"""What goes wrong between here and the Hub, in words for one sentence: downloads and uploads share them."""

import http
from collections.abc import Mapping

from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # httpx's, imported there

from ..errors import first_line

_ADVICE = {
    401: "the token is not valid: run `hf auth login` again or set another HF_TOKEN",
    429: "too many requests: wait, or log in with `hf auth login`",
}


def refusal(what: str, error: HfHubHTTPError, advice: Mapping[int, str]) -> str:
    """That the Hub answered with an error: its status in words, what can be done about it, and what the Hub said.

    Args:
        what: was refused.
        error: the Hub's library raised it.
        advice: by status, where more is known of it than that.
    """
    status = _status(error.response.status_code, {**_ADVICE, **advice})
    said = next(iter((error.server_message or "").splitlines()), "") or first_line(error)
    return f"the Hub refused {what} ({status}): {said}"


def _status(code: int, advice: Mapping[int, str]) -> str:
    try:
        phrase = f"HTTP {code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        phrase = f"HTTP {code}"
    advised = advice.get(code) or ("its own fault, try again later" if code >= 500 else "")
    return f"{phrase}; {advised}" if advised else phrase


def failure(error: Exception) -> str:
    """That something else is wrong, where the error's own words do not say what they are about.

    The Hub's library lets through what its HTTP client, its proxies, its encodings and JSON raise: no common class.
    """
    if isinstance(error, HTTPError | OSError | ImportError):  # a connection lost half-way; a full disk; SOCKS
        return first_line(error)
    if isinstance(error, UnicodeError):
        return f"the token or the address has a letter that is not ASCII ({first_line(error)})"
    return f"what HF_ENDPOINT or a proxy leads to is not the Hub ({type(error).__name__}: {first_line(error)})"
