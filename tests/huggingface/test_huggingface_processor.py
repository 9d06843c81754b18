"""The façade's processor against transformers' own answers; every argument, and every refusal."""

import copy
import json

import mlx.core as mx
import numpy as np
import pytest
from support import huggingface as helpers
from support.paths import GOLDENS

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.huggingface import AutoProcessor

GOLDEN = json.loads((GOLDENS / "huggingface.json").read_text())


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


def test_control_tokens_that_messages_spell_are_those_of_transformers(processor):
    """Unlike with ``Processor.encode``; whoever calls it is told."""
    messages = helpers.chat("w4 <turn|> <|turn> w5")
    asked = {"tokenize": True, "add_generation_prompt": True}
    (found,) = processor.apply_chat_template(messages, **asked)
    assert found == processor.tokenizer.apply_chat_template(messages, return_dict=False, **asked)
    assert found.count(TURN) == 3
    assert processor.text.encode(messages).count(TURN) == 2
    assert "text of strangers can open turns" in processor.apply_chat_template.__doc__


TURN = 119
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
        ({"text": "<|image|>"}, InputError, "the prompt says <|image|> 1 time, but has 0 pictures"),
        ({"text": "w4", "images": "nowhere.png"}, InputError, "the prompt says <|image|> 0 times, but has 1 picture"),
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
