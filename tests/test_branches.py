"""The computations of a Mac and those of the CPU backend: which ones run, that they differ, that they agree.

With ``--branches gpu`` whole files of other tests run as on a Mac; here is held that the option does so.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import filled, layout_for, random_pair

from mlx_gemma4_assist import load, load_assistant, stream_generate
from mlx_gemma4_assist.backend import branches, can_compile, compiles_in_process, on_gpu
from mlx_gemma4_assist.checkpoints.loading import load_towers
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.models import activations
from mlx_gemma4_assist.models.layers import rms_norm
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder

GOLDENS = Path(__file__).parent / "goldens"
PROMPT = [(7 * i * i + i) % 64 for i in range(150)]  # longer than a band of the CPU backend
TOLERANCE = 1e-4


@pytest.fixture
def asked_for(request: pytest.FixtureRequest) -> str:
    """The branches that the option asks for, or those of the device: "cpu", "gpu" or "gpu-compiled"."""
    of_the_device = "gpu-compiled" if compiles_in_process() else "cpu"
    return request.config.getoption("--branches") or os.environ.get("MLX_GEMMA4_ASSIST_BRANCHES") or of_the_device


def test_the_option_chooses(asked_for):
    """In the test's thread, in others, and in processes that tests start."""
    found = [on_gpu()]
    thread = Thread(target=lambda: found.append(on_gpu()))
    thread.start()
    thread.join()
    code = "from mlx_gemma4_assist.backend import on_gpu; print(on_gpu())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found.append(process.stdout.strip() == "True")
    assert found == [asked_for != "cpu"] * 3


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each call of MLX's own attention had."""
    real, calls = mx.fast.scaled_dot_product_attention, []

    def noted(queries: mx.array, *others: mx.array, **options: object) -> mx.array:
        calls.append(queries.shape[2])
        return real(queries, *others, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    return calls


def logits_of_a_round(seed: int = 0) -> mx.array:
    """Logits (1, 4, V) of a random target that has read a prompt, after three drafts of its assistant."""
    target, assistant = random_pair(seed)
    layout = layout_for(target, 3)
    decoder, cache = Decoder(target, assistant, layout, Sampling(), accept), filled(target, layout, PROMPT)
    state = start(decoder, cache, PROMPT[-1:], 0)
    return propose(decoder, state, cache.buffers, 3, len(PROMPT) - 1).logits


def soft_tokens(name: str) -> mx.array:
    """What a vision tower makes of stored pictures."""
    folder = GOLDENS / name
    stored = mx.load(str(folder / "golden.safetensors"))
    pixels = stored["pictures.levels"].astype(mx.float32) / 255
    return load_towers(folder).see(pixels, stored["pictures.position_ids"])


@pytest.mark.parametrize("compute", [logits_of_a_round, lambda: soft_tokens("vision-clipped")], ids=["round", "vision"])
def test_what_was_asked_for_is_what_runs(asked_for, fused_attention, compute: Callable[[], mx.array]):
    """A Mac's networks attend by MLX's own attention, the CPU backend's never do."""
    mx.eval(compute())
    assert bool(fused_attention) == (asked_for != "cpu")


def test_a_prompt_is_read_in_a_macs_bands(asked_for, fused_attention):
    """All queries of a short prompt attend together there."""
    mx.eval(logits_of_a_round())
    assert (len(PROMPT) - 1 in fused_attention) == (asked_for != "cpu")


X = mx.array(np.linspace(-12, 12, 4001), mx.float32)
FUNCTIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "softmax": activations.softmax,
    "silu": activations.silu,
    "glu": lambda x: activations.glu(x, x),
    "geglu": lambda x: activations.geglu(x, mx.ones_like(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_change_with_the_choice(name):
    """Also where they have been compiled with the other choice before. In bfloat16 the two forms round differently."""
    x = X.astype(mx.bfloat16)
    found = []
    for choice in ("cpu", "gpu", "cpu", "gpu"):
        with branches(choice):
            found.append(FUNCTIONS[name](x))
            mx.eval(found[-1])
    assert mx.array_equal(found[0], found[2])
    assert mx.array_equal(found[1], found[3])
    assert not mx.array_equal(found[0], found[1])


COMPUTATIONS: dict[str, Callable[[], mx.array]] = {
    "round": logits_of_a_round,
    "vision": lambda: soft_tokens("vision-standardized"),
    "norm": lambda: rms_norm(X, None, 1e-6),
} | {name: lambda function=function: function(X) for name, function in FUNCTIONS.items()}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_both_forms_agree(name):
    found = {}
    for choice in ("cpu", "gpu"):
        with branches(choice):
            found[choice] = np.array(COMPUTATIONS[name]())
    np.testing.assert_allclose(found["cpu"], found["gpu"], rtol=0, atol=TOLERANCE)


def test_whoever_says_nothing_gets_compiled_rounds_as_on_a_mac(asked_for, monkeypatch):
    target, processor = load(GOLDENS / "e2b" / "target")
    assistant = load_assistant(GOLDENS / "e2b" / "assistant")
    real, compiled = mx.compile, []
    monkeypatch.setattr(mx, "compile", lambda function: compiled.append(function) or real(function))
    made = list(stream_generate(target, processor, [5, 6, 7], assistant, max_tokens=24, num_assistant_tokens=2))
    assert len(made) == 24
    assert bool(compiled) == (compiles_in_process() or (asked_for == "gpu-compiled" and can_compile()))
