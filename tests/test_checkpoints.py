"""Every layout of a checkpoint loads to the same parameters; every damaged one names what is wrong."""

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gemma4
from mlx_lm.utils import quantize_model, save_model
from support import checkpoints as helpers

from mlx_gemma4_assist import load
from mlx_gemma4_assist.checkpoints.loading import load_assistant, load_model
from mlx_gemma4_assist.checkpoints.quantized import Quantizable
from mlx_gemma4_assist.checkpoints.weights import weight_files
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.models.config import read_target_config
from mlx_gemma4_assist.models.linear import Linear

FAMILIES = tuple(helpers.TEXT)


def assert_same(model: nn.Module, expected: helpers.Weights) -> None:
    found = helpers.parameters(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert mx.array_equal(found[name], value).item(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", [helpers.as_google_text, helpers.as_google_full, helpers.as_mlx_community])
def test_layouts(tmp_path, family, layout):
    weights = helpers.randomize(helpers.target(family))
    config = helpers.text_config(family) if layout is helpers.as_google_text else helpers.full_config(family)
    assert_same(load_model(helpers.save(tmp_path, config, layout(weights))), weights)


def test_keys_of_layers_that_share_them_are_left_out(tmp_path):
    weights = helpers.randomize(helpers.target("E2B"))
    stored = helpers.as_google_full(weights)
    for part in ("k_proj", "v_proj", "k_norm"):
        stored[f"model.language_model.layers.3.self_attn.{part}.weight"] = mx.zeros((2, 2))
    assert_same(load_model(helpers.save(tmp_path, helpers.full_config("E2B"), stored)), weights)


def test_assistant(tmp_path):
    weights = helpers.randomize(helpers.assistant())
    stored = dict(weights)
    stored["lm_head.weight"] = weights["model.embed_tokens.weight"]
    ordering = "masked_embedding.token_ordering"
    stored[ordering] = weights[ordering].astype(mx.int64)
    assert_same(load_assistant(helpers.save(tmp_path, helpers.ASSISTANT, stored)), weights)


@pytest.mark.parametrize("wrong", [96, -1, 2**31 - 1])
def test_ids_beyond_the_vocabulary_are_refused(tmp_path, wrong):
    """They would be read from, and drafted, without any check."""
    weights = helpers.randomize(helpers.assistant())
    ordering = weights["masked_embedding.token_ordering"]
    weights["masked_embedding.token_ordering"] = mx.where(mx.arange(96) == 7, wrong, ordering).astype(mx.int64)
    with pytest.raises(InputError, match=f"token_ordering has the id {wrong}, expected 0 to 95"):
        load_assistant(helpers.save(tmp_path, helpers.ASSISTANT, weights))


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size_per_layer_input", 95), ("vocab_size_per_layer_input", "96"), ("pad_token_id", 96)]
    + [("pad_token_id", value) for value in (-1, "0", True)],
)
def test_tables_that_ids_would_reach_beyond_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field} is {value!r}"):
        read_target_config(helpers.text_config("E2B") | {field: value})


def test_shards(tmp_path):
    weights = helpers.randomize(helpers.target("31B"))
    stored = list(helpers.as_mlx_community(weights).items())
    weight_map = {}
    for number, part in enumerate((stored[:10], stored[10:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        helpers.save(tmp_path, helpers.full_config("31B"), dict(part), file)
        weight_map |= dict.fromkeys(dict(part), file)
    assert_same(load_model(tmp_path), weights)  # found by their names

    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "model-of-an-adapter.safetensors").write_bytes(b"not listed, not read")
    assert_same(load_model(tmp_path), weights)


# Quantized checkpoints

FORMATS = [
    {"group_size": 64, "bits": 4},
    {"group_size": 32, "bits": 8, "mode": "affine"},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
]


def quantize(model: nn.Module, general: dict, own: dict | None = None, stay_float: tuple[str, ...] = ()) -> None:
    own = own or {}

    def predicate(path, module):
        if path in stay_float or not isinstance(module, Quantizable) or module.weight.shape[-1] % 64:
            return False
        return own.get(path, True)

    nn.quantize(model, class_predicate=predicate, **general)
    mx.eval(model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("general", FORMATS, ids=lambda f: f"{f.get('mode', 'affine')}-{f['bits']}")
def test_quantized(tmp_path, family, general):
    model = helpers.target(family)
    helpers.randomize(model, mx.bfloat16)
    own = {
        "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 8},
        "model.layers.1.self_attn.q_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        "model.layers.2.mlp.up_proj": False,
    }
    quantize(model, general, own, stay_float=("model.layers.1.mlp.gate_proj",))
    weights = helpers.parameters(model)
    entries = {f"language_{path}": values for path, values in own.items()}
    # mlx-vlm lists its towers as well
    entries |= {"vision_tower.encoder.layers.0.mlp.up_proj": {"group_size": 32, "bits": 8}}
    config = helpers.full_config(family) | {"quantization": general | entries, "dtype": "float32"}
    loaded = load_model(helpers.save(tmp_path, config, helpers.as_mlx_community(weights)))
    assert_same(loaded, weights)
    mlp = loaded.model.layers[0].mlp
    assert (mlp.down_proj.bits, mlp.down_proj.mode) == (8, "affine")
    assert (mlp.gate_proj.bits, mlp.gate_proj.mode) == (general["bits"], general.get("mode", "affine"))
    assert type(loaded.model.layers[1].mlp.gate_proj) is Linear
    assert type(loaded.model.layers[2].mlp.up_proj) is Linear


@pytest.mark.parametrize("general", FORMATS, ids=lambda f: f"{f.get('mode', 'affine')}-{f['bits']}")
def test_quantized_assistant(tmp_path, general):
    model = helpers.assistant()
    helpers.randomize(model, mx.bfloat16)
    quantize(model, general)
    assert "masked_embedding.centroids.scales" in helpers.parameters(model)
    assert "model.embed_tokens.scales" in helpers.parameters(model)
    config = helpers.ASSISTANT | {"quantization_config": general}  # the copy alone is enough
    folder = helpers.save(tmp_path, config, helpers.parameters(model))
    assert_same(load_assistant(folder), helpers.parameters(model))


def test_layers_that_the_config_does_not_name_tell_their_format(tmp_path):
    model = helpers.target("31B")
    helpers.randomize(model)
    own = {"model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 8}}
    quantize(model, FORMATS[0], own)
    config = helpers.text_config("31B") | {"quantization": FORMATS[0]}
    loaded = load_model(helpers.save(tmp_path, config, helpers.parameters(model)))
    assert_same(loaded, helpers.parameters(model))
    assert loaded.model.layers[1].mlp.down_proj.bits == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_what_mlx_lm_quantizes_and_saves(tmp_path, family):
    config = helpers.full_config(family) | {"vocab_size": 96}
    theirs = gemma4.Model(gemma4.ModelArgs.from_dict(json.loads(json.dumps(config))))
    helpers.randomize(theirs, mx.bfloat16)
    theirs, config = quantize_model(theirs, config, 64, 4, quant_predicate=theirs.quant_predicate)
    save_model(tmp_path, theirs)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_model(tmp_path)
    assert_same(ours, helpers.parameters(theirs.language_model))


def test_foreign_quantization(tmp_path):
    weights = helpers.randomize(helpers.target("31B"))
    for method in ("bitsandbytes", "gptq", "compressed-tensors"):
        config = helpers.text_config("31B") | {"quantization_config": {"quant_method": method, "bits": 4}}
        with pytest.raises(InputError, match=f"quantized by {method}, not by MLX"):
            load_model(helpers.save(tmp_path, config, weights))


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"group_size": 64, "bits": 7}, "no affine quantization has 7 bits"),
        ({"group_size": 64, "bits": 4, "mode": "mxfp4"}, "no mxfp4 quantization has 4 bits in groups of 64"),
        ({"group_size": 64, "bits": 4, "mode": "q4_0"}, "mode is 'q4_0', expected affine"),
    ],
)
def test_unknown_quantization(tmp_path, quantization, message):
    config = helpers.text_config("31B") | {"quantization": quantization}
    with pytest.raises(InputError, match=message):
        load_model(helpers.save(tmp_path, config, helpers.randomize(helpers.target("31B"))))


def test_quantized_tensors_that_do_not_fit_their_entry(tmp_path):
    model = helpers.target("31B")
    helpers.randomize(model)
    quantize(model, FORMATS[0])
    path = "model.layers.1.mlp.down_proj"
    for entry, message in (({"group_size": 64, "bits": 8}, f"misshapen {path}.weight"), (False, f"{path}.scales")):
        config = helpers.text_config("31B") | {"quantization": FORMATS[0] | {path: entry}}
        with pytest.raises(InputError, match=message):
            load_model(helpers.save(tmp_path, config, helpers.parameters(model)))


# Data types


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("nested", [False, True])
def test_config_names_the_dtype(tmp_path, key, nested):
    weights = helpers.randomize(helpers.target("31B"), mx.bfloat16)
    config = helpers.full_config("31B")
    (config["text_config"] if nested else config)[key] = "float32"
    model = load_model(helpers.save(tmp_path, config, helpers.as_google_full(weights)))
    assert_same(model, {name: value.astype(mx.float32) for name, value in weights.items()})


def test_dtype_stays_without_a_name_for_it(tmp_path):
    weights = helpers.randomize(helpers.target("31B"), mx.float16)
    assert_same(load_model(helpers.save(tmp_path, helpers.text_config("31B"), weights)), weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", mx.float16])
def test_dtype_is_overridden(tmp_path, dtype):
    weights = helpers.randomize(helpers.assistant(), mx.bfloat16)
    folder = helpers.save(tmp_path, helpers.ASSISTANT | {"dtype": "bfloat16"}, weights)
    wanted = mx.float16 if isinstance(dtype, mx.Dtype) else {"float32": mx.float32, "bfloat16": mx.bfloat16}[dtype]
    found = helpers.parameters(load_assistant(folder, dtype=dtype))
    assert found.pop("masked_embedding.token_ordering").dtype == mx.int32
    assert {value.dtype for value in found.values()} == {wanted}


def test_dtype_of_quantized_layers(tmp_path):
    model = helpers.target("31B")
    helpers.randomize(model, mx.float16)
    quantize(model, FORMATS[0], {"model.layers.0.mlp.up_proj": FORMATS[2]})
    weights = helpers.parameters(model)
    # The config still names the type from before the conversion.
    config = helpers.text_config("31B") | {"dtype": "bfloat16", "quantization": FORMATS[0]}
    folder = helpers.save(tmp_path, config, weights)
    assert_same(load_model(folder), weights)
    cast = helpers.parameters(load_model(folder, dtype="float32"))
    assert {str(value.dtype) for value in cast.values()} == {"mlx.core.float32", "mlx.core.uint32", "mlx.core.uint8"}
    assert cast["model.layers.1.mlp.up_proj.scales"].dtype == mx.float32


@pytest.mark.parametrize("dtype", ["int8", "double", mx.int32])
def test_dtype_unknown(tmp_path, dtype):
    folder = helpers.save(tmp_path, helpers.text_config("31B"), {})
    with pytest.raises(InputError, match="expected float32, bfloat16, float16"):
        load_model(folder, dtype=dtype)


# Damage


@pytest.fixture
def whole(tmp_path) -> Path:
    return helpers.save(tmp_path, helpers.text_config("31B"), helpers.randomize(helpers.target("31B")))


def test_tensors_that_do_not_fit(whole):
    weights = mx.load(str(whole / "model.safetensors"))
    mx.eval(weights)  # its file is overwritten below
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.7.mlp.up_proj.weight"] = mx.zeros((1,))
    weights["model.norm.weight"] = mx.zeros((127,))
    weights["model.layers.0.input_layernorm.weight"] = mx.zeros((128,), mx.uint8)
    mx.save_safetensors(str(whole / "model.safetensors"), weights)
    with pytest.raises(InputError) as error:
        load_model(whole)
    for part in (
        "missing model.layers.1.mlp.up_proj.weight",
        "unexpected model.layers.7.mlp.up_proj.weight",
        "misshapen model.norm.weight is (127,), expected (128,)",
        "mistyped model.layers.0.input_layernorm.weight is mlx.core.uint8, expected mlx.core.float32",
    ):
        assert part in str(error.value)


def test_many_missing_tensors_make_a_short_message(tmp_path):
    with pytest.raises(InputError, match=r"and \d+ more$"):
        load_model(helpers.save(tmp_path, helpers.text_config("31B"), {"model.norm.weight": mx.zeros((128,))}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "model.safetensors is damaged"),
        (lambda data: data + b"more", "model.safetensors is damaged"),
        (lambda data: data[:40], "model.safetensors is damaged"),
        (lambda data: b"", "model.safetensors is damaged"),
        (lambda data: data[:8] + b"?" + data[9:], "model.safetensors is damaged"),
        (lambda data: data.replace(b"[128]", b"[129]", 1), "model.safetensors is damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    ],
)
def test_damaged_file(whole, damage, message):
    file = whole / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=message):
        load_model(whole)


def test_missing_shard(whole):
    (whole / "model.safetensors").rename(whole / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"lacks model-00002-of-00002.safetensors, which the other shards count"):
        load_model(whole)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "elsewhere.safetensors"}}
    (whole / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks elsewhere.safetensors, which model.safetensors.index.json lists"):
        load_model(whole)
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["a"]}))
    with pytest.raises(InputError, match="has no weight_map"):
        load_model(whole)


def test_tensor_in_two_files(whole):
    weights = mx.load(str(whole / "model.safetensors"))
    (whole / "model.safetensors").rename(whole / "model-a.safetensors")
    mx.save_safetensors(str(whole / "model-b.safetensors"), {"model.norm.weight": weights["model.norm.weight"]})
    with pytest.raises(InputError, match=r"model.norm.weight is in model-a.safetensors and again in model-b"):
        load_model(whole)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "gemma-4-Q4_0.gguf"])
def test_other_formats(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(helpers.text_config("31B")))
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"has no safetensors files; {name} cannot be read"):
        load_model(tmp_path)


def test_configs(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json"):
        load_model(tmp_path)
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "holds a JSON list, expected an object"),
        ('{"model_type": "llama"}', "not a Gemma 4: model_type is 'llama'"),
        (json.dumps(helpers.ASSISTANT), "this is an assistant"),
        (json.dumps(helpers.text_config("31B") | {"dtype": "int8"}), "dtype is 'int8'"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(helpers.text_config("31B")))
    with pytest.raises(InputError, match="not a Gemma 4 assistant: model_type is 'gemma4_text'"):
        load_assistant(tmp_path)


def test_files_without_an_index(tmp_path):
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    (tmp_path / "model.safetensors").touch()
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


# Memory and threads


def test_load_gives_a_processor_too(whole):
    helpers.save_tokenizer(whole)
    model, processor = load(whole)
    assert model.config.vocab_size == 96
    assert processor.bos_token_id == 2


def test_other_threads_may_use_a_loaded_model(whole):
    model = load_model(whole)
    sums = []
    thread = threading.Thread(
        target=lambda: sums.append(sum(value.sum().item() for value in helpers.parameters(model).values()))
    )
    thread.start()
    thread.join()
    assert len(sums) == 1
    assert not model.training


def test_towers_are_not_read(tmp_path):
    """Towers of 64 GB, a hole in a sparse file: reading them would take more memory than a test has."""
    weights = helpers.as_mlx_community(helpers.randomize(helpers.target("31B")))
    helpers.save(tmp_path, helpers.full_config("31B"), weights)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    end = len(data) - 8 - size
    for number in range(16):
        entry = {"dtype": "F32", "shape": [1 << 15, 1 << 15], "data_offsets": [end, end + (4 << 30)]}
        header[f"vision_tower.layers.{number}.weight"] = entry
        end += 4 << 30
    longer = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(longer)) + longer + data[8 + size :])
        try:
            out.truncate(8 + len(longer) + end)
        except OSError as error:
            pytest.skip(f"no sparse files here: {error}")
    load_model(tmp_path)


LOADING = """
import pathlib, re, resource, sys
import mlx.core as mx
from mlx_gemma4_assist.checkpoints.loading import load_model

def resident():
    # Linux lets a child begin with its parent's ru_maxrss.
    if sys.platform == "linux":
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = resident()
model = load_model(sys.argv[1])
print(resident() - before, mx.get_peak_memory(), mx.get_active_memory())
"""


@pytest.mark.parametrize("stored", [mx.float32, mx.bfloat16])
def test_no_second_copy_in_memory(tmp_path, stored):
    """300 MB of parameters take hardly more to load, also when each is read and then cast."""
    config = helpers.text_config("31B") | {"hidden_size": 512, "intermediate_size": 12_288, "dtype": "float32"}
    model = helpers.Gemma4ForCausalLM(helpers.read_target_config(config))
    weights = {name: mx.zeros(value.shape, stored) for name, value in helpers.parameters(model).items()}
    size = sum(value.size for value in weights.values()) * 4
    assert size > 300e6
    helpers.save(tmp_path, config, weights)
    del weights
    run = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)], capture_output=True, text=True, env=os.environ, check=True
    )
    resident, peak, active = map(int, run.stdout.split())
    assert size <= active < 1.01 * size
    assert peak < 1.25 * size
    assert resident < 1.25 * size
