"""LM Studio's API, which Zed speaks: OpenAI's chats and completions with more figures, and facts of the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import __version__
from .endpoint import Backend, Body, Endpoint, Exchange, Lookup, Writer
from .exchange import Answer, Event, Finished, FinishReason, Frame, Model
from .fields import INTEGER, NUMBER, TEXT, Schema, listed, one_of, record
from .names import check_name
from .openai_answers import error
from .openai_chat import CHAT
from .openai_completions import COMPLETIONS

_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_REASONS = {FinishReason.LENGTH: "maxPredictedTokensReached", FinishReason.TOOL_CALLS: "toolCalls"}


def models(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """All models, which is one."""
    return {"object": "list", "data": [_facts(backend)]}


def model(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """One model.

    Raises:
        RequestError: with status 404, there is none of that name.
    """
    check_name(parameters["model"], backend.model)
    return _facts(backend)


def _facts(backend: Backend) -> dict[str, Any]:
    known = backend.model
    facts = {
        "id": known.id,
        "object": "model",
        "type": "vlm" if known.pictures else "llm",
        "publisher": known.id.rpartition("/")[0],
        "arch": known.family,
        "compatibility_type": "mlx",
        "quantization": _format(known),
        "state": "loaded" if backend.health().status in ("ok", "stuck") else "not-loaded",
        "max_context_length": known.context,
        "capabilities": ["tool_use"] if known.tools else [],
    }
    return facts | ({"loaded_context_length": known.context} if facts["state"] == "loaded" else {})


def _format(known: Model) -> str:
    return known.quantization or _DTYPES.get(known.dtype, known.dtype)


def _figures(finished: Finished, known: Model) -> dict[str, Any]:
    """What LM Studio tells of an answer, besides what OpenAI does."""
    stopped = "eosFound" if finished.stop is None else "stopStringFound"
    return {
        "stats": {
            "tokens_per_second": finished.speed,
            "time_to_first_token": finished.queued + finished.prompt,
            "generation_time": finished.generation,
            "stop_reason": _REASONS.get(finished.reason, stopped),
        },
        "model_info": {
            "arch": known.family,
            "quant": _format(known),
            "format": "mlx",
            "context_length": known.context,
        },
        "runtime": {"name": "mlx-gemma4-assist", "version": __version__, "supported_formats": ["mlx"]},
    }


class FiguresWriter:
    """OpenAI's stream, whose last chunk of each answer has figures."""

    def __init__(self, exchange: Exchange, inner: Writer):
        self._model, self._inner = exchange.model, inner

    def take(self, event: Event) -> Iterable[Frame]:
        """The frames that an event gives."""
        frames = list(self._inner.take(event))
        if isinstance(event, Finished):
            last = max(place for place, frame in enumerate(frames) if not isinstance(frame.data, str))
            frames[last] = self._with_figures(frames[last], event)
        return frames

    def _with_figures(self, frame: Frame, finished: Finished) -> Frame:
        assert not isinstance(frame.data, str)
        return replace(frame, data={**frame.data, **_figures(finished, self._model)})


def _endpoint(plain: Endpoint, name: str) -> Endpoint:
    """An endpoint of OpenAI's in its place among LM Studio's."""
    paths = tuple(f"/api/v0{path}" for path in plain.paths)
    schema = {**plain.answer_schema, "properties": {**plain.answer_schema["properties"], **_FIGURES}}
    return replace(
        plain,
        name=name,
        paths=paths,
        prefixes=("",),
        whole=_whole(plain.whole),
        writer=_writer(plain.writer),
        answer_schema=schema,
    )


def _whole(plain: Callable[[Exchange, Answer], Body]) -> Callable[[Exchange, Answer], Body]:
    def whole(exchange: Exchange, answer: Answer) -> Body:
        ended = [choice.finished for choice in answer.choices if choice.finished is not None]
        return {**plain(exchange, answer), **(_figures(ended[0], exchange.model) if ended else {})}

    return whole


def _writer(plain: Callable[[Exchange], Writer]) -> Callable[[Exchange], Writer]:
    return lambda exchange: FiguresWriter(exchange, plain(exchange))


_FIGURES: Mapping[str, Schema] = {
    "stats": record(
        {
            **dict.fromkeys(("tokens_per_second", "time_to_first_token", "generation_time"), NUMBER),
            "stop_reason": one_of("eosFound", "stopStringFound", *_REASONS.values()),
        }
    ),
    "model_info": record({**dict.fromkeys(("arch", "quant", "format"), TEXT), "context_length": INTEGER}),
    "runtime": record({"name": TEXT, "version": TEXT, "supported_formats": listed(TEXT)}),
}
_MODEL = record(
    {
        "id": TEXT,
        "object": one_of("model"),
        "type": one_of("llm", "vlm"),
        "publisher": TEXT,
        "arch": TEXT,
        "compatibility_type": TEXT,
        "quantization": TEXT,
        "state": one_of("loaded", "not-loaded"),
        "max_context_length": INTEGER,
        "loaded_context_length": INTEGER,
        "capabilities": listed(TEXT),
    },
    "id",
    "object",
    "type",
    "state",
)
_MODELS = record({"object": one_of("list"), "data": listed(_MODEL)}, "object", "data")

ENDPOINTS: Sequence[Endpoint] = (
    _endpoint(CHAT, "lmstudio.chat"),
    _endpoint(COMPLETIONS, "lmstudio.completions"),
)
LOOKUPS: Sequence[Lookup] = (
    Lookup("lmstudio.models", "GET", ("/api/v0/models",), models, error, ("",), answer_schema=_MODELS),
    Lookup("lmstudio.model", "GET", ("/api/v0/models/{model:path}",), model, error, ("",), answer_schema=_MODEL),
)
