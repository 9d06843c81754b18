"""Routed experts in every format: what the CPU backend makes of them is what float32 gives, within rounding."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from support import checkpoints as small
from support.paths import GOLDENS

from mlx_gemma4_assist import GenerationOptions, Pair
from mlx_gemma4_assist.backend import can_compile, on_gpu
from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.evaluation.parity import Verdict, compare_texts
from mlx_gemma4_assist.models.config import read_target_config
from mlx_gemma4_assist.models.experts import Experts

E, K, H, I = 8, 2, 64, 128  # noqa: E741
CONFIG = small.TEXT["26B-A4B"] | {
    "hidden_size": H,
    "moe_intermediate_size": I,
    "num_experts": E,
    "top_k_experts": K,
}
LENGTHS = (1, 3, 4, 40)  # copied, copied, as many rows as experts, a prompt
ROUNDING = {mx.float32: 1e-5, mx.bfloat16: 1.5e-2, mx.float16: 2e-3}  # of the largest number
FORMATS = {
    "affine": (64, 4, "affine"),
    "mxfp4": (32, 4, "mxfp4"),
    "mxfp8": (32, 8, "mxfp8"),
    "nvfp4": (16, 4, "nvfp4"),
}


def experts_of(dtype: mx.Dtype) -> Experts:
    mx.random.seed(0)
    experts = Experts(read_target_config({"model_type": "gemma4_text"} | CONFIG))
    experts.set_dtype(dtype)
    mx.eval(experts.parameters())
    return experts


def block_of(length: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    """x, experts and weights, of two rows."""
    mx.random.seed(length)
    x = mx.random.normal((2, length, H)).astype(dtype)
    chosen = mx.argsort(mx.random.uniform(shape=(2, length, E)), axis=-1)[..., :K]
    return x, chosen, mx.random.uniform(shape=(2, length, K)).astype(dtype)


def matrix(layer: nn.Module, expert: int) -> np.ndarray:
    """One expert's, unpacked in float32."""
    weight = layer.weight
    if "scales" in layer:
        scales = layer.scales if layer.scales.dtype == mx.uint8 else layer.scales.astype(mx.float32)
        biases = layer.biases if layer.biases is None else layer.biases.astype(mx.float32)
        weight = mx.dequantize(weight, scales, biases, layer.group_size, layer.bits, layer.mode, dtype=mx.float32)
    return np.array(weight[expert].astype(mx.float32), np.float64)


def naive(experts: Experts, x: mx.array, chosen: mx.array, weights: mx.array) -> np.ndarray:
    """Token by token and expert by expert, in float64."""
    glu = experts.switch_glu
    layers = [[matrix(layer, e) for e in range(E)] for layer in (glu.gate_proj, glu.up_proj, glu.down_proj)]
    x, weights = (np.array(a.astype(mx.float32), np.float64) for a in (x, weights))
    out = np.zeros(x.shape)
    for place in np.ndindex(x.shape[:2]):
        for expert, weight in zip(chosen[place].tolist(), weights[place], strict=True):
            gate, up, down = (matrices[expert] for matrices in layers)
            z = gate @ x[place]
            gelu = z / (1 + np.exp(-2 * 0.7978845608028654 * (z + 0.044715 * z**3)))
            out[place] += weight * (down @ (gelu * (up @ x[place])))
    return out


def assert_close(found: mx.array, right: np.ndarray, dtype: mx.Dtype, tolerance: float = 1.0) -> None:
    """Within what ``tolerance`` roundings of the largest number come to."""
    atol = tolerance * ROUNDING[dtype] * np.abs(right).max()
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), right, rtol=0, atol=atol)


@pytest.fixture(autouse=True)
def on_cpu() -> None:
    if on_gpu():
        pytest.skip("of the CPU backend: elsewhere mlx-lm's module computes them")


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_type_gives_what_float32_gives(dtype, length):
    experts, block = experts_of(dtype), block_of(length, dtype)
    found = experts(*block)
    assert found.dtype == dtype
    assert_close(found, naive(experts, *block), dtype)


@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("stored", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_weights_of_another_type_than_the_hidden_state(dtype, stored, length):
    """As where norms were saved wider than matrices."""
    experts, block = experts_of(stored), block_of(length, dtype)
    found = experts(*block)
    assert found.dtype == mx.result_type(*(mx.zeros(1, each) for each in (dtype, stored)))
    assert_close(found, naive(experts, *block), dtype if stored == mx.float32 else max(dtype, stored, key=ROUNDING.get))


@pytest.mark.parametrize("scales", ROUNDING, ids=str)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_quantized_experts(form, dtype, scales):
    """Their scales may have another type than the hidden state; one projection may not be quantized at all."""
    group_size, bits, mode = FORMATS[form]
    experts = experts_of(scales)
    experts.switch_glu.up_proj = experts.switch_glu.up_proj.to_quantized(group_size, bits, mode)
    experts.switch_glu.down_proj = experts.switch_glu.down_proj.to_quantized(group_size, bits, mode)
    block = block_of(3, dtype)
    coarser = max(dtype, scales, key=ROUNDING.get)
    assert_close(experts(*block), naive(experts, *block), coarser, 3.0)  # affine sums up in its own type


@pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")
@pytest.mark.parametrize("length", [3, 40])
def test_compiled_experts(length):
    experts, block = experts_of(mx.bfloat16), block_of(length, mx.bfloat16)
    assert mx.array_equal(mx.compile(experts.__call__)(*block), experts(*block))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
def test_a_pair_with_experts_writes(dtype):
    """The golden pair's forward is float32's within rounding, and what it writes with drafts is its plain text."""
    folder = GOLDENS / "26b-a4b"
    pair = Pair.load(folder / "target", folder / "assistant", dtype=dtype)
    stored, prompts = mx.load(str(folder / "golden.safetensors")), json.loads((folder / "golden.json").read_text())
    for name in ("short", "window"):
        prompt = prompts["prompts"][name]["prompt"]
        layout = CacheLayout(pair.target.config, 8, mx.float32)
        block = Block(layout, KVCache(layout).buffers, mx.array([0], mx.int32), len(prompt), 0, exact=True)
        logits = pair.target.logits(pair.target(mx.array([prompt]), block))
        assert_close(logits, np.array(stored[f"{name}.logits"]), dtype)
        compared = compare_texts(pair, prompt, GenerationOptions(max_tokens=24, num_assistant_tokens=3))
        assert compared.verdict is not Verdict.DIFFERENT
        assert compared.stats.accepted
