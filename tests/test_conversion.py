"""Conversion: every format, what the packed tensors are, and that mlx-lm agrees; goldens of all five families."""

import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from support import checkpoints as helpers
from support.conversion import (
    FORMATS,
    config_of,
    convert,
    largest_difference,
    logits,
    mlx_lm_logits,
    small_assistant,
    small_checkpoint,
    tensors,
)
from support.paths import FAMILIES, GOLDENS

from mlx_gemma4_assist import InputError, load, load_assistant, stream_generate
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.quantized import Quantizable
from mlx_gemma4_assist.conversion import tensors as reading
from mlx_gemma4_assist.conversion.tensors import Rows, stored_tensors

CLOSE = 3e-4  # of float32 logits below 30: both round, random networks make it more; a wrong layer makes it whole


def name_of(form: dict) -> str:
    return form.get("q_mode") or f"{form['q_bits']}-bit-{form['q_group_size']}"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small") / "source")


@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_every_format(tmp_path, small, form):
    """What is written is what MLX makes of each layer, loads here, and gives mlx-lm the same logits."""
    convert(small, tmp_path / "out", quantize=True, **form)
    general = config_of(tmp_path / "out")["quantization"]
    expected = load_model(small)
    nn.quantize(
        expected,
        general["group_size"],
        general["bits"],
        mode=general["mode"],
        class_predicate=lambda _, m: isinstance(m, Quantizable) and m.weight.shape[-1] % general["group_size"] == 0,
    )
    found = helpers.parameters(load_model(tmp_path / "out"))
    assert found.keys() == helpers.parameters(expected).keys()
    for name, array in helpers.parameters(expected).items():
        assert array.dtype == found[name].dtype
        assert mx.array_equal(array, found[name]), name
    assert largest_difference(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < CLOSE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_without_quantization(tmp_path, small, dtype):
    convert(small, tmp_path / "out", dtype=dtype)
    config = config_of(tmp_path / "out")
    assert config["dtype"] == dtype
    assert "quantization" not in config
    assert {str(array.dtype) for array in tensors(tmp_path / "out").values()} == {f"mlx.core.{dtype}"}
    original = helpers.parameters(load_model(small, dtype=dtype))
    for name, array in helpers.parameters(load_model(tmp_path / "out")).items():
        assert mx.array_equal(array, original[name]), name
    if dtype == "float32":  # mlx-lm's rotary embedding and norms round otherwise in half precision
        assert largest_difference(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < CLOSE


@pytest.mark.parametrize("form", [{"q_bits": 8}, {"q_bits": 3, "q_group_size": 32}, {"q_mode": "nvfp4"}], ids=str)
def test_dequantize(tmp_path, small, form):
    """The way back: the values that the packed weights stand for, and a config.json without quantization."""
    convert(small, tmp_path / "packed", quantize=True, **form)
    convert(tmp_path / "packed", tmp_path / "plain", dequantize=True)
    assert not {"quantization", "quantization_config"} & config_of(tmp_path / "plain").keys()
    packed = load_model(tmp_path / "packed")
    plain = helpers.parameters(load_model(tmp_path / "plain"))
    quantized = {path: module for path, module in packed.named_modules() if "scales" in module}
    assert quantized
    for path, module in quantized.items():
        sizes = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        values = mx.dequantize(module.weight, module.scales, module.get("biases"), **sizes, dtype=mx.float32)
        assert mx.array_equal(values, plain[f"{path}.weight"]), path
    assert tensors(tmp_path / "plain").keys() == tensors(small_plain(tmp_path, small)).keys()


def small_plain(tmp_path, small):
    convert(small, tmp_path / "converted", force=True)
    return tmp_path / "converted"


@pytest.mark.parametrize("form", [{}, {"q_bits": 4}, {"q_mode": "mxfp8"}, {"q_bits": 3, "q_group_size": 32}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_mlx_lm(tmp_path, family, form):
    convert(GOLDENS / family / "target", tmp_path / "out", quantize=bool(form), **form)
    assert largest_difference(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < CLOSE


@pytest.mark.parametrize("options", [{}, {"quant_predicate": "mixed_3_6"}, {"q_mode": "mxfp4"}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_mlx_lm_converts(tmp_path, family, options):
    """mlx-lm's own conversion loads here, and but for towers ours is the same tensor for tensor."""
    from mlx_lm import convert as mlx_lm_convert

    convert(GOLDENS / family / "target", tmp_path / "float")  # goldens lack fields that mlx-lm has no right default for
    size = {} if "q_mode" in options else {"q_group_size": 64}
    mlx_lm_convert(str(tmp_path / "float"), str(tmp_path / "theirs"), quantize=True, **size, **options)
    convert(tmp_path / "float", tmp_path / "ours", quantize=True, **options)
    theirs, ours = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    towers = {name for name in ours if not name.startswith("language_model.")}
    # mlx-lm's mixed recipes take the router down with the rest.
    spared = {name for name in ours if ".router.proj." in name and "quant_predicate" in options}
    assert ours.keys() - towers == theirs.keys()
    for name, array in theirs.items():
        assert name in spared or mx.array_equal(array, ours[name]), name
    assert largest_difference(logits(tmp_path / "theirs"), mlx_lm_logits(tmp_path / "theirs")) < CLOSE


def test_a_pair_in_pieces(tmp_path, monkeypatch):
    """Few rows at a time and many shards give the same tensors as all at once, and an index that names each."""
    source = small_checkpoint(tmp_path / "source", "26B-A4B")
    small_assistant(tmp_path / "source-assistant")
    whole = convert(source, tmp_path / "whole", assistant_model=None, quantize=True)
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3000)
    convert(source, tmp_path / "pieces", assistant_model=None, quantize=True, max_shard_size="60KB")
    assert len(list((tmp_path / "pieces").glob("model-*-of-*.safetensors"))) > 3
    for folder in ("", "-assistant"):
        one, many = tensors(tmp_path / f"whole{folder}"), tensors(tmp_path / f"pieces{folder}")
        assert one.keys() == many.keys()
        assert all(mx.array_equal(array, many[name]) for name, array in one.items())
        index = json.loads((tmp_path / f"pieces{folder}" / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == many.keys()
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in many.values())
    assert whole.target.bytes == sum(array.nbytes for array in tensors(tmp_path / "whole").values())
    assert whole.target.parameters == sum(array.size for array in tensors(small_plain(tmp_path, source)).values())
    assert largest_difference(logits(tmp_path / "pieces"), mlx_lm_logits(tmp_path / "pieces")) < CLOSE


def test_reading_is_bounded(tmp_path, monkeypatch):
    """No read is longer than a chunk, or than a row where that is longer."""
    monkeypatch.setattr(reading, "CHUNK_BYTES", 5000)
    source = small_checkpoint(tmp_path / "source", "26B-A4B")
    for stored in stored_tensors(source).values():
        rows = Rows.all_of(stored)
        chunks = list(rows.chunks(rows.per_chunk()))
        assert sum(chunk.nbytes for chunk in chunks) == stored.nbytes
        assert all(chunk.nbytes <= max(5000, rows.row_bytes) for chunk in chunks)


def test_the_embedded_pair(tmp_path):
    """Both are converted, the assistant is found beside the target, and drafts of the packed pair are accepted."""
    done = convert("tiny", tmp_path / "out", assistant_model=None, quantize=True)
    assert done.target.bits_per_weight < 5.2
    assert done.assistant.folder == tmp_path / "out-assistant"
    target, processor = load(tmp_path / "out")
    assistant = load_assistant(tmp_path / "out-assistant")
    *_, last = stream_generate(
        target, processor, "It was a fine morning, and", assistant, max_tokens=40, num_assistant_tokens=3
    )
    assert last.stats.accepted > last.stats.drafted / 3


def test_towers_keep_their_values_under_mlx_vlm_s_names(tmp_path):
    source = mx.load(str(GOLDENS / "e2b" / "target" / "model.safetensors"))
    convert(GOLDENS / "e2b" / "target", tmp_path / "out", quantize=True, q_group_size=32)
    found = tensors(tmp_path / "out")
    beside = {name: array for name, array in source.items() if ".language_model." not in name}
    assert len(beside) > 100
    for name, array in beside.items():
        name = name.removeprefix("model.")
        if name == "embed_audio.embedding_projection.weight":  # the one that mlx-vlm quantizes
            assert found["embed_audio.embedding_projection.scales"].shape == (64, 1)
            continue
        if "subsample_conv_projection" in name and name.endswith("conv.weight"):
            array = array.transpose(0, 2, 3, 1)
        elif "depthwise_conv1d" in name:
            array = array.transpose(0, 2, 1)
        assert mx.array_equal(array, found[name]), name
    assert not any("k_proj" in name for name in found if ".layers.3." in name)  # a layer that shares its keys
    # A second conversion finds the axes in MLX's order already.
    convert(tmp_path / "out", tmp_path / "again", dequantize=True)
    again = tensors(tmp_path / "again")
    for name in beside:
        name = name.removeprefix("model.")
        assert name.startswith("embed_audio.") or mx.array_equal(again[name], found[name]), name


def test_text_only(tmp_path):
    source = GOLDENS / "e2b" / "target"
    done = convert(source, tmp_path / "out", text_only=True)
    assert all(name.startswith("language_model.") for name in tensors(tmp_path / "out"))
    assert not {"vision_config", "audio_config"} & config_of(tmp_path / "out").keys()
    assert done.target.bytes < convert(source, tmp_path / "all").target.bytes
    assert done.target.bits_per_weight == 32
    assert mx.array_equal(logits(tmp_path / "out"), logits(tmp_path / "all"))
    assert largest_difference(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < CLOSE


def test_weights_are_counted(tmp_path):
    """Those that are written, as the numbers they stand for."""
    source = GOLDENS / "e2b" / "target"
    whole = convert(source, tmp_path / "whole").target.parameters
    text = convert(source, tmp_path / "text", text_only=True).target.parameters
    for name, count in (("whole", whole), ("text", text)):
        assert count == sum(array.size for array in tensors(tmp_path / name).values())
    four = {"quantize": True, "q_group_size": 32}
    assert convert(source, tmp_path / "four", **four).target.parameters == whole
    assert convert(source, tmp_path / "four-text", **four, text_only=True).target.parameters == text
    again = convert(tmp_path / "four", tmp_path / "again").target
    assert (again.parameters, again.bytes) == (whole, sum(x.nbytes for x in tensors(tmp_path / "four").values()))
    assert convert(tmp_path / "four", tmp_path / "again-text", text_only=True).target.parameters == text


def test_an_assistant_alone(tmp_path):
    source = small_assistant(tmp_path / "source")
    done = convert(source, tmp_path / "out", assistant_model=None, quantize=True)
    assert done.target is None
    found = tensors(tmp_path / "out")
    assert found["model.embed_tokens.weight"].dtype == mx.float32  # the table of the centroid head
    assert found["pre_projection.weight"].dtype == mx.uint32
    load_assistant(tmp_path / "out")
    with pytest.raises(InputError, match="is an assistant itself"):
        convert(source, tmp_path / "other", assistant_model=source)


def test_a_quantized_source(tmp_path, small):
    """It is copied with its packed weights, or dequantized; it is not quantized again."""
    convert(small, tmp_path / "packed", quantize=True, quant_predicate="gemma4_4_8")
    convert(tmp_path / "packed", tmp_path / "copy", max_shard_size="100KB")
    one, other = tensors(tmp_path / "packed"), tensors(tmp_path / "copy")
    assert one.keys() == other.keys()
    assert all(mx.array_equal(array, other[name]) for name, array in one.items())
    assert config_of(tmp_path / "packed") == config_of(tmp_path / "copy")
    with pytest.raises(InputError, match="is quantized already"):
        convert(tmp_path / "packed", tmp_path / "twice", quantize=True)
    with pytest.raises(InputError, match="is not quantized"):
        convert(small, tmp_path / "plain", dequantize=True)


def test_the_text_model_of_a_12b(tmp_path):
    """Saved alone, under a type that mlx-lm does not know; what is written it loads."""
    golden = GOLDENS / "12b" / "target"
    source = tmp_path / "source"
    text = config_of(golden)["text_config"] | {"dtype": "float32"}
    names = {name: name.replace("model.language_model.", "model.") for name in tensors(golden) if "language" in name}
    helpers.save(source, text, {new: tensors(golden)[name] for name, new in names.items()})
    convert(source, tmp_path / "out")
    assert config_of(tmp_path / "out")["model_type"] == "gemma4_unified"
    assert mx.array_equal(logits(tmp_path / "out"), logits(golden))
    assert largest_difference(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < CLOSE


@pytest.mark.parametrize("family", ["e2b", "12b"])
def test_towers_load_here(tmp_path, family):
    """With the values they had; what mlx-vlm quantizes is packed."""
    source = GOLDENS / family / "target"
    convert(source, tmp_path / "out", quantize=True, q_group_size=32)
    expected, found = (helpers.parameters(load_towers(folder)) for folder in (source, tmp_path / "out"))
    packed = {name for name in found if name.startswith("embed_audio.")}
    assert "embed_audio.embedding_projection.scales" in packed
    assert found.keys() - packed == expected.keys() - {"embed_audio.embedding_projection.weight"}
    for name in found.keys() - packed:
        assert mx.array_equal(found[name], expected[name]), name
    convert(source, tmp_path / "text", text_only=True)
    assert load_towers(tmp_path / "text") is None
