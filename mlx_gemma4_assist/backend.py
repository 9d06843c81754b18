"""Where ``mx.compile`` works, and small functions that use it wherever it does."""

import shutil
from collections.abc import Callable
from functools import cache, wraps

import mlx.core as mx


@cache
def compiles_in_process() -> bool:
    """Whether compiling needs nothing but MLX: on a GPU. Chosen from MLX's source, not measured on Metal.

    The CPU backend runs a C++ compiler for every fused kernel at its first use on a machine.
    """
    return mx.default_device() == mx.Device(mx.gpu)


@cache
def can_compile() -> bool:
    """Whether ``mx.compile`` works at all: on a GPU, or with g++ on the path."""
    return compiles_in_process() or shutil.which("g++") is not None


def fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """One kernel for an elementwise function where it can be compiled, the function itself elsewhere."""
    compiled = mx.compile(function, shapeless=True)

    @wraps(function)
    def call(*arguments):
        return compiled(*arguments) if can_compile() else function(*arguments)

    return call
