"""What Ollama's API tells of models: which there are, what each can do, and which of them runs."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .endpoint import Backend, Body, Lookup
from .exchange import Model, bad_request
from .fields import check
from .names import check_name
from .ollama_answers import error, instant
from .ollama_schema import RUNNING_ANSWER, SHOW_ANSWER, SHOW_BODY, TAGS_ANSWER, VERSION_ANSWER

VERSION = "0.30.0"
"""The version of Ollama whose API this is. Clients refuse versions that are too old for them."""
NEVER = 2**31 - 1
"""Until when a model is kept."""


def version(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """The version of the API."""
    return {"version": VERSION}


def tags(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """All models, which is one."""
    model = backend.model
    return {"models": [{**_listed(model), "modified_at": instant(model.created)}]}


def running(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """The models in memory: the one, unless it is not loaded."""
    model, health = backend.model, backend.health()
    if health.status in ("loading", "unloaded", "dead"):
        return {"models": []}
    size = max(model.size, health.active_memory)
    use = {"expires_at": instant(NEVER), "size": size, "size_vram": size, "context_length": model.context}
    return {"models": [{**_listed(model), **use}]}


def show(backend: Backend, parameters: Mapping[str, str], body: Body) -> Body:
    """What a model is, and what it can do.

    Raises:
        RequestError: with status 404, there is none of that name.
    """
    check(body, SHOW_BODY)
    model, name = backend.model, body.get("model") or body.get("name")
    if not name:
        raise bad_request("model is missing", "model")
    check_name(name, model)
    return {
        "license": "",
        "modelfile": f"FROM {model.id}",
        "parameters": "",
        "template": "",
        "modified_at": instant(model.created),
        "details": _details(model),
        "model_info": _info(model),
        "capabilities": list(_capabilities(model)),
    }


def _listed(model: Model) -> dict[str, Any]:
    digest = hashlib.sha256(f"{model.id} {model.created}".encode()).hexdigest()
    return {"name": model.id, "model": model.id, "size": model.size, "digest": digest, "details": _details(model)}


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    }


def _info(model: Model) -> dict[str, Any]:
    info = {
        "general.architecture": model.family,
        "general.basename": model.id.rpartition("/")[2],
        f"{model.family}.context_length": model.context,
    }
    return info if model.assistant is None else {**info, "general.assistant": model.assistant}


def _capabilities(model: Model) -> Sequence[str]:
    able = {"tools": model.tools, "thinking": model.thinking, "vision": model.pictures, "audio": model.sound}
    return ["completion", *(name for name, has in able.items() if has)]


LOOKUPS: Sequence[Lookup] = (
    Lookup("ollama.version", "GET", ("/api/version",), version, error, ("",), answer_schema=VERSION_ANSWER),
    Lookup("ollama.tags", "GET", ("/api/tags",), tags, error, ("",), answer_schema=TAGS_ANSWER),
    Lookup("ollama.ps", "GET", ("/api/ps",), running, error, ("",), answer_schema=RUNNING_ANSWER),
    Lookup("ollama.show", "POST", ("/api/show",), show, error, ("",), SHOW_BODY, SHOW_ANSWER),
)
