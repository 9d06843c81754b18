"""Pipelines against transformers' own answers, and the documentation's examples."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest
from support import huggingface as helpers
from support.paths import EXAMPLES, GOLDENS

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.huggingface import (
    Gemma4ForConditionalGeneration,
    pipeline,
)

GOLDEN = json.loads((GOLDENS / "huggingface.json").read_text())


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
