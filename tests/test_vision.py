"""The vision tower by itself: padding, order, types, layouts. That it equals transformers' is in test_multimodal.py."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.models.gemma4_vision import Gemma4VisionModel
from mlx_gemma4_assist.models.towers import towers_of
from mlx_gemma4_assist.models.vision_config import Gemma4UnifiedVisionConfig, Gemma4VisionConfig

CONFIG = Gemma4VisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    patch_size=2,
    pooling_kernel_size=2,
    position_embedding_size=16,
    use_clipped_linears=True,
    standardize=True,
)


def tower(config=CONFIG) -> Gemma4VisionModel:
    mx.random.seed(1)
    model = Gemma4VisionModel(config)
    model.patch_embedder.position_embedding_table = mx.random.normal((2, 16, 32))
    model.std_bias, model.std_scale = mx.random.normal((32,)), mx.random.normal((32,))
    mx.eval(model.parameters())
    return model


def picture(columns: int, rows: int, seed: int = 0) -> tuple[mx.array, mx.array]:
    pixels = mx.random.uniform(shape=(1, columns * rows, 12), key=mx.random.key(seed))
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(1, -1, 2)
    return pixels, mx.array(grid.astype(np.int32))


def test_padding_changes_nothing():
    model = tower()
    pixels, positions = picture(4, 6)
    alone = model(pixels, positions)
    assert alone.shape == (1, 6, 32)
    noise = mx.random.uniform(shape=(1, 16, 12), key=mx.random.key(9))
    padded = model(
        mx.concatenate([pixels, noise], axis=1),
        mx.concatenate([positions, mx.full((1, 16, 2), -1, mx.int32)], axis=1),
    )
    assert padded.shape == (1, 10, 32)
    np.testing.assert_allclose(np.array(padded[:, :6]), np.array(alone), atol=1e-4)


def test_the_order_of_patches_does_not_matter():
    """Positions say where a patch is, in rotary embedding, tables and pooling alike."""
    model = tower()
    pixels, positions = picture(6, 4)
    order = mx.array(np.random.default_rng(0).permutation(24))
    shuffled = model(pixels[:, order], positions[:, order])
    np.testing.assert_allclose(np.array(shuffled), np.array(model(pixels, positions)), atol=1e-4)


def test_columns_are_not_rows():
    model = tower()
    pixels, positions = picture(4, 4)
    turned = model(pixels, positions[..., ::-1])
    assert mx.abs(turned - model(pixels, positions)).max().item() > 0.1


def test_bfloat16_is_close():
    model, pixels = tower(), picture(8, 6)
    exact = model(*pixels)
    model.set_dtype(mx.bfloat16)
    rounded = model(*pixels)
    assert rounded.dtype == mx.bfloat16
    error = mx.abs(rounded.astype(mx.float32) - exact)
    assert (error.mean() / mx.abs(exact).mean()).item() < 0.05


TARGET = {
    "model_type": "gemma4",
    "text_config": {"model_type": "gemma4_text", "hidden_size": 64, "num_hidden_layers": 2},
    "vision_config": {
        name: value for name, value in vars(CONFIG).items() if name not in ("model_type", "rope_parameters")
    },
}


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["transformers", "mlx-vlm"])
def test_names_of_both_layouts(prefix):
    towers = towers_of(TARGET)
    own = [name for name, _ in tree_flatten(towers.parameters())]
    assert all(towers.parameter_name(prefix + name) == name for name in own)
    for other in ("language_model.layers.0.mlp.up_proj.weight", "embed_audio.embedding_projection.weight", "lm_head.x"):
        assert towers.parameter_name(prefix + other) is None
    unclipped = towers_of(TARGET | {"vision_config": TARGET["vision_config"] | {"use_clipped_linears": False}})
    bound = f"{prefix}vision_tower.encoder.layers.0.mlp.up_proj.input_min"
    assert towers.parameter_name(bound) == bound.removeprefix("model.")
    assert unclipped.parameter_name(bound) is None


def test_layers_can_be_quantized():
    model = tower(replace(CONFIG, hidden_size=64, num_attention_heads=8, head_dim=8))
    model.patch_embedder.position_embedding_table = mx.random.normal((2, 16, 64))
    model.std_bias, model.std_scale = mx.zeros((64,)), mx.ones((64,))
    exact = model(*picture(4, 4))
    nn.quantize(model, 32, 8, class_predicate=lambda _, m: isinstance(m, nn.Linear) and m.weight.shape[-1] % 32 == 0)
    close = model(*picture(4, 4))
    assert 0 < mx.abs(close - exact).max().item() < 0.5


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation"),
        ({"head_dim": 6}, "head_dim"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        ({"attention_bias": True}, "attention_bias"),
        ({"model_type": "siglip"}, "model_type"),
    ],
)
def test_other_networks_are_refused(values, named):
    with pytest.raises(InputError, match=named):
        Gemma4VisionConfig.from_dict(values)


def test_the_embedder_of_the_12b_is_no_tower():
    assert Gemma4UnifiedVisionConfig().patch_values == 6912
    with pytest.raises(InputError, match="model_type"):
        Gemma4UnifiedVisionConfig.from_dict({"model_type": "gemma4_vision"})
