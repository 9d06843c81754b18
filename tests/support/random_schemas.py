"""JSON schemas of random kinds, as far as grammars can hold an answer to them."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

KEYS = ("a", "b", "name", "age", "two words", "a-b", "größe", 'say "hi"', "", "名", "x" * 30, "$ref", "items", "a/b~c")
PATTERNS = ("^[A-Z][a-z]{1,6}$", "^(yes|no)$", "^\\d{3}-\\d{2}$", "^[a-f0-9]{4}$", "^(a|b)*c$", "^.{2,5}$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
VALUES = (None, True, False, 0, -7, 1.5, "", "text", 'a "quoted" \\ word', "é 名", [1, "a"], {"k": [None]}, [])


def random_schema(rng: random.Random) -> Schema:
    """Any, with definitions that it may refer to, themselves included."""
    schema = _any(rng, rng.choice([1, 2, 2, 3]))
    if rng.random() < 0.25:
        node = {"type": "object", "properties": {"v": _any(rng, 0), "next": {"$ref": "#/$defs/node"}}}
        node |= {"required": ["v"], "additionalProperties": False}
        schema = {"type": "object", "properties": {"first": {"$ref": "#/$defs/node"}, "other": schema}}
        schema |= {"required": ["first"], "additionalProperties": False, "$defs": {"node": node}}
    return schema


def _any(rng: random.Random, depth: int) -> Schema:
    simple = (_string, _integer, _number, _enum, _kinds)
    deep = (_object, _object, _array, _tuple, _one_of_several, _all_of_several)
    make: Callable[[random.Random, int], Schema] = rng.choice(simple if not depth or rng.random() < 0.4 else deep)
    return make(rng, depth)


def _string(rng: random.Random, depth: int) -> Schema:
    match rng.randrange(4):
        case 0:
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": rng.choice(FORMATS)}
        case _:
            least = rng.randint(0, 4)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 8)}


def _integer(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-2000, 1000)
    schema = {"type": "integer"}
    schema |= {rng.choice(["minimum", "exclusiveMinimum"]): low} if rng.random() < 0.7 else {}
    schema |= {rng.choice(["maximum", "exclusiveMaximum"]): low + rng.randint(2, 3000)} if rng.random() < 0.7 else {}
    return schema | ({"multipleOf": rng.choice([2, 5, 10])} if rng.random() < 0.15 else {})


def _number(rng: random.Random, depth: int) -> Schema:
    low = round(rng.uniform(-50, 50), 2)
    schema = {"type": "number"}
    schema |= {"minimum": low} if rng.random() < 0.6 else {}
    return schema | ({"maximum": round(low + rng.uniform(0.1, 99), 2)} if rng.random() < 0.6 else {})


def _enum(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.3:
        return {"const": rng.choice(VALUES)}
    return {"enum": rng.sample(VALUES, rng.randint(1, 6))}


def _kinds(rng: random.Random, depth: int) -> Schema:
    kinds = rng.sample(["boolean", "null", "integer", "string"], rng.randint(1, 3))
    bounds = {"maxLength": 5} if "string" in kinds else {}
    return {"type": kinds if rng.random() < 0.7 else kinds[0], **bounds}


def _object(rng: random.Random, depth: int) -> Schema:
    keys = rng.sample(KEYS, rng.randint(0, 5))
    schema: Schema = {"type": "object", "properties": {key: _any(rng, depth - 1) for key in keys}}
    schema["required"] = rng.sample(keys, rng.randint(0, len(keys)))
    openness = rng.random()  # what may have any keys ends late
    if openness > 0.1:
        schema["additionalProperties"] = False
    elif openness > 0.03:
        schema["additionalProperties"] = _any(rng, 0)
    return schema


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth - 1), "minItems": least, "maxItems": least + rng.randint(0, 3)}


def _tuple(rng: random.Random, depth: int) -> Schema:
    items = [_any(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    rest = {"items": False} if rng.random() < 0.6 else {"items": _any(rng, 0), "maxItems": len(items) + 1}
    return {"type": "array", "prefixItems": items, "minItems": rng.randint(0, len(items)), **rest}


def _one_of_several(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def _all_of_several(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.7:
        low = rng.randint(-50, 50)
        return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + rng.randint(0, 500)}]}
    parts = []
    for key in rng.sample(KEYS, 2):
        required = [key] if rng.random() < 0.5 else []
        parts.append({"type": "object", "properties": {key: _any(rng, depth - 1)}, "required": required})
    return {"allOf": parts}
