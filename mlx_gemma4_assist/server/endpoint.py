"""What a protocol consists of, and what stands behind all of them: the two sides that HTTP joins."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from .exchange import Answer, ChatRequest, Event, Frame, Model, RequestError, TextRequest

Request = ChatRequest | TextRequest
Body = Mapping[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A request on its way, as its answer names it.

    Attributes:
        request: as read.
        body: as it came.
        model: that answers.
        id: 24 hexadecimal digits; protocols put their own beginning before it.
        created: Unix time.
    """

    request: Request
    body: Body
    model: Model
    id: str
    created: int


class Writer(Protocol):
    """A streamed answer as it is made."""

    def take(self, event: Event) -> Iterable[Frame]:
        """The frames that an event gives. The first event's come behind those that begin the answer, the last one's
        before those that end it; of ``Failed`` they are the protocol's error."""


class Framing(StrEnum):
    """How frames are put on the wire."""

    EVENTS = "text/event-stream"
    LINES = "application/x-ndjson"


@dataclass(frozen=True)
class Endpoint:
    """A way to ask for text.

    Attributes:
        name: for metrics and logs, such as ``openai.chat``.
        paths: without the optional ``/v1`` before them where the protocol has one, see ``prefixes``.
        read: a body to a request. It raises ``RequestError`` over fields that are wrong or not supported.
        whole: the body of an answer that is not streamed.
        writer: of one that is.
        error: the body that tells of an error before a stream has begun.
        framing: of streams.
        prefixes: that each path has, "" among them where it also goes without.
        body_schema, answer_schema: JSON schemas, for the OpenAPI document; ``$ref`` only within themselves.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[Body, Model], Request]
    whole: Callable[[Exchange, Answer], Body]
    writer: Callable[[Exchange], Writer]
    error: Callable[[RequestError], Body]
    framing: Framing = Framing.EVENTS
    prefixes: tuple[str, ...] = ("/v1", "")
    body_schema: Body = field(default_factory=dict)
    answer_schema: Body = field(default_factory=dict)


@dataclass(frozen=True)
class Lookup:
    """Something that is answered at once, of the model or of text, such as a list of models.

    Attributes:
        name: for metrics and logs.
        method: of HTTP.
        paths, prefixes, error: as of :class:`Endpoint`. A path may have parameters, ``{name:path}``.
        answer: (backend, parameters of the path, body) -> body of the answer.
        body_schema, answer_schema: JSON schemas.
    """

    name: str
    method: str
    paths: tuple[str, ...]
    answer: Callable[["Backend", Mapping[str, str], Body], Body]
    error: Callable[[RequestError], Body]
    prefixes: tuple[str, ...] = ("/v1", "")
    body_schema: Body = field(default_factory=dict)
    answer_schema: Body = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """How the engine does.

    Attributes:
        status: "ok"; "loading"; "unloaded", until the next request; "stuck", with work in hand and no step finished for
            too long; "dead".
        model: its id.
        running, waiting: requests.
        idle: seconds since a step was finished.
        active_memory, peak_memory: bytes of MLX's arrays.
    """

    status: str
    model: str
    running: int = 0
    waiting: int = 0
    idle: float = 0.0
    active_memory: int = 0
    peak_memory: int = 0


class Ticket(Protocol):
    """A request that has been handed over."""

    def cancel(self) -> None:
        """No more is wanted: its row is free within one chunk or round. Does nothing where it has ended."""

    def end_thought(self) -> None:
        """Let the model stop thinking, and answer now."""


class Backend(Protocol):
    """Who answers. All of it may be called from any thread, and nothing of it waits for the device."""

    @property
    def model(self) -> Model: ...

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Ticket:
        """Take a request in. The listener is called with its events, in the backend's thread, and must not wait.

        Raises:
            RequestError: it is refused: a field, a text longer than the context, no room.
        """

    def tokens(self, request: Request) -> Sequence[int]:
        """The ids of a request's prompt, as the model would read it; pictures and sound as placeholders.

        Raises:
            RequestError: it is refused.
        """

    def tokenize(self, text: str) -> Sequence[int]:
        """The ids of raw text, without BOS."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of ids, special tokens included.

        Raises:
            RequestError: ids beyond the vocabulary.
        """

    def render(self, request: ChatRequest) -> str:
        """The text of a request's prompt, special tokens included."""

    def health(self) -> Health:
        """How it does."""
