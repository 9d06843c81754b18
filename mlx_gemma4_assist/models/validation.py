"""What the configurations' own validations are written with."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, TypeGuard, get_args, get_origin, get_type_hints

from ..errors import InputError

LARGEST = 2**31 - 1
"""Of integers: what MLX counts a dimension with."""
WIDEST_INTEGER = 2**63 - 1
MOST_LAYERS = 1000
"""Of a network: the largest has 60, and each is an object before a weight is read."""
WIDEST = 2**15
"""Of a tower's sizes: the largest is 10,240, and products of two of them are to stay below ``LARGEST``."""
_IN_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", tuple: "a list"}
_SHOWN = 200  # characters of a value in a message


def known(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for and that say something: null in a file means the default."""
    names = {field.name for field in fields(config)}
    return {name: value for name, value in values.items() if name in names and value is not None}


def expect(right: bool, name: str, found: object, expected: object, *, file: str = "config.json") -> None:
    """Refuse a value that is not right.

    Raises:
        InputError: with the field's name, the value found and the value expected.
    """
    if not right:
        raise InputError(f"{file}: {name} is {found!r:.{_SHOWN}}, expected {expected}")


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is an integer of at least ``least``, and one that MLX can count with."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; an integer has to be one that MLX can compute with."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and abs(value) <= sys.float_info.max


def expect_small(config: object, names: Iterable[str], most: int, *, of: str) -> None:
    """Refuse a configuration whose fields of these names, which are integers, are not all at most ``most``.

    Args:
        of: as for ``expect_counts``.

    Raises:
        InputError: as ``expect``.
    """
    for name in names:
        value = vars(config)[name]
        expect(value <= most, f"{name} of {of}", value, f"at most {most}")


def expect_types(config: object, *, of: str = "", file: str = "config.json") -> None:
    """Refuse a configuration with a value that is not of its field's type; numbers are finite, integers of 32 bits.

    Args:
        config: a dataclass.
        of: as for ``expect_counts``.
        file: as for ``expect``.

    Raises:
        InputError: as ``expect``.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = vars(config)[name]
        expect(_fits(value, hint), f"{name} of {of}" if of else name, value, _in_words(hint), file=file)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type, as fields of configurations have them."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind is int:
        return is_count(value, -LARGEST)
    if kind is float:
        return is_number(value)
    if kind is tuple:
        return isinstance(value, tuple) and all(_fits(each, inner[0]) for each in value)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    if inner:  # a union
        return any(_fits(value, each) for each in inner)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    inner = get_args(hint)
    kind = get_origin(hint) or hint
    if kind in (dict, Mapping):
        return "an object" + (" of objects" if get_origin(inner[1]) is dict else "")
    if NoneType in inner:
        return f"null or {_in_words(next(each for each in inner if each is not NoneType))}"
    return _IN_WORDS.get(kind, "an object")


def expect_counts(config: object, names: Iterable[str], *, of: str = "", expected: str = "a positive integer") -> None:
    """Refuse a configuration whose fields of these names are not all positive integers.

    Args:
        of: what the fields are fields of, where the file has several such parts.

    Raises:
        InputError: as ``expect``.
    """
    for name in names:
        value = vars(config)[name]
        expect(is_count(value), f"{name} of {of}" if of else name, value, expected)
