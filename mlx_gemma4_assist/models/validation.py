"""What the configurations' own validations are written with."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ..errors import InputError


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
        raise InputError(f"{file}: {name} is {found!r}, expected {expected}")


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is an integer of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


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
