"""What the environment says, seen to before libraries are imported that would fail at it."""

import os
from urllib.parse import urlsplit

NOBODY = "http://hub.invalid"
"""The address of a Hub that cannot be: names in ``.invalid`` are given to nobody (RFC 2606)."""

_complaints: list[str] = []


def mend_endpoint() -> None:
    """Put ``NOBODY`` in the place of an ``HF_ENDPOINT`` at which huggingface_hub's import would end in a traceback, and
    transformers' with it.

    What lies in a folder or in the Hub's cache can then be had as without a network; :func:`endpoint_complaint` says
    why nothing else can.
    """
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        parts = urlsplit(address)
        _ = parts.hostname, parts.port
    except ValueError as error:  # brackets that hold no IPv6 address, a port that is no number
        _complaints.append(f"HF_ENDPOINT is {address!r:.100}, which is no address: {error}")
        os.environ["HF_ENDPOINT"] = NOBODY


def endpoint_complaint() -> str | None:
    """What was wrong with ``HF_ENDPOINT``; None if nothing was."""
    return _complaints[-1] if _complaints else None
