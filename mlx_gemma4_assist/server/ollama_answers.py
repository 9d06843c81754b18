"""Answers in the shape of Ollama's API: whole, as lines of a stream, and errors."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ..text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, Delta, ThoughtDelta
from .endpoint import Body, Exchange
from .exchange import (
    Answer,
    Call,
    Choice,
    Event,
    Failed,
    Finished,
    FinishReason,
    Frame,
    Piece,
    Progress,
    RequestError,
    Started,
    TokenInfo,
    Usage,
)
from .openai_answers import finite

AT_ONCE = (0, "0", "0s", "0m", "0h")
"""For how long a model is to be kept, where it is to be freed."""


def error(failure: RequestError) -> Body:
    """An error's body."""
    return {"error": failure.message}


def instant(seconds: float) -> str:
    """Unix time as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Said:
    """What a line tells, or a whole answer: text, thoughts, calls with their places, tokens."""

    answer: str = ""
    thought: str = ""
    calls: Sequence[tuple[int, Call]] = ()
    tokens: Sequence[TokenInfo] = ()


NOTHING = Said()


@dataclass(frozen=True)
class Shape:
    """How one of the two ways to ask is answered.

    Attributes:
        asked: the field of a body without which nothing is asked: clients have a model loaded so, or freed.
    """

    asked: str

    def loads(self, body: Body) -> bool:
        """Whether nothing is asked."""
        return not body.get(self.asked)

    def body(self, exchange: Exchange, said: Said, end: Body | None = None) -> Body:
        """A line, or a whole answer; the last line and a whole answer have an end."""
        words: dict[str, Any] = {"thinking": said.thought} if said.thought else {}
        if calls := [told for place, call in said.calls if (told := _call(place, call)) is not None]:
            words["tool_calls"] = calls
        if self is CHAT:
            words = {"message": {"role": "assistant", "content": said.answer, **words}}
        else:
            words = {"response": said.answer, **words}
        if exchange.body.get("logprobs") and said.tokens:
            words["logprobs"] = _logprobs(said.tokens)
        head = {"model": exchange.body["model"], "created_at": instant(exchange.created)}
        return {**head, **words, **(end or {"done": False})}

    def whole(self, exchange: Exchange, answer: Answer) -> Body:
        """An answer that is not streamed."""
        choice = answer.choices[0] if answer.choices else Choice()
        said = Said(
            choice.answer, choice.thought, [each for each in enumerate(choice.calls) if each[1].complete], choice.tokens
        )
        end = self.end(exchange, choice.finished, answer.prompt_tokens)
        return self.body(exchange, NOTHING if self.loads(exchange.body) else said, end)

    def writer(self, exchange: Exchange) -> "LinesWriter":
        """Of an answer that is."""
        return LinesWriter(exchange, self)

    def end(self, exchange: Exchange, finished: Finished | None, prompt_tokens: int) -> Body:
        """What the last line tells of an answer; of a model that was loaded only that."""
        if self.loads(exchange.body):
            return {"done": True, "done_reason": "unload" if exchange.body.get("keep_alive") in AT_ONCE else "load"}
        finished = finished or Finished(0, FinishReason.LENGTH, None, Usage())
        waited, read, made = (round(each * 1e9) for each in (finished.queued, finished.prompt, finished.generation))
        return {
            "done": True,
            "done_reason": "length" if finished.reason is FinishReason.LENGTH else "stop",
            "total_duration": waited + read + made,
            "load_duration": waited,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": read,
            "eval_count": finished.usage.completion_tokens,
            "eval_duration": made,
        }


CHAT = Shape("messages")
GENERATE = Shape("prompt")


class LinesWriter:
    """An answer as lines, each with what it adds. A call is told of when it is complete.

    While a prompt is read, lines without text are signs of life.
    """

    def __init__(self, exchange: Exchange, shape: Shape):
        self._exchange, self._shape = exchange, shape
        self._loads = shape.loads(exchange.body)
        self._prompt_tokens = 0
        self._calls: dict[int, Call] = {}

    def take(self, event: Event) -> Iterable[Frame]:
        """The frames that an event gives."""
        match event:
            case Failed(failure):
                return [Frame(error(failure))]
            case Started(prompt_tokens):
                self._prompt_tokens = prompt_tokens
            case Progress() if not self._loads:
                return [self._line(NOTHING)]
            case Piece() if not self._loads:
                return [self._line(said) for said in self._said(event)]
            case Finished():
                return [self._line(NOTHING, self._shape.end(self._exchange, event, self._prompt_tokens))]
        return []

    def _line(self, said: Said, end: Body | None = None) -> Frame:
        return Frame(self._shape.body(self._exchange, said, end))

    def _said(self, piece: Piece) -> list[Said]:
        """What a piece adds, line by line; the first one has its tokens."""
        lines = [said for delta in piece.deltas if (said := self._delta(delta)) is not None]
        if piece.tokens and self._exchange.body.get("logprobs"):
            lines[:1] = [replace(lines[0] if lines else NOTHING, tokens=piece.tokens)]
        return lines

    def _delta(self, delta: Delta) -> Said | None:
        match delta:
            case AnswerDelta(text) if text:
                return Said(answer=text)
            case ThoughtDelta(text) if text:
                return Said(thought=text)
            case CallBegun(index, identity, name):
                self._calls[index] = Call(identity, name)
            case CallArguments(index, text):
                self._calls[index].arguments += text
            case CallEnded(index):
                return Said(calls=[(index, self._calls[index])])
        return None


def _call(place: int, call: Call) -> Mapping[str, Any] | None:
    """A call, None where its arguments are cut off."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": call.id, "function": {"index": place, "name": call.name, "arguments": arguments}}


def _logprobs(tokens: Sequence[TokenInfo]) -> list[Mapping[str, Any]]:
    return [
        {
            "token": token.text,
            "logprob": finite(token.logprob),
            "top_logprobs": [{"token": text, "logprob": finite(logprob)} for _, text, logprob in token.top],
        }
        for token in tokens
        if token.logprob is not None
    ]
