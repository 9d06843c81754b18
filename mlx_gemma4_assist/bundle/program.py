"""Programs: straight lines of operations on numbered arrays, as JSON. docs/bundle.md describes the format.

A program's arrays are numbered: first the bundle's weights, then its constants, then the program's inputs, then what
each step gives. Steps name an operation of the program's own table, which holds its arguments too: nearly all steps of
a network share a few dozen of these.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import mlx.core as mx

from ..backend import dtype_name
from ..errors import InputError
from ..files import parse_json
from .operations import FLAG, INTEGER, INTEGERS, NUMBER, OPERATIONS, TYPE, TYPES, WORD

FORMAT, VERSION = "mlx_gemma4_assist program", 1
MOST_OUTPUTS = 16  # of a step


class Linear(NamedTuple):
    """An integer that depends on a program's variables: a constant, and what each variable is multiplied by."""

    constant: int
    factors: tuple[tuple[str, int], ...]

    def at(self, variables: Mapping[str, int]) -> int:
        return self.constant + sum(factor * variables[name] for name, factor in self.factors)


Number = int | Linear


class Use(NamedTuple):
    """An operation with its arguments, how many arrays it takes, and how many it gives."""

    operation: str
    arguments: tuple[tuple[str, Any], ...]
    inputs: int
    outputs: int


class Input(NamedTuple):
    """What a program takes; None is any number of slots."""

    name: str
    dtype: mx.Dtype
    shape: tuple[Number | None, ...]


@dataclass(frozen=True)
class Program:
    """A function from named arrays to named arrays.

    Attributes:
        name: what it is.
        variables: the names of integers that shapes depend on.
        weights, constants: how many arrays of the bundle precede the program's own.
        inputs: in the order of their numbers.
        uses: the operations of its steps.
        steps: each a number of a use, then those of the arrays that it takes.
        outputs: name and number of each.
    """

    name: str
    variables: tuple[str, ...]
    weights: int
    constants: int
    inputs: tuple[Input, ...]
    uses: tuple[Use, ...]
    steps: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[str, int], ...]

    def text(self) -> str:
        """The program as JSON."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "variables": self.variables,
            "weights": self.weights,
            "constants": self.constants,
            "inputs": [[each.name, dtype_name(each.dtype), _written(each.shape)] for each in self.inputs],
            "operations": [
                {"operation": use.operation, "inputs": use.inputs, "outputs": use.outputs}
                | {name: _written(value) for name, value in use.arguments}
                for use in self.uses
            ],
            "steps": list(chain.from_iterable(self.steps)),
            "outputs": self.outputs,
        }
        return json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"


def _written(value: Any) -> Any:
    if isinstance(value, Linear):
        return {"constant": value.constant, **dict(value.factors)}
    if isinstance(value, mx.Dtype):
        return dtype_name(value)
    return [_written(each) for each in value] if isinstance(value, tuple | list) else value


# Reading


def read_program(text: str, name: str) -> Program:
    """A program from JSON, checked: whatever it is given, running it asks MLX for nothing but its operations.

    Args:
        text: the JSON.
        name: of the file, for errors.

    Raises:
        InputError: it is no program, or of another version; one sentence with what is wrong.
    """
    content = parse_json(text, name)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{name} is no program of a bundle")
    if content.get("version") != VERSION:
        raise InputError(f"{name} is of version {content.get('version')!r:.50} of the format, expected {VERSION}")
    try:
        return _Checked(name, content).program()
    except _Wrong as error:
        raise InputError(f"{name} is damaged: {error}") from None


class _Wrong(Exception):
    """What is wrong with a program."""


class _Checked:
    """Reads a program's parts, and refuses what is out of place."""

    def __init__(self, name: str, content: Mapping[str, Any]):
        self._name, self._content = name, content
        self._variables = tuple(_text(each) for each in self._list("variables"))

    def program(self) -> Program:
        weights, constants = (_count(self._content.get(name), name) for name in ("weights", "constants"))
        inputs = tuple(map(self._input, self._list("inputs")))
        uses = tuple(map(self._use, self._list("operations")))
        first = weights + constants + len(inputs)
        steps, end = _steps(self._list("steps"), uses, first)
        outputs = tuple(_output(each, end) for each in self._list("outputs"))
        name = _text(self._content.get("name"))
        return Program(name, self._variables, weights, constants, inputs, uses, steps, outputs)

    def _list(self, name: str) -> list[Any]:
        found = self._content.get(name)
        if not isinstance(found, list):
            raise _Wrong(f"{name} is no list")
        return found

    def _input(self, given: Any) -> Input:
        if not isinstance(given, list) or len(given) != 3 or not isinstance(given[2], list):
            raise _Wrong(f"{given!r:.100} is no input")
        shape = tuple(None if each is None else self._integer(each) for each in given[2])
        return Input(_text(given[0]), _type(given[1]), shape)

    def _use(self, given: Any) -> Use:
        known = OPERATIONS.get(_text(given.get("operation"))) if isinstance(given, dict) else None
        if known is None:
            raise _Wrong(f"{given!r:.100} is no operation that is known here")
        inputs, outputs = _count(given.get("inputs"), "inputs"), _count(given.get("outputs"), "outputs")
        named = {name: value for name, value in given.items() if name not in ("operation", "inputs", "outputs")}
        if (
            not known.least <= inputs <= known.most
            or not 1 <= outputs <= MOST_OUTPUTS
            or named.keys() != known.arguments.keys()
        ):
            raise _Wrong(f"{given!r:.100} is not how the operation is called")
        arguments = tuple((name, self._argument(known.arguments[name], value)) for name, value in named.items())
        return Use(given["operation"], arguments, inputs, outputs)

    def _argument(self, kind: str, value: Any) -> Any:
        if kind == INTEGER:
            return self._integer(value)
        if kind == INTEGERS and isinstance(value, list):
            return tuple(map(self._integer, value))
        if kind == TYPE:
            return _type(value)
        if kind == NUMBER and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
            return value
        if (kind == FLAG and isinstance(value, bool)) or (kind == WORD and isinstance(value, str)):
            return value
        raise _Wrong(f"{value!r:.100} is no {kind}")

    def _integer(self, value: Any) -> Number:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if not isinstance(value, dict) or not value.keys() <= {"constant", *self._variables}:
            raise _Wrong(f"{value!r:.100} is no integer")
        factors = tuple((name, _whole(factor)) for name, factor in value.items() if name != "constant")
        return Linear(_whole(value.get("constant")), factors)


def _steps(flat: Sequence[Any], uses: Sequence[Use], first: int) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The steps, and how many arrays there are after the last of them."""
    steps: list[tuple[int, ...]] = []
    place, end = 0, first
    while place < len(flat):
        number = _count(flat[place], "a step's operation")
        if number >= len(uses):
            raise _Wrong(f"a step has the operation {number} of {len(uses)}")
        use = uses[number]
        taken = tuple(_count(each, "a step's input") for each in flat[place + 1 : place + 1 + use.inputs])
        if len(taken) < use.inputs or any(each >= end for each in taken):
            raise _Wrong(f"step {len(steps)} takes an array that is not there")
        steps.append((number, *taken))
        place, end = place + 1 + use.inputs, end + use.outputs
    return tuple(steps), end


def _output(given: Any, end: int) -> tuple[str, int]:
    if not isinstance(given, list) or len(given) != 2 or _count(given[1], "an output") >= end:
        raise _Wrong(f"{given!r:.100} is no output")
    return _text(given[0]), given[1]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{value!r:.100} is no name")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Wrong(f"{value!r:.100} is no integer")
    return value


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _Wrong(f"{what} is {value!r:.100}")
    return value


def _type(value: Any) -> mx.Dtype:
    if not isinstance(value, str) or value not in TYPES:
        raise _Wrong(f"{value!r:.100} is no type of numbers")
    return TYPES[value]
