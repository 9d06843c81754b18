"""A model behind a server: :class:`endpoint.Backend` over OpenAI's protocol, of this package's server or another's.

A server of this package also tells of drafts, of the prompt's progress and of times, counts tokens, and ends thoughts
when asked to; of others only what OpenAI's protocol has is expected. Nothing here imports MLX.
"""

import http.client
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..errors import InputError
from .endpoint import Health, Request, Ticket
from .exchange import ChatRequest, Event, Failed, Model, RequestError, TextRequest
from .remote_http import NOT_FOUND, Connection, Site, as_input_error, events
from .remote_wire import Reader, body_of, is_own, model_of

COMPLETIONS = "/v1/chat/completions"


class RemoteTicket:
    """A request that a server answers, read in a thread of its own: ``endpoint.Ticket``.

    Args:
        site: that is asked.
        body: what it is asked.
        listener: hears what comes; nothing behind :meth:`cancel`.
        told: called with how many tokens prompt and answer have, once that is known.
        own: whether the server can end thoughts.
    """

    def __init__(
        self,
        site: Site,
        body: Mapping[str, Any],
        listener: Callable[[Event], None],
        told: Callable[[int], None],
        own: bool,
    ):
        self._site, self._body, self._listener, self._told, self._own = site, body, listener, told, own
        self._connection, self._reader = Connection(site), Reader()
        self._cancelled = False
        threading.Thread(target=self._run, name="remote answer", daemon=True).start()

    def cancel(self) -> None:
        """As ``endpoint.Ticket`` has it: the connection is closed, which is how a server is told."""
        self._cancelled = True
        self._connection.end()

    def end_thought(self) -> None:
        """As ``endpoint.Ticket`` has it. Does nothing where the server has no way to be asked."""
        if self._own and self._reader.id is not None:
            path = f"/v1/thoughts/{self._reader.id}/end"
            threading.Thread(target=self._ask_to_end, args=(path,), name="end of a thought", daemon=True).start()

    def _ask_to_end(self, path: str) -> None:
        with suppress(RequestError):  # the answer has ended by itself
            self._site.ask("POST", path)

    def _run(self) -> None:
        try:
            self._read()
        except RequestError as error:
            self._tell(Failed(error))
        except (OSError, http.client.HTTPException) as error:
            self._tell(Failed(self._site.unreachable(error)))
        finally:
            self._connection.close()

    def _read(self) -> None:
        response = self._connection.request("POST", COMPLETIONS, self._body)
        for chunk in events(response, self._site.root):
            if chunk is None or self._cancelled:
                break
            for event in self._understood(self._reader.take(chunk)):
                self._tell(event)
        if not self._cancelled:
            last = self._understood(self._reader.end())
            self._told(self._reader.told)
            for event in last:
                self._tell(event)

    def _understood(self, found: Iterable[Event]) -> list[Event]:
        """Raises:
        RequestError: what has come is no answer of the protocol.
        """
        try:
            return list(found)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RequestError(502, f"{self._site.root} answers otherwise than OpenAI's protocol has it") from None

    def _tell(self, event: Event) -> None:
        if not self._cancelled:
            self._listener(event)


class RemoteBackend:
    """A server's model: ``endpoint.Backend``.

    Args:
        site: of the server.
        model: of its models.
        own: whether the server is one of this package.
    """

    def __init__(self, site: Site, model: Model, own: bool):
        self._site, self._model, self._own = site, model, own
        self._told = 0  # tokens of prompt and answer, as the last answer had them

    @classmethod
    def open(cls, url: str, key: str | None = None, model: str | None = None) -> "RemoteBackend":
        """The backend of a server, which is asked for its models.

        Args:
            url: such as ``http://127.0.0.1:8080``.
            key: that it asks for; None sends none.
            model: which of its models; None takes the first.

        Raises:
            InputError: nobody answers there, it wants another key, it has no such model, or is no such server.
        """
        site = Site(url, key)
        try:
            listed = site.ask("GET", "/v1/models").get("data")
        except RequestError as error:
            raise as_input_error(error) from None
        entries = [each for each in listed if isinstance(each, dict) and each.get("id")] if listed else []
        if not entries:
            raise InputError(f"{site.root} lists no models")
        entry = next((each for each in entries if _named(each, model)), None)
        if entry is None:
            there = ", ".join(str(each["id"]) for each in entries[:8])
            raise InputError(f"{site.root} has no model {model!r}, but {there}")
        return cls(site, model_of(entry), is_own(entry))

    @property
    def model(self) -> Model:
        return self._model

    @property
    def address(self) -> str:
        """Of the server."""
        return self._site.root

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Ticket:
        """As ``endpoint.Backend`` has it; what the server refuses comes as ``Failed``.

        Raises:
            RequestError: an option that no server, or not this one, is known to heed.
        """
        body = body_of(_chat(request), self._model, self._own)
        return RemoteTicket(self._site, body, listener, self._count, self._own)

    def tokens(self, request: Request) -> Sequence[int]:
        """As ``endpoint.Backend`` has it. A server that counts no tokens of chats has told how many its last answer had
        with its prompt: so many numbers in a row stand for them.

        Raises:
            RequestError: it is refused, or the server does not answer.
        """
        body = body_of(_chat(request), self._model, self._own)
        asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "draft_info")}
        try:
            found = self._site.ask("POST", "/tokenize", asked).get("tokens")
        except RequestError as error:
            if self._own and error.status != NOT_FOUND:
                raise
            found = None
        return found if isinstance(found, list) and found else range(self._told)

    def tokenize(self, text: str) -> Sequence[int]:
        """As ``endpoint.Backend`` has it.

        Raises:
            RequestError: the server does not do that.
        """
        return [int(token) for token in self._site.ask("POST", "/tokenize", {"content": text})["tokens"]]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """As ``endpoint.Backend`` has it.

        Raises:
            RequestError: the server does not do that, or ids beyond the vocabulary.
        """
        return str(self._site.ask("POST", "/detokenize", {"tokens": list(tokens)})["content"])

    def render(self, request: ChatRequest) -> str:
        """As ``endpoint.Backend`` has it.

        Raises:
            RequestError: it is refused, or the server does not do that.
        """
        return str(self._site.ask("POST", "/apply-template", body_of(request, self._model, self._own))["prompt"])

    def health(self) -> Health:
        """As ``endpoint.Backend`` has it; figures are 0 where the server tells none.

        Raises:
            RequestError: nobody answers.
        """
        if not self._own:
            return Health("ok", self._model.id)
        told = self._site.ask("GET", "/health")
        figures = [int(told.get(name) or 0) for name in ("running", "waiting", "active_memory", "peak_memory")]
        idle = float(told.get("idle_seconds") or 0)
        return Health(str(told.get("status")), self._model.id, figures[0], figures[1], idle, figures[2], figures[3])

    def _count(self, tokens: int) -> None:
        self._told = tokens


def _named(entry: Mapping[str, Any], model: str | None) -> bool:
    return model is None or model == entry["id"] or model in (entry.get("aliases") or ())


def _chat(request: Request) -> ChatRequest:
    if isinstance(request, TextRequest):
        raise RequestError(400, "a server is asked for chats only")
    return request
