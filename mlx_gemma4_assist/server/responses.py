"""OpenAI's Responses API, without what it keeps: each request brings its whole conversation."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from ..text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, Delta, ThoughtDelta
from . import openai_answers as answers
from . import openai_options as options
from .endpoint import Body, Endpoint, Exchange
from .exchange import (
    Answer,
    ChatRequest,
    Choice,
    Event,
    Failed,
    Finished,
    FinishReason,
    Frame,
    Model,
    Piece,
    Progress,
    RequestError,
    Started,
    TokenInfo,
    bad_request,
)
from .fields import check
from .openai_messages import continued
from .responses_input import conversation
from .responses_items import Call, FreeCall, FunctionCall, Item, Message, Thought, Told
from .responses_schemas import ANSWER, BODY, LOGPROBS, SEALED, UNSUPPORTED
from .responses_tools import declared, tool_use


def read(body: Body, model: Model) -> ChatRequest:
    """A conversation to be continued.

    Raises:
        RequestError: a field that is wrong or not supported.
    """
    check(body, BODY)
    if body.get("previous_response_id") is not None:
        message = "responses are not kept, so there is no previous_response_id: send the whole conversation as input"
        raise bad_request(message, "previous_response_id", "unsupported_parameter")
    options.refuse(body, UNSUPPORTED)
    use, messages = tool_use(body, model), conversation(body, model)
    thinks, budget = options.thinking(body, model)
    form = (body.get("text") or {}).get("format")
    return ChatRequest(
        model=options.asked_model(body),
        messages=messages,
        options=options.generation_options(body, form, "text.format") | _log_probabilities(body),
        tools=use.tools,
        tool_choice=use.choice,
        named_tool=use.named,
        parallel_tool_calls=use.parallel,
        thinking=thinks,
        thinking_budget=budget,
        continue_last=continued(body, messages),
        prediction=options.prediction(body),
        stream=bool(body.get("stream")),
        priority=options.priority(body),
        fields=options.renamed(form, "text.format"),
    )


def _wants_logprobs(body: Body) -> bool:
    return LOGPROBS in (body.get("include") or ()) or bool(body.get("top_logprobs"))


def _log_probabilities(body: Body) -> dict[str, int]:
    return {"top_logprobs": int(body.get("top_logprobs") or 0)} if _wants_logprobs(body) else {}


class Made:
    """Makes the items of one answer.

    Args:
        exchange: asks for them.
    """

    def __init__(self, exchange: Exchange):
        body = exchange.body
        self._id, self._declared = exchange.id, declared(body)
        reasoning = body.get("reasoning") or {}
        self._summarized = bool(reasoning.get("summary") or reasoning.get("generate_summary"))
        self._opaque = SEALED in (body.get("include") or ())
        self._count = 0

    def _next(self, kind: str) -> tuple[str, int]:
        index, self._count = self._count, self._count + 1
        return f"{kind}_{self._id}{index:02x}", index

    def thought(self) -> Item:
        """A thought that begins."""
        return Thought(*self._next("rs"), summarized=self._summarized, opaque=self._opaque)

    def message(self) -> Item:
        """An answer that begins."""
        return Message(*self._next("msg"))

    def call(self, identity: str, name: str) -> Call:
        """A call that begins."""
        tool = self._declared.get(name)
        kind = FreeCall if tool is not None and tool.free else FunctionCall
        prefix = "ctc" if kind is FreeCall else "fc"
        return kind(*self._next(prefix), call_id=identity, name=name, declared=tool)


def response(exchange: Exchange, status: str, output: list[Told]) -> dict[str, Any]:
    """The response as an object, without what is known only at its end."""
    body = exchange.body
    said = {name: body.get(name) for name in ("instructions", "temperature", "top_p", "max_output_tokens", "user")}
    form = (body.get("text") or {}).get("format") or {"type": "text"}
    reasoning = body.get("reasoning") or {}
    return {
        "id": f"resp_{exchange.id}",
        "object": "response",
        "created_at": exchange.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "metadata": body.get("metadata") or {},
        "model": exchange.model.id,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "text": {"format": form},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_echoed(tool) for tool in body.get("tools") or ()],
        "truncation": "disabled",
        "usage": None,
        **said,
    }


def _echoed(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"parameters": None, "strict": None, **tool} if tool["type"] == "function" else dict(tool)


def ended(exchange: Exchange, answer: Answer, output: list[Told]) -> dict[str, Any]:
    """The response as an object, at its end."""
    cut = answers.reason(answer.choices[0]) is FinishReason.LENGTH
    return response(exchange, "incomplete" if cut else "completed", output) | {
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": _usage(answer),
        "timings": answers.timings(answer),
    }


def _usage(answer: Answer) -> dict[str, Any]:
    used = answer.usage
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {
            "reasoning_tokens": used.reasoning_tokens,
            "accepted_prediction_tokens": used.accepted,
            "rejected_prediction_tokens": used.drafted - used.accepted,
        },
        "total_tokens": answer.prompt_tokens + used.completion_tokens,
    }


def whole(exchange: Exchange, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    items = _items(exchange, answer.choices[0])
    cut = answers.reason(answer.choices[0]) is FinishReason.LENGTH
    last = len(items) - 1
    output = [item.made("incomplete" if cut and i == last else "completed") for i, item in enumerate(items)]
    return ended(exchange, answer, output)


def _items(exchange: Exchange, choice: Choice) -> list[Item]:
    made, items = Made(exchange), []
    if choice.thought:
        items.append(made.thought())
        items[-1].add(choice.thought)
    if choice.answer or (not items and not choice.calls):
        items.append(made.message())
        items[-1].add(choice.answer, choice.tokens if _wants_logprobs(exchange.body) else ())
    for call in choice.calls:
        items.append(made.call(call.id, call.name))
        items[-1].add(call.arguments)
    return items


class Writer:
    """Events of a response: created, then items with what they hold, then completed."""

    def __init__(self, exchange: Exchange):
        self._exchange, self._answer, self._made = exchange, Answer(), Made(exchange)
        self._numbers, self._begun = count(), False
        self._output: list[Told] = []
        self._item: Item | None = None
        self._logprobs = _wants_logprobs(exchange.body)
        self._held: list[TokenInfo] = []  # tokens that no event has told of

    def take(self, event: Event) -> list[Frame]:
        """The frames that an event gives."""
        return [self._frame(told) for told in self._told(event)]

    def _frame(self, told: Told) -> Frame:
        return Frame({**told, "sequence_number": next(self._numbers)}, told["type"])

    def _told(self, event: Event) -> list[Told]:
        begun, self._begun = self._begun, True
        first = [] if begun else [self._whole("response.created"), self._whole("response.in_progress")]
        match event:
            case Progress():
                return first or [self._whole("response.in_progress")]
            case Started():
                self._answer.take(event)
                return first
            case Piece(_, deltas, tokens):
                self._held += tokens if self._logprobs else ()
                return first + [told for delta in deltas for told in self._delta(delta)]
            case Finished():
                self._answer.take(event)
                return first + self._end(event)
            case Failed(error):
                return [*first, self._failed(error)]

    def _whole(self, kind: str) -> Told:
        return {"type": kind, "response": response(self._exchange, "in_progress", list(self._output))}

    def _delta(self, delta: Delta) -> list[Told]:
        match delta:
            case AnswerDelta("") | ThoughtDelta("") | CallArguments(_, ""):
                return []
            case AnswerDelta(text):
                opened, item = self._open(Message)
                tokens, self._held = self._held, []
                return opened + item.add(text, tokens)
            case ThoughtDelta(text):
                opened, item = self._open(Thought)
                return opened + item.add(text)
            case CallBegun(_, identity, name):
                return self._close("completed") + self._begin(self._made.call(identity, name))
            case CallArguments(_, json):
                return [] if self._item is None else self._item.add(json)
            case CallEnded():
                return self._close("completed")

    def _open(self, kind: type[Item]) -> tuple[list[Told], Item]:
        """The item of this kind that goes on, and what tells of its beginning if it is a new one."""
        if isinstance(self._item, kind):
            return [], self._item
        item = self._made.message() if kind is Message else self._made.thought()
        return self._close("completed") + self._begin(item), item

    def _begin(self, item: Item) -> list[Told]:
        self._item = item
        return item.begin()

    def _close(self, status: str) -> list[Told]:
        item, self._item = self._item, None
        if item is None:
            return []
        self._output.append(item.made(status))
        return item.end(status)

    def _end(self, finished: Finished) -> list[Told]:
        cut = finished.reason is FinishReason.LENGTH
        opened = [] if self._output or self._item else self._begin(self._made.message())
        closed = opened + self._close("incomplete" if cut else "completed")
        kind = "response.incomplete" if cut else "response.completed"
        return [*closed, {"type": kind, "response": ended(self._exchange, self._answer, self._output)}]

    def _failed(self, error: RequestError) -> Told:
        failure = {"code": _failure_code(error), "message": error.message}
        made = response(self._exchange, "failed", self._output) | {"error": failure}
        return {"type": "response.failed", "response": made}


def _failure_code(error: RequestError) -> str:
    """What went wrong, in words that clients match."""
    if error.code == "context_length_exceeded":
        return error.code
    codes = {"invalid_request_error": "invalid_prompt", "overloaded_error": "rate_limit_exceeded"}
    return codes.get(error.kind, "server_error")


RESPONSES = Endpoint(
    name="openai.responses",
    paths=("/responses",),
    read=read,
    whole=whole,
    writer=Writer,
    error=answers.error,
    body_schema=BODY,
    answer_schema=ANSWER,
)
