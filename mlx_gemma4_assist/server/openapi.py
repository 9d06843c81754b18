"""The OpenAPI document of what is served, made from the schemas that endpoints and look-ups bring."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from .endpoint import Body, Endpoint, Lookup

JSON = "application/json"
_PARAMETER = re.compile(r"\{(\w+)(:\w+)?\}")


def document(endpoints: Sequence[Endpoint], lookups: Sequence[Lookup], with_key: bool) -> Body:
    """OpenAPI 3.1. Each path stands there once, with the first of its prefixes.

    Args:
        endpoints, lookups: that are served.
        with_key: whether they ask for a key.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    every: list[Endpoint | Lookup] = [*endpoints, *lookups]
    for each in every:
        method = "post" if isinstance(each, Endpoint) else each.method.lower()
        for path in each.paths:
            spelled = _PARAMETER.sub(r"{\1}", each.prefixes[0] + path)
            operation = _operation(each, method, spelled, schemas)
            paths.setdefault(spelled, {}).setdefault(method, operation)
    for path, method, operation in _own():
        paths.setdefault(path, {})[method] = operation
    keys = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx_gemma4_assist", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": keys} if with_key else {})},
        **({"security": [{"bearer": []}]} if with_key else {}),
    }


def _operation(each: Endpoint | Lookup, method: str, path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": _kept(each.answer_schema, f"{each.name}.answer", schemas)}}
    if isinstance(each, Endpoint):
        content[each.framing.value] = {}  # what events hold differs from event to event
    operation: dict[str, Any] = {
        "operationId": f"{each.name} {path}",
        "responses": {"200": {"description": "the answer", "content": content}, "default": _error()},
    }
    if names := [found[1] for found in _PARAMETER.finditer(path)]:
        operation["parameters"] = [_parameter(name) for name in names]
    if method in ("post", "put", "patch"):
        schema = _kept(each.body_schema, f"{each.name}.body", schemas)
        required = isinstance(each, Endpoint) or bool(each.body_schema)
        operation["requestBody"] = {"required": required, "content": {JSON: {"schema": schema}}}
    return operation


def _kept(schema: Body, name: str, schemas: dict[str, Any]) -> Body:
    """A reference to a schema among the document's components; one without a word needs none."""
    if not schema:
        return {}
    own = f"#/components/schemas/{name}"
    schemas[name] = _within(schema, own)
    return {"$ref": own}


def _within(schema: Any, own: str) -> Any:
    """A schema whose references to parts of itself say where it stands in the document."""
    if isinstance(schema, Mapping):
        return {
            key: own + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _within(value, own)
            for key, value in schema.items()
        }
    if isinstance(schema, list | tuple):
        return [_within(each, own) for each in schema]
    return schema


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _error() -> dict[str, Any]:
    return {"description": "an error, as the protocol tells of it", "content": {JSON: {"schema": {"type": "object"}}}}


def _own() -> Sequence[tuple[str, str, dict[str, Any]]]:
    """What is served beside protocols."""

    def answers(kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        answer = {"description": "the answer", "content": {kind: {"schema": schema}}}
        return {"responses": {"200": answer, "default": _error()}}

    ending = {"operationId": "end_thought", "parameters": [_parameter("id")], **answers(JSON, {"type": "object"})}
    return [
        ("/health", "get", {"operationId": "health", **answers(JSON, {"type": "object"})}),
        ("/metrics", "get", {"operationId": "metrics", **answers("text/plain", {"type": "string"})}),
        ("/v1/thoughts/{id}/end", "post", ending),
    ]
