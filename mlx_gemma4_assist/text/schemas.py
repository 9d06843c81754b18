"""JSON schemas of tools' parameters as Gemma 4's declarations can show them: without references and unions.

The chat template shows a type in one word, and knows neither ``$ref`` nor ``anyOf``; what is written with these would
be declared without a type. Schemas that have none of it stay as they are.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

Schema = Mapping[str, Any]
LARGEST = 20_000
"""Schemas within one tool's, references resolved."""
_UNIONS = ("anyOf", "oneOf")


def resolve(schema: Schema, whole: Schema) -> Schema:
    """A schema without its reference, if it is one; a reference to nothing is dropped.

    Args:
        schema: what stands beside ``$ref`` goes before what it names.
        whole: where ``#`` begins.
    """
    seen: set[str] = set()
    while isinstance(name := schema.get("$ref"), str):
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        found = None if name in seen else lookup(name, whole)
        seen.add(name)
        schema = beside if found is None else {**found, **beside}
    return schema


def lookup(name: str, whole: Schema) -> Schema | None:
    """What a reference such as ``#/$defs/city`` names; None if there is nothing."""
    if not name.startswith("#"):
        return None
    found: Any = whole
    for step in name[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or step not in found:
            return None
        found = found[step]
    return found if isinstance(found, Mapping) else None


def shown(parameters: Schema) -> Schema:
    """A tool's parameters as a declaration can show them.

    Raises:
        InputError: they are too large once references are resolved.
    """
    return _Shown(parameters).object(parameters, frozenset())


class _Shown:
    def __init__(self, whole: Schema):
        self._whole, self._count = whole, 0

    def object(self, schema: Schema, inside: frozenset[str]) -> Schema:
        """A schema whose properties are shown, too."""
        found = dict(self._single(schema, inside))
        if isinstance(properties := found.get("properties"), Mapping):
            within = inside | _references(schema)
            found["properties"] = {key: self._property(value, within) for key, value in properties.items()}
        if isinstance(items := found.get("items"), Mapping):
            found["items"] = self._items(items, inside | _references(schema))
        return found

    def _property(self, schema: Any, inside: frozenset[str]) -> Schema:
        self._count += 1
        if self._count > LARGEST:
            raise InputError(f"a tool's parameters are more than {LARGEST:,} schemas, references resolved")
        return self.object(schema, inside) if isinstance(schema, Mapping) else {}

    def _items(self, schema: Schema, inside: frozenset[str]) -> Schema:
        """The template shows all that these say, but for references."""
        if "$ref" in schema:
            return self._property(schema, inside)
        found = dict(schema)
        if isinstance(properties := found.get("properties"), Mapping):
            found["properties"] = {key: self._property(value, inside) for key, value in properties.items()}
        return found

    def _single(self, schema: Schema, inside: frozenset[str]) -> Schema:
        """A schema with one type: a union's first that is not null."""
        if isinstance(name := schema.get("$ref"), str) and name in inside:  # it is within itself
            return {key: value for key, value in schema.items() if key != "$ref"} | {"type": "object"}
        schema = resolve(schema, self._whole)
        for name in ("allOf", *_UNIONS):
            options = schema.get(name)
            if "type" not in schema and isinstance(options, list) and options:
                return self._single(_first(schema, name, options), inside)
        return _typed(schema)


def _references(schema: Schema) -> frozenset[str]:
    """The names by which a schema is another, directly or as one of its options."""
    unions = [schema[name] for name in ("allOf", *_UNIONS) if isinstance(schema.get(name), list)]
    options = [option for union in unions for option in union if isinstance(option, Mapping)]
    names = [each.get("$ref") for each in (schema, *options)]
    return frozenset(name for name in names if isinstance(name, str))


def _first(schema: Schema, name: str, options: list[Any]) -> Schema:
    """A union as its first option that is not null, and nullable if another is."""
    real = [each for each in options if isinstance(each, Mapping) and each.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key != name}
    nullable = {"nullable": True} if name in _UNIONS and len(real) < len(options) else {}
    return {**(real[0] if real else {"type": "null"}), **nullable, **rest}


def _typed(schema: Schema) -> Schema:
    """With one type, as far as one can be told."""
    found, kind = dict(schema), schema.get("type")
    if isinstance(kind, list):
        real = [each for each in kind if each != "null"]
        found["type"] = str(real[0]) if real else "null"
        if len(real) < len(kind):
            found["nullable"] = True
    if isinstance(const := schema.get("const"), str):
        found.setdefault("enum", [const])
    if "type" not in found and (told := _told(found)):
        found["type"] = told
    return found


def _told(schema: Schema) -> str | None:
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    values = schema.get("enum")
    said = isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)
    return "string" if said else None
