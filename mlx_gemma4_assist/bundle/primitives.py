"""What MLX's primitives are called in programs, with their arguments; and which leave no trace there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..errors import InputError
from .program import Linear, Number


class Called(NamedTuple):
    """An operation with its arguments, by name."""

    operation: str
    arguments: dict[str, Any]


State = Sequence[Any]

_SAME_NAME = {
    "Abs": "abs",
    "Add": "add",
    "Divide": "divide",
    "Exp": "exp",
    "Floor": "floor",
    "FloorDivide": "floor_divide",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "Less": "less",
    "LessEqual": "less_equal",
    "LogicalAnd": "logical_and",
    "LogicalNot": "logical_not",
    "LogicalOr": "logical_or",
    "LogSumExp": "logsumexp",
    "Matmul": "matmul",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Multiply": "multiply",
    "Negative": "negative",
    "NotEqual": "not_equal",
    "Power": "power",
    "Remainder": "remainder",
    "Select": "where",
    "Sigmoid": "sigmoid",
    "Square": "square",
    "Subtract": "subtract",
    "Tanh": "tanh",
}
_IDENTITIES = ("Full", "Copy", "Contiguous", "StopGradient")
"""They change nothing but how an array lies in memory."""
_REDUCTIONS = ("all", "any", "sum", "prod", "min", "max")
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")
_SCANS = ("cummax", "cummin", "cumsum", "cumprod", "logcumsumexp")
_LOGARITHMS = ("log2", "log10", "log")
_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")

_WITH_STATE: dict[str, Callable[[State], Called]] = {
    "ArgPartition": lambda s: Called("argpartition", {"kth": s[0], "axis": s[1]}),
    "ArgReduce": lambda s: Called(("argmin", "argmax")[s[0]], {"axis": s[1]}),
    "ArgSort": lambda s: Called("argsort", {"axis": s[0]}),
    "AsType": lambda s: Called("astype", {"dtype": s[0]}),
    "BitwiseBinary": lambda s: Called(_BITWISE[s[0]], {}),
    "Broadcast": lambda s: Called("broadcast_to", {"shape": s[0]}),
    "Concatenate": lambda s: Called("concatenate", {"axis": s[0]}),
    "DynamicSliceUpdate": lambda s: Called("slice_update", {"axes": s[0]}),
    "Equal": lambda s: Called("equal", {}),
    "ExpandDims": lambda s: Called("expand_dims", {"axes": s[0]}),
    "Flatten": lambda s: Called("flatten", {"start": s[0], "end": s[1]}),
    "Gather": lambda s: Called("gather", {"axes": s[0], "sizes": s[1]}),
    "GatherAxis": lambda s: Called("take_along_axis", {"axis": s[0]}),
    "Log": lambda s: Called(_LOGARITHMS[s[0]], {}),
    "QuantizedMatmul": lambda s: Called(
        "quantized_matmul", {"group_size": s[0], "bits": s[1], "mode": _mode(s[2]), "transpose": s[3]}
    ),
    "Reduce": lambda s: Called(_REDUCTIONS[s[0]], {"axes": s[1]}),
    "Reshape": lambda s: Called("reshape", {"shape": s[0]}),
    "Scan": lambda s: _scan(*s),
    "ScatterAxis": lambda s: Called("put_along_axis", {"axis": s[1]}),
    "Slice": lambda s: Called("slice", {"start": s[0], "stop": s[1], "step": s[2]}),
    "Softmax": lambda s: Called("softmax", {"precise": s[0]}),
    "Sort": lambda s: Called("sort", {"axis": s[0]}),
    "Split": lambda s: Called("split", {"places": s[0], "axis": s[1]}),
    "Sqrt": lambda s: Called("rsqrt" if s[0] else "sqrt", {}),
    "Squeeze": lambda s: Called("squeeze", {"axes": s[0]}),
    "Transpose": lambda s: Called("transpose", {"axes": s[0]}),
    "Unflatten": lambda s: Called("unflatten", {"axis": s[0], "shape": s[1]}),
    "View": lambda s: Called("view", {"dtype": s[0]}),
}


def _scan(number: int, axis: int, reverse: bool, inclusive: bool) -> Called:
    operation = _SCANS[number]
    if reverse or not inclusive:
        raise InputError(f"programs have no {operation} that is reversed or leaves its own place out")
    return Called(operation, {"axis": axis})


def _mode(mode: int | str) -> str:
    return _MODES[mode] if isinstance(mode, int) else mode


def called(name: str, state: State, dtype: mx.Dtype) -> Called | None:
    """What a primitive is called in programs; None where its output is its input.

    Args:
        name, state: MLX's.
        dtype: of its output.

    Raises:
        InputError: programs have nothing like it.
    """
    name = name.partition(" ")[0]
    if name in _IDENTITIES:
        return None
    if name == "Arange":
        start, stop, step = (_integer(number) for number in state)
        return Called("arange", {"start": start, "stop": stop, "step": step, "dtype": dtype})
    if name == "Divide" and not mx.issubdtype(dtype, mx.inexact):
        return Called("floor_divide", {})
    if name in _SAME_NAME:
        return Called(_SAME_NAME[name], {})
    if name not in _WITH_STATE:
        raise InputError(f"programs have no operation for MLX's {name}")
    operation, arguments = _WITH_STATE[name](state)
    return Called(
        operation, {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    )


def _integer(number: float | Linear) -> Number:
    if isinstance(number, Linear):
        return number
    if number != int(number):
        raise InputError(f"programs count in integers, and a range has {number}")
    return int(number)
