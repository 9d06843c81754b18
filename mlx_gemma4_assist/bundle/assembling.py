"""From a trace to a program: arrays are numbered, equal uses of an operation share an entry, constants are of all."""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from .fitting import content
from .program import Input, Program, Use
from .tracing import Trace, Value


class Constants:
    """The constants of all programs, each once."""

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self._numbers: dict[object, int] = {}

    def number(self, array: mx.array) -> int:
        """Where an array is among them; it is added if it is not."""
        number = self._numbers.setdefault(content(array), len(self.arrays))
        if number == len(self.arrays):
            self.arrays.append(mx.contiguous(array))
        return number


def assembled(
    name: str,
    variables: tuple[str, ...],
    inputs: tuple[Input, ...],
    outputs: Sequence[str],
    trace: Trace,
    weights: int,
    constants: Constants,
) -> Program:
    """A trace as a program.

    Constants precede a program's own arrays, and are not all known before the last program has been traced: until
    :func:`numbered` is told, they have negative numbers.

    Args:
        name, variables, inputs: the program's.
        outputs: names of the trace's.
        trace: whose inputs are weights, then the program's own.
        weights: how many.
        constants: are added to.
    """
    places = [constants.number(array) for array in trace.constants]

    def number(value: Value) -> int:
        if value.kind == "constant":
            return -1 - places[value.number]
        return value.number if value.kind == "input" else weights + len(inputs) + value.number

    uses: dict[Use, int] = {}
    steps = []
    for what, taken, count in trace.nodes:
        use = Use(what.operation, tuple(what.arguments.items()), len(taken), count)
        steps.append((uses.setdefault(use, len(uses)), *map(number, taken)))
    made = tuple(zip(outputs, map(number, trace.outputs), strict=True))
    return Program(name, variables, weights, 0, inputs, tuple(uses), tuple(steps), made)


def numbered(program: Program, constants: int) -> Program:
    """A program whose constants are numbered, once it is known how many there are."""
    first = program.weights

    def number(given: int) -> int:
        if given < 0:
            return first - 1 - given
        return given if given < first else given + constants

    steps = tuple((use, *map(number, taken)) for use, *taken in program.steps)
    outputs = tuple((name, number(value)) for name, value in program.outputs)
    return replace(program, constants=constants, steps=steps, outputs=outputs)
