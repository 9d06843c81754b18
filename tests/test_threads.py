"""What is made in one thread works in another, one at a time; a process with such threads ends in order."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import mlx.core as mx
import pytest
from support.decoding import random_pair
from support.generation import PROMPT
from support.paths import ROOT, TESTS, TOOLS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import (
    GenerationResponse,
    InputError,
    load,
    load_assistant,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    stream_generate,
)
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.checkpoints.loading import load_model


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


def started(pair, **options: Any) -> Iterator[GenerationResponse]:
    chosen = {"max_tokens": 20, "temperature": 1.0, "seed": 1, "num_assistant_tokens": 3} | options
    return stream_generate(pair[0], LetterProcessor(), PROMPT, pair[1], **chosen)


def tokens(responses: Iterator[GenerationResponse]) -> list[int]:
    return [response.token for response in responses]


def elsewhere(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread of its own; raises what it raises."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


@pytest.fixture(scope="module")
def expected(pair):
    """The text in one piece."""
    return tokens(started(pair))


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_text_begun_here_goes_on_there(pair, expected, compile, before):
    if compile and not can_compile():
        pytest.skip("the CPU backend compiles with g++")
    text = started(pair, compile=compile)
    first = [next(text).token for _ in range(before)]
    assert first + elsewhere(lambda: tokens(text)) == expected


def test_a_text_closed_elsewhere_leaves_the_cache_right(pair):
    cache = make_prompt_cache(*pair, 3)
    text = started(pair, prompt_cache=cache)
    first = [next(text).token for _ in range(6)]
    elsewhere(text.close)
    assert cache.tokens == [PROMPT + first[:5]]
    assert tokens(started(pair, prompt_cache=cache)) == tokens(started(pair))


def test_networks_loaded_in_several_threads_at_once():
    made: list[Any] = []
    threads = [threading.Thread(target=lambda: made.append(load("tiny"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    model, processor = made[0]
    text = stream_generate(model, processor, "It was", max_tokens=4)
    assert len(tokens(text)) == 4


def number(stream: mx.Stream) -> int:
    """As it stands at the end of "Stream(Device(cpu, 0), 3)": streams are counted."""
    return int(str(stream).rpartition(" ")[2].rstrip(")"))


@pytest.mark.parametrize("name", ["tiny", "tiny-assistant", "nowhere"])
def test_a_thread_that_loads_gets_no_stream(name):
    """At streams of threads that are gone, the end of the process may abort."""
    device = mx.default_device()

    def load_it() -> tuple[int, int]:
        with suppress(InputError):
            (load_assistant if name == "tiny-assistant" else load_model)(name)
        other = mx.new_stream(device)  # a thread's own has a later number, unless the thread had it before
        return number(other), number(mx.default_stream(device))

    other, own = elsewhere(load_it)
    assert own > other


def test_a_cache_made_in_one_thread_serves_another(pair, expected):
    """Nothing of it has been computed yet: lazy zeros would be bound to the thread that made them."""
    cache = elsewhere(lambda: make_prompt_cache(*pair, 3))
    assert tokens(started(pair, prompt_cache=cache)) == expected
    cache = make_prompt_cache(*pair, 3)
    assert elsewhere(lambda: tokens(started(pair, prompt_cache=cache))) == expected
    assert tokens(started(pair, prompt_cache=cache)) == expected


def test_a_cache_read_from_its_file_in_one_thread_serves_another(pair, expected, tmp_path):
    cache = make_prompt_cache(*pair, 3)
    tokens(started(pair, prompt_cache=cache))
    save_prompt_cache(tmp_path / "cache.safetensors", cache)

    def read():
        return load_prompt_cache(tmp_path / "cache.safetensors", pair[0], assistant_model=pair[1])

    assert tokens(started(pair, prompt_cache=elsewhere(read))) == expected


ENDING = """
import threading
import mlx.core as mx
from support.decoding import random_pair
from test_threads import started, tokens

pair = random_pair(1)

def work():
    tokens(started(pair))
    mx.synchronize()
    mx.clear_streams()

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_a_process_whose_thread_has_cleared_its_streams_ends_in_order():
    """Without that line MLX may abort when the process ends: the README says so."""
    assert "mx.synchronize(); mx.clear_streams()" in " ".join((ROOT / "README.md").read_text().split())
    path = os.pathsep.join(map(str, (ROOT, TESTS, TOOLS)))
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", ENDING], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
        assert (run.returncode, run.stderr) == (0, b"")
