"""Between the exchange and OpenAI's chat completions as a client writes and reads them: requests out, events in."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..options import FILTERS, GenerationOptions
from ..text.deltas import AnswerDelta, ThoughtDelta
from ..text.messages import SOURCES, Message
from .exchange import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    Model,
    Piece,
    Progress,
    RequestError,
    Started,
    TokenInfo,
    Usage,
    bad_request,
)

NO_ID = -1  # of tokens that only their texts are told of
SPELLED_ALIKE = (
    *FILTERS,
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "seed"),
)
"""Options that OpenAI's protocol, or servers that extend it, have by the same name."""
OWN = ("draft_temperature", "num_assistant_tokens", "regex", "lark")
"""Options that only a server of this package is known to heed."""
OF_SERVERS = (*SPELLED_ALIKE, *OWN, "stop", "logit_bias", "json_schema")
"""All options that some server can be asked for."""
CONTEXTS = ("context_length", "max_model_len", "max_context_length", "context_window")

Body = dict[str, Any]


# Requests


def body_of(request: ChatRequest, model: Model, own: bool) -> Body:
    """A request as a streamed chat completion.

    Args:
        request: with options that a server can heed.
        model: that is asked.
        own: whether the server is one of this package, which tells and takes more.

    Raises:
        RequestError: an option that the server is not known to heed.
    """
    body: Body = {
        "model": model.id,
        "messages": [_message(each) for each in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name, value in request.options.items():
        body |= _option(name, value, own, request.fields.get(name, name))
    return body | _thinking(request, own) | ({"draft_info": True} if own else {})


def _option(name: str, value: Any, own: bool, called: str) -> Body:
    """An option as the protocol has it; ``called`` is what whoever asks calls it."""
    match name:
        case "stop":
            return {"stop": [value] if isinstance(value, str) else list(value)} if value else {}
        case "logit_bias":
            biases = GenerationOptions(logit_bias=value).logit_bias  # which may be as it was typed
            return {"logit_bias": {str(token): bias for token, bias in biases}} if biases else {}
        case "json_schema":
            schema = json.loads(value) if isinstance(value, str) else value
            named = {"name": "answer", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
    if name in SPELLED_ALIKE or (own and name in OWN):
        return {name: value}
    if name in OWN:
        raise bad_request(f"the server is not known to heed {called}", called)
    raise bad_request(f"{called} is for a model in this process, not for one behind a server", name)


def _thinking(request: ChatRequest, own: bool) -> Body:
    if request.thinking_budget is not None and not own:
        raise bad_request("the server is not known to heed a budget of thoughts", "thinking_budget")
    if request.thinking is None:
        return {}
    if not own:
        return {"chat_template_kwargs": {"enable_thinking": request.thinking}}
    budget = {} if request.thinking_budget is None else {"thinking_budget": request.thinking_budget}
    return {"enable_thinking": request.thinking, **budget}


def _message(message: Message) -> Body:
    """A message without thoughts, which no template keeps of earlier turns."""
    made: Body = {"role": message["role"]}
    content = message.get("content")
    made["content"] = content if isinstance(content, str) or content is None else [_part(part) for part in content]
    if message.get("tool_calls"):
        made["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    if message.get("tool_call_id"):
        made["tool_call_id"] = message["tool_call_id"]
    return made


def _call(call: Mapping[str, Any]) -> Body:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _part(part: Mapping[str, Any]) -> Body:
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    source = str(next(part[key] for key in SOURCES[kind] if part.get(key) is not None))
    if kind != "audio":
        return {"type": f"{kind}_url", f"{kind}_url": {"url": source}}
    named, _, data = source.partition(",")
    form = named.removeprefix("data:").partition(";")[0].rpartition("/")[2].removeprefix("x-")
    return {"type": "input_audio", "input_audio": {"data": data, "format": {"mpeg": "mp3"}.get(form, form or "wav")}}


# Models


def model_of(entry: Mapping[str, Any]) -> Model:
    """What a list of models says of one. What a server does not say of its model is left to it to refuse."""
    able = entry.get("capabilities")
    told = set(able) if isinstance(able, list) else {"vision", "audio", "thinking"}
    meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
    context = next((entry[name] for name in CONTEXTS if isinstance(entry.get(name), int)), (meta or {}).get("n_ctx"))
    return Model(
        id=str(entry.get("id")),
        context=context if isinstance(context, int) else 0,
        pictures="vision" in told,
        sound="audio" in told,
        video="vision" in told,
        thinking="thinking" in told,
        family=str(entry.get("family", "")),
        quantization=str(entry.get("quantization", "")),
        assistant=None if entry.get("assistant") is None else str(entry["assistant"]),
    )


def is_own(entry: Mapping[str, Any]) -> bool:
    """Whether a list of models is one of this package's servers."""
    return {"assistant", "aliases", "parameters", "quantization"} <= entry.keys()


# Answers


class Reader:
    """A streamed chat completion as events.

    ``Started`` comes before the first piece with what is known by then, and once more at the end, with what a server
    tells there only: how many tokens the prompt has, and how many of them a cache had.

    Attributes:
        id: of the answer, for :meth:`RemoteTicket.end_thought`; None before the first chunk.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self._began, self._first = time.monotonic(), 0.0
        self._total = self._cached = self._pieces = 0
        self._reason: FinishReason | None = None
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}

    def take(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events that a chunk gives.

        Raises:
            RequestError: it tells of an error.
        """
        if chunk.get("error"):
            error = chunk["error"]
            said = error.get("message") if isinstance(error, dict) else error
            raise RequestError(500, str(said))
        self.id = str(chunk.get("id") or "") or self.id
        self._usage, self._timings = chunk.get("usage") or self._usage, chunk.get("timings") or self._timings
        if progress := chunk.get("prompt_progress"):
            self._total = int(progress["total"])
            yield Progress(int(progress["processed"]), self._total)
        for choice in chunk.get("choices") or ():
            yield from self._choice(choice, chunk.get("drafts") or choice.get("drafts") or ())

    def end(self) -> Iterator[Event]:
        """The last events, when nothing more comes.

        Raises:
            RequestError: the answer was not told to be at its end.
        """
        if self._reason is None:
            raise RequestError(502, "the connection broke off in the answer's middle")
        self._total = int(self._usage.get("prompt_tokens") or self._total)
        self._cached = int((self._usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        yield Started(self._total, int(self._timings.get("cache_n") or self._cached))
        yield Finished(0, self._reason, None, self._used(), *self._seconds())

    @property
    def told(self) -> int:
        """Tokens of prompt and answer, as far as the server tells."""
        return int(self._usage.get("total_tokens") or self._total + self._pieces)

    def _choice(self, choice: Mapping[str, Any], drafts: Sequence[Any]) -> Iterator[Event]:
        delta = choice.get("delta") or {}
        deltas: list[AnswerDelta | ThoughtDelta] = []
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            deltas.append(ThoughtDelta(str(thought)))
        if text := delta.get("content"):
            deltas.append(AnswerDelta(str(text)))
        tokens = tuple(TokenInfo(NO_ID, str(text), int(place)) for text, place in drafts)
        tokens = tokens or tuple(TokenInfo(NO_ID, delta.text) for delta in deltas)  # a chunk is a token, mostly
        if deltas or tokens:
            if not self._pieces:
                self._first = time.monotonic()
                yield Started(self._total, 0)
            self._pieces += 1
            yield Piece(0, tuple(deltas), tokens)
        if choice.get("finish_reason"):
            self._reason = FinishReason.LENGTH if choice["finish_reason"] == "length" else FinishReason.STOP

    def _used(self) -> Usage:
        details, timings = self._usage.get("completion_tokens_details") or {}, self._timings
        accepted = int(timings.get("draft_n_accepted") or details.get("accepted_prediction_tokens") or 0)
        rejected = int(details.get("rejected_prediction_tokens") or 0)
        return Usage(
            completion_tokens=int(self._usage.get("completion_tokens") or self._pieces),
            reasoning_tokens=int(details.get("reasoning_tokens") or 0),
            drafted=int(timings.get("draft_n") or accepted + rejected),
            accepted=accepted,
            rounds=int(timings.get("rounds") or 0),
            accepted_at=tuple(timings.get("accepted_at") or ()),
            drafted_at=tuple(timings.get("drafted_at") or ()),
        )

    def _seconds(self) -> tuple[float, float, float]:
        """Until the prompt was begun, to the first token, and from then on: the server's, or else as seen from here."""
        if "predicted_ms" in self._timings:
            names = ("queued_ms", "prompt_ms", "predicted_ms")
            queued, prompt, generation = (float(self._timings.get(name) or 0) / 1000 for name in names)
            return queued, prompt, generation
        now = time.monotonic()
        first = self._first or now
        return 0.0, first - self._began, now - first
