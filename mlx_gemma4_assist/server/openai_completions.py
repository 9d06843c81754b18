"""OpenAI's completions: raw text that is continued."""

from collections.abc import Sequence
from typing import Any

from ..errors import counted
from ..text.deltas import AnswerDelta, ThoughtDelta
from . import openai_answers as answers
from . import openai_options as options
from .endpoint import Body, Endpoint, Exchange
from .exchange import (
    Answer,
    Choice,
    Event,
    Failed,
    Finished,
    Frame,
    Model,
    Piece,
    Progress,
    Started,
    TextRequest,
    TokenInfo,
    bad_request,
)
from .exchange import FinishReason as Reason
from .fields import FLAG, INTEGER, NUMBER, OBJECT, TEXT, Schema, check, either, listed, maybe, one_of, optional, record

UNSUPPORTED = {**options.UNSUPPORTED, "suffix": ("",)}
TOKEN = {**INTEGER, "minimum": 0}
PROMPT = either(TEXT, listed(either(TEXT, TOKEN, listed(TOKEN, 1)), 1))

BODY: Schema = record(
    {
        "model": maybe(TEXT),
        "prompt": PROMPT,
        **options.SAMPLING,
        **optional(
            {
                "n": {**INTEGER, "minimum": 1, "maximum": options.MOST_ANSWERS},
                "best_of": INTEGER,
                "echo": FLAG,
                "logprobs": options.LOGPROBS["top_logprobs"],
                "response_format": options.FORM,
            }
        ),
        **options.known(UNSUPPORTED),
    },
    "prompt",
)


def read(body: Body, model: Model) -> TextRequest:
    """Text to be continued.

    Raises:
        RequestError: a field that is wrong or not supported.
    """
    check(body, BODY)
    options.refuse(body, UNSUPPORTED)
    count, texts = int(body.get("n") or 1), prompts(body["prompt"])
    _check_together(body, count, len(texts))
    return TextRequest(
        model=options.asked_model(body),
        prompts=texts,
        options=options.generation_options(body, body.get("response_format")) | _log_probabilities(body),
        echo=bool(body.get("echo")),
        prediction=options.prediction(body),
        answers=count,
        stream=bool(body.get("stream")),
        priority=options.priority(body),
        fields=options.renamed(body.get("response_format")),
    )


def prompts(given: Any) -> list[str | list[int]]:
    """One or several texts or lists of ids, as a list.

    Raises:
        RequestError: texts and ids are mixed.
    """
    if isinstance(given, str):
        return [given]
    if all(isinstance(each, int | float) for each in given):
        return [[int(token) for token in given]]
    if any(isinstance(each, int | float) for each in given):
        raise bad_request("prompt mixes token ids with prompts", "prompt")
    return [each if isinstance(each, str) else [int(token) for token in each] for each in given]


def _check_together(body: Body, count: int, texts: int) -> None:
    """Refuse fields that exclude each other."""
    if body.get("best_of") not in (None, count):
        raise bad_request("best_of is not supported, unless it equals n", "best_of", "unsupported_parameter")
    if body.get("echo") and body.get("logprobs") is not None:
        raise bad_request("log-probabilities of the prompt are not supported: echo excludes logprobs", "echo")
    if count * texts > options.MOST_ANSWERS:
        asked = f"{counted(texts, 'prompt')} with {counted(count, 'answer')} each"
        raise bad_request(f"{asked} are more than {options.MOST_ANSWERS} answers", "n")


def _log_probabilities(body: Body) -> dict[str, int]:
    return {} if body.get("logprobs") is None else {"top_logprobs": int(body["logprobs"])}


def _common(exchange: Exchange) -> dict[str, Any]:
    return {
        "id": f"cmpl-{exchange.id}",
        "object": "text_completion",
        "created": exchange.created,
        "model": exchange.model.id,
        "system_fingerprint": answers.fingerprint(exchange),
    }


def _finish_reason(reason: Reason) -> str:
    return "length" if reason is Reason.LENGTH else "stop"


def _logprobs(tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any]:
    """Log-probabilities as completions have them; ``offset`` is where the first token's text begins."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [answers.finite(token.logprob) for token in tokens],
        "top_logprobs": [{text: answers.finite(logprob) for _, text, logprob in token.top} for token in tokens],
        "text_offset": offsets,
    }


def whole(exchange: Exchange, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return {
        **_common(exchange),
        "choices": [_choice(number, choice, exchange) for number, choice in enumerate(answer.choices)],
        "usage": answers.usage(answer),
        "timings": answers.timings(answer),
    }


def _choice(number: int, choice: Choice, exchange: Exchange) -> dict[str, Any]:
    asked = exchange.body.get("logprobs") is not None
    made = {
        "index": number,
        "text": choice.thought + choice.answer,
        "logprobs": _logprobs(choice.tokens, 0) if asked else None,
        "finish_reason": _finish_reason(answers.reason(choice)),
    }
    return made | ({"drafts": answers.drafts(choice.tokens)} if answers.wants_drafts(exchange) else {})


class Writer:
    """Chunks of completions: text of each choice, then why it ended, at last perhaps one of usage."""

    def __init__(self, exchange: Exchange):
        assert isinstance(exchange.request, TextRequest)
        body = exchange.body
        self._expected = exchange.request.answers * len(exchange.request.prompts)
        self._answer, self._common = Answer(), _common(exchange)
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._logprobs, self._drafts = body.get("logprobs") is not None, answers.wants_drafts(exchange)
        self._held: dict[int, list[TokenInfo]] = {}  # tokens of each choice that no chunk has told of
        self._offsets: dict[int, int] = {}
        self._ended = 0

    def take(self, event: Event) -> list[Frame]:
        """The frames that an event gives."""
        match event:
            case Failed(error):
                return [Frame(answers.error(error)), Frame("[DONE]")]
            case Progress():
                return [self._chunk(0, "")]
            case Started():
                self._answer.take(event)
                return []
            case Piece():
                return self._piece(event)
            case Finished():
                self._answer.take(event)
                return self._end(event)

    def _chunk(self, number: int, text: str, reason: str | None = None, more: Body | None = None) -> Frame:
        tokens = self._held.pop(number, [])
        choice = {"index": number, "text": text, "logprobs": None, "finish_reason": reason}
        if self._logprobs and tokens:
            offset = self._offsets.get(number, 0)
            choice["logprobs"] = _logprobs(tokens, offset)
            self._offsets[number] = offset + sum(len(token.text) for token in tokens)
        made = {**self._common, "choices": [choice], **(more or {})}
        if self._usage:
            made["usage"] = None
        if self._drafts:
            made["drafts"] = answers.drafts(tokens)
        return Frame(made)

    def _piece(self, piece: Piece) -> list[Frame]:
        if self._logprobs or self._drafts:
            self._held.setdefault(piece.choice, []).extend(piece.tokens)
        text = "".join(delta.text for delta in piece.deltas if isinstance(delta, AnswerDelta | ThoughtDelta))
        return [self._chunk(piece.choice, text)] if text else []

    def _end(self, finished: Finished) -> list[Frame]:
        self._ended += 1
        number, reason = finished.choice, _finish_reason(finished.reason)
        if self._ended < self._expected:
            return [self._chunk(number, "", reason)]
        timings = {"timings": answers.timings(self._answer)}
        if not self._usage:
            return [self._chunk(number, "", reason, timings), Frame("[DONE]")]
        trailer = {**self._common, "choices": [], "usage": answers.usage(self._answer), **timings}
        return [self._chunk(number, "", reason), Frame(trailer), Frame("[DONE]")]


LOGPROBS = record(
    {
        "tokens": listed(TEXT),
        "token_logprobs": listed(NUMBER),
        "top_logprobs": listed({**OBJECT, "additionalProperties": NUMBER}),
        "text_offset": listed(INTEGER),
    },
    "tokens",
    "token_logprobs",
    "text_offset",
)
ANSWER: Schema = record(
    {
        **answers.MODEL_FIELDS,
        "object": one_of("text_completion"),
        "choices": listed(
            record(
                {
                    "index": INTEGER,
                    "text": TEXT,
                    "logprobs": maybe(LOGPROBS),
                    "finish_reason": one_of("stop", "length"),
                    "drafts": answers.DRAFTS,
                },
                "index",
                "text",
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

COMPLETIONS = Endpoint(
    name="openai.completions",
    paths=("/completions",),
    read=read,
    whole=whole,
    writer=Writer,
    error=answers.error,
    body_schema=BODY,
    answer_schema=ANSWER,
)
