"""Tools, their calls and their answers in Gemma 4's own syntax, as its chat template writes them.

Values: strings between quoting tokens, raw; ``[a,b]``; ``{key:value}`` with bare keys in the order of the alphabet;
numbers, ``true``, ``false`` and ``null`` as in JSON.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .channels import CALL, END_OF_CALL, QUOTE
from .schemas import Schema, shown

ANSWER, END_OF_ANSWER = "<|tool_response>", "<tool_response|>"
DECLARATION, END_OF_DECLARATION = "<|tool>", "<tool|>"
_BARE = re.compile(r'(?!\s)[^:,{}\[\]"]+(?<!\s)')
_SHOWN = frozenset(("description", "type", "properties", "required", "nullable"))


def in_order(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries by the alphabet, whatever the case."""
    return sorted(((str(key), value) for key, value in entries.items()), key=lambda entry: entry[0].lower())


def is_bare(key: str) -> bool:
    """Whether a key can be told from what stands around it without quotes."""
    return _BARE.fullmatch(key) is not None


class Syntax:
    """Writes Gemma's syntax.

    Args:
        sealed: makes text that people wrote fit to stand among control tokens.
    """

    def __init__(self, sealed: Callable[[str], str]):
        self._sealed = sealed

    def string(self, text: object) -> str:
        """Quoted."""
        return f"{QUOTE}{self._sealed(str(text))}{QUOTE}"

    def key(self, key: str) -> str:
        """Bare, where that can be read again."""
        return self._sealed(key) if is_bare(key) else self.string(key)

    def value(self, value: Any, *, quoted_keys: bool = False) -> str:
        """A value of JSON. The template quotes keys in declarations only."""
        if isinstance(value, str):
            return self.string(value)
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, Mapping):
            return f"{{{self._entries(value, quoted_keys)}}}"
        if isinstance(value, list | tuple):
            return f"[{','.join(self.value(item, quoted_keys=quoted_keys) for item in value)}]"
        return str(value)

    def _entries(self, entries: Mapping[str, Any], quoted: bool) -> str:
        write = self.string if quoted else self.key
        return ",".join(f"{write(key)}:{self.value(value, quoted_keys=quoted)}" for key, value in in_order(entries))

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """A call of a tool."""
        return f"{CALL}call:{self._sealed(name)}{self.value(arguments)}{END_OF_CALL}"

    def answer(self, name: str, text: str) -> str:
        """What a tool answered."""
        return f"{ANSWER}response:{self._sealed(name)}{{value:{self.string(text)}}}{END_OF_ANSWER}"

    def declaration(self, function: Mapping[str, Any]) -> str:
        """A tool that the model may call.

        Args:
            function: its ``name``, ``description`` and ``parameters``, a JSON schema; perhaps ``response``.

        Raises:
            InputError: the parameters are too large.
        """
        parts = [f"description:{self.string(function.get('description') or '')}"]
        if isinstance(parameters := function.get("parameters"), Mapping) and parameters:
            parts.append(f"parameters:{{{self._parameters(shown(parameters))}}}")
        if isinstance(response := function.get("response"), Mapping):
            described = [f"description:{self.string(response['description'])}"] if response.get("description") else []
            parts.append(f"response:{{{','.join([*described, self._type(response)])}}}")
        name = self._sealed(str(function["name"]))
        return f"{DECLARATION}declaration:{name}{{{','.join(parts)}}}{END_OF_DECLARATION}"

    def _parameters(self, schema: Schema) -> str:
        properties = schema.get("properties")
        parts = []
        if isinstance(properties, Mapping) and properties:
            parts.append(f"properties:{{{self._properties(properties)}}}")
        parts += self._required(schema)
        return ",".join([*parts, self._type({"type": "object", **schema})])

    def _properties(self, properties: Mapping[str, Any]) -> str:
        return ",".join(f"{self.key(key)}:{{{self._property(schema)}}}" for key, schema in in_order(properties))

    def _property(self, schema: Schema) -> str:
        kind = str(schema.get("type", "")).upper()
        parts = [f"description:{self.string(schema['description'])}"] if schema.get("description") else []
        if kind == "STRING" and schema.get("enum"):
            parts.append(f"enum:{self.value(schema['enum'], quoted_keys=True)}")
        if kind == "ARRAY" and isinstance(items := schema.get("items"), Mapping) and items:
            parts.append(f"items:{{{','.join(self._items(items))}}}")
        if schema.get("nullable"):
            parts.append("nullable:true")
        if kind == "OBJECT":
            parts += [f"properties:{{{self._properties(_within(schema))}}}", *self._required(schema)]
        return ",".join([*parts, self._type(schema)])

    def _items(self, items: Schema) -> Iterable[str]:
        for key, value in in_order(items):
            if key == "properties":
                yield f"properties:{{{self._properties(value) if isinstance(value, Mapping) else ''}}}"
            elif key == "required" and isinstance(value, list):
                yield f"required:[{','.join(map(self.string, value))}]"
            elif key == "type" and isinstance(value, str | list):
                upper = value.upper() if isinstance(value, str) else [str(each).upper() for each in value]
                yield f"type:{self.value(upper)}"
            elif value is not None:
                yield f"{self.key(key)}:{self.value(value, quoted_keys=True)}"

    def _required(self, schema: Schema) -> list[str]:
        names = schema.get("required")
        return [f"required:[{','.join(map(self.string, names))}]"] if isinstance(names, list) and names else []

    def _type(self, schema: Schema) -> str:
        return f"type:{self.string(str(schema.get('type', '')).upper())}"


def _within(schema: Schema) -> Mapping[str, Any]:
    """An object's properties. One that has none may name them beside its type, as Google's own declarations do."""
    if isinstance(properties := schema.get("properties"), Mapping):
        return properties
    return {key: value for key, value in schema.items() if key not in _SHOWN and isinstance(value, Mapping)}
