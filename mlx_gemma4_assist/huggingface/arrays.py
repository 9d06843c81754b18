"""Arrays of NumPy, MLX and PyTorch, in and out; PyTorch is used only where the caller has it."""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from ..backend import DTYPES
from ..errors import InputError

RETURN_TENSORS = ("np", "mlx", "pt")
DEVICES = ("auto", "mps", "cpu")
# What there is per token comes as plain lists where no kind of array is asked for, as from transformers.
_LISTS = ("input_ids", "attention_mask", "mm_token_type_ids")


class ModelArrays(dict[str, Any]):
    """What a model reads, by transformers' names; ``inputs["input_ids"]`` and ``inputs.input_ids`` are the same."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"there is no {name!r} among {', '.join(self)}")
        return self[name]

    def to(self, device: Any = None, dtype: Any = None) -> "ModelArrays":
        """The same on this machine, which is where they are; with a ``dtype``, floating-point arrays in that.

        NumPy has no bfloat16: its arrays become MLX's then.

        Raises:
            InputError: another device; an unknown data type.
        """
        check_device(device)
        wanted = read_dtype(dtype)
        if wanted is None:
            return self
        return ModelArrays({name: _cast(value, wanted) for name, value in self.items()})


def read_dtype(dtype: Any) -> mx.Dtype | None:
    """A data type of MLX from one of MLX, PyTorch or NumPy, or its name; None from None and "auto".

    Raises:
        InputError: it is none that a model computes in.
    """
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).rpartition(".")[2]  # torch.bfloat16, mlx.core.bfloat16
    if name not in DTYPES:
        raise InputError(f"dtype is {dtype}, expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_device(device: Any, name: str = "device") -> None:
    """Refuse a device that is not this machine. MLX computes on ``mx.default_device()``, whichever of these is given.

    Raises:
        InputError: it is none of None, "auto", "mps", "cpu" and MLX's devices.
    """
    if device is None or isinstance(device, mx.Device) or str(device).removesuffix(":0") in DEVICES:
        return
    raise InputError(f"{name} is {device!r}, expected {', '.join(DEVICES)}: MLX runs on this machine")


def to_numpy(value: Any, name: str) -> np.ndarray:
    """The values of any array; bfloat16, which NumPy lacks, as float32.

    Raises:
        InputError: it is no array of numbers.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        found: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return found
    if isinstance(value, mx.array):
        return np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is {type(value).__name__}, expected an array of numbers")
    return array


def as_returned(arrays: Mapping[str, np.ndarray], return_tensors: str | None) -> ModelArrays:
    """NumPy arrays as arrays of the kind asked for.

    Args:
        return_tensors: "np", "mlx" or "pt"; None leaves arrays as they are, and gives lists for what is per token.

    Raises:
        InputError: another kind; PyTorch's without PyTorch.
    """
    if return_tensors is None:
        return ModelArrays({name: value.tolist() if name in _LISTS else value for name, value in arrays.items()})
    if return_tensors not in RETURN_TENSORS:
        raise InputError(f"return_tensors is {return_tensors!r}, expected {', '.join(RETURN_TENSORS)}")
    if return_tensors == "np":
        return ModelArrays(arrays)
    make = mx.array if return_tensors == "mlx" else _torch().from_numpy
    return ModelArrays({name: make(np.ascontiguousarray(value)) for name, value in arrays.items()})


def _torch() -> ModuleType:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError('return_tensors "pt" needs PyTorch, which is not installed; "mlx" and "np" do not') from None


def _cast(value: Any, dtype: mx.Dtype) -> Any:
    if isinstance(value, mx.array):
        return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value
    name = str(dtype).rpartition(".")[2]
    if isinstance(value, np.ndarray):
        if not np.issubdtype(value.dtype, np.floating):
            return value
        return mx.array(value).astype(dtype) if dtype == mx.bfloat16 else value.astype(name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(vars(torch)[name])
    return value
