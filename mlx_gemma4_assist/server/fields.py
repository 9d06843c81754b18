"""A request's body, held to its JSON schema: what a schema does not allow is refused, with the field's name.

The schemas are those that the OpenAPI document shows, so that what is written there is what is done. They use
``type``, ``enum``, ``anyOf``, ``minimum``, ``maximum``, ``exclusiveMinimum``, ``minLength``, ``pattern``, ``items``,
``minItems``, ``maxItems``, ``properties``, ``required`` and ``additionalProperties``, and no other words that restrict.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import described
from .endpoint import Body
from .exchange import RequestError, bad_request

Schema = Mapping[str, Any]

TAGS = ("type", "role")
"""Fields that tell which of several objects one is."""

NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
OBJECT: Schema = {"type": "object"}
ANYTHING: Schema = {}


def one_of(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def listed(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def record(properties: Mapping[str, Schema], *required: str) -> Schema:
    """An object; fields that it does not name may be anything."""
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def either(*schemas: Schema) -> Schema:
    """What any of the schemas allows."""
    return {"anyOf": [each for schema in schemas for each in schema.get("anyOf", [schema])]}


def maybe(schema: Schema) -> Schema:
    """What the schema allows, or null."""
    return either(schema, NULL) if schema else ANYTHING


def optional(properties: Mapping[str, Schema]) -> dict[str, Schema]:
    """Fields of which each may also be null."""
    return {name: maybe(schema) for name, schema in properties.items()}


def described_by(schema: Schema, description: str) -> Schema:
    """The schema with words for whoever reads it."""
    return {**schema, "description": description}


def check(body: Body, schema: Schema) -> None:
    """Refuse a body that its schema does not allow.

    Args:
        body: as JSON is read, of dicts and lists; its numbers are finite, and its levels few enough for recursion.
        schema: of the words above.

    Raises:
        RequestError: with status 400, and the field as ``param``.
    """
    _check(dict(body), schema, "")


def _check(value: Any, schema: Schema, place: str) -> None:
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], place)
    elif not _is_of(value, schema) or not _in_range(value, schema):
        raise _wrong(value, schema, place)
    elif isinstance(value, dict):
        _check_object(value, schema, place)
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            _check(item, schema["items"], f"{place}[{number}]")


def _check_object(value: Body, schema: Schema, place: str) -> None:
    properties = schema.get("properties", {})
    for name, item in value.items():
        inner = properties.get(name, schema.get("additionalProperties", ANYTHING))
        _check(item, inner, _field(place, name))
    for name in schema.get("required", ()):
        if name not in value:
            raise bad_request(f"{_field(place, name)} is missing", _field(place, name))


def _check_any(value: Any, schemas: Sequence[Schema], place: str) -> None:
    """Hold a value to the schemas that its type and tags fit; the first one's error tells what is wrong."""
    fitting = [schema for schema in schemas if _is_of(value, schema)]
    tagged = fitting
    if isinstance(value, dict) and len(fitting) > 1:
        tagged = [each for each in fitting if all(_is_of(value[tag], known) for tag, known in _tags(value, each))]
    if not fitting:
        raise _wrong(value, {"anyOf": schemas}, place)
    if not tagged:
        raise _wrong_tag(value, fitting, place)
    failures = []
    for schema in tagged:
        try:
            return _check(value, schema, place)
        except RequestError as failure:
            failures.append(failure)
    raise failures[0]


def _tags(value: Body, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The tags that a value has, and what a schema knows of them."""
    properties = schema.get("properties", {})
    for tag in TAGS:
        if tag in value and tag in properties:
            yield tag, properties[tag]


def _wrong_tag(value: Body, schemas: Sequence[Schema], place: str) -> RequestError:
    for tag in TAGS:
        known = [schema["properties"][tag] for schema in schemas if tag in schema.get("properties", {})]
        if tag in value and known and not any(_is_of(value[tag], schema) for schema in known):
            return _wrong(value[tag], either(*known), _field(place, tag))
    return _wrong(value, {"anyOf": schemas}, place)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int, float),
    "array": (list,),
    "object": (dict,),
}


def _is_of(value: Any, schema: Schema) -> bool:
    """Whether a value is of the schema's type, and one of those that it lists."""
    if "anyOf" in schema:
        return any(_is_of(value, each) for each in schema["anyOf"])
    kind = schema.get("type")
    if kind is None:
        return True
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "integer" and isinstance(value, float) and not value.is_integer():
        return False
    return "enum" not in schema or value in schema["enum"]


def _in_range(value: Any, schema: Schema) -> bool:
    match value:
        case bool() | None:
            return True
        case int() | float():
            within = schema.get("minimum", value) <= value <= schema.get("maximum", value)
            return bool(within and value > schema.get("exclusiveMinimum", -math.inf))
        case str():
            matches = "pattern" not in schema or re.search(schema["pattern"], value) is not None
            return matches and len(value) >= schema.get("minLength", 0)
        case list():
            return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
    return True


def _field(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _wrong(value: Any, schema: Schema, place: str) -> RequestError:
    return bad_request(f"{place or 'the body'} is {_shown(value)}, expected {_expected(schema)}", place or None)


def _shown(value: Any) -> str:
    """A value as JSON has it, in few words."""
    match value:
        case None | bool():
            return json.dumps(value)
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return described(value)


_NOUNS = {
    "null": "null",
    "string": "a string",
    "boolean": "true or false",
    "number": "a number",
    "integer": "an integer",
    "array": "a list",
    "object": "an object",
}


def _expected(schema: Schema) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_expected(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    return _NOUNS[schema["type"]] + _bounds(schema)


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum", schema.get("minItems")), schema.get("maximum", schema.get("maxItems"))
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    if schema.get("minLength"):
        return " that is not empty"
    if "pattern" in schema:
        return f" that matches {schema['pattern']}"
    if most is not None:
        return f" of {least} to {most}"
    return "" if least is None or (least == 0 and schema["type"] == "array") else f" of at least {least}"
