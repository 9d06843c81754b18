"""Runs programs by MLX's Python functions: an operation after the other, nothing more.

What another language has to do is this file and ``operations``. It is here for tests and ``export --check``; who has
Python runs the package itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from ..errors import InputError, first_line
from .operations import OPERATIONS
from .program import Linear, Program


def run(
    program: Program,
    fixed: Sequence[mx.array],
    inputs: Mapping[str, mx.array],
    variables: Mapping[str, int],
) -> dict[str, mx.array]:
    """What a program makes of its inputs, not evaluated.

    Args:
        program: what to do.
        fixed: the bundle's weights, then its constants.
        inputs: by name.
        variables: their values.

    Raises:
        InputError: an input that the program does not take; arrays that its operations do not fit.
    """
    values = [*fixed, *_inputs(program, inputs, variables)]
    uses = [
        (OPERATIONS[use.operation].run, {name: _at(value, variables) for name, value in use.arguments})
        for use in program.uses
    ]
    try:
        for number, *taken in program.steps:
            operation, arguments = uses[number]
            made = operation([values[each] for each in taken], arguments)
            values += [made] if isinstance(made, mx.array) else made
        return {name: values[number] for name, number in program.outputs}
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise InputError(f"the program {program.name} cannot be run: {first_line(error)}") from None


def _inputs(program: Program, inputs: Mapping[str, mx.array], variables: Mapping[str, int]) -> list[mx.array]:
    if variables.keys() != {*program.variables}:
        raise InputError(f"the program {program.name} depends on {', '.join(program.variables)}")
    found = []
    for each in program.inputs:
        array = inputs[each.name]
        shape = [_at(size, variables) for size in each.shape]
        fits = array.ndim == len(shape) and all(
            size in (None, own) for size, own in zip(shape, array.shape, strict=True)
        )
        if array.dtype != each.dtype or not fits:
            raise InputError(
                f"{each.name} is {array.dtype} {array.shape}, and {program.name} takes {each.dtype} {shape}"
            )
        found.append(array)
    return found


def _at(value: Any, variables: Mapping[str, int]) -> Any:
    """An argument for these values of the variables."""
    if isinstance(value, Linear):
        return value.at(variables)
    return [_at(each, variables) for each in value] if isinstance(value, tuple) else value
