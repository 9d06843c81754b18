"""One answer on its way: token events of the engine in, events of the exchange out, in the engine's thread."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from ..engine.loop import LogProbs
from ..engine.request import TokenEvent
from ..engine.responses import SpeculationStats
from ..engine.tasks import Following
from ..text.deltas import AnswerDelta, CallArguments, Delta, ThoughtDelta
from .exchange import Event, Finished, FinishReason, Piece, TokenInfo, Usage

Spelled = Callable[[int], str]
"""The text of one token alone."""


class Turn(Protocol):
    """What turns an answer's tokens into text.

    Attributes:
        stop: the stop string that has ended it; None so far.
        ended: whether nothing more comes of it.
        calls: of tools, how many are complete.
        thought_tokens: how many of the tokens so far are thoughts.
    """

    @property
    def stop(self) -> str | None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def calls(self) -> int: ...
    @property
    def thought_tokens(self) -> int: ...
    def add(self, tokens: Iterable[int]) -> list[Delta]:
        """What tokens bring, those that end a turn included."""

    def finish(self) -> list[Delta]:
        """What was held back, when no more tokens are to come."""


@dataclass(frozen=True)
class Answered:
    """An answer that has ended.

    Attributes:
        tokens: ids.
        text: without thoughts and calls.
        turn: has read it.
    """

    tokens: Sequence[int]
    text: str
    turn: Turn


class Whole(Protocol):
    """What an answer belongs to: a request, with all its answers."""

    def read(self, number: int, done: int, total: int) -> None:
        """Of an answer's prompt so much was computed."""

    def started(self, number: int, cached_tokens: int) -> None:
        """An answer has its first tokens."""

    def emit(self, event: Event) -> None:
        """Tell the listener."""

    def ended(self, number: int, answered: Answered) -> Following | None:
        """An answer has ended; what finds how a later prompt begins."""

    def failed(self, error: Exception) -> None:
        """No more comes of any answer."""


class Answering:
    """One answer: ``engine.tasks.Listener``.

    Args:
        whole: what it belongs to.
        number: which of its answers this is.
        turn: of its tokens.
        spelled: the text of a token.
    """

    def __init__(self, whole: Whole, number: int, turn: Turn, spelled: Spelled):
        self._whole, self._number, self._turn, self._spelled = whole, number, turn, spelled
        self._tokens: list[int] = []
        self._text = ""
        self._stats = SpeculationStats()
        self._reason = FinishReason.STOP
        self._handed_in = perf_counter()
        self._begun: float | None = None
        self._first: float | None = None

    def progress(self, done: int, total: int) -> None:
        if self._begun is None:
            self._begun = perf_counter()
        self._whole.read(self._number, done, total)

    def take(self, event: TokenEvent, cached_tokens: int) -> int | None:
        if self._first is None:
            self._first = perf_counter()
            self._whole.started(self._number, cached_tokens)
        self._stats.add(event.drafted, event.accepted)
        deltas, infos = self._deltas(event)
        self._text += "".join(delta.text for delta in deltas if isinstance(delta, AnswerDelta))
        cut = event.finish_reason is None and self._turn.ended
        if event.finish_reason == "length" and self._turn.stop is None:
            self._reason = FinishReason.LENGTH
        self._whole.emit(Piece(self._number, tuple(joined(deltas)), tuple(infos)))
        return len(self._tokens) if cut or len(infos) < len(event.tokens) else None

    @property
    def tokens(self) -> Sequence[int]:
        """All so far."""
        return self._tokens

    @property
    def turn(self) -> Turn:
        """What reads its tokens."""
        return self._turn

    def ended(self) -> Following | None:
        if self._reason is FinishReason.STOP and self._turn.calls and self._turn.stop is None:
            self._reason = FinishReason.TOOL_CALLS
        following = self._whole.ended(self._number, Answered(self._tokens, self._text, self._turn))
        self._whole.emit(self._finished())
        return following

    def failed(self, error: Exception) -> None:
        self._whole.failed(error)

    def _deltas(self, event: TokenEvent) -> tuple[list[Delta], list[TokenInfo]]:
        """What a round brings, up to a stop string."""
        deltas: list[Delta] = []
        infos: list[TokenInfo] = []
        for place, token in enumerate(event.tokens):
            self._tokens.append(token)
            infos.append(self._info(token, place, event))
            deltas += self._turn.add([token])
            if self._turn.ended:
                break
        if event.finish_reason is not None:
            deltas += self._turn.finish()
        return deltas, infos

    def _info(self, token: int, place: int, event: TokenEvent) -> TokenInfo:
        draft = place + 1 if place < event.accepted else 0
        said: LogProbs | None = event.log_probs[place] if event.log_probs else None
        if said is None:
            return TokenInfo(token, self._spelled(token), draft)
        top = tuple((other, self._spelled(other), value) for other, value in said.likeliest)
        return TokenInfo(token, self._spelled(token), draft, said.own, top)

    def _finished(self) -> Finished:
        now, stats = perf_counter(), self._stats
        first = self._first or now
        begun = self._begun or first
        usage = Usage(
            len(self._tokens),
            self._turn.thought_tokens,
            stats.drafted,
            stats.accepted,
            stats.rounds,
            tuple(stats.accepted_at),
            tuple(stats.drafted_at),
        )
        waited, read, made = begun - self._handed_in, first - begun, now - first
        return Finished(self._number, self._reason, self._turn.stop, usage, waited, read, made)


def joined(deltas: Sequence[Delta]) -> list[Delta]:
    """Pieces of the same kind that follow one another as one; empty ones fall away."""
    found: list[Delta] = []
    for delta in deltas:
        if delta in (AnswerDelta(""), ThoughtDelta("")):
            continue
        one = _together(found[-1], delta) if found else None
        if one is None:
            found.append(delta)
        else:
            found[-1] = one
    return found


def _together(before: Delta, delta: Delta) -> Delta | None:
    match before, delta:
        case AnswerDelta(text), AnswerDelta(more):
            return AnswerDelta(text + more)
        case ThoughtDelta(text), ThoughtDelta(more):
            return ThoughtDelta(text + more)
        case CallArguments(index, json), CallArguments(same, more) if index == same:
            return CallArguments(index, json + more)
    return None
