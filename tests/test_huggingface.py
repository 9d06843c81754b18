"""The façade against transformers' own answers; every argument, and every refusal."""

import copy
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_helpers as helpers
import mlx.core as mx
import numpy as np
import pytest

from mlx_gemma4_assist import InputError, stream_generate
from mlx_gemma4_assist.decoding.media import MediaPrompt
from mlx_gemma4_assist.huggingface import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedForConditionalGeneration,
    ModelArrays,
    pipeline,
)
from mlx_gemma4_assist.huggingface.arrays import check_device, read_dtype
from mlx_gemma4_assist.huggingface.options import repetition_penalty
from mlx_gemma4_assist.huggingface.prompts import read_prompt
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM as AssistantNetwork
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM as TargetNetwork
from mlx_gemma4_assist.processing.inputs import ModelInputs

GOLDENS = helpers.GOLDENS
FAMILIES = ("e2b", "e4b", "12b", "26b-a4b", "31b")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GOLDEN = json.loads((GOLDENS / "huggingface.json").read_text())
PROMPT = mx.array([helpers.WORDS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return helpers.make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "target")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(helpers.save_picture(tmp_path_factory.mktemp("pictures") / "picture.png"))


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForImageTextToText.from_pretrained(folder)


@pytest.fixture(scope="module")
def assistant():
    return AutoModelForCausalLM.from_pretrained(helpers.ASSISTANT)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder, padding_side="left")


# generate


@pytest.mark.filterwarnings("ignore:neither max_new_tokens")
@pytest.mark.parametrize("assisted", [{}, {"num_assistant_tokens": None}, {"num_assistant_tokens": 3}])
@pytest.mark.parametrize("name", helpers.GENERATE)
def test_generate_equals_the_reference(model, assistant, name, assisted):
    ids, mask, options = helpers.GENERATE[name]
    if assisted:
        options = options | assisted | {"assistant_model": assistant}
    output = model.generate(input_ids=np.array([ids]), attention_mask=mx.array([mask]), **options)
    assert output.dtype == mx.int32
    assert output.tolist() == [GOLDEN["generate"][name]]


def test_the_reference_was_asked_what_makes_a_difference():
    texts = [tuple(text) for name, text in GOLDEN["generate"].items() if name != "all but one filtered"]
    assert len(set(texts)) == len(texts)


def test_padding_is_not_read():
    """The reference's text alone would not show it."""
    types = [[0, 0, 0, 1, 0]]
    found = read_prompt({"input_ids": [[0, 0, 2, 9, 4]], "attention_mask": [[0, 0, 1, 1, 1]]}, {9: 1})
    assert found.inputs == ModelInputs([2, 9, 4], [0, 1, 0])
    given = {
        "input_ids": [[0, 0, 2, 9, 4]],
        "mm_token_type_ids": types,
        "attention_mask": [[False, False, True, True, True]],
    }
    assert read_prompt(given, {}).inputs == found.inputs
    assert found.ids.tolist() == [[0, 0, 2, 9, 4]]


@pytest.mark.parametrize("penalty", [1.3, 0.5])
def test_repetition_penalty(penalty):
    """Once for each token that has been there, however often and however long ago."""
    logits = mx.random.normal((1, 50), key=mx.random.key(0))
    tokens = [3, 7, 3, *range(20, 45), 44]
    expected = logits.tolist()[0]
    for token in set(tokens):
        expected[token] = expected[token] * penalty if expected[token] < 0 else expected[token] / penalty
    found = repetition_penalty(penalty)(mx.array(tokens), logits + 0)
    np.testing.assert_allclose(np.array(found)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    record = json.loads((GOLDENS / family / "golden.json").read_text())["prompts"]["short"]
    target = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "target", device_map="auto")
    assistant = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "assistant", device_map="auto")
    assert isinstance(target, Gemma4ForCausalLM)
    assert isinstance(target.network, TargetNetwork)
    assert isinstance(assistant, Gemma4AssistantForCausalLM)
    assert isinstance(assistant.network, AssistantNetwork)
    prompt, tokens = record["prompt"], record["tokens"]
    for beside in ({}, {"assistant_model": assistant}):
        output = target.generate(mx.array([prompt]), max_new_tokens=len(tokens), do_sample=False, **beside)
        assert output.tolist() == [prompt + tokens]


@pytest.mark.parametrize("kind", ["np", "mlx", "bfloat16 once"])
@pytest.mark.parametrize("family", ["e2b", "12b"])
def test_media_equal_the_reference(family, kind):
    """With pictures, video and sound, plain and assisted; types of tokens given or found by their ids."""
    target = AutoModelForMultimodalLM.from_pretrained(GOLDENS / family / "target")
    assistant = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "assistant")
    records = json.loads((GOLDENS / "multimodal" / family / "golden.json").read_text())
    tensors = mx.load(str(GOLDENS / "multimodal" / family / "golden.safetensors"))
    inputs_of_model = ("pixel_values", "position_ids", "features", "frames_per_video")
    for label, record in records.items():
        arrays = {
            name.partition(".")[2]: value
            for name, value in tensors.items()
            if name.partition(".")[0] == label and any(part in name for part in inputs_of_model)
        }
        ids = mx.array([record["tokens"]])
        arrays = ModelArrays(arrays | {"input_ids": ids, "attention_mask": mx.ones_like(ids)})
        if kind == "np":
            arrays = ModelArrays({name: np.array(value) for name, value in arrays.items()})
            arrays["mm_token_type_ids"] = np.array([record["types"]])
        elif kind == "bfloat16 once":  # read back as float32, but rounded: other tokens may follow
            arrays = arrays.to(target.device, dtype=mx.bfloat16)
        beside = {"assistant_model": assistant} if kind == "mlx" else {}
        output = target.generate(**arrays, **beside, do_sample=False, max_new_tokens=len(record["generated"]))
        if kind == "bfloat16 once":
            assert output.shape == (1, len(record["tokens"]) + len(record["generated"]))
        else:
            assert output.tolist() == [record["tokens"] + record["generated"]]


def drawn(model, seed, **options):
    """What the engine draws from the same prompt."""
    quiet = SimpleNamespace(add=lambda token: "", finalize=lambda: "")
    tokens_only = SimpleNamespace(eos_token_ids={1, 106, 50}, suppress_tokens=(), detokenizer=lambda: quiet)
    responses = stream_generate(
        model.network, tokens_only, MediaPrompt(list(helpers.WORDS)), max_tokens=40, seed=seed, **options
    )
    return [*helpers.WORDS, *(response.token for response in responses)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"temperature": 1.0, "top_k": 64, "top_p": 0.95}),
        ({"top_k": None, "top_p": None}, {"temperature": 1.0}),
        ({"top_k": 0, "top_p": 1.0, "temperature": 4.0}, {"temperature": 4.0}),
        ({"temperature": 4, "top_k": 5, "min_p": 0.3}, {"temperature": 4.0, "top_k": 5, "top_p": 0.95, "min_p": 0.3}),
        ({"generation_config": {"temperature": 3.0, "top_k": 0}}, {"temperature": 3.0, "top_p": 0.95}),
        ({"generation_config": {"temperature": 3.0}, "temperature": 4.0, "top_k": 9}, {"temperature": 4.0, "top_k": 9}),
    ],
)
def test_sampling(model, assistant, arguments, expected):
    """The checkpoint's settings, and what the call says instead; the same text with the assistant."""
    expected = {"top_p": 0.95 if "generation_config" in arguments else 1.0} | expected
    for beside in ({}, {"assistant_model": assistant}):
        output = model.generate(PROMPT, max_new_tokens=40, seed=7, **arguments, **beside)
        assert output.tolist() == [drawn(model, 7, **expected)]


def test_sampling_without_a_word_from_the_checkpoint(folder):
    """Greedy, and 50 likeliest tokens when sampling: transformers' defaults."""
    bare = AutoModelForCausalLM.from_pretrained(folder)
    bare.generation_config = {"eos_token_id": [1, 106, 50]}
    assert bare.generate(PROMPT, max_new_tokens=32).tolist() == [GOLDEN["generate"]["max_new_tokens"]]
    output = bare.generate(PROMPT, max_new_tokens=40, do_sample=True, temperature=5.0, seed=3)
    assert output.tolist() == [drawn(bare, 3, temperature=5.0, top_k=50)]


def test_drafts_by_the_checkpoint(folder, assistant):
    """A configuration may say how many there are; without an assistant that means nothing, and is no error."""
    bare = AutoModelForCausalLM.from_pretrained(folder)
    bare.generation_config = {"num_assistant_tokens": 3, "eos_token_id": [1, 106, 50]}
    for beside in ({}, {"assistant_model": assistant}):
        output = bare.generate(PROMPT, max_new_tokens=32, **beside)
        assert output.tolist() == [GOLDEN["generate"]["max_new_tokens"]]


def test_seeds(model):
    texts = {
        tuple(model.generate(PROMPT, max_new_tokens=20, temperature=5.0, seed=seed)[0].tolist()) for seed in range(4)
    }
    assert len(texts) == 4
    fresh = {tuple(model.generate(PROMPT, max_new_tokens=20, temperature=5.0)[0].tolist()) for _ in range(4)}
    assert len(fresh) > 1


@pytest.mark.parametrize("stops", [[], (), None])
def test_no_stop(model, stops):
    """The golden text has 115 as its fifth new token."""
    model.generation_config["eos_token_id"] = 115
    try:
        stopped = model.generate(PROMPT, max_new_tokens=32, do_sample=False)
        assert stopped.tolist() == [GOLDEN["generate"]["a stop"]]
        output = model.generate(PROMPT, max_new_tokens=32, do_sample=False, eos_token_id=stops)
    finally:
        model.generation_config["eos_token_id"] = [1, 106, 50]
    assert output.tolist() == [GOLDEN["generate"]["max_new_tokens"]]


class Recorder:
    def __init__(self):
        self.values: list[Any] = []

    def put(self, value):
        self.values.append(value.tolist())

    def end(self):
        self.values.append("end")


def test_streamer_gets_the_prompt_and_each_token(model, assistant):
    recorder = Recorder()
    output = model.generate(
        PROMPT, max_new_tokens=12, do_sample=False, assistant_model=assistant, streamer=recorder
    ).tolist()
    new = output[0][len(helpers.WORDS) :]
    assert recorder.values == [[list(helpers.WORDS)], *([token] for token in new), "end"]


def test_streamer_gets_nothing_of_a_call_that_is_refused(model):
    recorder = Recorder()
    with pytest.raises(InputError, match="expected 0 to 1"):
        model.generate(PROMPT, max_new_tokens=12, top_p=2.0, streamer=recorder)
    assert recorder.values == []


def test_streamers_of_transformers(model, processor, capsys):
    from transformers import TextIteratorStreamer, TextStreamer

    text = " ".join(f"w{i}" for i in GOLDEN["generate"]["max_new_tokens"][6:18])
    options = {"max_new_tokens": 12, "do_sample": False}
    model.generate(PROMPT, **options, streamer=TextStreamer(processor.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == text + "\n"
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=model.generate, args=(PROMPT,), kwargs=options | {"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == text
    assert len(pieces) > 5


def test_generation_config_of_transformers(model):
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=32, do_sample=False, eos_token_id=115, pad_token_id=0, num_beams=1)
    output = model.generate(PROMPT, generation_config=config)
    assert output.tolist() == [GOLDEN["generate"]["a stop"]]


@pytest.mark.parametrize("name", ["num_beams", "pad_token_id", "use_cache", "stop_strings", "cache_implementation"])
def test_unknown_argument(model, name):
    with pytest.raises(TypeError) as error:
        model.generate(PROMPT, max_new_tokens=3, **{name: 1, "a_typo": 2})
    assert str(error.value).startswith(f"generate() does not take a_typo, {name}; it takes input_ids, ")


REFUSED = {
    "do_sample is 'no'": {"do_sample": "no"},
    "temperature is 0, expected more than 0: greedy decoding is do_sample=False": {"temperature": 0},
    "temperature is 'hot', expected a number": {"temperature": "hot"},
    "temperature is True, expected a number": {"temperature": True},
    "top_k is -1": {"top_k": -1},
    "top_k is 2.5": {"top_k": 2.5},
    "top_p is 0, expected more than 0": {"top_p": 0},
    "top_p is 1.5, expected 0 to 1": {"top_p": 1.5},
    "min_p is 2, expected 0 to 1": {"min_p": 2},
    "repetition_penalty is -1, expected more than 0": {"repetition_penalty": -1},
    "repetition_penalty is 'x', expected a number": {"repetition_penalty": "x"},
    "max_new_tokens is 0, expected an integer, at least 1": {"max_new_tokens": 0},
    "max_new_tokens is 2.5, expected an integer": {"max_new_tokens": 2.5},
    "max_length is 6, but the prompt alone has 6 tokens": {"max_new_tokens": None, "max_length": 6},
    "num_assistant_tokens is -1, expected an integer, at least 0": {"num_assistant_tokens": -1},
    "num_assistant_tokens is 3, but there is no assistant model": {"num_assistant_tokens": 3},
    "eos_token_id is 'x', expected a token id or a list": {"eos_token_id": "x"},
    "eos_token_id is [-1], expected a token id or a list": {"eos_token_id": [-1]},
    "suppress_tokens is [1.5], expected a token id or a list": {"suppress_tokens": [1.5]},
    "generation_config sets num_beams, penalty_alpha": {"generation_config": {"num_beams": 4, "penalty_alpha": 0.6}},
    "generation_config is int, expected": {"generation_config": 3},
    "assistant_model is str, expected what AutoModelForCausalLM reads": {"assistant_model": "tiny-assistant"},
    "input_ids are missing": {"inputs": None},
    "input_ids has 2 rows, but generate continues one prompt at a time": {"inputs": [[2, 3], [2, 4]]},
    "input_ids has the shape (2,), expected (1, length)": {"inputs": [2, 3]},
    "input_ids has the shape (1, 0), expected": {"inputs": np.zeros((1, 0), int)},
    "input_ids has the type float64, expected integers": {"inputs": [[2.0, 3.0]]},
    "input_ids is str, expected an array of numbers": {"inputs": "Why?"},
    "input_ids is ModelArrays, expected an array of numbers": {"inputs": ModelArrays(input_ids=1)},
    "the token id 500, but the model's vocabulary ends at 127": {"inputs": [[2, 500]]},
    "attention_mask has the shape (1, 2), expected (1, 6)": {"attention_mask": [[1, 1]]},
    "attention_mask hides more than padding": {"attention_mask": [[1, 1, 1, 1, 1, 0]]},
    "hides more than padding before": {"attention_mask": [[0, 1, 0, 1, 1, 1]]},
    "hides more than padding before the": {"attention_mask": [[0] * 6]},
    "attention_mask has 2 rows": {"attention_mask": np.ones((2, 6), int)},
    "mm_token_type_ids has the shape (1, 5), expected (1, 6)": {"mm_token_type_ids": [[0] * 5]},
    "pixel_values needs image_position_ids": {"pixel_values": np.zeros((1, 4, 48))},
    "input_features_mask needs input_features": {"input_features_mask": np.ones((1, 4))},
    "pixel_values of shape (1, 4, 48) and image_position_ids of shape (1, 5, 2) do not fit": {
        "pixel_values": np.zeros((1, 4, 48)),
        "image_position_ids": np.zeros((1, 5, 2), int),
    },
    "input_features of shape (4, 8) and input_features_mask of shape (4,) do not fit": {
        "input_features": np.zeros((4, 8)),
        "input_features_mask": np.ones(4),
    },
    "more pictures than the prompt has placeholders": {
        "pixel_values": np.zeros((1, 4, 48)),
        "image_position_ids": np.array([[[0, 0], [1, 0], [0, 1], [1, 1]]]),
    },
    "a picture has 1 placeholders in the prompt, and nothing to put there": {"inputs": [[2, 122, 4]]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(model, message):
    arguments = {"inputs": PROMPT, "max_new_tokens": 4} | REFUSED[message]
    with pytest.raises(InputError) as error:
        model.generate(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_prompts_given_twice(model):
    with pytest.raises(TypeError, match="both inputs and input_ids"):
        model.generate(PROMPT, input_ids=PROMPT)


def test_media_for_a_model_that_was_read_for_text(folder, processor, source):
    inputs = processor(source, "<|image|> w4", return_tensors="np")
    with pytest.raises(InputError, match="was read for text only: .*AutoModelForImageTextToText"):
        AutoModelForCausalLM.from_pretrained(folder).generate(**inputs, max_new_tokens=3)


def test_assistant_of_another_target(model):
    other = AutoModelForCausalLM.from_pretrained(GOLDENS / "31b" / "assistant")
    with pytest.raises(InputError, match="the assistant does not belong to this target"):
        model.generate(PROMPT, max_new_tokens=3, assistant_model=other)


def test_a_setting_of_the_checkpoint_that_is_not_supported(folder):
    bare = AutoModelForCausalLM.from_pretrained(folder)
    bare.generation_config = {"penalty_alpha": 0.5, "num_beams": 1, "return_dict_in_generate": False}
    with pytest.raises(InputError, match="generation_config.json sets penalty_alpha, which is not supported"):
        bare.generate(PROMPT, max_new_tokens=3)


def test_warnings(model):
    """Nothing is ignored in silence."""
    with pytest.warns(UserWarning, match="neither max_new_tokens nor max_length is set: at most 20 tokens"):
        assert model.generate(PROMPT).shape == (1, 26)
    with pytest.warns(UserWarning, match="max_new_tokens, 3, counts, although max_length, 30, is set"):
        assert model.generate(PROMPT, max_new_tokens=3, max_length=30).shape == (1, 9)
    with pytest.warns(UserWarning, match="temperature is 0.7, but nothing is drawn: do_sample is False"):
        model.generate(PROMPT, max_new_tokens=3, do_sample=False, temperature=0.7)


@pytest.mark.filterwarnings("error")
def test_no_warning_without_a_reason(model):
    model.generate(PROMPT, max_new_tokens=3, do_sample=False, temperature=1.0, top_k=None, top_p=None)


# Reading


def test_classes(folder):
    for kind in (AutoModelForImageTextToText, AutoModelForMultimodalLM, Gemma4ForConditionalGeneration):
        found = kind.from_pretrained(folder)
        assert type(found) is Gemma4ForConditionalGeneration
        assert found.towers is not None
    for kind in (AutoModelForImageTextToText, Gemma4UnifiedForConditionalGeneration):
        assert type(kind.from_pretrained(GOLDENS / "12b" / "target")) is Gemma4UnifiedForConditionalGeneration
    assert AutoModelForCausalLM.from_pretrained(folder).towers is None


@pytest.mark.parametrize("family", FAMILIES)
def test_config_of_an_assistant(family):
    found = Gemma4AssistantConfig.from_pretrained(GOLDENS / family / "assistant")
    network = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "assistant").config
    assert isinstance(found, type(network))
    assert vars(found) == vars(network)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (AutoModelForImageTextToText, "31b/target", "model_type 'gemma4_text', which sees nothing"),
        (AutoModelForImageTextToText, "e2b/assistant", "model_type 'gemma4_assistant', which sees nothing"),
        (Gemma4ForConditionalGeneration, "12b/target", "reads model_type gemma4, but .*'gemma4_unified'"),
        (Gemma4UnifiedForConditionalGeneration, "e2b/target", "reads model_type gemma4_unified, but .*'gemma4'"),
        (Gemma4ForCausalLM, "e2b/assistant", "but .* has 'gemma4_assistant'"),
        (Gemma4AssistantForCausalLM, "e2b/target", "reads model_type gemma4_assistant or gemma4_unified_assistant"),
        (Gemma4AssistantConfig, "e2b/target", "not a Gemma 4 assistant"),
        (AutoModelForCausalLM, "nothing/there", "nothing/there"),
    ],
)
def test_checkpoint_of_another_class(kind, name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=message):
        kind.from_pretrained(GOLDENS / name)


@pytest.mark.parametrize("dtype", ["float16", mx.float16, "mlx.core.float16", "torch.float16", np.dtype("float16")])
def test_dtype(dtype):
    assert read_dtype(dtype) == mx.float16
    assert AutoModelForCausalLM.from_pretrained(helpers.ASSISTANT, dtype=dtype).dtype == mx.float16


def test_dtype_of_the_towers(folder):
    found = AutoModelForImageTextToText.from_pretrained(folder, dtype="bfloat16")
    assert found.dtype == mx.bfloat16
    assert found.towers.embed_vision.embedding_projection.weight.dtype == mx.bfloat16
    for dtype in (None, "auto"):
        assert AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).dtype == mx.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype is int8, expected auto, float32, bfloat16, float16"),
        ({"dtype": mx.int32}, "dtype is mlx.core.int32, expected auto"),
        ({"device_map": "cuda"}, "device_map is 'cuda', expected auto, mps, cpu: MLX runs on this machine"),
        ({"device_map": {"": 0}}, "device_map is {'': 0}, expected"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation is 'flash_attention_2', expected 'sdpa'"),
    ],
)
def test_refused_when_reading(folder, arguments, message):
    with pytest.raises(InputError) as error:
        AutoModelForCausalLM.from_pretrained(folder, **arguments)
    assert message in str(error.value)


def test_unknown_argument_when_reading(folder):
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor):
        with pytest.raises(TypeError, match="load_in_4bit"):
            kind.from_pretrained(folder, load_in_4bit=True)


def test_device(model):
    assert model.to(model.device) is model
    assert model.eval() is model
    for device in (None, "auto", "mps", "cpu", "mps:0", mx.default_device()):
        check_device(device)
    with pytest.raises(InputError, match="device is 'cuda:0', expected"):
        model.to("cuda:0")


# Arrays


def test_arrays_to(processor, source):
    for kind, cls in (("np", np.ndarray), ("mlx", mx.array)):
        inputs = processor(source, "<|image|> w4", return_tensors=kind)
        assert all(isinstance(value, cls) for value in inputs.values())
        assert inputs.to("cpu") is inputs
        assert inputs.input_ids is inputs["input_ids"]
        halved = inputs.to("mps", dtype="float16")
        assert str(halved["pixel_values"].dtype).endswith("float16")
        assert halved["input_ids"] is inputs["input_ids"]
        brief = inputs.to(mx.default_device(), dtype=mx.bfloat16)
        assert isinstance(brief["pixel_values"], mx.array)
        assert brief["pixel_values"].dtype == mx.bfloat16
    with pytest.raises(InputError, match="device is 'cuda'"):
        inputs.to("cuda")
    with pytest.raises(AttributeError, match="there is no 'labels' among input_ids"):
        inputs.labels  # noqa: B018


class FakeTensor:
    """As much of PyTorch's as is used."""

    def __init__(self, array, dtype="torch.float32"):
        self.array, self.dtype = array, dtype

    def detach(self):
        return FakeTensor(self.array, self.dtype)

    cpu = detach

    def numpy(self):
        assert self.dtype != "torch.bfloat16", "NumPy has no bfloat16"
        return self.array

    def float(self):
        return FakeTensor(self.array)

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def to(self, dtype):
        return FakeTensor(self.array, dtype)


def test_tensors_of_pytorch(model, processor, source, monkeypatch):
    """Without PyTorch, by a stand-in; test_pytorch is the real thing where it is installed."""
    fake = SimpleNamespace(Tensor=FakeTensor, bfloat16="torch.bfloat16", from_numpy=FakeTensor)
    monkeypatch.setitem(sys.modules, "torch", fake)
    inputs = processor(source, "<|image|> w4", return_tensors="pt").to(model.device, dtype="bfloat16")
    assert all(isinstance(value, FakeTensor) for value in inputs.values())
    assert inputs["pixel_values"].dtype == "torch.bfloat16"
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    expected = model.generate(
        **processor(source, "<|image|> w4", return_tensors="np"), max_new_tokens=4, do_sample=False
    )
    assert output.tolist() == expected.tolist()
    assert processor.decode(FakeTensor(np.array([4, 5]))) == "w4 w5"


def test_pytorch(model, processor, source):
    torch = pytest.importorskip("torch", reason="runs where PyTorch is installed")
    inputs = processor(source, "<|image|> w4", return_tensors="pt")
    assert all(isinstance(value, torch.Tensor) for value in inputs.values())
    options = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**processor(source, "<|image|> w4", return_tensors="np"), **options)
    assert model.generate(**inputs, **options).tolist() == expected.tolist()
    brief = inputs.to(model.device, dtype=torch.bfloat16)
    assert brief["pixel_values"].dtype == torch.bfloat16
    assert model.generate(**brief, **options).shape == expected.shape
    assert AutoModelForCausalLM.from_pretrained(helpers.ASSISTANT, dtype=torch.float16).dtype == mx.float16
    check_device(torch.device("cpu"))


def test_without_pytorch(processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match='"pt" needs PyTorch, which is not installed'):
        processor(text="w4", return_tensors="pt")


# The processor


def assert_same(found, expected):
    """Text, or arrays by name; of the reference's those that have two dimensions are stored."""
    if isinstance(expected, str):
        assert found == expected
    else:
        assert {name: value.tolist() for name, value in found.items() if value.ndim == 2} == expected


@pytest.mark.parametrize("name", helpers.templates(""))
def test_apply_chat_template_equals_the_reference(processor, source, name):
    messages, options = helpers.templates(source)[name]
    before = copy.deepcopy(messages)
    assert_same(processor.apply_chat_template(messages, **options), GOLDEN["processor"][name])
    assert messages == before


@pytest.mark.parametrize("name", helpers.texts(""))
def test_call_equals_the_reference(processor, source, name):
    text, pictures = helpers.texts(source)[name]
    assert_same(processor(images=pictures, text=text, return_tensors="np"), GOLDEN["processor"][name])


def test_what_is_returned(processor):
    messages = helpers.chat("w4 w5")
    ids = GOLDEN["processor"]["ids"]["input_ids"]
    asked = {"tokenize": True, "add_generation_prompt": True}
    assert processor.apply_chat_template(messages, **asked) == ids
    assert processor.apply_chat_template(messages, return_tensors="mlx", **asked).tolist() == ids
    whole = processor.apply_chat_template([messages], return_dict=True, **asked)
    assert whole == GOLDEN["processor"]["ids"]
    assert processor.apply_chat_template([messages]) == [GOLDEN["processor"]["text"]]
    assert processor(text=["w4"], padding=True, return_tensors="np")["input_ids"].tolist() == [[2, 4]]
    assert processor(text="w4", add_special_tokens=False)["input_ids"] == [[4]]
    assert processor(text="<bos> w4")["input_ids"] == [[2, 4]]


def test_template_values(processor):
    messages = helpers.chat("w4")
    assert (
        processor.apply_chat_template(messages, chat_template="{{ messages[0].content }}{{ extra }}", extra=" !")
        == "w4 !"
    )
    assert processor.apply_chat_template(messages, chat_template="{{ tools[0].function.name }}", tools=[TOOL]) == "look"
    with pytest.raises(TypeError, match="neither the processor nor the chat template knows nonsense"):
        processor.apply_chat_template(messages, nonsense=1)
    with pytest.raises(InputError, match="the chat template refuses this conversation"):
        processor.apply_chat_template(messages, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(InputError, match="the chat template refuses this conversation: no"):
        processor.apply_chat_template(messages, chat_template="{{ raise_exception('no') }}")


TOOL = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 60),
        ({"processor_kwargs": {"max_soft_tokens": 140}}, 135),
        ({"max_soft_tokens": 140}, 135),
        ({"images_kwargs": {"max_soft_tokens": 140}}, 135),
        ({"videos_kwargs": {"max_soft_tokens": 140}}, 60),
    ],
)
def test_soft_tokens(processor, source, options, count):
    messages = helpers.chat([{"type": "image", "url": source}])
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="np", **options)
    assert (inputs["input_ids"] == 122).sum() == count


def test_video_options(processor):
    frames = np.zeros((40, 16, 16, 3), np.uint8)
    for options, count in (({}, 32), ({"num_frames": 3}, 3), ({"videos_kwargs": {"fps": 6}}, 10)):
        inputs = processor(videos=frames, text="<|video|> w4", return_tensors="mlx", **options)
        assert inputs["num_frames_per_video"].tolist() == [count]
        assert inputs["pixel_values_videos"].shape[0] == count


def test_sound(processor):
    inputs = processor(audio=np.zeros(8000), text="<|audio|> w4", return_tensors="mlx")
    assert inputs["input_features"].ndim == 3
    count = (inputs["input_ids"] == 126).sum().item()
    assert 0 < count == inputs["input_features_mask"][:, ::4].sum().item()
    with pytest.warns(UserWarning, match="lasts 31 seconds, of which the model hears the first 30"):
        processor(audio=np.zeros(31 * 16_000), text="<|audio|> w4")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"text": ["w4", "w5"]}, InputError, "there are 2 texts, but prompts are made one at a time"),
        ({}, InputError, "there are 0 texts"),
        ({"text": "w4", "padding": "max_length"}, InputError, "padding is True, False or 'longest'"),
        ({"text": "w4", "return_tensors": "tf"}, InputError, "return_tensors is 'tf', expected np, mlx, pt"),
        ({"text": "w4", "truncation": True}, TypeError, "does not take truncation; it takes max_soft_tokens"),
        ({"text": "w4", "images_kwargs": {"size": 3}}, TypeError, "does not take images_kwargs['size']"),
        ({"text": "w4", "max_soft_tokens": 100}, InputError, "max_soft_tokens is 100, expected one of 70"),
        ({"text": "<|image|>"}, InputError, "the prompt says <|image|> 1 time, but has 0 images"),
        ({"text": "w4", "images": "nowhere.png"}, InputError, "the prompt says <|image|> 0 times, but has 1 image"),
        ({"text": "<|image|>", "images": "nowhere.png"}, InputError, "there is no file nowhere.png"),
        ({"text": ""}, InputError, "the prompt is empty"),
    ],
)
def test_refused_by_the_processor(processor, arguments, kind, message):
    with pytest.raises(kind) as error:
        processor(**arguments)
    assert message in str(error.value)


def test_several_conversations(processor):
    with pytest.raises(InputError, match="there are 2 conversations, but prompts are made one at a time"):
        processor.apply_chat_template([helpers.chat("w4"), helpers.chat("w5")])


def test_processor_of_a_text_model(source):
    found = AutoProcessor.from_pretrained(GOLDENS / "31b" / "target")
    assert found(text="w4 w5", return_tensors="np")["input_ids"].tolist() == [[2, 4, 5]]
    with pytest.raises(
        InputError, match="neither processor_config.json nor preprocessor_config.json, so it takes text"
    ):
        found(source, "w4")
    with pytest.raises(InputError, match="the checkpoint has no chat template"):
        found.apply_chat_template(helpers.chat("w4"))
    with pytest.raises(InputError, match="padding_side is 'right', expected 'left'"):
        AutoProcessor.from_pretrained(GOLDENS / "31b" / "target", padding_side="right")


@pytest.mark.parametrize("make", [list, np.array, mx.array, lambda ids: mx.array(ids, mx.int32)])
def test_decode(processor, make):
    assert processor.decode(make([2, 4, 5, 106])) == "<bos> w4 w5 <turn|>"
    assert processor.decode(make([2, 4, 5, 106]), skip_special_tokens=True) == "w4 w5"
    assert processor.batch_decode(make([[2, 4], [5, 6]]), True) == ["w4", "w5 w6"]
    assert processor.decode(make([[2, 4], [5, 6]]), skip_special_tokens=True) == ["w4", "w5 w6"]
    assert processor.decode(make([])) == ""
    assert processor.decode(make([4])[0]) == "w4"
    assert processor.batch_decode([[4], [5, 6]], clean_up_tokenization_spaces=False) == ["w4", "w5 w6"]


def test_refused_by_decode(processor):
    with pytest.raises(InputError, match=r"token_ids is str, expected"):
        processor.decode("w4")
    with pytest.raises(InputError, match=r"token_ids have the type float64, expected integers"):
        processor.decode([0.5])
    with pytest.raises(InputError, match="clean_up_tokenization_spaces is not supported"):
        processor.decode([4], clean_up_tokenization_spaces=True)


# Pipelines


@pytest.fixture(scope="module")
def pipes(folder):
    return {task: pipeline(task, model=folder, assistant_model=helpers.ASSISTANT) for task in helpers.PIPELINES}


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in helpers.PIPELINES for name in helpers.calls(task, "")]
)
def test_pipeline_equals_the_reference(pipes, source, task, name):
    call = helpers.calls(task, source)[name]
    found = pipes[task](**call)
    if name == "ids":
        found[0]["generated_token_ids"] = found[0]["generated_token_ids"].tolist()
    assert json.loads(json.dumps(found).replace(source, helpers.PICTURE)) == GOLDEN["pipelines"][task][name]
    assert call == helpers.calls(task, source)[name]


def test_pipeline_takes_what_has_been_read(model, assistant, processor, source, monkeypatch):
    called = []
    generate = Gemma4ForConditionalGeneration.generate
    monkeypatch.setattr(
        Gemma4ForConditionalGeneration,
        "generate",
        lambda self, **options: called.append(options) or generate(self, **options),
    )
    pipe = pipeline("image-text-to-text", model=model, processor=processor, assistant_model=assistant)
    pipe(source, "<|image|> w4", max_new_tokens=3, seed=1)
    assert called[0]["assistant_model"] is assistant
    assert called[0]["max_new_tokens"] == 3
    assert called[0]["seed"] == 1
    pipe(helpers.chat("w4"), generate_kwargs={"max_length": 9})
    assert "max_new_tokens" not in called[1]
    pipe(text="w4", generation_config={"max_new_tokens": 2})
    assert "max_new_tokens" not in called[2]
    pipe(text="w4")
    assert called[3]["max_new_tokens"] == 256


def test_pipeline_reads_what_is_named(model, folder):
    pipe = pipeline(
        "image-text-to-text", model=model, processor=folder, assistant_model=helpers.ASSISTANT, dtype="float16"
    )
    assert pipe.model is model
    assert pipe.assistant_model.dtype == mx.float16
    pipe = pipeline(
        "text-generation", model="tiny", assistant_model="tiny-assistant", processor="tiny", dtype="bfloat16"
    )
    assert pipe.model.dtype == mx.bfloat16
    (found,) = pipe("It was a fine morning, and", max_new_tokens=6, do_sample=False)
    assert found["generated_text"].startswith("It was a fine morning, and ")


def test_pipeline_passes_thinking_on(pipes):
    options = {"max_new_tokens": 2, "do_sample": False, "return_tensors": True, "enable_thinking": True}
    found = pipes["image-text-to-text"](text=helpers.chat("w4 w5"), **options)
    assert found[0]["generated_token_ids"].tolist()[:-2] == [*GOLDEN["processor"]["ids"]["input_ids"][0], 7]


def test_defaults_of_text_generation(folder):
    """It samples where nobody has said anything: at 0.7, or as the call says."""
    pipe = pipeline("text-generation", model=folder)
    pipe.model.generation_config = {"eos_token_id": [1, 106, 50]}
    assert pipe._settings({"max_new_tokens": 3}) == {"max_new_tokens": 3, "do_sample": True, "temperature": 0.7}
    assert pipe._settings({"do_sample": False}) == {"max_new_tokens": 256, "do_sample": False}
    assert pipe._settings({"temperature": 2.0})["temperature"] == 2.0
    pipe.model.generation_config = {"do_sample": False}
    assert pipe._settings({}) == {"max_new_tokens": 256}


def test_message_with_text_is_gone_on_with(pipes):
    messages = helpers.chat("w13 w6", "w40")
    (found,) = pipes["image-text-to-text"](text=messages, max_new_tokens=2, do_sample=False)
    assert found["generated_text"][:1] == messages[:1]
    assert found["generated_text"][1]["content"].startswith("w40 w")
    (found,) = pipes["image-text-to-text"](
        text=messages, max_new_tokens=2, do_sample=False, continue_final_message=False
    )
    assert [message["role"] for message in found["generated_text"]] == ["user", "assistant", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, InputError, "there are neither images nor text"),
        ({"images": "cat.png"}, InputError, "text is missing"),
        ({"images": "cat.png", "text": helpers.chat("w4")}, InputError, "a conversation names its pictures itself"),
        ({"text": 3}, InputError, "the prompt is int, expected text, messages, or a list of either"),
        ({"text": []}, InputError, "the prompt is list, expected text"),
        ({"text": "w4", "nonsense": 1}, TypeError, "the processor does not take nonsense"),
        ({"text": helpers.chat("w4"), "nonsense": 1}, TypeError, "nor the chat template knows nonsense"),
        ({"text": "w4", "generate_kwargs": {"nonsense": 1}}, TypeError, "generate() does not take nonsense"),
        (
            {"text": "w4", "max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 3}},
            InputError,
            "max_new_tokens is given twice",
        ),
        (
            {"text": "w4", "return_tensors": True, "return_full_text": True},
            InputError,
            "return_full_text and return_tensors exclude each other",
        ),
    ],
)
def test_refused_by_a_pipeline(pipes, arguments, kind, message):
    with pytest.raises(kind) as error:
        pipes["image-text-to-text"](**arguments)
    assert message in str(error.value)


def test_no_such_pipeline(folder, model):
    with pytest.raises(InputError, match="task is 'summarization', expected image-text-to-text or text-generation"):
        pipeline("summarization", model=folder)
    with pytest.raises(InputError, match="needs its processor beside it"):
        pipeline("image-text-to-text", model=model)
    for arguments in ({"dtype": "float16"}, {"revision": "main"}):
        with pytest.raises(InputError, match="are for checkpoints, and these have been read already"):
            pipeline("image-text-to-text", model=model, processor=folder, **arguments)
    with pytest.raises(InputError, match="model_type 'gemma4_text', which sees nothing"):
        pipeline("image-text-to-text", model=GOLDENS / "31b" / "target")
    with pytest.raises(InputError, match="the assistant does not belong to this target"):
        pipeline("image-text-to-text", model=folder, assistant_model=GOLDENS / "31b" / "assistant")
    with pytest.raises(InputError, match="assistant_model is int, expected what AutoModelForCausalLM reads"):
        pipeline("image-text-to-text", model=model, processor=folder, assistant_model=3)
    with pytest.raises(InputError, match="device_map is 'cuda'"):
        pipeline("text-generation", model=model, processor=folder, device_map="cuda")
    with pytest.raises(InputError, match="device_map is 'cuda'"):
        pipeline("text-generation", model=folder, device_map="cuda")
    with pytest.raises(TypeError, match="trust_remote_code"):
        pipeline("text-generation", model=folder, trust_remote_code=True)


# The documentation's examples


def run_example(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_of_generate(folder, source):
    words = run_example("generate_with_assistant.py", folder, helpers.ASSISTANT, source).split()
    assert 0 < len(words) <= 50
    assert all(word.startswith("w") or word == "<unk>" for word in words)


def test_example_of_pipeline(folder, source):
    text = "<|image|>\n\nWhat is shown in this image?"
    out = run_example("pipeline_with_assistant.py", folder, helpers.ASSISTANT, source)
    assert out.startswith(f"[{{'input_text': {text!r}, 'generated_text': {text!r}"[:-1])
    assert " w" in out
