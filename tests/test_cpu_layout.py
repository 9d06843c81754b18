"""Matrices by columns, and norms: the same shapes, values and products."""

import io
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_gemma4_assist.checkpoints.loading import lay_out_by_columns
from mlx_gemma4_assist.models import cpu
from mlx_gemma4_assist.models.linear import Linear, constant_weights


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(12, 8)
        self.proj = nn.Linear(8, 6, bias=True)
        self.half = nn.Linear(8, 6, bias=False)
        self.half.weight = self.half.weight.astype(mx.bfloat16)
        self.norm = nn.RMSNorm(8)


def strides(array: mx.array) -> tuple[int, ...]:
    return memoryview(array).strides


def test_values_shapes_and_products_stay():
    model = Small()
    mx.eval(model.parameters())
    before = {name: np.array(value.astype(mx.float32)) for name, value in tree_flatten(model.parameters())}
    tokens = mx.array([[3, 11]])

    def products() -> list[np.ndarray]:
        x = model.embed_tokens(tokens)
        return [np.array(y) for y in (x, model.proj(x), model.embed_tokens.as_linear(x))]

    expected = products()
    lay_out_by_columns(model)
    after = dict(tree_flatten(model.parameters()))
    assert strides(after["proj.weight"]) == (4, 24)
    assert strides(after["embed_tokens.weight"]) == (4, 48)
    assert strides(after["half.weight"])[1] == 2  # not float32: as it was
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(after[name].astype(mx.float32)), value)
    for found, right in zip(products(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_a_constant_weight_is_turned_once():
    """It is no node of the graph; one that changes, in place too, is turned anew where it is no constant."""
    layer, x = Linear(8, 6), mx.random.normal((3, 8))

    def nodes() -> int:
        graph = io.StringIO()
        mx.export_to_dot(graph, layer(x))
        return graph.getvalue().count("Transpose")

    assert nodes() == 1
    with constant_weights():
        assert nodes() == 0
        product = layer(x)
    np.testing.assert_array_equal(np.array(product), np.array(layer(x)))
    layer.weight[0] = math.nan
    assert np.isnan(np.array(layer(x))[:, 0]).all()
    assert nodes() == 1


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("weight_dtype", [None, mx.float32, mx.bfloat16])
def test_norms_are_mlx_s_own(dtype, weight_dtype):
    x = (3 * mx.random.normal((2, 3, 33))).astype(dtype)
    weight = None if weight_dtype is None else mx.random.normal((33,)).astype(weight_dtype)
    expected, found = mx.fast.rms_norm(x, weight, 1e-6), cpu.normalized(x, weight, 1e-6)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.array(found.astype(mx.float32)), np.array(expected.astype(mx.float32)))
