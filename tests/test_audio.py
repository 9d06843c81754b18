"""The audio tower against what transformers computed, and the layouts that its weights come in.

The stored goldens are read by default. `GOLDENS_DIR` names another folder, such as one that
`tests/reference/make_audio_goldens.py --out DIR --seed N` has just written.
"""

import json
from pathlib import Path
from threading import Thread
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from support.paths import GOLDENS

from mlx_gemma4_assist.checkpoints.quantized import quantize_layers
from mlx_gemma4_assist.checkpoints.weights import assign
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.models.audio_attention import Blocks, window
from mlx_gemma4_assist.models.audio_config import Gemma4AudioConfig
from mlx_gemma4_assist.models.clippable import ClippableLinear
from mlx_gemma4_assist.models.gemma4_audio import Gemma4AudioModel

TOWERS = ("audio-published", "audio-other")
INPUTS = ("pair", "alone")
TOLERANCE = 1e-4
TINY = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "subsampling_conv_channels": [16, 8]}


def tower_of(folder: Path) -> Gemma4AudioModel:
    values = json.loads((folder / "config.json").read_text())["audio_config"]
    tower = Gemma4AudioModel(Gemma4AudioConfig.from_dict(values))
    assign(tower, tower.sanitize(mx.load(str(folder / "model.safetensors"))), folder)
    return tower


@pytest.fixture(scope="module", params=TOWERS)
def golden(request: pytest.FixtureRequest) -> tuple[Gemma4AudioModel, dict[str, mx.array], dict[str, Any]]:
    """A tower, the reference's tensors by input, and its record."""
    folder = GOLDENS / request.param
    record = json.loads((folder / "golden.json").read_text())
    return tower_of(folder), mx.load(str(folder / "golden.safetensors")), record


def assert_close(found: mx.array, expected: mx.array) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("label", INPUTS)
def test_tower_agrees(golden, label: str):
    """Soft tokens and their mask; padding agrees too, queries that see no key at all among it."""
    tower, tensors, _ = golden
    inputs = tensors[f"{label}.input_features"], tensors[f"{label}.input_features_mask"]
    subsampled, _ = tower.subsample_conv_projection(*inputs)
    assert_close(subsampled, tensors[f"{label}.subsampled"])
    features, mask = tower(*inputs)
    assert_close(features, tensors[f"{label}.features"])
    assert mx.array_equal(mask, tensors[f"{label}.mask"])


def test_goldens_have_partial_blocks_and_padded_ones(golden):
    tower, tensors, _ = golden
    mask = np.array(tensors["pair.mask"])
    width = tower.config.attention_chunk_size
    assert mask.shape[1] % width
    assert mask.shape[1] > width + tower.config.attention_context_left
    assert mask[0].sum() - mask[1].sum() > width + tower.config.attention_context_left
    assert tensors["alone.mask"].all()


def test_bfloat16_is_as_close_as_the_reference_is(golden):
    """Mean distance of all soft tokens from the float32 ones, beside that of transformers' bfloat16."""
    tower, tensors, record = golden
    half = Gemma4AudioModel(tower.config)
    half.update(tree_map(lambda x: x.astype(mx.bfloat16), tower.parameters()))
    errors = []
    for label in INPUTS:
        features, mask = half(tensors[f"{label}.input_features"], tensors[f"{label}.input_features_mask"])
        assert features.dtype == mx.bfloat16
        distance = np.abs(np.array(features.astype(mx.float32)) - np.array(tensors[f"{label}.features"]))
        errors.append(distance[np.array(mask)])
    assert np.concatenate(errors).mean() < 1.5 * record["bfloat16_error"]


def test_a_clip_alone_and_beside_a_longer_one_has_the_same_soft_tokens():
    """With the published value of masked scores; the other tower's lets them count, as it does in transformers."""
    tower, tensors = tower_of(GOLDENS / TOWERS[0]), mx.load(str(GOLDENS / TOWERS[0] / "golden.safetensors"))
    features, mask = tensors["pair.input_features"], tensors["pair.input_features_mask"]
    frames = mask[1].sum().item()
    alone, alone_mask = tower(features[1:, :frames], mask[1:, :frames])
    together, together_mask = tower(features, mask)
    count = together_mask[1].sum().item()
    assert count == alone_mask.sum().item() == -(-frames // 4)
    assert_close(together[1, :count], alone[0])


def test_what_padding_holds_does_not_matter(golden):
    tower, tensors, _ = golden
    features, mask = tensors["pair.input_features"], tensors["pair.input_features_mask"]
    found, valid = tower(mx.where(mask[..., None], features, 1000.0), mask)
    expected, _ = tower(features, mask)
    assert mx.array_equal(found[1, : valid[1].sum().item()], expected[1, : valid[1].sum().item()])


@pytest.mark.parametrize("length", [1, 11, 12, 13, 24, 30])
def test_blocks_against_loops(length: int):
    """Each query of each block meets the keys at the distances that the window allows, and comes back in its place."""
    config = Gemma4AudioConfig.from_dict(TINY | {"attention_context_right": 2})
    blocks = Blocks(config, length)
    frames = mx.arange(1, length + 1)[None, :, None]  # 0 is padding
    queries, keys = np.array(blocks.queries(frames))[0, ..., 0], np.array(blocks.keys(frames))[0, ..., 0]
    near = np.array(window(config))
    for u, w in np.ndindex(queries.shape):
        query = queries[u, w]
        if query:
            expected = {key for key in range(1, length + 1) if -2 < query - key < 12}
            assert {int(key) for key in keys[u][near[w]] if key} == expected
    assert mx.array_equal(blocks.joined(blocks.queries(frames)), frames)


def converted(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """As mlx-vlm's conversions have it: no `model.`, convolutions with channels last."""
    out = {}
    for name, value in weights.items():
        if ".conv.weight" in name:
            value = value.transpose(0, 2, 3, 1)
        elif "depthwise_conv1d.weight" in name:
            value = value.transpose(0, 2, 1)
        out[name.removeprefix("model.")] = value
    return out


@pytest.mark.parametrize("name", TOWERS)
def test_conversions_load(name: str):
    folder = GOLDENS / name
    stored = mx.load(str(folder / "model.safetensors"))
    tower = tower_of(folder)
    found, expected = tower.sanitize(converted(stored)), dict(tree_flatten(tower.parameters()))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert mx.array_equal(value, expected[key]), key


def test_other_networks_are_left_out_and_nothing_else():
    tower = tower_of(GOLDENS / "audio-other")
    others = ("model.language_model.norm.weight", "embed_audio.embedding_projection.weight", "vision_tower.std_bias")
    assert [tower.parameter_name(name) for name in others] == [None] * 3
    assert tower.parameter_name("model.audio_tower.layers.0.self_attn.softcap") is None
    # Bounds that its config makes no use of, as transformers leaves them out.
    assert tower.parameter_name("audio_tower.layers.0.self_attn.post.input_min") is None
    stored = mx.load(str(GOLDENS / "audio-other" / "model.safetensors"))
    with pytest.raises(InputError, match="unexpected surprise"):
        assign(tower, tower.sanitize(stored | {"model.audio_tower.surprise": mx.zeros(())}), GOLDENS)
    del stored["model.audio_tower.output_proj.bias"]
    with pytest.raises(InputError, match="missing output_proj.bias"):
        assign(tower, tower.sanitize(stored), GOLDENS)


def test_quantized_layers_load():
    """A conversion whose tower is quantized, clippable linears among it: as close as its dequantized twin."""
    mx.random.seed(0)
    config = Gemma4AudioConfig.from_dict(TINY)
    tower, exact = Gemma4AudioModel(config), Gemma4AudioModel(config)
    nn.quantize(tower, group_size=32, bits=8, class_predicate=lambda path, layer: isinstance(layer, nn.Linear))
    weights = {f"audio_tower.{name}": value for name, value in tree_flatten(tower.parameters())}
    loaded = Gemma4AudioModel(config)
    named = loaded.sanitize(weights)
    quantize_layers(loaded, {"group_size": 32, "bits": 8}, named, loaded.parameter_name)
    assign(loaded, named, GOLDENS)
    assert isinstance(loaded.layers[0].self_attn.q_proj.linear, nn.QuantizedLinear)
    assert isinstance(loaded.output_proj, nn.QuantizedLinear)
    for name, value in tree_flatten(tower.parameters()):
        path, _, last = name.rpartition(".")
        if last == "weight" and f"audio_tower.{path}.scales" in weights:
            packed = [weights[f"audio_tower.{path}.{part}"] for part in ("weight", "scales", "biases")]
            value = mx.dequantize(*packed, group_size=32, bits=8)
        elif last in ("scales", "biases"):
            continue
        exact.load_weights([(name, value)], strict=False)
    inputs = mx.random.normal((1, 70, 16)), mx.ones((1, 70), mx.bool_)
    assert_close(loaded(*inputs)[0], exact(*inputs)[0])


def test_bounds_bind_and_keep_the_type():
    layer = ClippableLinear(4, 3, clipped=True)
    layer.linear.weight = mx.ones((3, 4), mx.bfloat16)
    layer.input_min, layer.input_max = mx.array(-1.0), mx.array(2.0)
    assert layer(mx.array([5.0, -7, 1, 0], mx.bfloat16)).tolist() == [2.0] * 3
    layer.output_min, layer.output_max = mx.array(-0.5), mx.array(0.25)
    assert layer(mx.array([5.0, -7, 1, 0], mx.bfloat16)).tolist() == [0.25] * 3
    assert layer(mx.array([-5.0, -7, 1, 0], mx.bfloat16)).tolist() == [-0.5] * 3
    assert layer(mx.zeros((1, 4), mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma4_unified_audio"}, "model_type of audio_config is 'gemma4_unified_audio'"),
        ({"num_attention_heads": 7}, "num_attention_heads of audio_config is 7, expected a divisor of hidden_size, 64"),
        ({"subsampling_conv_channels": [128]}, "subsampling_conv_channels"),
        ({"subsampling_conv_channels": [3, 4]}, "the first of at least 4"),
        ({"attention_context_left": 0}, "attention_context_left of audio_config is 0, expected a positive integer"),
        ({"hidden_act": "relu"}, "hidden_act of audio_config is 'relu', expected silu"),
        ({"attention_logit_cap": 0}, "attention_logit_cap of audio_config is 0, expected a positive number"),
    ],
)
def test_config_says_what_is_wrong(change: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Gemma4AudioConfig.from_dict(TINY | change)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 0, 16), "too short: it has no frame"), ((1, 9, 20), "a frame of the sound has 20 mel bins, expected 16")],
)
def test_other_features_are_refused(shape: tuple[int, ...], message: str):
    tower = Gemma4AudioModel(Gemma4AudioConfig.from_dict(TINY))
    with pytest.raises(InputError, match=message):
        tower(mx.zeros(shape), mx.ones(shape[:2], mx.bool_))


def test_constants_are_bound_to_no_thread():
    """The tower built here and called in another thread, as a server does."""
    tower = Gemma4AudioModel(Gemma4AudioConfig.from_dict(TINY))
    mx.eval(tower.parameters())
    found = []

    def run() -> None:
        with mx.stream(mx.new_stream(mx.default_device())):
            features, mask = tower(mx.ones((1, 50, 16)), mx.ones((1, 50), mx.bool_))
            mx.eval(features, mask)
            found.append((features.shape, mask.shape))

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert found == [((1, 13, 1536), (1, 13))]
