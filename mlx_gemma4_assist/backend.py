"""Where ``mx.compile`` works, and small functions that use it wherever it does."""

import shutil
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import mlx.core as mx


@cache
def compiles_in_process() -> bool:
    """Whether compiling needs nothing but MLX: on a GPU. Chosen from MLX's source, not measured on Metal.

    The CPU backend runs a C++ compiler for every fused kernel at its first use on a machine.
    """
    return mx.default_device() == mx.Device(mx.gpu)


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    return compiles_in_process()


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


class Kept:
    """What was made for a network and lives as long as it, such as compiled steps; the least recently used goes first.

    Args:
        size: how many things are kept.
    """

    def __init__(self, size: int):
        self._size = size
        self._things: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key; made now if nothing is."""
        if key not in self._things:
            self._things[key] = make()
        self._things.move_to_end(key)
        while len(self._things) > self._size:
            self._things.popitem(last=False)
        return self._things[key]

    def drop(self, key: Hashable) -> None:
        """Keep it no longer, if it is kept at all."""
        self._things.pop(key, None)


def wired_limit_bytes(device_info: Mapping[str, str | int]) -> int | None:
    """How much memory may be kept resident while generating: all that the device recommends, as mlx-lm does.

    Without it macOS may page weights out between two steps. None where the device recommends nothing: no Metal.
    Chosen from MLX's and mlx-lm's source, not measured.
    """
    recommended = device_info.get("max_recommended_working_set_size")
    return None if recommended is None else int(recommended)


@contextmanager
def wired_limit() -> Iterator[None]:
    """Raises MLX's wired limit for a while, as mlx-lm's ``wired_limit``; does nothing without Metal.

    All work is waited for before the old limit returns: it must not change under a computation.
    """
    limit = wired_limit_bytes(mx.device_info())
    if limit is None:
        yield
        return
    before = mx.set_wired_limit(limit)
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)
