"""The operations that programs consist of: what each takes, and what it does by MLX's Python functions.

docs/bundle.md says the same for whoever runs programs in another language. Operations do not promote types: what they
take has been cast before. Those on two and more arrays broadcast as MLX does, though programs hardly need it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

Arrays = Sequence[mx.array]
Arguments = Mapping[str, Any]
Run = Callable[[Arrays, Arguments], mx.array | Sequence[mx.array]]

INTEGER, INTEGERS, NUMBER, FLAG, TYPE, WORD = "integer", "integers", "number", "flag", "type", "word"
"""Kinds of arguments. Integers may depend on a program's variables; a number may be null."""

TYPES: dict[str, mx.Dtype] = {
    "bool": mx.bool_,
    "uint8": mx.uint8,
    "uint16": mx.uint16,
    "uint32": mx.uint32,
    "int32": mx.int32,
    "int64": mx.int64,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "float32": mx.float32,
}


@dataclass(frozen=True)
class Operation:
    """What a program may ask for.

    Attributes:
        run: from arrays and arguments to one array, or several.
        least, most: how many arrays it takes.
        arguments: the kind of each.
        broadcasts: whether its arrays are broadcast against each other.
    """

    run: Run
    least: int = 1
    most: int = 1
    arguments: Mapping[str, str] = field(default_factory=dict)
    broadcasts: bool = False


def _of(function: Callable[..., mx.array], arrays: int) -> Operation:
    """An operation without arguments."""
    return Operation(lambda x, _: function(*x), arrays, arrays, broadcasts=function is not mx.matmul)


_ONE: dict[str, Callable[..., mx.array]] = {
    "abs": mx.abs,
    "exp": mx.exp,
    "floor": mx.floor,
    "log": mx.log,
    "logical_not": mx.logical_not,
    "negative": mx.negative,
    "rsqrt": mx.rsqrt,
    "sigmoid": mx.sigmoid,
    "sqrt": mx.sqrt,
    "square": mx.square,
    "tanh": mx.tanh,
}
_TWO: dict[str, Callable[..., mx.array]] = {
    "add": mx.add,
    "bitwise_and": mx.bitwise_and,
    "bitwise_or": mx.bitwise_or,
    "bitwise_xor": mx.bitwise_xor,
    "divide": mx.divide,
    "equal": mx.equal,
    "floor_divide": mx.floor_divide,
    "greater": mx.greater,
    "greater_equal": mx.greater_equal,
    "left_shift": mx.left_shift,
    "less": mx.less,
    "less_equal": mx.less_equal,
    "logical_and": mx.logical_and,
    "logical_or": mx.logical_or,
    "matmul": mx.matmul,
    "maximum": mx.maximum,
    "minimum": mx.minimum,
    "multiply": mx.multiply,
    "not_equal": mx.not_equal,
    "power": mx.power,
    "remainder": mx.remainder,
    "right_shift": mx.right_shift,
    "subtract": mx.subtract,
}
_AXIS = {"axis": INTEGER}
_AXES = {"axes": INTEGERS}
_PACKED = {"group_size": INTEGER, "bits": INTEGER, "mode": WORD}


def _gather(x: Arrays, a: Arguments) -> mx.array:
    """MLX's gather by one array of indices: (indices' shape, then the source's with 1 in place of the axis)."""
    source, indices = x
    (axis,) = a["axes"]
    taken = mx.take(source, indices, axis=axis)
    moved = [*range(axis, axis + indices.ndim), *range(axis), *range(axis + indices.ndim, taken.ndim)]
    return mx.expand_dims(taken.transpose(moved), indices.ndim + axis)


def _slice(x: Arrays, a: Arguments) -> mx.array:
    found: mx.array = x[0][tuple(slice(*each) for each in zip(a["start"], a["stop"], a["step"], strict=True))]
    return found


def _rms_norm(x: Arrays, a: Arguments) -> mx.array:
    return mx.fast.rms_norm(x[0], x[1] if len(x) > 1 else None, a["eps"])


def _rope(x: Arrays, a: Arguments) -> mx.array:
    periods = x[2] if len(x) > 2 else None
    return mx.fast.rope(
        x[0], a["dims"], traditional=False, base=a["base"], scale=a["scale"], offset=x[1], freqs=periods
    )


def _attention(x: Arrays, a: Arguments) -> mx.array:
    mask = "causal" if a["causal"] else x[3] if len(x) > 3 else None
    return mx.fast.scaled_dot_product_attention(*x[:3], scale=a["scale"], mask=mask)


def _packed(a: Arguments) -> dict[str, Any]:
    return {name: a[name] for name in _PACKED}


def _dequantize(x: Arrays, a: Arguments) -> mx.array:
    return mx.dequantize(x[0], x[1], x[2] if len(x) > 2 else None, **_packed(a))


def _quantized_matmul(x: Arrays, a: Arguments) -> mx.array:
    rows, words, scales = x[:3]
    biases = x[3] if len(x) > 3 else None
    return mx.quantized_matmul(rows, words, scales, biases, transpose=a["transpose"], **_packed(a))


def _gather_qmm(x: Arrays, a: Arguments) -> mx.array:
    """rows, words, scales, indices of matrices, and biases where there are any."""
    biases = x[4] if len(x) > 4 else None
    rows, words, scales, indices = x[:4]
    return mx.gather_qmm(
        rows, words, scales, biases, rhs_indices=indices, transpose=a["transpose"], sorted_indices=a["sorted"],
        **_packed(a),
    )  # fmt: skip


def _gather_mm(x: Arrays, a: Arguments) -> mx.array:
    """Rows, matrices, indices of matrices. MLX's CPU backend has it for float32 only."""
    rows, matrices, indices = x
    if mx.default_device() == mx.Device(mx.cpu) and rows.dtype != mx.float32:
        wide = mx.gather_mm(rows.astype(mx.float32), matrices.astype(mx.float32), rhs_indices=indices)
        return wide.astype(rows.dtype)
    return mx.gather_mm(rows, matrices, rhs_indices=indices, sorted_indices=a["sorted"])


def _uniform(x: Arrays, a: Arguments) -> mx.array:
    keys = x[0].reshape(-1, 2)
    drawn: mx.array = mx.vmap(lambda key: mx.random.uniform(key=key))(keys)
    return drawn.reshape(x[0].shape[:-1])


def _gumbel(x: Arrays, a: Arguments) -> mx.array:
    keys = x[0].reshape(-1, 2)
    drawn: mx.array = mx.vmap(lambda key: mx.random.gumbel((a["count"],), key=key))(keys)
    return drawn.reshape(*x[0].shape[:-1], a["count"])


OPERATIONS: dict[str, Operation] = {
    **{name: _of(function, 1) for name, function in _ONE.items()},
    **{name: _of(function, 2) for name, function in _TWO.items()},
    "where": _of(mx.where, 3),
    "arange": Operation(
        lambda x, a: mx.arange(a["start"], a["stop"], a["step"], dtype=a["dtype"]), 0, 0,
        {"start": INTEGER, "stop": INTEGER, "step": INTEGER, "dtype": TYPE},
    ),
    "scalar": Operation(
        lambda x, a: mx.array(a["value"], a["dtype"]), 0, 0, {"value": INTEGER, "dtype": TYPE}
    ),
    "argmax": Operation(lambda x, a: mx.argmax(x[0], axis=a["axis"], keepdims=True), arguments=_AXIS),
    "argmin": Operation(lambda x, a: mx.argmin(x[0], axis=a["axis"], keepdims=True), arguments=_AXIS),
    "argpartition": Operation(
        lambda x, a: mx.argpartition(x[0], a["kth"], axis=a["axis"]), arguments={"kth": INTEGER, "axis": INTEGER}
    ),
    "argsort": Operation(lambda x, a: mx.argsort(x[0], axis=a["axis"]), arguments=_AXIS),
    "sort": Operation(lambda x, a: mx.sort(x[0], axis=a["axis"]), arguments=_AXIS),
    "astype": Operation(lambda x, a: x[0].astype(a["dtype"]), arguments={"dtype": TYPE}),
    "broadcast_to": Operation(lambda x, a: mx.broadcast_to(x[0], a["shape"]), arguments={"shape": INTEGERS}),
    "concatenate": Operation(lambda x, a: mx.concatenate(list(x), axis=a["axis"]), 1, 64, _AXIS),
    "cumsum": Operation(lambda x, a: mx.cumsum(x[0], axis=a["axis"]), arguments=_AXIS),
    "cumprod": Operation(lambda x, a: mx.cumprod(x[0], axis=a["axis"]), arguments=_AXIS),
    "expand_dims": Operation(lambda x, a: mx.expand_dims(x[0], a["axes"]), arguments=_AXES),
    "flatten": Operation(
        lambda x, a: mx.flatten(x[0], a["start"], a["end"]), arguments={"start": INTEGER, "end": INTEGER}
    ),
    "gather": Operation(_gather, 2, 2, _AXES | {"sizes": INTEGERS}),
    "logsumexp": Operation(lambda x, a: mx.logsumexp(x[0], axis=-1, keepdims=True)),
    "all": Operation(lambda x, a: mx.all(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "any": Operation(lambda x, a: mx.any(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "max": Operation(lambda x, a: mx.max(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "min": Operation(lambda x, a: mx.min(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "prod": Operation(lambda x, a: mx.prod(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "sum": Operation(lambda x, a: mx.sum(x[0], axis=a["axes"], keepdims=True), arguments=_AXES),
    "put_along_axis": Operation(lambda x, a: mx.put_along_axis(x[0], x[1], x[2], axis=a["axis"]), 3, 3, _AXIS),
    "reshape": Operation(lambda x, a: x[0].reshape(a["shape"]), arguments={"shape": INTEGERS}),
    "slice": Operation(_slice, arguments={"start": INTEGERS, "stop": INTEGERS, "step": INTEGERS}),
    "slice_update": Operation(lambda x, a: mx.slice_update(x[0], x[1], x[2], axes=a["axes"]), 3, 3, _AXES),
    "softmax": Operation(
        lambda x, a: mx.softmax(x[0], axis=-1, precise=a["precise"]), arguments={"precise": FLAG}
    ),
    "split": Operation(
        lambda x, a: mx.split(x[0], list(a["places"]), axis=a["axis"]), arguments=_AXIS | {"places": INTEGERS}
    ),
    "squeeze": Operation(lambda x, a: mx.squeeze(x[0], a["axes"]), arguments=_AXES),
    "take_along_axis": Operation(lambda x, a: mx.take_along_axis(x[0], x[1], axis=a["axis"]), 2, 2, _AXIS),
    "transpose": Operation(lambda x, a: x[0].transpose(a["axes"]), arguments=_AXES),
    "unflatten": Operation(
        lambda x, a: mx.unflatten(x[0], a["axis"], a["shape"]), arguments=_AXIS | {"shape": INTEGERS}
    ),
    "view": Operation(lambda x, a: x[0].view(a["dtype"]), arguments={"dtype": TYPE}),
    "rms_norm": Operation(_rms_norm, 1, 2, {"eps": NUMBER}),
    "rope": Operation(_rope, 2, 3, {"dims": INTEGER, "base": NUMBER, "scale": NUMBER}),
    "attention": Operation(_attention, 3, 4, {"scale": NUMBER, "causal": FLAG}),
    "dequantize": Operation(_dequantize, 2, 3, _PACKED),
    "quantized_matmul": Operation(_quantized_matmul, 3, 4, _PACKED | {"transpose": FLAG}),
    "gather_qmm": Operation(_gather_qmm, 4, 5, _PACKED | {"transpose": FLAG, "sorted": FLAG}),
    "gather_mm": Operation(_gather_mm, 3, 3, {"sorted": FLAG}),
    "uniform": Operation(_uniform),
    "gumbel": Operation(_gumbel, arguments={"count": INTEGER}),
}  # fmt: skip
