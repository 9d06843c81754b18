"""Vision networks against what transformers computed, every switch of their configs both ways, bounds that bind.

The stored goldens are read by default. `GOLDENS_DIR` names another folder, such as one that
`tests/reference/make_vision_goldens.py --out DIR --seed N` has just written.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.goldens import TOLERANCE, assert_close
from support.paths import GOLDENS

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.backend import branches
from mlx_gemma4_assist.checkpoints.loading import load_towers
from mlx_gemma4_assist.models.gemma4_vision import attend_padded
from mlx_gemma4_assist.models.towers import Gemma4Towers, UnifiedTowers
from mlx_gemma4_assist.models.vision_config import Gemma4VisionConfig

NETWORKS = ("vision-clipped", "vision-standardized", "vision-unified")
INPUTS = ("pictures", "video")
CLIPPED = GOLDENS / "vision-clipped"


class Golden:
    """A network, and the reference's tensors and record."""

    def __init__(self, folder: Path, dtype: str | None = None):
        self.towers: Gemma4Towers | UnifiedTowers = load_towers(folder, dtype=dtype)
        self.tensors: dict[str, mx.array] = mx.load(str(folder / "golden.safetensors"))
        self.record: dict[str, Any] = json.loads((folder / "golden.json").read_text())

    def inputs(self, label: str) -> tuple[mx.array, mx.array]:
        """Pixels from 0 to 1 and positions, padded."""
        return self.tensors[f"{label}.levels"].astype(mx.float32) / 255, self.tensors[f"{label}.position_ids"]

    def stripped(self, found: mx.array, label: str) -> mx.array:
        """The soft tokens of all pictures, one after another, without what padding leaves: (n, width)."""
        counts = self.record[label]
        assert found.shape[0] == len(counts)
        assert found.shape[1] > max(counts)
        return mx.concatenate([row[:count] for row, count in zip(found, counts, strict=True)])

    def seen(self, label: str) -> mx.array:
        return self.stripped(self.towers.see(*self.inputs(label)), label)


@pytest.fixture(scope="module", params=NETWORKS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(GOLDENS / request.param)


@pytest.mark.parametrize("label", INPUTS)
def test_soft_tokens_agree(golden: Golden, label: str):
    """Before the projection and after it, in the order of the placeholders that they replace."""
    unified = isinstance(golden.towers, UnifiedTowers)
    tower = golden.towers.vision_embedder if unified else golden.towers.vision_tower
    features = golden.stripped(tower(*golden.inputs(label)), label)
    assert_close(features, golden.tensors[f"{label}.features"])
    assert_close(golden.seen(label), golden.tensors[f"{label}.embeddings"])


def test_a_picture_alone_and_beside_another_has_the_same_soft_tokens(golden: Golden):
    """Without its padding, as the package encodes pictures."""
    pixels, positions = golden.inputs("pictures")
    beside = golden.seen("pictures")
    alone = []
    for values, places in zip(pixels, positions, strict=True):
        count = int((places[:, 0] >= 0).sum().item())
        alone.append(golden.towers.see(values[None, :count], places[None, :count])[0])
    assert_close(mx.concatenate(alone), beside)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_as_close_as_the_reference_is(name: str):
    """Mean distance of all embeddings from the float32 ones, beside that of transformers' bfloat16."""
    half = Golden(GOLDENS / name, dtype="bfloat16")
    errors = []
    for label in INPUTS:
        found = half.seen(label)
        assert found.dtype == mx.bfloat16
        expected = half.tensors[f"{label}.embeddings"]
        errors.append(np.abs(np.array(found.astype(mx.float32)) - np.array(expected)))
    assert np.concatenate(errors).mean() < 1.5 * half.record["bfloat16_error"]


@pytest.mark.parametrize("bound", ["input_min", "input_max", "output_min", "output_max"])
@pytest.mark.parametrize("layer", ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_every_kind_of_bound_counts(layer: str, bound: str):
    """The goldens would tell if one were ignored."""
    golden = Golden(CLIPPED)
    name = f"vision_tower.encoder.layers.0.{layer}.{bound}"
    golden.towers.load_weights([(name, mx.array(-100.0 if bound.endswith("min") else 100.0))], strict=False)
    assert mx.abs(golden.seen("pictures") - golden.tensors["pictures.embeddings"]).max().item() > 10 * TOLERANCE


def copied(source: Path, folder: Path, weights: dict[str, mx.array], **config: Any) -> Path:
    """A golden's folder with other weights, and with fields added to its config."""
    shutil.copytree(source, folder)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    values = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_conversions_load(name: str, tmp_path: Path):
    """mlx-vlm's have no `model.`; tensors are as they were. Some carry rotary tables, and bounds that nobody uses."""
    stored = mx.load(str(GOLDENS / name / "model.safetensors"))
    converted = {key.removeprefix("model."): value for key, value in stored.items()}
    if name == "vision-standardized":
        converted["vision_tower.encoder.rotary_emb.inv_freq"] = mx.zeros(3)
        converted["vision_tower.encoder.layers.0.mlp.up_proj.input_min"] = mx.zeros(())
    golden = Golden(copied(GOLDENS / name, tmp_path / "converted", converted))
    assert_close(golden.seen("pictures"), golden.tensors["pictures.embeddings"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_wanted_and_no_other(name: str, tmp_path: Path):
    stored = mx.load(str(GOLDENS / name / "model.safetensors"))
    part = "vision_embedder" if name == "vision-unified" else "vision_tower"
    surprise = {f"model.{part}.surprise": mx.zeros(())}
    with pytest.raises(InputError, match=f"unexpected {part}.surprise"):
        load_towers(copied(GOLDENS / name, tmp_path / "more", stored | surprise))
    gone = next(key for key in sorted(stored) if f".{part}." in key)
    less = {key: value for key, value in stored.items() if key != gone}
    with pytest.raises(InputError, match=f"missing {gone.removeprefix('model.')}"):
        load_towers(copied(GOLDENS / name, tmp_path / "less", less))


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["transformers", "mlx-vlm"])
def test_quantized_layers_load(prefix: str, tmp_path: Path):
    """Clippable linears among them: equal to a network with what their packed weights stand for."""
    towers = load_towers(CLIPPED)
    exact = {f"model.{name}": value for name, value in tree_flatten(towers.parameters())}
    form = {"group_size": 32, "bits": 8}
    nn.quantize(
        towers, **form, class_predicate=lambda _, layer: isinstance(layer, nn.Linear) and layer.weight.shape[-1] == 32
    )
    packed = dict(tree_flatten(towers.parameters()))
    for scales in [name for name in packed if name.endswith(".scales")]:
        path = scales.removesuffix(".scales")
        parts = [packed[f"{path}.{part}"] for part in ("weight", "scales", "biases")]
        exact[f"model.{path}.weight"] = mx.dequantize(*parts, **form)
    assert any("q_proj.linear.scales" in name for name in packed)
    renamed = {prefix + name: value for name, value in packed.items()}
    quantized = Golden(copied(CLIPPED, tmp_path / "quantized", renamed, quantization=form))
    unpacked = Golden(copied(CLIPPED, tmp_path / "unpacked", exact))
    assert isinstance(quantized.towers.vision_tower.encoder.layers[0].self_attn.q_proj.linear, nn.QuantizedLinear)
    assert isinstance(quantized.towers.embed_vision.embedding_projection, nn.QuantizedLinear)
    assert_close(quantized.seen("pictures"), unpacked.seen("pictures"))
    assert not mx.allclose(unpacked.seen("pictures"), unpacked.tensors["pictures.embeddings"], atol=TOLERANCE)


@pytest.mark.parametrize(("size", "fused"), [(72, 80), (12, 64), (64, 64), (96, 128), (160, 160)])
def test_heads_are_padded_to_a_fused_size_without_effect(size: int, fused: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(size)
    queries, keys, values = (rng.standard_normal((1, heads, 10, size)) / size**0.5 for heads in (4, 2, 2))
    seen = np.arange(10) < 7
    scores = np.exp(np.einsum("bnqd,bnkd->bnqk", queries, keys.repeat(2, axis=1))) * seen
    expected = scores / scores.sum(-1, keepdims=True) @ values.repeat(2, axis=1)
    attention, sizes = mx.fast.scaled_dot_product_attention, []

    def noted(*args: mx.array, **options: Any) -> mx.array:
        sizes.extend(x.shape[-1] for x in args)
        return attention(*args, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    arrays = [mx.array(x.astype(np.float32)) for x in (queries, keys, values)]
    with branches("gpu"):
        found = attend_padded(*arrays, mx.array(seen)[None, None, None])
    assert sizes == [fused] * 3
    np.testing.assert_allclose(np.array(found), expected, atol=1e-6)


@pytest.mark.parametrize("parameters", ["axial", {"rope_theta": "100"}, {"rope_theta": 0}])
def test_other_rotary_parameters_are_refused(parameters: Any):
    with pytest.raises(InputError, match="rope_parameters of gemma4_vision"):
        Gemma4VisionConfig.from_dict({"rope_parameters": parameters})
