"""Values of other types, sizes beyond all bounds and deep nesting in a checkpoint's files end in one sentence."""

import json
import shutil

import fuzz_checkpoints
import mlx.core as mx
import pytest
from support import checkpoints as helpers

from mlx_gemma4_assist import InputError, load_assistant
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.pairing import assistant_for
from mlx_gemma4_assist.files import DEEPEST, read_json
from mlx_gemma4_assist.models.audio_config import Gemma4AudioConfig
from mlx_gemma4_assist.models.config import Gemma4TextConfig
from mlx_gemma4_assist.models.vision_config import Gemma4UnifiedVisionConfig, Gemma4VisionConfig
from mlx_gemma4_assist.text.processor import Processor

HUGE = (2**31, 10**30)


def rope(value):
    return {helpers.SLIDING: value, helpers.FULL: value}


def write(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize("depth", [DEEPEST + 1, 5000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_deep_nesting(tmp_path, depth, opening, closing):
    write(tmp_path, f'{{"model_type": {opening * depth}1{closing * depth}}}')
    with pytest.raises(InputError, match=r"config.json is nested too deep"):
        load_model(tmp_path)


def test_nesting_that_is_not_deep(tmp_path):
    inside = "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)
    assert "a" in read_json(write(tmp_path, f'{{"a": {inside}}}') / "config.json")


def test_byte_order_marks(tmp_path):
    """As Windows' editors write them: they are no part of what a file says."""
    whole = helpers.save_tokenizer(tmp_path / "whole")
    write(whole, {"model_type": "gemma4"})
    (whole / "generation_config.json").write_text('{"suppress_tokens": [7]}')
    marked = shutil.copytree(whole, tmp_path / "marked")
    for name in ("config.json", "generation_config.json", "chat_template.jinja"):
        (marked / name).write_bytes(b"\xef\xbb\xbf" + (whole / name).read_bytes())
    processor = Processor.from_pretrained(marked)
    assert processor.encode("hello") == Processor.from_pretrained(whole).encode("hello")
    assert processor.suppress_tokens == (7,)
    assert read_json(marked / "config.json") == {"model_type": "gemma4"}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_byte_order_marks_that_transformers_refuses(tmp_path, name):
    folder = helpers.save_tokenizer(tmp_path)
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    with pytest.raises(InputError, match="the tokenizer files of .* are damaged: Unexpected UTF-8 BOM"):
        Processor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("head_dim", value, "head_dim is .*, expected a positive integer") for value in ("x", [1], {}, 0.5, *HUGE)),
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, expected at most 1000"),
        ("hidden_size_per_layer_input", {"x": 1}, "hidden_size_per_layer_input is .*, expected an integer"),
        ("hidden_size_per_layer_input", 2**30, "hidden_size_per_layer_input is 1073741824"),
        ("hidden_size_per_layer_input", -1, "hidden_size_per_layer_input is -1"),
        ("num_attention_heads", 2**31 - 1, "the width of all heads of .* is .*, expected at most 2147483647"),
        ("intermediate_size", 2**31 - 1, "intermediate_size is 2147483647, expected at most"),
        ("sliding_window", 2**31 - 1, "sliding_window is 2147483647, expected at most 1048576"),
        ("num_kv_shared_layers", "x", "num_kv_shared_layers is 'x', expected an integer"),
        ("layer_types", 3, "layer_types is 3, expected a list"),
        ("layer_types", [{}], "layer_types is .*, expected a list"),
        ("rms_norm_eps", "x", "rms_norm_eps is 'x', expected a number"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps is nan, expected a number"),
        ("rms_norm_eps", -1.0, "rms_norm_eps is -1.0, expected 0 or more"),
        ("final_logit_softcapping", "x", "final_logit_softcapping is 'x', expected null or a number"),
        ("final_logit_softcapping", 0, "final_logit_softcapping is 0, expected null or a positive number"),
        ("attention_bias", [], r"attention_bias is \[\], expected true or false"),
        ("rope_parameters", [1], r"rope_parameters is \[1\], expected an object of objects"),
        ("rope_parameters", rope(1), "expected an object of objects"),
        (
            "rope_parameters",
            rope({"rope_theta": "x"}),
            "rope_theta of .* is 'x', expected a positive number",
        ),
        (
            "rope_parameters",
            rope({"rope_theta": 10, "partial_rotary_factor": 2}),
            "partial_rotary_factor of .* is 2, expected a number from 0 to 1",
        ),
        ("per_layer_config", 7, "per_layer_config is 7, expected an object"),
        ("per_layer_config", {"1": 7}, r"per_layer_config\['1'\] is 7, expected head_dim or num_key_value_heads"),
        ("per_layer_config", {"1": {"head_dim": []}}, "per_layer_config.*expected head_dim or num_key_value_heads"),
        ("max_position_embeddings", "x", "max_position_embeddings is 'x', expected a positive integer"),
    ],
)
def test_values_of_the_text_network(name, value, message):
    with pytest.raises(InputError, match=message):
        Gemma4TextConfig.from_dict(helpers.text_config("E2B") | {name: value})


@pytest.mark.parametrize("config", [Gemma4VisionConfig, Gemma4UnifiedVisionConfig, Gemma4AudioConfig])
@pytest.mark.parametrize("value", ["x", float("inf"), [1], {}])
def test_values_of_towers(config, value):
    with pytest.raises(InputError, match="rms_norm_eps of .*, expected a number"):
        config.from_dict({"rms_norm_eps": value})


@pytest.mark.parametrize("config", [Gemma4VisionConfig, Gemma4AudioConfig])
def test_layers_of_towers(config):
    with pytest.raises(InputError, match="num_hidden_layers of .* is 2147483647, expected at most 1000"):
        config.from_dict({"num_hidden_layers": 2**31 - 1})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Gemma4VisionConfig, "patch_size"),
        (Gemma4VisionConfig, "hidden_size"),
        (Gemma4UnifiedVisionConfig, "mm_posemb_size"),
        (Gemma4UnifiedVisionConfig, "patch_size"),
        (Gemma4AudioConfig, "attention_context_left"),
        (Gemma4AudioConfig, "output_proj_dims"),
    ],
)
def test_sizes_of_towers(config, name):
    with pytest.raises(InputError, match=f"{name} of .* is 2147483600, expected at most"):
        config.from_dict({name: 2147483600})
    with pytest.raises(InputError, match="patch_size times pooling_kernel_size of .* is 8192, expected at most 4096"):
        Gemma4VisionConfig.from_dict({"patch_size": 8192, "pooling_kernel_size": 1})


def test_sizes_of_the_audio_tower():
    with pytest.raises(InputError, match="subsampling_conv_channels .* expected counts whose product is at most"):
        Gemma4AudioConfig.from_dict({"subsampling_conv_channels": [2**31 - 1, 32]})
    with pytest.raises(InputError, match=r"rms_norm_eps of audio_config is 0.0, expected a positive number"):
        Gemma4AudioConfig.from_dict({"rms_norm_eps": 0.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_config": 10**30}, "text_config is 10*, expected an object"),
        ({"text_config": "x"}, "text_config is 'x', expected an object"),
        ({"model_type": {"x": 1}}, "not a Gemma 4: model_type is"),
        ({"vision_config": -1}, "vision_config is -1, expected an object"),
        ({"audio_config": [1]}, r"audio_config is \[1\], expected an object"),
        ({"quantization": -1}, "quantization is -1, expected an object"),
        ({"quantization": {"bits": "x", "group_size": 64}}, "no affine quantization has 'x' bits"),
        ({"quantization": {"bits": 4.0, "group_size": 64}}, "no affine quantization has 4.0 bits"),
        ({"quantization": {"bits": 4, "mode": []}}, r"quantization mode is \[\]"),
        ({"dtype": ["float32"]}, r"dtype is \['float32'\], expected"),
    ],
)
def test_values_around_the_network(tmp_path, values, message):
    helpers.save(tmp_path, helpers.full_config("E2B") | values, {"model.embed_tokens.scales": mx.zeros(1)})
    (tmp_path / "chat_template.jinja").touch()

    def read_all():
        for read in (assistant_for, load_towers, load_model):
            read(tmp_path)

    with pytest.raises(InputError, match=message) as raised:
        read_all()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_config": "x"}, "text_config is 'x', expected an object"),
        ({"backbone_hidden_size": [1]}, r"backbone_hidden_size is \[1\], expected an integer"),
        ({"backbone_hidden_size": 2**31 - 1}, "backbone_hidden_size is 2147483647"),
        ({"use_ordered_embeddings": "x"}, "use_ordered_embeddings is 'x', expected true or false"),
        ({"model_type": []}, r"not a Gemma 4 assistant: model_type is \[\]"),
    ],
)
def test_values_of_an_assistant(tmp_path, values, message):
    write(tmp_path, helpers.ASSISTANT | values)
    with pytest.raises(InputError, match=message):
        load_assistant(tmp_path)


def test_random_damage(tmp_path):
    """A few of the fuzzer's cases, and that its whole checkpoints load."""
    made = fuzz_checkpoints.bases(tmp_path / "whole")
    whole = fuzz_checkpoints.Pair.load(made["E2B"], "none")
    for base in ("E2B", "26B-A4B", "assistant"):
        assert fuzz_checkpoints.outcome(made[base], base, whole) == ("loaded", "")
    counts = fuzz_checkpoints.run(0, range(100), made, tmp_path / "damaged", False)
    assert set(counts) == {"loaded", "refused"}


def test_the_fuzzer_sees_failures(tmp_path, monkeypatch):
    made = fuzz_checkpoints.bases(tmp_path / "whole")
    for error, kind in ((KeyError("x"), "FAILED: KeyError in"), (InputError("a\nb"), "FAILED: no single line")):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(fuzz_checkpoints, "load_and_write", fails)
        assert fuzz_checkpoints.outcome(made["E2B"], "E2B", None)[0].startswith(kind)
