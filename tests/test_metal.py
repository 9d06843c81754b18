"""Decisions about Metal, each on the values that it turns at."""

import mlx.core as mx
import pytest

from mlx_gemma4_assist.machine.chip import (
    chip_generation,
    fused_attention_queries,
    has_small_batch_kernel,
    recommended_format,
)

M1, M2, M3, M5 = 13, 14, 15, 17


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("applegpu_g13g", M1),
        ("applegpu_g14d", M2),
        ("applegpu_g15s", M3),
        ("applegpu_g17", M5),
        ("Apple M1", M1),
        ("Apple M3 Max", M3),
        ("Apple M5 Ultra", M5),
        ("x86_64", None),
        ("AMD EPYC", None),
        ("NVIDIA M40", None),
        ("", None),
    ],
)
def test_generation_of_a_chip(name, generation):
    assert chip_generation(name) == generation


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_float_formats_have_the_small_batch_kernel_on_every_chip(mode):
    assert all(has_small_batch_kernel(mode, generation) for generation in (M1, M2, M3, M5))
    assert not has_small_batch_kernel(mode, None)


def test_affine_has_the_small_batch_kernel_from_m3_on():
    assert [has_small_batch_kernel("affine", g) for g in (None, M1, M2, M3, M5)] == [False, False, False, True, True]


@pytest.mark.parametrize("generation", [None, M1, M2, M3, M5])
def test_recommended_format_exists_and_has_the_kernel(generation):
    choice = recommended_format(generation)
    assert choice.quantization.exists()
    assert choice.bits == 4
    assert choice.reason
    if generation is not None:
        assert has_small_batch_kernel(choice.mode, generation)
    weight = mx.random.normal((64, 256)).astype(mx.bfloat16)
    packed = mx.quantize(weight, group_size=choice.group_size, bits=choice.bits, mode=choice.mode)
    assert sum(part.nbytes for part in packed) * 8 / weight.size == 4.5


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "queries"),
    [
        (8, 1, 256, 4),  # E2B
        (8, 2, 256, 8),  # E4B
        (16, 8, 256, 8),  # 12B, 26B-A4B
        (32, 16, 256, 8),  # 31B
        (32, 4, 512, 0),  # full layers
        (32, 1, 128, 1),
        (64, 1, 128, 0),
        (4, 4, 80, 0),
    ],
)
def test_longest_block_of_fused_attention(heads, kv_heads, head_dim, queries):
    assert fused_attention_queries(heads, kv_heads, head_dim) == queries
