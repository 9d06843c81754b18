"""One line for each request, as text or as JSON; and what is learned of it on the way."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .endpoint import Body
from .exchange import Event, Finished, Piece, Started, Usage
from .settings import ServerSettings

ROOT = __package__
"""The logger that all of the server's are under."""
REQUESTS = logging.getLogger(f"{ROOT}.requests")
LIBRARY = "uvicorn"
GONE = 499
"""Stands for the status of an answer that its client did not wait for."""
LONGEST = 200
NOTED = 500

_log = logging.getLogger(__name__)


@dataclass
class Record:
    """A request as the log and the metrics tell of it.

    Attributes:
        id, client, method, path: of the request.
        name: of what answers it.
        begun: when it came, by the monotonic clock.
        status: of HTTP; of an error within a stream the error's; ``GONE``.
        error: what went wrong, as the client was told.
        streamed: whether the answer came in pieces.
        prompt_tokens, cached_tokens: None before its first token.
        first_token: seconds from the request to its first token.
        tokens: that came, of all answers.
        finished: how each answer ended.
        seconds: from the request to the end.
    """

    id: str
    client: str
    method: str
    path: str
    name: str = "unknown"
    begun: float = field(default_factory=time.monotonic)
    status: int = 0
    error: str | None = None
    streamed: bool = False
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    first_token: float | None = None
    tokens: int = 0
    finished: list[Finished] = field(default_factory=list)
    seconds: float = 0.0

    def see(self, event: Event) -> None:
        """An event of the answer."""
        match event:
            case Started(prompt_tokens, cached_tokens):
                self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
                self.first_token = time.monotonic() - self.begun
            case Piece():
                self.tokens += len(event.tokens)
            case Finished():
                self.finished.append(event)

    @property
    def usage(self) -> Usage:
        """Of the answers that have ended."""
        return sum((each.usage for each in self.finished), Usage())

    def end(self) -> None:
        """Write the line."""
        self.seconds = time.monotonic() - self.begun
        level = logging.WARNING if self.status >= 500 else logging.INFO
        if REQUESTS.isEnabledFor(level):
            REQUESTS.log(level, "%s", self._line(), extra={"fields": self._fields()})

    def _fields(self) -> dict[str, Any]:
        usage = self.usage
        fields = {
            "id": self.id,
            "client": self.client,
            "method": self.method,
            "path": _short(self.path),
            "endpoint": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }
        if self.prompt_tokens is not None:
            fields |= {
                "stream": self.streamed,
                "prompt_tokens": self.prompt_tokens,
                "cached_tokens": self.cached_tokens,
                "completion_tokens": usage.completion_tokens or self.tokens,
                "tokens_per_round": round(usage.completion_tokens / usage.rounds, 2) if usage.rounds else None,
                "first_token_seconds": round(self.first_token or 0.0, 3),
                "finish": ",".join(each.reason.value for each in self.finished) or None,
            }
        return {name: value for name, value in fields.items() if value is not None}

    def _line(self) -> str:
        fields = self._fields()
        words = [_quoted(fields.pop(name)) for name in ("method", "path", "status")]
        return " ".join([*words, *(f"{name}={_quoted(value)}" for name, value in fields.items() if value != "")])


class JsonLines(logging.Formatter):
    """Each record as a JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {"time": record.created, "level": record.levelname.lower(), "logger": record.name}
        fields: Mapping[str, Any] | None = vars(record).get("fields")
        told: dict[str, Any] = {**line, **(fields if fields is not None else {"message": record.getMessage()})}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=True, default=str)


def write_log(settings: ServerSettings) -> logging.Handler:
    """Send what the server and its library have to say to standard error; the handler, for ``end_log``."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(JsonLines() if settings.log_json else text)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    for name, least in ((ROOT, level), (LIBRARY, max(level, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(least)
        logger.propagate = False
    return handler


def end_log(handler: logging.Handler) -> None:
    """Take back what ``write_log`` has done."""
    for name in (ROOT, LIBRARY):
        logger = logging.getLogger(name)
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


class UnknownFields:
    """Says once of each field of a body that nothing reads it."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()

    def note(self, name: str, body: Body, schema: Body) -> None:
        """Look for fields that a schema does not have; of an endpoint without one nothing is known."""
        if "properties" not in schema:
            return
        for key in body.keys() - schema["properties"].keys():
            if (name, key) not in self._noted and len(self._noted) < NOTED:
                self._noted.add((name, key))
                _log.info("%s ignores the field %s of requests, which it does not know", name, _quoted(_short(key)))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _quoted(value: object) -> str:
    """A value in one word, or in quotation marks: nothing that a client sends breaks a line of the log."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text and '"' not in text else json.dumps(text)
