"""Operations that stay whole while a function is traced, on any device.

MLX takes ``mx.fast``'s functions, dequantizing and random numbers apart when a graph is made, on a CPU at once, so that
a trace would hold what only that device needs. While ``whole`` lasts they leave a mark in the graph instead, in this
thread: one node with the operation's arrays as its inputs, of the shape and type that the operation has. A mark cannot
be computed, only traced.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..rounds import sampling

MARK = "Depends"
"""The primitive that marks are made of; the package has no other use for it."""


class Mark(NamedTuple):
    """An operation and its arguments, by name."""

    operation: str
    arguments: tuple[tuple[str, Any], ...]


class Marks:
    """The marks that traces have left."""

    def __init__(self) -> None:
        self._numbers: dict[Mark, int] = {}
        self._tags: dict[tuple[int, tuple[int, ...], mx.Dtype], mx.array] = {}

    def number(self, tag: mx.array) -> int:
        """The number of a mark, by the first input of its node."""
        number: Any = tag[(0,) * tag.ndim].view(_unsigned(tag.dtype)).item()
        return int(number)

    def of(self, tag: mx.array) -> Mark:
        """The mark, by the first input of its node."""
        return list(self._numbers)[self.number(tag)]

    def leave(
        self, operation: str, shape: tuple[int, ...], dtype: mx.Dtype, arrays: list[mx.array], **arguments: Any
    ) -> mx.array:
        """A node of this shape and type that stands for an operation on arrays."""
        number = self._numbers.setdefault(Mark(operation, tuple(arguments.items())), len(self._numbers))
        key = number, shape, dtype
        if key not in self._tags:
            tag = mx.broadcast_to(mx.array(number, _unsigned(dtype)).view(dtype), shape)
            mx.eval(tag)  # a constant of the trace, without memory of its own
            self._tags[key] = tag
        marked: mx.array = mx.depends(self._tags[key], arrays)
        return marked


def _unsigned(dtype: mx.Dtype) -> mx.Dtype:
    return {2: mx.uint16, 4: mx.uint32}[dtype.size]


@contextmanager
def whole(marks: Marks) -> Iterator[None]:
    """Let this thread leave marks."""
    thread = threading.get_ident()
    with ExitStack() as replaced:
        for module, name, stand_in in (
            (mx.fast, "rms_norm", _rms_norm),
            (mx.fast, "rope", _rope),
            (mx.fast, "scaled_dot_product_attention", _attention),
            (mx, "dequantize", _dequantize),
            (mx, "gather_mm", _gather_mm),
            (mx, "gather_qmm", _gather_qmm),
            (sampling, "uniform_noise", _uniform),
            (sampling, "gumbel_noise", _gumbel),
        ):
            replaced.enter_context(_replaced(module, name, stand_in, marks, thread))
        yield


@contextmanager
def _replaced(module: Any, name: str, stand_in: Callable[..., mx.array], marks: Marks, thread: int) -> Iterator[None]:
    """A function of a module leaves a mark where this thread calls it."""
    original = vars(module)[name]

    def call(*arguments: Any, **named: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*arguments, **named)
        return stand_in(marks, *arguments, **named)

    setattr(module, name, call)
    try:
        yield
    finally:
        setattr(module, name, original)


def _given(*arrays: mx.array | None) -> list[mx.array]:
    return [array for array in arrays if array is not None]


def _rms_norm(marks: Marks, x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    dtype = x.dtype if weight is None else mx.result_type(x, weight)
    return marks.leave("rms_norm", x.shape, dtype, _given(x, weight), eps=eps)


def _rope(
    marks: Marks,
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: mx.array,
    freqs: mx.array | None,
) -> mx.array:
    assert not traditional
    return marks.leave("rope", x.shape, x.dtype, _given(x, offset, freqs), dims=dims, base=base, scale=scale)


def _attention(
    marks: Marks, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None
) -> mx.array:
    arrays = [q, k, v] if mask is None or isinstance(mask, str) else [q, k, v, mask]
    shape = (*q.shape[:-1], v.shape[-1])
    return marks.leave("attention", shape, mx.result_type(q, k, v), arrays, scale=scale, causal=isinstance(mask, str))


def _dequantize(
    marks: Marks, w: mx.array, scales: mx.array, biases: mx.array | None, *, group_size: int, bits: int, mode: str
) -> mx.array:
    shape = (*w.shape[:-1], w.shape[-1] * 32 // bits)
    dtype = scales.dtype if mode == "affine" else mx.bfloat16
    return marks.leave(
        "dequantize", shape, dtype, _given(w, scales, biases), group_size=group_size, bits=bits, mode=mode
    )


def _gather_mm(
    marks: Marks, a: mx.array, b: mx.array, *, rhs_indices: mx.array, sorted_indices: bool = False
) -> mx.array:
    shape = (*_batch(a, rhs_indices), a.shape[-2], b.shape[-1])
    return marks.leave("gather_mm", shape, mx.result_type(a, b), [a, b, rhs_indices], sorted=sorted_indices)


def _gather_qmm(
    marks: Marks,
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    *,
    rhs_indices: mx.array,
    transpose: bool,
    group_size: int,
    bits: int,
    mode: str,
    global_scale: mx.array | None = None,
    sorted_indices: bool = False,
) -> mx.array:
    assert transpose
    assert global_scale is None
    shape = (*_batch(x, rhs_indices), x.shape[-2], w.shape[-2])
    arrays = _given(x, w, scales, rhs_indices, biases)
    named = {"group_size": group_size, "bits": bits, "mode": mode, "transpose": transpose, "sorted": sorted_indices}
    return marks.leave("gather_qmm", shape, x.dtype, arrays, **named)


def _batch(x: mx.array, indices: mx.array) -> tuple[int, ...]:
    """The batch axes of products of rows (..., L, H) with matrices by indices."""
    return np.broadcast_shapes(x.shape[:-2], indices.shape)


def _uniform(marks: Marks, keys: mx.array) -> mx.array:
    return marks.leave("uniform", keys.shape[:-1], mx.float32, [keys])


def _gumbel(marks: Marks, keys: mx.array, count: int) -> mx.array:
    return marks.leave("gumbel", (*keys.shape[:-1], count), mx.float32, [keys], count=count)
