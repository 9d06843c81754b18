"""``from_pretrained``: what is read, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest
from support import huggingface as helpers
from support.paths import FAMILIES, GOLDENS

from mlx_gemma4_assist import InputError
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
)
from mlx_gemma4_assist.huggingface.arrays import check_device, read_dtype


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
