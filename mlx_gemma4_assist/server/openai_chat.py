"""OpenAI's chat completions."""

from collections.abc import Iterable
from typing import Any

from ..text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, Delta, ThoughtDelta
from . import openai_answers as answers
from . import openai_options as options
from .endpoint import Body, Endpoint, Exchange
from .exchange import Answer, Call, ChatRequest, Choice, Event, Failed, Finished, Frame, Model, Piece, Progress, Started
from .exchange import FinishReason as Reason
from .fields import FLAG, INTEGER, OBJECT, TEXT, Schema, check, listed, maybe, one_of, optional, record
from .openai_messages import CONTINUING, MESSAGES, continued, conversation
from .openai_tools import TOOLS, is_old, tool_use

UNSUPPORTED = {
    **options.UNSUPPORTED,
    "audio": (),
    "best_of": (1,),
    "chat_template": ("",),
    "documents": ([],),
    "echo": (False,),
    "suffix": ("",),
    "web_search_options": (),
}

BODY: Schema = record(
    {
        "model": maybe(TEXT),
        "messages": MESSAGES,
        **options.SAMPLING,
        **options.THINKING,
        **options.LOGPROBS,
        **TOOLS,
        **CONTINUING,
        **optional(
            {
                "n": {**INTEGER, "minimum": 1, "maximum": options.MOST_ANSWERS},
                "response_format": options.FORM,
                "modalities": listed(one_of("text")),
                "metadata": OBJECT,
                "store": FLAG,
                "verbosity": options.VERBOSITY,
                "prompt_cache_key": TEXT,
                "safety_identifier": TEXT,
            }
        ),
        **options.known(UNSUPPORTED),
    },
    "messages",
)


def read(body: Body, model: Model) -> ChatRequest:
    """A chat to be continued.

    Raises:
        RequestError: a field that is wrong or not supported.
    """
    check(body, BODY)
    options.refuse(body, UNSUPPORTED)
    use, messages = tool_use(body, model), conversation(body, model)
    thinks, budget = options.thinking(body, model)
    return ChatRequest(
        model=options.asked_model(body),
        messages=messages,
        options=options.generation_options(body, body.get("response_format")) | options.log_probabilities(body),
        tools=use.tools,
        tool_choice=use.choice,
        named_tool=use.named,
        parallel_tool_calls=use.parallel,
        thinking=thinks,
        thinking_budget=budget,
        continue_last=continued(body, messages),
        prediction=options.prediction(body),
        answers=int(body.get("n") or 1),
        stream=bool(body.get("stream")),
        priority=options.priority(body),
        fields=options.renamed(body.get("response_format")),
    )


def _common(exchange: Exchange, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{exchange.id}",
        "object": kind,
        "created": exchange.created,
        "model": exchange.model.id,
        "system_fingerprint": answers.fingerprint(exchange),
    }


def _finish_reason(reason: Reason, exchange: Exchange) -> str:
    return "function_call" if reason is Reason.TOOL_CALLS and is_old(exchange.body) else reason.value


# Whole answers


def whole(exchange: Exchange, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return {
        **_common(exchange, "chat.completion"),
        "choices": [_choice(number, choice, exchange) for number, choice in enumerate(answer.choices)],
        "usage": answers.usage(answer),
        "timings": answers.timings(answer),
    }


def _choice(number: int, choice: Choice, exchange: Exchange) -> dict[str, Any]:
    made = {
        "index": number,
        "message": _message(choice, exchange),
        "logprobs": _logprobs(choice.tokens) if exchange.body.get("logprobs") else None,
        "finish_reason": _finish_reason(answers.reason(choice), exchange),
    }
    return made | ({"drafts": answers.drafts(choice.tokens)} if answers.wants_drafts(exchange) else {})


def _message(choice: Choice, exchange: Exchange) -> dict[str, Any]:
    made: dict[str, Any] = {"role": "assistant", "content": choice.answer, "refusal": None}
    if choice.thought:
        made["reasoning_content"] = choice.thought
    if choice.calls:
        made["content"] = choice.answer or None
        if is_old(exchange.body):
            made["function_call"] = _function(choice.calls[0])
        else:
            made["tool_calls"] = [_call(call) for call in choice.calls]
    return made


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": _function(call)}


def _function(call: Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def _logprobs(tokens: Iterable[Any]) -> dict[str, Any]:
    return {"content": [answers.log_probability(token) for token in tokens], "refusal": None}


# Streams


class Writer:
    """Chunks of a chat: the first tell the role, one of each choice why it ended, then perhaps one of usage."""

    def __init__(self, exchange: Exchange):
        body = exchange.body
        self._exchange, self._answer = exchange, Answer()
        self._common = _common(exchange, "chat.completion.chunk")
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._logprobs, self._drafts = bool(body.get("logprobs")), answers.wants_drafts(exchange)
        self._old = is_old(body)
        self._held: dict[int, list[Any]] = {}  # tokens of each choice that no chunk has told of
        self._begun, self._ended = False, 0

    def take(self, event: Event) -> list[Frame]:
        """The frames that an event gives."""
        if isinstance(event, Failed):
            return [Frame(answers.error(event.error)), Frame("[DONE]")]
        begun, self._begun = self._begun, True
        first = [] if begun else self._roles()
        match event:
            case Progress(done, total):
                return [*first, self._chunk(0, {}, None, _progress(done, total))]
            case Started():
                self._answer.take(event)
                return first
            case Piece():
                return first + self._piece(event)
            case Finished():
                self._answer.take(event)
                return first + self._end(event)

    def _roles(self) -> list[Frame]:
        count = self._exchange.request.answers
        return [self._chunk(number, {"role": "assistant", "content": ""}) for number in range(count)]

    def _chunk(self, number: int, delta: dict[str, Any], reason: str | None = None, more: Body | None = None) -> Frame:
        tokens = self._held.pop(number, [])
        choice: dict[str, Any] = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        if self._logprobs and tokens:
            choice["logprobs"] = _logprobs(tokens)
        made = {**self._common, "choices": [choice], **(more or {})}
        if self._usage:
            made["usage"] = None
        if self._drafts:
            made["drafts"] = answers.drafts(tokens)
        return Frame(made)

    def _piece(self, piece: Piece) -> list[Frame]:
        """A chunk for each kind of delta; tokens whose text is held back are told of with the next text."""
        if piece.tokens and (self._logprobs or self._drafts):
            self._held.setdefault(piece.choice, []).extend(piece.tokens)
        shown = (self._delta(delta) for delta in piece.deltas)
        return [self._chunk(piece.choice, delta) for delta in shown if delta]

    def _delta(self, delta: Delta) -> dict[str, Any]:
        match delta:
            case AnswerDelta(text):
                return {"content": text} if text else {}
            case ThoughtDelta(text):
                return {"reasoning_content": text} if text else {}
            case CallBegun(index, identity, name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": identity, "type": "function", "function": function}
                return {"function_call": function} if self._old else {"tool_calls": [call]}
            case CallArguments(index, json):
                function = {"arguments": json}
                return {"function_call": function} if self._old else {"tool_calls": [_argued(index, function)]}
            case CallEnded():
                return {}

    def _end(self, finished: Finished) -> list[Frame]:
        self._ended += 1
        reason, last = _finish_reason(finished.reason, self._exchange), self._ended == self._exchange.request.answers
        timings = {"timings": answers.timings(self._answer)} if last else {}
        if not last:
            return [self._chunk(finished.choice, {}, reason)]
        if not self._usage:
            return [self._chunk(finished.choice, {}, reason, timings), Frame("[DONE]")]
        trailer = {**self._common, "choices": [], "usage": answers.usage(self._answer), **timings}
        return [self._chunk(finished.choice, {}, reason), Frame(trailer), Frame("[DONE]")]


def _progress(done: int, total: int) -> dict[str, Any]:
    """How far the prompt is read, in the words of llama.cpp's server."""
    return {"prompt_progress": {"processed": done, "total": total}}


def _argued(index: int, function: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "function": function}


# What the OpenAPI document tells

CALL = record({"id": TEXT, "type": one_of("function"), "function": OBJECT}, "id", "type", "function")
ANSWER: Schema = record(
    {
        **answers.MODEL_FIELDS,
        "object": one_of("chat.completion"),
        "choices": listed(
            record(
                {
                    "index": INTEGER,
                    "message": record(
                        {
                            "role": one_of("assistant"),
                            "content": maybe(TEXT),
                            "reasoning_content": TEXT,
                            "tool_calls": listed(CALL, 1),
                            "function_call": OBJECT,
                        },
                        "role",
                        "content",
                    ),
                    "logprobs": maybe(record({"content": listed(answers.PROBABLE)}, "content")),
                    "finish_reason": one_of("stop", "length", "tool_calls", "function_call"),
                    "drafts": answers.DRAFTS,
                },
                "index",
                "message",
                "finish_reason",
            ),
            1,
        ),
        "usage": answers.USAGE,
        "timings": answers.TIMINGS,
    },
    "id",
    "object",
    "created",
    "model",
    "choices",
    "usage",
)

CHAT = Endpoint(
    name="openai.chat",
    paths=("/chat/completions",),
    read=read,
    whole=whole,
    writer=Writer,
    error=answers.error,
    body_schema=BODY,
    answer_schema=ANSWER,
)
