"""A linear layer whose matrix is turned once for a compiled round, and not anew in each."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn


class _Here(threading.local):
    """What holds in this thread."""

    constant: bool = False


_here = _Here()


@contextmanager
def constant_weights() -> Iterator[None]:
    """While a function is traced whose weights are constants, in this thread: what follows from them alone is computed
    now, and is no node of its graph. ``mx.compile`` folds nothing by itself."""
    before, _here.constant = _here.constant, True
    try:
        yield
    finally:
        _here.constant = before


class Linear(nn.Linear):
    """``nn.Linear`` without a bias."""

    def __init__(self, input_dims: int, output_dims: int):
        super().__init__(input_dims, output_dims, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., input) -> (..., output)."""
        turned: mx.array = self["weight"].T
        if _here.constant:
            mx.eval(turned)  # no host read: a view of a constant, while a round is traced, never while one runs
        return x @ turned
