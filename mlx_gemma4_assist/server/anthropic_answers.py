"""Answers in the shape of Anthropic's Messages API: whole, as a stream of events, and errors."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
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
)

_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error(failure: RequestError) -> Body:
    """An error's body. A prompt that is too long is called so in the words that clients look for."""
    below_500 = "invalid_request_error" if failure.status < 500 else "api_error"
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"
    return {"type": "error", "error": {"type": _ERRORS.get(failure.status, below_500), "message": message}}


def whole(exchange: Exchange, answer: Answer) -> Body:
    """An answer that is not streamed."""
    choice = answer.choices[0] if answer.choices else Choice()
    reason, sequence = _ending(choice.finished)
    content = list(_content(choice, omits_thoughts(exchange.body)))
    usage = _usage(answer.prompt_tokens, answer.cached_tokens, answer.usage.completion_tokens)
    return _message(exchange, usage) | {"content": content, "stop_reason": reason, "stop_sequence": sequence}


def omits_thoughts(body: Body) -> bool:
    """Whether the client wants to know that the model thought, and not what."""
    return (body.get("thinking") or {}).get("display") == "omitted"


def _message(exchange: Exchange, usage: Mapping[str, int]) -> dict[str, Any]:
    """A message as it begins."""
    return {
        "id": f"msg_{exchange.id}",
        "type": "message",
        "role": "assistant",
        "model": exchange.model.id,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": usage,
    }


def _usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens as Anthropic counts them: those that a cache had are not among the input's."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": completion_tokens,
    }


def _ending(finished: Finished | None) -> tuple[str, str | None]:
    """Why an answer ended, and the stop sequence that ended it."""
    if finished is None or finished.reason is FinishReason.LENGTH:
        return "max_tokens", None
    if finished.reason is FinishReason.TOOL_CALLS:
        return "tool_use", None
    return ("end_turn", None) if finished.stop is None else ("stop_sequence", finished.stop)


def _content(choice: Choice, omits: bool) -> Iterator[Body]:
    if choice.thought:
        yield {
            "type": "thinking",
            "thinking": "" if omits else choice.thought,
            "signature": _signature(choice.thought),
        }
    if choice.answer:
        yield {"type": "text", "text": choice.answer}
    for call in choice.calls:
        arguments = _arguments(call) if call.complete else None
        if arguments is not None:
            yield {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _arguments(call: Call) -> Body | None:
    """A call's arguments, None where they were cut off."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _signature(thought: str) -> str:
    """Clients send thoughts back only with a signature. It is not looked at when it comes back."""
    return base64.b64encode(hashlib.sha256(thought.encode()).digest()).decode()


class MessageWriter:
    """A message as a stream of events.

    The message starts with the first sign of life, while the prompt is still read: its input tokens are then what is
    known of them, and its end tells them again.
    """

    def __init__(self, exchange: Exchange):
        self._exchange = exchange
        self._omits = omits_thoughts(exchange.body)
        self._begun = False
        self._started = Started(0, 0)
        self._blocks = 0
        self._open: str | None = None
        self._thought = ""

    def take(self, event: Event) -> Iterable[Frame]:
        """The frames that an event gives."""
        if isinstance(event, Failed):
            return [_frame(error(event.error))]
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Progress) and not self._begun:
            self._started = Started(event.total, 0)
        return [*self._beginning(), *self._frames(event)]

    def _beginning(self) -> Iterator[Frame]:
        if not self._begun:
            self._begun = True
            usage = _usage(self._started.prompt_tokens, self._started.cached_tokens, 0)
            yield _frame({"type": "message_start", "message": _message(self._exchange, usage)})

    def _frames(self, event: Event) -> Iterator[Frame]:
        match event:
            case Progress():
                yield _frame({"type": "ping"})
            case Piece():
                for delta in event.deltas:
                    yield from self._delta(delta)
            case Finished():
                yield from self._close()
                yield from self._end(event)

    def _delta(self, delta: Delta) -> Iterator[Frame]:
        match delta:
            case AnswerDelta(text) if text:
                yield from self._into({"type": "text", "text": ""})
                yield self._grow({"type": "text_delta", "text": text})
            case ThoughtDelta(text) if text:
                yield from self._into({"type": "thinking", "thinking": "", "signature": ""})
                self._thought += text
                if not self._omits:
                    yield self._grow({"type": "thinking_delta", "thinking": text})
            case CallBegun(_, identity, name):
                yield from self._close()
                yield from self._into({"type": "tool_use", "id": identity, "name": name, "input": {}})
            case CallArguments(_, text) if text:
                yield self._grow({"type": "input_json_delta", "partial_json": text})
            case CallEnded():
                yield from self._close()

    def _into(self, block: Body) -> Iterator[Frame]:
        """Frames behind which a block of this type is open."""
        if self._open == block["type"]:
            return
        yield from self._close()
        self._open = block["type"]
        yield _frame({"type": "content_block_start", "index": self._blocks, "content_block": block})

    def _grow(self, delta: Body) -> Frame:
        return _frame({"type": "content_block_delta", "index": self._blocks, "delta": delta})

    def _close(self) -> Iterator[Frame]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._grow({"type": "signature_delta", "signature": _signature(self._thought)})
            self._thought = ""
        yield _frame({"type": "content_block_stop", "index": self._blocks})
        self._open = None
        self._blocks += 1

    def _end(self, finished: Finished) -> Iterator[Frame]:
        reason, sequence = _ending(finished)
        counts = (self._started.prompt_tokens, self._started.cached_tokens, finished.usage.completion_tokens)
        delta = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}
        yield _frame({"type": "message_delta", "delta": delta, "usage": _usage(*counts)})
        yield _frame({"type": "message_stop"})


def _frame(data: Body) -> Frame:
    return Frame(data, event=data["type"])
