"""Values of other types, sizes beyond all bounds and deep nesting in a checkpoint's files end in one sentence."""

import json
import shutil
import sys

import fuzz_checkpoints
import fuzzing
import mlx.core as mx
import pytest
from support import checkpoints as helpers
from support.paths import TOOLS

from mlx_gemma4_assist import InputError, load_assistant
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.pairing import assistant_for
from mlx_gemma4_assist.files import DEEPEST, read_json
from mlx_gemma4_assist.models.audio_config import Gemma4AudioConfig
from mlx_gemma4_assist.models.config import Gemma4TextConfig, read_target_config
from mlx_gemma4_assist.models.vision_config import Gemma4UnifiedVisionConfig, Gemma4VisionConfig
from mlx_gemma4_assist.text.processor import Processor

HUGE = (2**31, 10**30)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return fuzz_checkpoints.Checkpoints(tmp_path_factory.mktemp("cases"))


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
    (whole / "README.md").write_text("---\nbase_model: google/gemma-4-E2B-it\n---\n")
    marked = shutil.copytree(whole, tmp_path / "marked")
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "README.md"):
        (marked / name).write_bytes(b"\xef\xbb\xbf" + (whole / name).read_bytes())
    processor = Processor.from_pretrained(marked)
    assert processor.encode("hello") == Processor.from_pretrained(whole).encode("hello")
    assert processor.suppress_tokens == (7,)
    assert read_json(marked / "config.json") == {"model_type": "gemma4"}
    assert assistant_for(marked) == "google/gemma-4-E2B-it-assistant"


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
        ("rms_norm_eps", 2**63, "rms_norm_eps is 9223372036854775808, expected a number"),
        ("final_logit_softcapping", 10**30, "final_logit_softcapping is 10*, expected null or a number"),
        ("rms_norm_eps", -1.0, "rms_norm_eps is -1.0, expected 0 or more"),
        ("final_logit_softcapping", "x", "final_logit_softcapping is 'x', expected null or a number"),
        ("final_logit_softcapping", 10**30, "final_logit_softcapping is 1000.*, expected null or a number"),
        ("num_kv_shared_layers", 3, "num_kv_shared_layers is 3, expected fewer: a layer of each type must own keys"),
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


def test_a_target_has_keys_and_values():
    text = helpers.text_config("E2B") | {"num_kv_shared_layers": 4}
    assert Gemma4TextConfig.from_dict(text).num_kv_layers == 0  # as an assistant's
    for values in (text, {"model_type": "gemma4", "text_config": text}):
        with pytest.raises(InputError, match="num_kv_shared_layers is 4, expected fewer: a target owns keys"):
            read_target_config(values)


@pytest.mark.parametrize("config", [Gemma4VisionConfig, Gemma4UnifiedVisionConfig, Gemma4AudioConfig])
@pytest.mark.parametrize("value", ["x", float("inf"), 10**30, [1], {}])
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


@pytest.mark.parametrize("shape", [(), (4,), (4, 128), (4, 127, 128), (4, 130, 128), (4, 128, 128, 1)])
def test_stacked_experts_of_another_shape(tmp_path, shape):
    weights = helpers.as_google_full(helpers.randomize(helpers.target("26B-A4B")))
    name = "model.language_model.layers.0.experts.gate_up_proj"
    assert weights[name].shape == (4, 128, 128)
    helpers.save(tmp_path, helpers.full_config("26B-A4B"), weights | {name: mx.zeros(shape)})
    with pytest.raises(InputError, match=r"do not fit its config.json: .*layers\.0\.experts"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", fuzz_checkpoints.BASES)
def test_whole_checkpoints_of_the_fuzzer(cases, name):
    if name == "sentencepiece":
        pytest.importorskip("sentencepiece")
    cases.copy(name)
    assert fuzzing.outcome(cases.attempt) == ("worked", "")


def test_random_damage(cases):
    """A few of the fuzzer's cases."""
    found = set()
    for number in range(40):
        fuzzing.made(cases, 0, number)
        found.add(fuzzing.outcome(cases.attempt).kind)
    assert found == {"worked", "refused"}


class Panic(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("x"), "FAILED: KeyError in"),
        (Panic("x"), "FAILED: Panic in"),
        (InputError("a\nb"), "FAILED: no single line"),
        (InputError("x does not fit into memory"), "FAILED: too much memory"),
        (InputError("a"), "refused"),
    ],
)
def test_the_fuzzers_see_failures(error, kind):
    def fails():
        raise error

    assert fuzzing.outcome(fails).kind.startswith(kind)


WORKER = """
import os, sys
sys.path.insert(0, {tools!r})
import fuzzing, workers
import numpy
class Cases:
    def make(self, rng):
        self.number = rng.number
        return f"case {{rng.number}}"
    def attempt(self):
        if self.number == 1: os.abort()
        if self.number == 2: numpy.ones(fuzzing.MEMORY // 4)
        while self.number == 3: pass
class Numbered:
    def __init__(self, text): self.number = int(text.split("/")[1])
fuzzing.random.Random = Numbered
fuzzing.SECONDS = 1
workers.serve(lambda: ({{}}, fuzzing.answers(Cases(), 0)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_a_case_may_cost_the_process(capsys):
    """An abort, too much memory and a hang are findings, and those that follow run."""
    found = fuzzing.through([sys.executable, "-c", WORKER.format(tools=str(TOOLS))], range(5))
    assert found.pop("worked") == 2
    assert sorted(kind.partition(" in ")[0] for kind in found) == [
        "FAILED: MemoryError",
        "FAILED: TooSlow",
        "FAILED: the process has ended; --verbose shows what it said; exit code -6",
    ]
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            "the tokenizer files of .* are damaged",
        ),
        (
            "pre_tokenizer",
            {"type": "FixedLength", "length": 0},
            "cannot encode the prompt: chunk size must be",
        ),
        (
            "model",
            {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"},
            "cannot encode the prompt: WordLevel",
        ),
        ("decoder", {"type": "Strip", "content": "h", "start": 3, "stop": 3}, "cannot turn tokens into text: "),
    ],
)
@pytest.mark.parametrize("in_a_stream", [False, True])
def test_tokenizers_at_which_the_library_panics(tmp_path, name, part, message, in_a_stream):
    """With what is no Exception, for some."""
    file = helpers.save_tokenizer(tmp_path) / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: part}))
    with pytest.raises(InputError, match=message):
        write_with(Processor.from_pretrained(tmp_path), in_a_stream)


def write_with(processor, in_a_stream):
    processor.encode("hello the world")
    stream = processor.detokenizer()
    for token in range(len(helpers.SPECIAL) + 256, 300):
        if in_a_stream:
            stream.add(token)
        else:
            processor.decode([token])
