"""The backend that MLX computes on: whose computations suit it, what it compiles, its memory, names of data types.

Whose computations are made is a choice (``on_gpu``, ``branches``): a GPU's run on the CPU backend too, for tests and
for whoever traces them on another machine. What the device can do is a fact (``compiles_in_process``, ``wired_limit``).
"""

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Literal, TypeVar, TypeVarTuple, get_args

import mlx.core as mx

from .errors import InputError

Branches = Literal["cpu", "gpu", "gpu-compiled"]
"""Whose computations: the CPU backend's, a GPU's, or a GPU's with rounds compiled by default as there."""

BRANCHES_VARIABLE = "MLX_GEMMA4_ASSIST_BRANCHES"
"""The environment variable that chooses ``Branches`` for a process and those that it starts."""

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_GPU = mx.Device(mx.gpu)
_HAS_GPU = mx.is_available(mx.gpu)  # in this build of MLX: elsewhere no default device can be one


# Whose computations


def _branches_from_environment() -> Branches | None:
    named = os.environ.get(BRANCHES_VARIABLE)
    if not named:
        return None
    for choice in get_args(Branches):
        if named == choice:
            found: Branches = choice
            return found
    raise InputError(f"{BRANCHES_VARIABLE} is {named!r}, expected {', '.join(get_args(Branches))}")


_lock = threading.Lock()
_choices: dict[object, Branches | None] = {object(): _branches_from_environment()}
_chosen = next(iter(_choices.values()))  # the last of these


@contextmanager
def branches(choice: Branches | None) -> Iterator[None]:
    """Let ``on_gpu`` answer for another backend than the default device's, in all threads of the process.

    Nested and overlapping choices end in any order; the last one made that has not ended is in force. What has been
    compiled or loaded before keeps the branches that it was made with.

    Args:
        choice: "cpu", "gpu", "gpu-compiled", or None for the default device's own.
    """
    made = object()
    _choose(made, choice)
    try:
        yield
    finally:
        _choose(made)


def _choose(made: object, *choice: Branches | None) -> None:
    """Add a choice, or take it back if none is given."""
    global _chosen
    with _lock:
        if choice:
            _choices[made] = choice[0]
        else:
            del _choices[made]
        _chosen = _choices[next(reversed(_choices))]


def on_gpu() -> bool:
    """Whether a GPU's computations are made: on a GPU, or where ``branches`` or the environment chose them.

    The default device is asked each time, because a caller may change it. It is never a GPU where MLX has none.
    """
    if _chosen is not None:
        return _chosen != "cpu"
    return _HAS_GPU and mx.default_device() == _GPU


def cpu_form(
    on_cpu: Callable[[*Ts], mx.array],
) -> Callable[[Callable[[*Ts], mx.array]], Callable[[*Ts], mx.array]]:
    """Hand the calls of a ``fused`` function over to another where the CPU backend's computations are made.

    What is fused cannot ask ``on_gpu`` itself.
    """

    def decorate(function: Callable[[*Ts], mx.array]) -> Callable[[*Ts], mx.array]:
        @wraps(function)
        def call(*arguments: *Ts) -> mx.array:
            return function(*arguments) if on_gpu() else on_cpu(*arguments)

        return call

    return decorate


# Compiling


def compiles_in_process() -> bool:
    """Whether compiling needs nothing but MLX: on a GPU. Chosen from MLX's source, not measured on Metal.

    The CPU backend runs a C++ compiler for every fused kernel at its first use on a machine; ``branches`` changes
    nothing about that.
    """
    return _HAS_GPU and mx.default_device() == _GPU


def can_compile() -> bool:
    """Whether ``mx.compile`` works at all: on a GPU, or with g++ on the path."""
    return _has_compiler() or compiles_in_process()


def compiles_by_default() -> bool:
    """Whether rounds are compiled where nobody says: where that takes no C++ compiler, or "gpu-compiled" is chosen."""
    return compiles_in_process() or (_chosen == "gpu-compiled" and can_compile())


@cache
def _has_compiler() -> bool:
    return shutil.which("g++") is not None


def ending_in_order(work: Callable[[], T]) -> T:
    """What ``work`` gives, computed in a thread that ends in order, unless this is the main thread.

    A thread that has computed leaves a thread of MLX's behind, at which the end of the process may abort, unless it
    clears its streams. Those of a caller's thread are not ours to clear, so it gets none.
    """
    if threading.current_thread() is threading.main_thread():
        return work()
    device = mx.default_device()

    def run() -> T:
        mx.set_default_device(device)
        try:
            return work()
        finally:
            mx.synchronize()
            mx.clear_streams()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def wake_compiler() -> None:
    """Let MLX's CPU backend look for g++ now: it does so once in a process, and is deaf to Ctrl-C meanwhile.

    Without this the first forward would do so.
    """
    mx.eval(mx.compile(mx.negative)(mx.zeros(1)))


def fused(function: Callable[[*Ts], mx.array]) -> Callable[[*Ts], mx.array]:
    """One kernel for an elementwise function where it can be compiled, the function itself elsewhere.

    It is traced once for all: it must not ask ``on_gpu``.
    """
    compiled: Callable[[*Ts], mx.array] = mx.compile(function, shapeless=True)
    if not _HAS_GPU:  # no default device that changes later changes the answer
        return compiled if can_compile() else function

    @wraps(function)
    def call(*arguments: *Ts) -> mx.array:
        return compiled(*arguments) if can_compile() else function(*arguments)

    return call


# Memory


def wired_limit_bytes(device_info: Mapping[str, str | int]) -> int | None:
    """How much memory may be kept resident while generating: all that the device recommends, as mlx-lm does.

    Without it macOS may page weights out between two steps. None where the device recommends nothing: no Metal.
    Chosen from MLX's and mlx-lm's source, not measured.
    """
    recommended = device_info.get("max_recommended_working_set_size")
    return None if recommended is None else int(recommended)


def memory_bytes(device_info: Mapping[str, str | int]) -> int:
    """Of the device, or of the machine where it says nothing of its own."""
    told = device_info.get("memory_size") or device_info.get("total_memory")
    return int(told or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def usable_bytes() -> int:
    """How much memory MLX may use: what the default device recommends, or all that there is."""
    device_info = mx.device_info()
    return wired_limit_bytes(device_info) or memory_bytes(device_info)


def readable(count: int) -> str:
    """A number of bytes, in the unit that suits it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


_wired_lock = threading.Lock()
_wired_users = 0
_unwired = 0  # the limit from before the first of them


@contextmanager
def wired_limit() -> Iterator[None]:
    """Raise MLX's wired limit for a while, as mlx-lm's ``wired_limit``; does nothing without Metal.

    Users may overlap and leave in any order, from any thread: the limit from before the first one returns when the last
    one leaves. Each waits for its thread's work before that: the limit must not change under a computation.
    """
    limit = wired_limit_bytes(mx.device_info())
    if limit is None:
        yield
        return
    _enter_wired(limit)
    try:
        yield
    finally:
        try:
            mx.synchronize()
        finally:
            _leave_wired()


def _enter_wired(limit: int) -> None:
    global _wired_users, _unwired
    with _wired_lock:
        if _wired_users == 0:
            _unwired = mx.set_wired_limit(limit)
        _wired_users += 1


def _leave_wired() -> None:
    global _wired_users
    with _wired_lock:
        _wired_users -= 1
        if _wired_users == 0:
            mx.set_wired_limit(_unwired)


# Data types


DTYPES: dict[str, mx.Dtype] = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
"""What networks compute in, by the names that config.json and options have for them."""


def dtype_name(dtype: mx.Dtype) -> str:
    """ "bfloat16" for ``mx.bfloat16``, and so on, for any type of MLX."""
    return str(dtype).removeprefix("mlx.core.")


def dtype_of(name: str | mx.Dtype) -> mx.Dtype:
    """One of ``DTYPES``, by its name or itself.

    Raises:
        InputError: another name or type.
    """
    for known, dtype in DTYPES.items():
        if name in (known, dtype):
            return dtype
    raise InputError(f"dtype is {name!r}, expected {', '.join(DTYPES)}")


# What is made for a network


class Kept:
    """The things last made for an owner, which live as long as it does: compiled steps, what its runs have taught.

    Args:
        size: how many there are at most; beyond that the one not asked for longest is dropped.
    """

    def __init__(self, size: int):
        self.size = size
        self._things: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._things)

    def __reduce__(self) -> tuple[type["Kept"], tuple[int]]:
        """A copy belongs to another owner: it starts empty."""
        return Kept, (self.size,)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned when the key was first asked for. Threads wait for one another while it is made."""
        with self._lock:
            if key not in self._things:
                self._things[key] = make()
            self._things.move_to_end(key)
            while len(self._things) > self.size:
                self._things.popitem(last=False)
            found: T = self._things[key]
            return found

    def drop(self, key: Hashable) -> None:
        """Keep it no longer, if it is kept at all."""
        with self._lock:
            self._things.pop(key, None)
