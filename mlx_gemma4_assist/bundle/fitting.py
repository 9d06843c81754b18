"""One program from several graphs of a function: what differs between them is linear in the program's variables.

A function is traced for several values of its variables. The graphs must consist of the same operations on the same
arrays; each integer among the arguments is then a constant plus multiples of the variables. Graphs beyond those that it
takes to find these confirm them.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import InputError
from .marks import MARK, Marks
from .primitives import Called
from .program import Linear
from .tracing import Message, Node, Trace, Value, read_graph

SCALAR = "scalar"

Point = Mapping[str, int]
"""The values of all variables."""


def fitted(points: Sequence[Point], graphs: Sequence[Sequence[Message]], marks: Marks) -> Trace:
    """The trace for all values of the variables.

    Args:
        points: which values each graph is for.
        graphs: as many.
        marks: that are left in them.

    Raises:
        InputError: the graphs do not differ in that manner.
    """
    plane = Plane(points)
    if len({len(graph) for graph in graphs}) > 1:
        raise _other()
    merged: list[Message] = []
    constants: list[dict[str, mx.array]] = [{} for _ in graphs]
    for each in zip(*graphs, strict=True):
        if each[0]["type"] == "constants":
            constants = [dict(message["constants"]) for message in each]
        merged.append(_merged(plane, each) if each[0]["type"] == "primitive" else each[0])
    tags = {message["inputs"][0][0] for message in merged if message.get("name") == MARK}
    varying = _varying(plane, constants, tags, marks)
    trace = read_graph(merged, marks)
    place_of = {id(array): place for place, array in enumerate(trace.constants)}
    found = {
        place_of[id(constants[0][name])]: node for name, node in varying.items() if id(constants[0][name]) in place_of
    }
    return _with_made_constants(trace, found)


def _other() -> InputError:
    return InputError("the function has other operations for other lengths: no program is all of them")


def _merged(plane: "Plane", messages: Sequence[Message]) -> Message:
    """An operation whose arguments depend on variables."""
    first = messages[0]
    taken = [each[0] for each in first["inputs"]]
    for other in messages[1:]:
        if other["name"] != first["name"] or [each[0] for each in other["inputs"]] != taken:
            raise _other()
    states = [message["arguments"] for message in messages]
    if all(state == states[0] for state in states):
        return first
    return {**first, "arguments": plane.fit(states)}


def _varying(
    plane: "Plane", constants: Sequence[Mapping[str, mx.array]], tags: set[str], marks: Marks
) -> dict[str, Node]:
    """The constants that depend on variables, as what makes them; tags must be the same marks, of whatever shape."""
    found = {}
    for name, first in constants[0].items():
        if any(other.keys() != constants[0].keys() for other in constants):
            raise _other()
        arrays = [other[name] for other in constants]
        if name in tags:
            if len({marks.number(array) for array in arrays}) > 1:
                raise _other()
        elif any(content(array) != content(first) for array in arrays[1:]):
            value = plane.fit([_scalar(array) for array in arrays])
            found[name] = Node(Called(SCALAR, {"value": value, "dtype": first.dtype}), (), 1)
    return found


def _scalar(array: mx.array) -> int:
    if array.ndim or not mx.issubdtype(array.dtype, mx.integer):
        raise _other()
    value: Any = array.item()
    return int(value)


def _with_made_constants(trace: Trace, made: Mapping[int, Node]) -> Trace:
    """A trace whose first nodes make some of its constants."""
    if not made:
        return trace
    left = [place for place in range(len(trace.constants)) if place not in made]
    numbers = {Value("constant", place): Value("constant", number) for number, place in enumerate(left)}
    numbers |= {Value("constant", place): Value("made", number) for number, place in enumerate(made)}

    def moved(value: Value) -> Value:
        return Value("made", value.number + len(made)) if value.kind == "made" else numbers.get(value, value)

    nodes = [node._replace(inputs=tuple(map(moved, node.inputs))) for node in trace.nodes]
    return Trace([*made.values(), *nodes], [moved(each) for each in trace.outputs], [trace.constants[i] for i in left])


def content(array: mx.array) -> tuple[mx.Dtype, tuple[int, ...], bytes]:
    """An array as what is equal for equal arrays."""
    return array.dtype, array.shape, bytes(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)))


class Plane:
    """Finds linear functions through points.

    Args:
        points: the values of all variables; the first ones, one more than there are variables, must span them.
    """

    def __init__(self, points: Sequence[Point]):
        self._names = tuple(points[0])
        self._rows = [[1, *(point[name] for name in self._names)] for point in points]
        self._inverse = _inverse([list(map(Fraction, row)) for row in self._rows[: len(self._names) + 1]])

    def fit(self, values: Sequence[Any]) -> Any:
        """What has these values at the points: whole numbers, also in lists; all else is the same everywhere.

        Raises:
            InputError: nothing linear has.
        """
        first = values[0]
        if all(value == first for value in values):
            return first
        if isinstance(first, list | tuple) and len({len(value) for value in values}) == 1:
            return tuple(self.fit(each) for each in zip(*values, strict=True))
        if not all(isinstance(value, int | float) and value == int(value) for value in values):
            raise _other()
        return self._line([int(value) for value in values])

    def _line(self, values: Sequence[int]) -> Linear:
        found = [sum(a * b for a, b in zip(row, values, strict=False)) for row in self._inverse]
        constant, *factors = (int(each) for each in found)
        for row, value in zip(self._rows, values, strict=True):
            if sum(a * b for a, b in zip(row, (constant, *factors), strict=True)) != value:
                raise InputError(f"an argument is {list(values)!r:.100} for {self._rows!r:.200}: it is not linear")
        pairs = zip(self._names, factors, strict=True)
        return Linear(constant, tuple((name, factor) for name, factor in pairs if factor))


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Of a small matrix, by elimination."""
    size = len(matrix)
    rows = [row + [Fraction(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [each / rows[i][i] for each in rows[i]]
        for j in range(size):
            if j != i and rows[j][i]:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]
