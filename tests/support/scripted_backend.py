"""A backend that answers as it was told to, at once, without a model."""

from collections.abc import Callable, Sequence

from mlx_gemma4_assist.server.endpoint import Health, Request
from mlx_gemma4_assist.server.exchange import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    Model,
    Piece,
    RequestError,
    Started,
    Usage,
)
from mlx_gemma4_assist.text.deltas import AnswerDelta, Delta, ThoughtDelta

HOLD = None
"""In a script: what follows comes when ``ScriptedBackend.go_on`` is called."""

Script = Sequence[Event | None]


def said(
    *words: str, thought: str = "", deltas: Sequence[Delta] = (), reason: FinishReason = FinishReason.STOP
) -> Script:
    """The events of an answer of these words, after a thought if there is one; and other deltas after that."""
    everything = [*([ThoughtDelta(thought)] if thought else []), *map(AnswerDelta, words), *deltas]
    usage = Usage(completion_tokens=len(everything), drafted=6, accepted=4, rounds=3)
    pieces = [Piece(0, (delta,)) for delta in everything]
    return [Started(7, 3), *pieces, Finished(0, FinishReason.STOP, None, usage)]


class Ticket:
    """Of a request: what is asked of it."""

    def __init__(self) -> None:
        self.cancelled = self.thought_ended = 0

    def cancel(self) -> None:
        self.cancelled += 1

    def end_thought(self) -> None:
        self.thought_ended += 1


class ScriptedBackend:
    """A backend.

    Attributes:
        requests, tickets: so far.

    Args:
        *scripts: what it answers to one request after the other; an error refuses it.
    """

    def __init__(self, *scripts: Script | RequestError):
        self.model = Model(id="google/gemma-4-E2B-it", context=100)
        self.requests: list[Request] = []
        self.tickets: list[Ticket] = []
        self._scripts = list(scripts)
        self._held: list[Callable[[], None]] = []

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Ticket:
        self.requests.append(request)
        script = self._scripts.pop(0)
        if isinstance(script, RequestError):
            raise script
        ticket = Ticket()
        self.tickets.append(ticket)
        self._play(list(script), ticket, listener)
        return ticket

    def go_on(self) -> None:
        """Bring what was held."""
        held, self._held = self._held, []
        for play in held:
            play()

    def _play(self, script: list[Event | None], ticket: Ticket, listener: Callable[[Event], None]) -> None:
        while script:
            event = script.pop(0)
            if event is HOLD:
                self._held.append(lambda: self._play(script, ticket, listener))
                return
            if not ticket.cancelled:
                listener(event)

    def tokens(self, request: Request) -> Sequence[int]:
        return [1]

    def tokenize(self, text: str) -> Sequence[int]:
        return list(text.encode())

    def detokenize(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    def render(self, request: ChatRequest) -> str:
        return str(request.messages)

    def health(self) -> Health:
        return Health("ok", self.model.id)
