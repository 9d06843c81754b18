"""What is answered at once: which models there are, tokens of texts, texts of tokens, prompts as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import openai_answers as answers
from . import openai_chat as chat
from . import responses
from .endpoint import Backend, Body, Lookup
from .exchange import Model, TextRequest, bad_request
from .fields import ANYTHING, FLAG, INTEGER, OBJECT, TEXT, Schema, check, listed, maybe, one_of, optional, record
from .names import check_name

Parameters = Mapping[str, str]
TOKEN = {**INTEGER, "minimum": 0}


def described(model: Model) -> dict[str, Any]:
    """A model as lists have it: with what it takes, and with its context by each of the names that clients look for."""
    inputs = [name for name, there in _modalities(model).items() if there]
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.id.rpartition("/")[0] or "local",
        "aliases": list(model.aliases),
        "context_length": model.context,
        "context_window": model.context,
        "max_context_length": model.context,
        "max_model_len": model.context,
        "max_completion_tokens": model.max_tokens,
        "input_modalities": inputs,
        "output_modalities": ["text"],
        "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
        "capabilities": _capabilities(model),
        "meta": {"n_ctx": model.context, "n_ctx_train": model.context, "size": model.size},
        "family": model.family,
        "parameters": model.parameters,
        "quantization": model.quantization,
        "assistant": model.assistant,
    }


def _modalities(model: Model) -> dict[str, bool]:
    return {"text": True, "image": model.pictures, "audio": model.sound, "video": model.video}


def _capabilities(model: Model) -> list[str]:
    """In Ollama's words."""
    able = {
        "completion": True,
        "vision": model.pictures,
        "audio": model.sound,
        "tools": model.tools,
        "thinking": model.thinking,
    }
    return [name for name, there in able.items() if there]


def models(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """All models, which is one."""
    return {"object": "list", "data": [described(backend.model)]}


def model(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """The model of a name.

    Raises:
        RequestError: with status 404, there is none.
    """
    check_name(parameters["id"], backend.model)
    return described(backend.model)


def tokenize(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """The ids of a text, or of a chat's prompt.

    Raises:
        RequestError: there is neither, or a field is wrong.
    """
    check(body, TOKENIZE)
    tokens = list(_tokens(backend, body))
    found = {"tokens": tokens, "count": len(tokens), "max_model_len": backend.model.context}
    if not body.get("with_pieces"):
        return found
    return found | {"tokens": [{"id": token, "piece": backend.detokenize([token])} for token in tokens]}


def _tokens(backend: Backend, body: Body) -> Sequence[int]:
    if body.get("messages") is not None:
        return backend.tokens(chat.read(body, backend.model))
    text = body.get("content") if body.get("content") is not None else body.get("prompt")
    if text is None:
        raise bad_request("content is missing; so are prompt and messages, which could stand for it", "content")
    if body.get("add_special") or body.get("add_special_tokens"):
        return backend.tokens(TextRequest(model=backend.model.id, prompts=[text]))
    return backend.tokenize(text)


def detokenize(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """The text of ids.

    Raises:
        RequestError: ids beyond the vocabulary, or a field is wrong.
    """
    check(body, DETOKENIZE)
    text = backend.detokenize([int(token) for token in body["tokens"]])
    return {"content": text, "prompt": text}


def apply_template(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """A chat's prompt as text.

    Raises:
        RequestError: as of a chat.
    """
    return {"prompt": backend.render(chat.read(body, backend.model))}


def input_tokens(backend: Backend, parameters: Parameters, body: Body) -> Body:
    """How many tokens a request of the Responses API has.

    Raises:
        RequestError: as of such a request.
    """
    request = responses.read(body, backend.model)
    return {"object": "response.input_tokens", "input_tokens": len(backend.tokens(request))}


TOKENIZE: Schema = record(
    {
        **chat.BODY["properties"],
        "messages": maybe(chat.BODY["properties"]["messages"]),
        **optional(
            {"content": TEXT, "prompt": TEXT, "add_special": FLAG, "add_special_tokens": FLAG, "with_pieces": FLAG}
        ),
    }
)
DETOKENIZE: Schema = record({"tokens": listed(TOKEN)}, "tokens")
MODEL: Schema = record(
    {
        "id": TEXT,
        "object": one_of("model"),
        "created": INTEGER,
        "owned_by": TEXT,
        "aliases": listed(TEXT),
        "context_length": INTEGER,
        "input_modalities": listed(TEXT),
        "capabilities": listed(TEXT),
        "architecture": OBJECT,
        "meta": OBJECT,
    },
    "id",
    "object",
    "created",
    "owned_by",
)

LOOKUPS = (
    Lookup(
        name="openai.models",
        method="GET",
        paths=("/models",),
        answer=models,
        error=answers.error,
        answer_schema=record({"object": one_of("list"), "data": listed(MODEL)}, "object", "data"),
    ),
    Lookup(
        name="openai.model",
        method="GET",
        paths=("/models/{id:path}",),
        answer=model,
        error=answers.error,
        answer_schema=MODEL,
    ),
    Lookup(
        name="tokenize",
        method="POST",
        paths=("/tokenize",),
        answer=tokenize,
        error=answers.error,
        body_schema=TOKENIZE,
        answer_schema=record({"tokens": listed(ANYTHING), "count": INTEGER}, "tokens", "count"),
    ),
    Lookup(
        name="detokenize",
        method="POST",
        paths=("/detokenize",),
        answer=detokenize,
        error=answers.error,
        body_schema=DETOKENIZE,
        answer_schema=record({"content": TEXT, "prompt": TEXT}, "content", "prompt"),
    ),
    Lookup(
        name="apply_template",
        method="POST",
        paths=("/apply-template",),
        answer=apply_template,
        error=answers.error,
        body_schema=chat.BODY,
        answer_schema=record({"prompt": TEXT}, "prompt"),
    ),
    Lookup(
        name="openai.input_tokens",
        method="POST",
        paths=("/responses/input_tokens",),
        answer=input_tokens,
        error=answers.error,
        body_schema=responses.RESPONSES.body_schema,
        answer_schema=record({"object": TEXT, "input_tokens": INTEGER}, "object", "input_tokens"),
    ),
)
