"""Calls of tools as grammars: JSON schemas of their parameters in Gemma 4's syntax, in llguidance's variant of Lark.

Keys come in the order of the alphabet, as the chat template writes them. There are none but declared properties, unless
none is declared. Formats, titles, defaults and the like are not heeded. What cannot be held is refused.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import OptionError
from .schemas import Schema, lookup, resolve
from .syntax import in_order, is_bare

_UNSUPPORTED = (
    *("not", "if", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "uniqueItems", "contains", "prefixItems", "unevaluatedProperties"),
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_UNIONS = ("anyOf", "oneOf")
_ASSERTS = (
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const"),
    *("pattern", "minLength", "maxLength", "$ref", "allOf", *_BOUNDS, *_UNIONS),
)
_MOST = 5000  # rules
_COMMON = {
    "any": 'text | NUMBER | "true" | "false" | "null" | any_list | any_object',
    "any_list": '"[" (any ("," any)*)? "]"',
    "any_object": '"{" (any_entry ("," any_entry)*)? "}"',
    "any_entry": 'KEY ":" any',
    "KEY": r"/[A-Za-z_$@][A-Za-z0-9_.$@\-]*/",
    "NUMBER": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+\-]?[0-9]{1,2})?/",
    "INTEGER": r"/-?(0|[1-9][0-9]{0,17})/",
}


def call_grammar(functions: Sequence[Mapping[str, Any]], free: Iterable[str], quote: int, end: int) -> str:
    """What follows the token that begins a call.

    Args:
        functions: each with ``name`` and ``parameters``.
        free: names of those whose arguments may be anything.
        quote: the id that stands around strings.
        end: the id that ends a call.

    Raises:
        OptionError: a schema has something that is not supported; its option is ``tools``.
    """
    free, rules, calls = set(free), _Rules(quote), []
    for function in functions:
        name, parameters = function["name"], function.get("parameters")
        try:
            arguments = "any_object" if name in free else rules.arguments(parameters)
        except _Unsupported as error:
            sentence = "calls of {named}, one of the {tools}, cannot be held to its parameters: {reason}"
            raise OptionError(sentence, named=name, reason=error) from None
        except RecursionError:
            sentence = "the parameters of {named}, one of the {tools}, are nested too deeply, or within themselves"
            raise OptionError(sentence, named=name) from None
        calls.append(f"{json.dumps(name, ensure_ascii=False)} {arguments}")
    rules.lines["start"] = f'"call:" ({" | ".join(calls)}) <[{end}]>'
    return "\n".join(f"{name}: {body}" for name, body in rules.lines.items())


class _Unsupported(Exception):
    """The reason."""


class _Rules:
    """Rules of a grammar, by name; those of terminals have names in capitals."""

    def __init__(self, quote: int):
        self._quote = f"<[{quote}]>"
        self._whole: Schema = {}
        text = {"text": f"{self._quote} TEXT? {self._quote}", "TEXT": r"/(?s:.)+/"}
        self.lines: dict[str, str] = {"start": "", **text, **_COMMON}
        self._references: dict[str, str] = {}

    def arguments(self, parameters: Any) -> str:
        """The rule of a tool's arguments."""
        if not isinstance(parameters, Mapping) or not parameters:
            return '"{}"'
        self._whole, self._references = parameters, {}
        if parameters.get("type", "object") != "object":
            raise _Unsupported("they are no object")
        said = any(name in parameters for name in ("type", "$ref", "allOf", *_UNIONS))
        return self.value(parameters if said else {**parameters, "type": "object"})

    def value(self, schema: Any) -> str:
        """The rule of what a schema describes."""
        if isinstance(schema, bool) or not isinstance(schema, Mapping):
            if schema is False:
                raise _Unsupported("a schema that nothing satisfies")
            return "any"
        _check(schema)
        if isinstance(name := schema.get("$ref"), str):
            return self._referred(name)
        if isinstance(options := schema.get("allOf"), list):
            return self.value(_merged(schema, options, self._whole))
        for union in _UNIONS:
            if isinstance(options := schema.get(union), list) and options:
                rest = {key: value for key, value in schema.items() if key != union}
                return self._rule(" | ".join(self.value(_with(rest, option, self._whole)) for option in options))
        return self._nullable(self._plain(schema), schema)

    def _nullable(self, rule: str, schema: Schema) -> str:
        return self._rule(f'{rule} | "null"') if schema.get("nullable") is True else rule

    def _plain(self, schema: Schema) -> str:
        """Without references and unions."""
        if "const" in schema:
            return self._rule(self._literal(schema["const"]))
        if isinstance(values := schema.get("enum"), list):
            return self._rule(" | ".join(self._literal(value) for value in values if _is_of(value, schema)))
        rules = [self._kind(kind, schema) for kind in _kinds(schema)]
        return rules[0] if len(rules) == 1 else self._rule(" | ".join(rules))

    def _kind(self, kind: str, schema: Schema) -> str:
        made = {
            "object": self._object,
            "array": self._list,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
        }
        words = {"boolean": '("true" | "false")', "null": '"null"', "any": "any"}
        if kind not in made and kind not in words:
            raise _Unsupported(f"the type {kind!r}")
        return words[kind] if kind in words else made[kind]({**schema, "type": kind})

    def _rule(self, body: str, *, terminal: bool = False) -> str:
        if len(self.lines) >= _MOST:
            raise _Unsupported("it is too large")
        if not body:
            raise _Unsupported("an enumeration that nothing satisfies")
        name = f"{'T' if terminal else 'r'}{len(self.lines)}"
        self.lines[name] = body
        return name

    def _referred(self, name: str) -> str:
        if name not in self._references:
            found = lookup(name, self._whole)
            if found is None:
                raise _Unsupported(f"the reference {name!r}")
            self._references[name] = rule = self._rule("any")  # stands in while it may be named within itself
            self.lines[rule] = self.value(found)
        return self._references[name]

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self._quote} {json.dumps(value, ensure_ascii=False) if value else ''} {self._quote}"
        if isinstance(value, list):
            return " ".join(['"["', *_between((self._literal(item) for item in value), '","'), '"]"'])
        if isinstance(value, Mapping):
            entries = (f'{self._key(key)} ":" {self._literal(item)}' for key, item in in_order(value))
            return " ".join(['"{"', *_between(entries, '","'), '"}"'])
        return json.dumps(json.dumps(value))

    def _key(self, key: str) -> str:
        if is_bare(key):
            return json.dumps(key, ensure_ascii=False)
        return f"({self._literal(key)})"

    def _number(self, schema: Schema) -> str:
        bounds = {name: schema[name] for name in _BOUNDS if name in schema}
        if not bounds:
            return "INTEGER" if schema["type"] == "integer" else "NUMBER"
        return self._rule(f"%json {json.dumps({'type': schema['type'], **bounds})}")

    def _string(self, schema: Schema) -> str:
        least, most = _count(schema, "minLength") or 0, _count(schema, "maxLength")
        pattern = schema.get("pattern")
        if least == 0 and most is None and pattern is None:
            return "text"
        parts = [_searched(pattern)] if isinstance(pattern, str) else []
        if least or most is not None:
            parts.append(f"/(?s:.{{{least},{'' if most is None else most}}})/")
        return self._rule(f"{self._quote} {self._rule(' & '.join(parts), terminal=True)} {self._quote}")

    def _list(self, schema: Schema) -> str:
        least, most = _count(schema, "minItems") or 0, _count(schema, "maxItems")
        if most == 0:
            return '"[]"'
        item = self.value(schema.get("items", True))
        more = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        some = f"{item} {more}"
        return self._rule(f'"[" {some if least else f"({some})?"} "]"')

    def _object(self, schema: Schema) -> str:
        _check(schema)
        found = schema.get("properties")
        properties: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {}
        required = _names(schema)
        properties |= {name: True for name in required if name not in properties}
        if not properties:
            return self._others(schema.get("additionalProperties", True))
        entries = [
            (f'{self._key(key)} ":" {self.value(value)}', key in required) for key, value in in_order(properties)
        ]
        return self._rule(f'"{{" {self._entries(entries)} "}}"')

    def _others(self, schema: Any) -> str:
        """An object of which no property is declared."""
        if schema is False:
            return '"{}"'
        if schema is True:
            return "any_object"
        entry = self._rule(f'KEY ":" {self.value(schema)}')
        return self._rule(f'"{{" ({entry} ("," {entry})*)? "}}"')

    def _entries(self, entries: Sequence[tuple[str, bool]]) -> str:
        """Those that are required and any of the others, in their order, commas between them."""
        first, more = "", ""  # what may follow the opening brace, and an entry
        for body, is_required in reversed(entries):
            entry = self._rule(body)
            following = f"{entry} {more}"
            if is_required:
                first = following
            else:
                first = self._rule(f"{following} | {first}") if first else f"({self._rule(following)})?"
            more = self._rule(f'"," {entry} {more}' if is_required else f'("," {entry})? {more}')
        return first


def _check(schema: Schema) -> None:
    found = next((name for name in _UNSUPPORTED if name in schema), None)
    if found is not None:
        raise _Unsupported(f"{found} is not supported")


def _kinds(schema: Schema) -> list[str]:
    """The types that a schema names, or speaks of."""
    if "type" in schema:
        kind = schema["type"]
        return [_named(each) for each in kind] if isinstance(kind, list) else [_named(kind)]
    speaks = {
        "object": ("properties", "required", "additionalProperties"),
        "array": ("items", "minItems", "maxItems"),
        "string": ("pattern", "minLength", "maxLength"),
        "number": _BOUNDS,
    }
    return next(([kind] for kind, names in speaks.items() if any(name in schema for name in names)), ["any"])


def _named(kind: Any) -> str:
    if not isinstance(kind, str):
        raise _Unsupported(f"the type {json.dumps(kind, default=str)}")
    return kind


def _is_of(value: Any, schema: Schema) -> bool:
    """Whether a value is of a schema's type, if it names one."""
    kinds = {
        "object": Mapping,
        "array": list,
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "null": type(None),
    }
    if "type" not in schema:
        return True
    named = [kind for kind in _kinds(schema) if kind in kinds]
    return any(isinstance(value, kinds[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in named)


def _with(rest: Schema, option: Any, whole: Schema) -> Any:
    """One option of a union, together with what stands beside the union."""
    if isinstance(option, Mapping) and any(name in rest for name in _ASSERTS):
        return _merged(rest, [option], whole)
    return option


def _merged(schema: Schema, options: Iterable[Any], whole: Schema) -> Schema:
    """What satisfies a schema and all of the options."""
    found = {key: value for key, value in schema.items() if key != "allOf"}
    for option in options:
        if not isinstance(option, Mapping):
            raise _Unsupported("allOf of what is no object")
        for key, value in resolve(option, whole).items():
            found[key] = _both(key, found[key], value) if key in found else value
    return found


def _both(key: str, one: Any, other: Any) -> Any:
    if one == other or key not in _ASSERTS:
        return one
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if key == "properties" and isinstance(one, dict) and isinstance(other, dict) and not set(one) & set(other):
        return {**one, **other}
    raise _Unsupported(f"two of {key} that both hold")


def _between(parts: Iterable[str], comma: str) -> list[str]:
    found = [each for part in parts for each in (comma, part)]
    return found[1:]


def _searched(pattern: str) -> str:
    """A terminal for texts in which a pattern is found."""
    letters = re.findall(r"\\?.", pattern, re.DOTALL)
    starts, ends = letters[:1] == ["^"], letters[-1:] == ["$"]
    inner = "".join("\\/" if letter == "/" else letter for letter in letters[starts : len(letters) - ends])
    plain = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "", inner)  # without what is escaped, and classes
    if "^" in plain or "$" in plain:
        raise _Unsupported("a pattern with anchors inside")
    if (starts or ends) and _splits(plain):
        raise _Unsupported("a pattern with anchors in alternatives")
    whole = f"{'' if starts else '(?s:.*)'}(?:{inner}){'' if ends else '(?s:.*)'}"
    return f"/{whole}/".replace("\n", "\\n")


def _splits(plain: str) -> bool:
    """Whether a pattern has alternatives that no group is around."""
    depth = 0
    for letter in plain:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            return True
    return False


def _count(schema: Schema, name: str) -> int | None:
    """How many a schema says; None if it does not."""
    count = schema.get(name)
    if count is None or (isinstance(count, int) and not isinstance(count, bool) and count >= 0):
        return count
    raise _Unsupported(f"{name} is no count")


def _names(schema: Schema) -> list[str]:
    """The properties that a schema requires."""
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
