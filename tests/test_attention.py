"""Attention made of products against MLX's own, and the elementwise functions against numpy's, in both forms."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gemma4_assist.backend import branches
from mlx_gemma4_assist.models import activations, attention, cpu
from mlx_gemma4_assist.models.layers import rms_norm


@pytest.fixture(params=["cpu", "gpu"])
def backend(request):
    """The computations of a backend, whichever runs the test."""
    with branches(request.param):
        yield request.param


def made_up(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return (mx.random.normal(shape, key=mx.random.key(sum(shape))) * 2).astype(dtype)


@pytest.mark.parametrize("mask", [None, "causal", "array", "array per row", "one for all queries"])
@pytest.mark.parametrize("queries", [1, 4, 40, 150])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 1), (8, 2), (4, 4)])
def test_attention_in_products(mask, queries, heads, kv_heads):
    """What is made of products on a CPU is ``scaled_dot_product_attention``, whichever heads share a product."""
    rows, keys = 2, 160
    if mask == "array":
        mask = mx.random.bernoulli(0.5, (queries, keys), key=mx.random.key(1))
    elif mask == "array per row":
        mask = mx.random.bernoulli(0.5, (rows, 1, queries, keys), key=mx.random.key(1))
    elif mask == "one for all queries":
        mask = mx.random.bernoulli(0.5, (rows, 1, 1, keys), key=mx.random.key(1))
    q, k, v = (made_up(rows, *shape, 16) for shape in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
    np.testing.assert_allclose(np.array(cpu.attend(q, k, v, mask)), np.array(expected), rtol=1e-5, atol=1e-5)


def test_a_query_is_not_touched_by_the_others_of_its_block(backend):
    """Heads that share a product stay apart, and so do queries: each alone gives the same."""
    q, k, v = made_up(1, 8, 4, 16), made_up(1, 2, 30, 16), made_up(1, 2, 30, 16) + 1
    mask = mx.arange(30) <= mx.arange(26, 30)[:, None]
    together = attention.attend(q, (k, v), mask[None, None])
    for i in range(4):
        alone = attention.attend(q[:, :, i : i + 1], (k, v), mask[None, None, i : i + 1])
        np.testing.assert_allclose(np.array(together[:, :, i : i + 1]), np.array(alone), atol=1e-5)


def test_bands_are_as_large_as_the_backend_wants_them(backend):
    assert attention.band_size() == {"cpu": cpu.BAND, "gpu": attention.BAND}[backend]


X = np.concatenate([np.linspace(-12, 12, 2001), [-200.0, -90.0, 90.0, 200.0]])
FUNCTIONS = {
    "softmax": (activations.softmax, lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()),
    "silu": (activations.silu, lambda x: x / (1 + np.exp(-x))),
    "glu": (lambda x: activations.glu(x, x), lambda x: x / (1 + np.exp(-x))),
    "geglu": (lambda x: activations.geglu(x, mx.ones_like(x)), lambda x: x * (1 + _tanh_inner(x)) / 2),
    "softcap": (lambda x: activations.softcap(x, 30.0), lambda x: 30 * np.tanh(x / 30)),
    "rms_norm": (lambda x: rms_norm(x, None, 1e-6), lambda x: x / np.sqrt((x * x).mean() + 1e-6)),
}


def _tanh_inner(x: np.ndarray) -> np.ndarray:
    return np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_far_into_saturation(backend, name):
    """Against numpy in float64."""
    function, expected = FUNCTIONS[name]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(np.array(function(mx.array(X, mx.float32))), expected(X), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_by_type(backend, name, dtype):
    """As the networks call them, fused where they are: the type stays, and rounding is the type's."""
    function, expected = FUNCTIONS[name]
    x = mx.array(X, mx.float32).astype(dtype)
    found = function(x)
    assert found.dtype == dtype
    step = float(mx.finfo(dtype).eps)
    with np.errstate(over="ignore"):
        wanted = expected(np.array(x.astype(mx.float32), np.float64))
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), wanted, rtol=3 * step + 2e-5, atol=2 * step)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_no_share_is_denormal(dtype):
    """A softmax on a CPU has no shares that make the product with values slow, and adds up to 1."""
    scores = mx.where(mx.arange(4000) < 100, 0.0, mx.finfo(dtype).min).astype(dtype)
    found = np.array(cpu.softmax(scores).astype(mx.float32))
    np.testing.assert_allclose(found[:100], 0.01, rtol=4e-3)
    assert (found[100:] > 1e-30).all()
    assert (found[100:] < 1e-25).all()
