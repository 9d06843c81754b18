"""Arrays of numpy, MLX and PyTorch, given and returned."""

import sys
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from support import huggingface as helpers

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.huggingface import AutoModelForCausalLM
from mlx_gemma4_assist.huggingface.arrays import check_device


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
