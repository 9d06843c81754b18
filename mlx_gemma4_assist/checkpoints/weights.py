"""Reading safetensors: one file or several shards, checked before MLX sees them, and read only when evaluated."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from safetensors import SafetensorError, safe_open

from ..errors import InputError, first_line
from ..files import read_json
from ..models.network import named_parameters

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
_OTHER_FORMATS = ("*.gguf", "pytorch_model*.bin", "*.pt", "*.pth", "*.litertlm", "*.npz")
_NAMES_SHOWN = 4


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    With ``model.safetensors.index.json`` they are the shards it lists; without it ``model.safetensors``, else
    ``model*.safetensors``, else every safetensors file.

    Raises:
        InputError: none is there, or a shard is missing, with its name.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise InputError(f"{index} has no weight_map from tensor names to file names")
        return _existing(folder, sorted(set(weight_map.values())), f"{index.name} lists")
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not found:
        others = sorted(path.name for pattern in _OTHER_FORMATS for path in folder.glob(pattern))
        instead = f"; {', '.join(others[:_NAMES_SHOWN])} cannot be read" if others else ""
        raise InputError(f"{folder} has no safetensors files{instead}")
    shards = [match for match in (_SHARD.fullmatch(path.name) for path in found) if match]
    expected = {
        f"{shard['stem']}-{number:05d}-of-{shard['total']}.safetensors"
        for shard in shards
        for number in range(1, int(shard["total"]) + 1)
    }
    return _existing(folder, sorted(expected | {path.name for path in found}), "the other shards count")


def _existing(folder: Path, names: list[str], source: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {listed(missing)}, which {source}")
    return [folder / name for name in names]


def read_weights(folder: Path, wanted: Callable[[str], bool]) -> dict[str, mx.array]:
    """The tensors of a checkpoint whose names are wanted, as lazy arrays: MLX reads each one when it is evaluated.

    Raises:
        InputError: a missing shard, a truncated or corrupt file, a tensor in two files; with the file's name.
    """
    weights: dict[str, mx.array] = {}
    for path in checked_files(folder):
        weights |= {name: array for name, array in lazy_tensors(path).items() if wanted(name)}
    return weights


def tensors_with_nan(folder: Path) -> list[str]:
    """The names of a checkpoint's tensors that have a NaN. All are read, and held one at a time.

    Raises:
        InputError: as ``read_weights``.
    """
    weights, found = read_weights(folder, lambda name: True), []
    while weights:
        name, array = weights.popitem()
        if mx.issubdtype(array.dtype, mx.floating) and mx.isnan(array).any().item():
            found.append(name)
    return sorted(found)


def lazy_tensors(path: Path) -> dict[str, mx.array]:
    """A file's tensors, each of which MLX reads when it is evaluated; its header has been checked.

    Raises:
        InputError: a data type that MLX does not have.
    """
    try:
        arrays = mx.load(str(path), format="safetensors")
    except RuntimeError as error:
        raise InputError(f"MLX cannot read {path}: {first_line(error)}") from None
    assert isinstance(arrays, dict)  # what this format is read as
    return arrays


def checked_files(folder: Path) -> Iterator[Path]:
    """``weight_files``, each once its header has been found to agree with its size, and no tensor of it in another.

    Raises:
        InputError: as ``read_weights``.
    """
    source: dict[str, Path] = {}
    for path in weight_files(folder):
        names = checked_names(path)
        twice = sorted(names & source.keys())
        if twice:
            raise InputError(f"{listed(twice)} is in {source[twice[0]].name} and again in {path.name} of {folder}")
        source |= dict.fromkeys(names, path)
        yield path


def checked_names(path: Path) -> set[str]:
    """The tensors of a file, once its header agrees with its size (MLX reads past what a header gets wrong)."""
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(11)
        if start == b"version htt":
            raise InputError(f"{path} is a Git LFS pointer, not the weights themselves: run `git lfs pull`") from None
        raise InputError(f"{path} is damaged, perhaps by an incomplete download: {first_line(error)}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None


class Tensor(Protocol):
    """An array, or what a file says about one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> mx.Dtype: ...


def assign(model: nn.Module, weights: Mapping[str, mx.array], folder: Path) -> None:
    """Put weights in the place of a model's parameters, every one and no other, without evaluating them.

    Raises:
        InputError: as ``check_fit``.
    """
    check_fit(model, weights, folder)
    model.update(tree_unflatten(list(weights.items())))


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights that are not a model's parameters, every one and no other.

    Raises:
        InputError: a tensor is missing, unexpected, of another shape, or integer where floating-point belongs (or the
            reverse); with its name and both shapes or types.
    """
    parameters = named_parameters(model)
    missing = sorted(parameters.keys() - weights.keys())
    unexpected = sorted(weights.keys() - parameters.keys())
    misshapen = [
        f"{name} is {weights[name].shape}, expected {parameter.shape}"
        for name, parameter in parameters.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    mistyped = [
        f"{name} is {weights[name].dtype}, expected {parameter.dtype}"
        for name, parameter in parameters.items()
        if name in weights and _is_floating(weights[name]) != _is_floating(parameter)
    ]
    findings = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen, "mistyped": mistyped}
    problems = [f"{kind} {listed(names)}" for kind, names in findings.items() if names]
    if problems:
        raise InputError(f"the tensors of {folder} do not fit its config.json: {'; '.join(problems)}")


def _is_floating(array: Tensor) -> bool:
    return mx.issubdtype(array.dtype, mx.floating)


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
