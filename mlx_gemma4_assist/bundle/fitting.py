"""One program from several traces of a function: what differs between them is linear in the program's variables.

A function is traced for several values of its variables, more than it takes to tell a line, or a plane, from anything
else. The traces must consist of the same operations on the same arrays; each integer among the arguments is then a
constant plus multiples of the variables, which the further traces confirm.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import InputError
from .primitives import Called
from .program import Linear
from .tracing import Node, Trace, Value

SCALAR = "scalar"

Point = Mapping[str, int]
"""The values of all variables."""




def fitted(points: Sequence[Point], traces: Sequence[Trace]) -> Trace:
    """The trace for all values of the variables.

    Args:
        points: which values each trace is for.
        traces: as many.

    Raises:
        InputError: the traces do not differ in that manner.
    """
    plane, first = Plane(points), traces[0]
    for other in traces[1:]:
        _check_same(first, other)
    nodes = []
    for each in zip(*(trace.nodes for trace in traces), strict=True):
        named = [node.called.arguments for node in each]
        arguments = {name: plane.fit([given[name] for given in named]) for name in named[0]}
        nodes.append(each[0]._replace(called=each[0].called._replace(arguments=arguments)))
    scalars: dict[int, Node] = {}
    for place, arrays in enumerate(zip(*(trace.constants for trace in traces), strict=True)):
        if any(content(array) != content(arrays[0]) for array in arrays[1:]):
            value = plane.fit([_scalar(array) for array in arrays])
            scalars[place] = Node(Called(SCALAR, {"value": value, "dtype": arrays[0].dtype}), (), 1)
    return with_made_constants(first._replace(nodes=nodes), scalars)


def with_made_constants(trace: Trace, made: Mapping[int, Node]) -> Trace:
    """A trace whose first nodes make some of its constants."""
    left = [place for place in range(len(trace.constants)) if place not in made]
    numbers = {Value("constant", place): Value("constant", number) for number, place in enumerate(left)}
    numbers |= {Value("constant", place): Value("made", number) for number, place in enumerate(made)}

    def moved(value: Value) -> Value:
        return Value("made", value.number + len(made)) if value.kind == "made" else numbers.get(value, value)

    nodes = [node._replace(inputs=tuple(map(moved, node.inputs))) for node in trace.nodes]
    return Trace([*made.values(), *nodes], [moved(each) for each in trace.outputs], [trace.constants[i] for i in left])


def _scalar(array: mx.array) -> int:
    if array.ndim or not mx.issubdtype(array.dtype, mx.integer):
        raise InputError("a constant is another for other lengths: no program is all of them")
    value: Any = array.item()
    return int(value)


def _check_same(one: Trace, other: Trace) -> None:
    same = len(one.nodes) == len(other.nodes) and one.outputs == other.outputs
    same = same and all(_form(a) == _form(b) for a, b in zip(one.nodes, other.nodes, strict=True))
    if not same or len(one.constants) != len(other.constants):
        raise InputError("the function has other operations for other lengths: no program is all of them")


def _form(node: Node) -> tuple[Any, ...]:
    return node.called.operation, node.inputs, node.outputs, node.called.arguments.keys()


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
        """What has these values at the points: integers by themselves or in lists; all else is the same everywhere.

        Raises:
            InputError: nothing linear has.
        """
        first = values[0]
        if all(value == first for value in values):
            return tuple(first) if isinstance(first, list | tuple) else first
        if isinstance(first, list | tuple) and len({len(value) for value in values}) == 1:
            return tuple(self.fit(each) for each in zip(*values, strict=True))
        if not all(isinstance(value, int) for value in values):
            raise InputError(f"an argument is {values[0]!r:.50} here and {values[1]!r:.50} there")
        return self._line(values)

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
