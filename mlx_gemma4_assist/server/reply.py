"""A reply while it is made: events of a backend in, pieces of text for whoever iterates over it out."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

from ..errors import InputError
from ..text.channels import CLOSE, OPEN
from ..text.deltas import AnswerDelta, CallBegun, ThoughtDelta
from .endpoint import Ticket
from .exchange import Answer, Event, Failed, Finished, Piece, Progress, RequestError, Usage
from .spans import Sources, Span


@dataclass(frozen=True)
class ReplyPiece:
    """The next piece of a reply.

    Attributes:
        text: of the answer, or of what the model thinks.
        channel: which of both it is.
        spans: the same text by where it came from, the target or its drafts; equality of pieces leaves them aside.
    """

    text: str
    channel: Literal["answer", "thought"] = "answer"
    spans: tuple[Span, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class _End:
    """No more pieces come; ``error`` is why, if the reply has failed."""

    error: RequestError | None


class Reply(Iterator[ReplyPiece]):
    """A reply while it is made; iterate over it for its pieces. It goes on being made if nobody does.

    Attributes are there at any time, and complete once the iteration has ended.
    """

    def __init__(self, finish: Callable[["Reply"], None]):
        self._finish = finish  # may be told more than once
        self._queue: SimpleQueue[ReplyPiece | _End] = SimpleQueue()
        self._lock = threading.RLock()  # whoever cancels in a signal handler may interrupt who holds it
        self._made, self._sources = Answer(), Sources()
        self._progress = 0, 0
        self._ticket: Ticket | None = None
        self._ended = self._cancelled = self._read = False
        self._error: RequestError | None = None

    def __next__(self) -> ReplyPiece:
        """Raises:
        InputError: the request has failed.
        """
        piece = self.next_piece(None)
        assert piece is not None
        return piece

    def next_piece(self, timeout: float | None) -> ReplyPiece | None:
        """The next piece; None if none has come within so many seconds. Without a limit it is waited for.

        Raises:
            StopIteration: there are no more.
            InputError: the request has failed.
        """
        if self._read:
            raise StopIteration
        try:
            found = self._queue.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(found, ReplyPiece):
            return found
        self._queue.put(found)  # for other threads that wait
        read, self._read = self._read, True
        if found.error is not None and not read:
            raise InputError(found.error.message)
        raise StopIteration

    @property
    def answer(self) -> str:
        """The answer so far."""
        return self._made.choices[0].answer if self._made.choices else ""

    @property
    def thought(self) -> str:
        """What the model has thought so far."""
        return self._made.choices[0].thought if self._made.choices else ""

    @property
    def progress(self) -> tuple[int, int]:
        """How many tokens of the prompt are there, computed or from a cache, and how many it has."""
        return self._progress

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt; 0 before the first token of the reply is there."""
        return self._made.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the prompt's tokens, how many were not computed, since a cache had them; 0 before the first token."""
        return self._made.cached_tokens

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of what the conversation shows, such as that a sound is cut at 30 seconds; a
        sentence each, once the first token is there."""
        return self._made.notes

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of all tokens so far, thoughts and control tokens included; none from a backend that does not tell them."""
        return tuple(token.id for token in self._made.choices[0].tokens) if self._made.choices else ()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Of the answer's tokens so far, without thoughts; none where they are not known."""
        kept: list[int] = []
        inside = False
        for token in self._made.choices[0].tokens if self._made.choices else ():
            if token.text in (OPEN, CLOSE):
                kept = [] if token.text == CLOSE and not inside else kept  # of a thought that the prompt has opened
                inside = token.text == OPEN
            elif not inside:
                kept.append(token.id)
        return tuple(kept) if all(i >= 0 for i in kept) else ()

    @property
    def finish_reason(self) -> str | None:
        """``stop`` or ``length``; ``cancelled``; ``error``; None as long as it goes on."""
        if self._cancelled:
            return "cancelled"
        if self._error is not None:
            return "error"
        finished = self.finished
        return None if finished is None else finished.reason.value

    @property
    def usage(self) -> Usage:
        """Tokens and drafts, once it has ended by itself."""
        finished = self.finished
        return Usage() if finished is None else finished.usage

    @property
    def finished(self) -> Finished | None:
        """How it has ended, its usage and times among it; None unless it has ended by itself."""
        return self._made.choices[0].finished if self._made.choices else None

    def cancel(self) -> None:
        """End it. What was made stays in the conversation; nothing more comes."""
        with self._lock:
            over = self._ended
            if not over:
                self._ended = self._cancelled = True
            ticket = self._ticket
        if over:
            self._finish(self)  # it may have ended a moment ago, and who cancels wants to go on
            return
        if ticket is not None:
            ticket.cancel()
        self._end(None)

    def end_thought(self) -> None:
        """Let the model stop thinking, and answer now."""
        if self._ticket is not None:
            self._ticket.end_thought()

    def _accept(self, ticket: Ticket) -> None:
        """The backend has taken the request; whoever has cancelled it meanwhile is heard now."""
        with self._lock:
            self._ticket = ticket
            cancelled = self._cancelled
        if cancelled:
            ticket.cancel()

    def _take(self, event: Event) -> None:
        """An event, in the backend's thread."""
        with self._lock:
            if self._ended:
                return
            if isinstance(event, Failed):
                self._error = event.error
            else:
                self._made.take(event)
            self._ended = isinstance(event, Failed | Finished)
            if isinstance(event, Progress):
                self._progress = event.done, event.total
            elif isinstance(event, Piece):
                for piece in self._pieces(event):
                    self._queue.put(piece)
        if isinstance(event, Failed | Finished):
            self._end(self._error)

    def _end(self, error: RequestError | None) -> None:
        self._finish(self)
        self._queue.put(_End(error))

    def _pieces(self, event: Piece) -> Iterator[ReplyPiece]:
        self._sources.take(event.tokens)
        for delta in event.deltas:
            match delta:
                case AnswerDelta(text):
                    yield ReplyPiece(text, "answer", self._sources.spans(text, thought=False))
                case ThoughtDelta(text):
                    yield ReplyPiece(text, "thought", self._sources.spans(text, thought=True))
                case CallBegun():  # nobody has offered tools
                    self._sources.called()
                case _:
                    pass
