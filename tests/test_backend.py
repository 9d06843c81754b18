"""Whose computations are made, the wired limit, names of data types, and what is kept for a network."""

import copy
import gc
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from threading import Thread

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from support.decoding import random_pair

from mlx_gemma4_assist import InputError, backend
from mlx_gemma4_assist.backend import (
    BRANCHES_VARIABLE,
    DTYPES,
    Kept,
    branches,
    compiles_by_default,
    compiles_in_process,
    dtype_name,
    dtype_of,
    on_gpu,
    wired_limit,
    wired_limit_bytes,
)

# Whose computations


@pytest.fixture
def device(monkeypatch):
    """Call it to set what MLX says its default device is."""
    monkeypatch.setattr(backend, "_HAS_GPU", True)
    with branches(None):
        yield lambda kind: monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))


def test_the_default_device_is_asked_each_time(device):
    for kind in (mx.gpu, mx.cpu, mx.gpu):
        device(kind)
        assert on_gpu() == compiles_in_process() == compiles_by_default() == (kind == mx.gpu)


@pytest.mark.parametrize("kind", [mx.cpu, mx.gpu])
def test_a_choice_is_about_computations_only(device, kind):
    """What the device can do stays a fact."""
    device(kind)
    for choice, gpu in (("cpu", False), ("gpu", True), ("gpu-compiled", True), (None, kind == mx.gpu)):
        with branches(choice):
            assert on_gpu() == gpu
            assert compiles_in_process() == (kind == mx.gpu)


def test_compiled_by_default_needs_a_compiler(device, monkeypatch):
    device(mx.cpu)
    for compiler in (True, False):
        monkeypatch.setattr(backend, "_has_compiler", lambda compiler=compiler: compiler)
        for choice in ("cpu", "gpu", "gpu-compiled"):
            with branches(choice):
                assert compiles_by_default() == (choice == "gpu-compiled" and compiler)


def test_choices_end_in_any_order():
    with branches("cpu"):
        first, second = branches("gpu"), branches("cpu")
        first.__enter__()
        second.__enter__()
        assert not on_gpu()
        first.__exit__(None, None, None)
        assert not on_gpu()
        with branches("gpu"):
            second.__exit__(None, None, None)
            assert on_gpu()
        assert not on_gpu()


def test_a_choice_ends_with_an_error():
    before = on_gpu()
    with suppress(ZeroDivisionError), branches("cpu" if before else "gpu"):
        raise ZeroDivisionError
    assert on_gpu() == before


def test_a_choice_holds_in_threads():
    found = []
    for choice in ("gpu", "cpu"):
        with branches(choice):
            thread = Thread(target=lambda: found.append(on_gpu()))
            thread.start()
            thread.join()
    assert found == [True, False]


def asked_in_a_process(code: str, variable: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {BRANCHES_VARIABLE: variable}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_environment_chooses_too():
    code = "from mlx_gemma4_assist.backend import *; print(on_gpu(), compiles_in_process())"
    in_process = str(compiles_in_process())
    assert asked_in_a_process(code, "gpu").stdout.split() == ["True", in_process]
    assert asked_in_a_process(code, "cpu").stdout.split() == ["False", in_process]
    assert f"InputError: {BRANCHES_VARIABLE} is 'metal', expected cpu, gpu" in asked_in_a_process(code, "metal").stderr


# The wired limit


@pytest.fixture
def limits(monkeypatch):
    """What happens to the limit, in order, on a machine that recommends 11 and starts with 7."""
    happened = [7]

    def change(limit: int) -> int:
        happened.append(limit)
        return next(before for before in reversed(happened[:-1]) if before != "synchronize")

    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 11})
    monkeypatch.setattr(mx, "set_wired_limit", change)
    monkeypatch.setattr(mx, "synchronize", lambda: happened.append("synchronize"))
    return happened


def test_the_limit_is_what_the_device_recommends():
    assert wired_limit_bytes({"max_recommended_working_set_size": 11, "memory_size": 16}) == 11
    assert wired_limit_bytes({"device_name": "AMD EPYC"}) is None


def test_the_limit_returns_after_all_work(limits):
    with suppress(ZeroDivisionError), wired_limit():
        limits.append("work")
        raise ZeroDivisionError
    assert limits == [7, 11, "work", "synchronize", 7]


def working():
    with wired_limit():
        while True:
            yield


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_users_of_the_limit_leave_in_any_order(limits, order):
    """Generators that are suspended within it, as runs are: each in a thread of its own leaves."""
    users = [working() for _ in range(3)]
    for user in users:
        next(user)
    assert limits == [7, 11]
    for left, number in enumerate(order, 1):
        thread = Thread(target=users[number].close)
        thread.start()
        thread.join()
        assert limits.count(7) == (2 if left == 3 else 1)
    assert limits[-2:] == ["synchronize", 7]
    with wired_limit():
        assert limits[-1] == 11
    assert limits[-1] == 7


def test_work_that_fails_at_the_end_returns_the_limit_too(limits, monkeypatch):
    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mx, "synchronize", fail)
    with pytest.raises(RuntimeError, match="out of memory"), wired_limit():
        pass
    assert limits == [7, 11, 7]


def test_no_metal_no_limit(monkeypatch):
    """Neither does a choice of branches make one."""
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "AMD EPYC"})
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("there is nothing to set"))
    with branches("gpu"), wired_limit():
        pass


# Data types


def test_names_of_types():
    for name, dtype in DTYPES.items():
        assert dtype_name(dtype) == name
        assert dtype_of(name) == dtype_of(dtype) == dtype
    assert dtype_name(mx.uint32) == "uint32"
    for wrong in ("float64", "bfloat", mx.int32):
        with pytest.raises(InputError, match=r"dtype is .*, expected float32, bfloat16, float16"):
            dtype_of(wrong)


# What is kept


def test_only_the_last_ones_are_kept():
    kept, made = Kept(2), []

    def make(name: str):
        return lambda: made.append(name) or name.upper()

    assert [kept.get(name, make(name)) for name in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert made == ["a", "b", "c", "b"]
    assert len(kept) == 2


def test_one_may_be_made_of_another():
    kept = Kept(3)
    assert kept.get("sum", lambda: kept.get("one", lambda: 1) + kept.get("two", lambda: 2)) == 3
    assert kept.get("one", lambda: pytest.fail("it is there")) == 1


def test_nothing_is_kept_of_what_fails():
    kept = Kept(3)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)
    assert kept.get("a", lambda: 1) == 1


def test_a_thing_is_made_once_for_all_threads():
    kept, made = Kept(2), []
    threads = [Thread(target=kept.get, args=("a", lambda: made.append(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


class Thing:
    pass


def test_what_is_kept_lives_as_long_as_its_network():
    network = random_pair()[0]
    thing = weakref.ref(network.kept.get("thing", Thing))
    gc.collect()
    assert thing() is network.kept.get("thing", Thing)
    del network
    gc.collect()
    assert thing() is None


def test_what_is_kept_is_no_parameter():
    network = random_pair()[0]
    thing = network.kept.get("thing", Thing)
    names = [name for name, _ in tree_flatten(network.parameters())]
    assert names
    assert not any("kept" in name for name in names)
    network.update(network.parameters())
    assert network.kept.get("thing", Thing) is thing


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_network_has_its_own(copied):
    """What was made for a network may have its weights in it, and a copy's may be changed."""
    network = random_pair()[0]
    thing = network.kept.get("thing", Thing)
    other = copied(network)
    assert other.kept.get("thing", Thing) is not thing
    assert network.kept.get("thing", Thing) is thing
    tokens = mx.array([[3, 4]])
    assert mx.array_equal(other.embed(tokens), network.embed(tokens))
