"""``generate`` of the façade against transformers' own answers; every argument, and every refusal."""

import json
import math
import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import huggingface as helpers
from support.paths import FAMILIES, GOLDENS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import InputError, stream_generate
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.huggingface import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    ModelArrays,
)
from mlx_gemma4_assist.huggingface.prompts import read_prompt
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM as AssistantNetwork
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM as TargetNetwork

GOLDEN = json.loads((GOLDENS / "huggingface.json").read_text())
PROMPT = mx.array([helpers.WORDS])


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
    assert (found.tokens, found.types) == ([2, 9, 4], [0, 1, 0])
    given = {
        "input_ids": [[0, 0, 2, 9, 4]],
        "mm_token_type_ids": types,
        "attention_mask": [[False, False, True, True, True]],
    }
    again = read_prompt(given, {})
    assert (again.tokens, again.types) == (found.tokens, found.types)
    assert found.ids.tolist() == [[0, 0, 2, 9, 4]]


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    record = json.loads((GOLDENS / family / "golden.json").read_text())["prompts"]["short"]
    target = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "target", device_map="auto")
    assistant = AutoModelForCausalLM.from_pretrained(GOLDENS / family / "assistant", device_map="auto")
    assert isinstance(target, Gemma4ForCausalLM)
    assert isinstance(target.network, TargetNetwork)
    assert isinstance(assistant, Gemma4AssistantForCausalLM)
    assert isinstance(assistant.network, AssistantNetwork)
    prompt, tokens = record["prompt"], record["tokens"][:24]
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
        count = 4 if kind == "bfloat16 once" else len(record["generated"])
        output = target.generate(**arrays, **beside, do_sample=False, max_new_tokens=count)
        if kind == "bfloat16 once":
            assert output.shape == (1, len(record["tokens"]) + count)
        else:
            assert output.tolist() == [record["tokens"] + record["generated"]]


def drawn(model, seed, **options):
    """What the engine draws from the same prompt."""
    processor = LetterProcessor([1, 106, 50])
    responses = stream_generate(
        model.network, processor, MediaPrompt(list(helpers.WORDS)), max_tokens=40, seed=seed, **options
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
    text = drawn(model, 7, **{"top_p": 0.95 if "generation_config" in arguments else 1.0} | expected)
    for beside in ({}, {"assistant_model": assistant}):
        output = model.generate(PROMPT, max_new_tokens=40, seed=7, **arguments, **beside)
        assert output.tolist() == [text]


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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"max_new_tokens": np.int64(3)}, {"max_new_tokens": 3}),
        ({"max_new_tokens": None, "max_length": np.int32(9)}, {"max_new_tokens": 3}),
        ({"temperature": np.float32(2.0), "top_k": np.int64(5)}, {"temperature": 2.0, "top_k": 5}),
        ({"top_k": 5.0, "top_p": np.float64(0.5), "min_p": np.float16(0.5)}, {"top_k": 5, "top_p": 0.5, "min_p": 0.5}),
        ({"repetition_penalty": np.float32(1.5)}, {"repetition_penalty": 1.5}),
        ({"suppress_tokens": np.array([115, 25])}, {"suppress_tokens": [115, 25]}),
        ({"suppress_tokens": (np.int64(115), 25)}, {"suppress_tokens": [115, 25]}),
        ({"eos_token_id": np.int64(115)}, {"eos_token_id": 115}),
        ({"eos_token_id": mx.array([115, 25])}, {"eos_token_id": [115, 25]}),
        ({"seed": np.int64(5)}, {"seed": 5}),
    ],
)
def test_numbers_of_other_libraries(model, given, meant):
    """And whole floats where integers belong: the meaning is plain."""
    usual = {"do_sample": True, "seed": 3, "max_new_tokens": 8}
    assert mx.array_equal(model.generate(PROMPT, **usual | given), model.generate(PROMPT, **usual | meant))


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
    "temperature is nan, expected more than 0": {"temperature": math.nan},
    "seed is -1, expected an integer from 0": {"seed": -1},
    "seed is 18446744073709551616, expected an integer from 0": {"seed": 2**64},
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
    "eos_token_id is True, expected a token id or a list": {"eos_token_id": True},
    "suppress_tokens is [1.5], expected a token id or a list": {"suppress_tokens": [1.5]},
    "suppress_tokens is array([1.5]), expected a token id or a list": {"suppress_tokens": np.array([1.5])},
    "suppress_tokens is array([[1]]), expected a token id or a list": {"suppress_tokens": np.array([[1]])},
    "suppress_tokens has the id 128, but the model's vocabulary ends at 127": {"suppress_tokens": [5, 128]},
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
    "the token id -1, but the model's vocabulary ends at 127": {"inputs": [[2, -1]]},
    "attention_mask has the shape (1, 2), expected (1, 6)": {"attention_mask": [[1, 1]]},
    "attention_mask hides more than padding": {"attention_mask": [[1, 1, 1, 1, 1, 0]]},
    "hides more than padding before": {"attention_mask": [[0, 1, 0, 1, 1, 1]]},
    "hides more than padding before the": {"attention_mask": [[0] * 6]},
    "attention_mask has 2 rows": {"attention_mask": np.ones((2, 6), int)},
    "mm_token_type_ids has the shape (1, 5), expected (1, 6)": {"mm_token_type_ids": [[0] * 5]},
    "mm_token_type_ids has 7 in it, expected 0 to 3": {"mm_token_type_ids": [[0, 7, 0, 0, 0, 0]]},
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
