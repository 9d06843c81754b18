"""Errors as clients are told of them; what goes wrong in the program itself is written to the log, never told."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError
from .endpoint import Body
from .exchange import RequestError

_log = logging.getLogger(__name__)

BUG = "The server has failed over this request; its log says why."


class Unwanted(Exception):
    """Nobody is to be told anything more."""


class ClientGone(Unwanted):
    """The client has closed its connection."""


class TooSlow(Unwanted):
    """The client does not read what it has asked for."""


def openai_error(error: RequestError) -> Body:
    """The body of an error as OpenAI has it, for whatever belongs to no protocol."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


@contextmanager
def told_as_errors(what: str) -> Iterator[None]:
    """Within it, every exception becomes a ``RequestError``.

    Args:
        what: was being done, for the log.

    Raises:
        RequestError: as raised; 400 of an ``InputError``; 500 of any other exception, which is logged.
        Unwanted: as raised.
    """
    try:
        yield
    except (RequestError, Unwanted):
        raise
    except InputError as error:
        raise RequestError(400, str(error)) from None
    except Exception:
        _log.exception("%s has failed", what)
        raise RequestError(500, BUG, "server_error", code="internal_error") from None
