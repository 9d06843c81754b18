"""What the environment says, checked before libraries are imported that would fail at it."""

import os
from urllib.parse import urlsplit

from .errors import InputError


def check_endpoint() -> None:
    """Refuse an ``HF_ENDPOINT`` at which huggingface_hub's import, and transformers' with it, would end in a traceback.

    Raises:
        InputError: with the address.
    """
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        parts = urlsplit(address)
        _ = parts.hostname, parts.port
    except ValueError as error:  # brackets that hold no IPv6 address, a port that is no number
        raise InputError(f"HF_ENDPOINT is {address!r:.100}, which is no address: {error}") from None
