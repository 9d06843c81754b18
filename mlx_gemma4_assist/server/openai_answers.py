"""What answers of OpenAI's protocols have in common: usage, timings, log-probabilities, errors, and their schemas."""

from collections.abc import Iterable
from typing import Any
from zlib import crc32

from .. import __version__
from .endpoint import Exchange
from .exchange import Answer, Choice, FinishReason, RequestError, TokenInfo, Usage
from .fields import ANYTHING, INTEGER, NUMBER, TEXT, Schema, listed, maybe, record


def error(refused: RequestError) -> dict[str, Any]:
    """The body that tells of an error."""
    return {
        "error": {
            "message": refused.message,
            "type": refused.kind,
            "param": refused.param,
            "code": refused.code,
        }
    }


ERROR: Schema = record(
    {"error": record({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": maybe(TEXT)}, "message", "type")},
    "error",
)


def fingerprint(exchange: Exchange) -> str:
    """What an answer depends on besides its request: the model's checkpoint and the server's version."""
    model = exchange.model
    parts = (model.id, model.created, model.quantization, model.assistant, __version__)
    return f"fp_{crc32(repr(parts).encode()):08x}"


def reason(choice: Choice) -> FinishReason:
    """Why an answer ended; one of which no end was told was cut off."""
    return FinishReason.LENGTH if choice.finished is None else choice.finished.reason


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens of an answer, as chats and completions tell them.

    Every draft counts as a predicted token, whether an assistant or a ``prediction`` proposed it.
    """
    used = answer.usage
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": answer.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": used.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": used.accepted,
            "rejected_prediction_tokens": used.drafted - used.accepted,
        },
    }


USAGE: Schema = record(
    {
        "prompt_tokens": INTEGER,
        "completion_tokens": INTEGER,
        "total_tokens": INTEGER,
        "prompt_tokens_details": record({"cached_tokens": INTEGER}, "cached_tokens"),
        "completion_tokens_details": record(
            dict.fromkeys(("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), INTEGER)
        ),
    },
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
)


def timings(answer: Answer) -> dict[str, Any]:
    """How long an answer took, in the words of llama.cpp's server, and what drafts brought."""
    ended = [choice.finished for choice in answer.choices if choice.finished is not None]
    used, computed = answer.usage, answer.prompt_tokens - answer.cached_tokens
    queued = max((each.queued for each in ended), default=0.0)
    prompt = max((each.prompt for each in ended), default=0.0)
    generation = max((each.generation for each in ended), default=0.0)
    measured = any(each.speed > 0 for each in ended)
    return {
        "queued_ms": 1000 * queued,
        "cache_n": answer.cached_tokens,
        **_pace("prompt", computed, prompt),
        **_pace("predicted", used.completion_tokens, generation, measured),
        "draft_n": used.drafted,
        "draft_n_accepted": used.accepted,
        **_rounds(used),
    }


def _pace(name: str, tokens: int, seconds: float, measured: bool = True) -> dict[str, Any]:
    """Tokens and their time; no speed where all came at once, of which there is no time."""
    return {
        f"{name}_n": tokens,
        f"{name}_ms": 1000 * seconds,
        f"{name}_per_token_ms": 1000 * seconds / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if measured and seconds > 0 else 0.0,
    }


def _rounds(used: Usage) -> dict[str, Any]:
    return {
        "rounds": used.rounds,
        "tokens_per_round": used.completion_tokens / used.rounds if used.rounds else 0.0,
        "drafted_at": list(used.drafted_at),
        "accepted_at": list(used.accepted_at),
    }


TIMINGS: Schema = record(
    {
        "queued_ms": NUMBER,
        "cache_n": INTEGER,
        "prompt_n": INTEGER,
        "prompt_ms": NUMBER,
        "predicted_n": INTEGER,
        "predicted_ms": NUMBER,
        "predicted_per_second": NUMBER,
        "draft_n": INTEGER,
        "draft_n_accepted": INTEGER,
        "rounds": INTEGER,
        "tokens_per_round": NUMBER,
        "drafted_at": listed(INTEGER),
        "accepted_at": listed(INTEGER),
    }
)


def log_probability(token: TokenInfo) -> dict[str, Any]:
    """A token's log-probability, and those of the likeliest in its place."""
    top = [_probable(text, logprob) for _, text, logprob in token.top]
    return {**_probable(token.text, token.logprob), "top_logprobs": top}


LEAST = -9999.0
"""What stands for no probability at all, as with OpenAI: JSON has no infinity."""


def finite(logprob: float | None) -> float:
    """A log-probability as JSON holds it."""
    return LEAST if logprob is None else max(logprob, LEAST)


def _probable(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode()), "logprob": finite(logprob)}


PROBABLE: Schema = record({"token": TEXT, "bytes": maybe(listed(INTEGER)), "logprob": NUMBER}, "token", "logprob")


def wants_drafts(exchange: Exchange) -> bool:
    """Whether tokens are to tell which draft of a round they were."""
    return exchange.body.get("draft_info") is True


def drafts(tokens: Iterable[TokenInfo]) -> list[list[Any]]:
    """Each token's text, and which draft of a round it was, 0 for the target's own."""
    return [[token.text, token.draft] for token in tokens]


DRAFTS: Schema = listed(listed(ANYTHING))
MODEL_FIELDS: dict[str, Schema] = {
    "id": TEXT,
    "object": TEXT,
    "created": INTEGER,
    "model": TEXT,
    "system_fingerprint": TEXT,
}
