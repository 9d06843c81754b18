"""Adapters in mlx-lm's format: what fine-tuning has learned, merged into a network's weights as these are loaded."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..errors import InputError
from ..files import read_json, read_part
from ..models.network import Network
from .weights import checked_names, lazy_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
FACTORS = ("lora_a", "lora_b")
Modules = Mapping[str, nn.Module]
LARGEST_SCALE = 1e30  # of a product in float32


class LowRank(NamedTuple):
    """What is added to a weight: ``scale`` times a product over ``rank``."""

    rank: int
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A folder's adapter.

    Attributes:
        folder: where it is.
        low_rank: how its pairs of factors are added; None for whole weights, which take the place of a network's.
        weights: by their names in the file; each is read when it is evaluated.
    """

    folder: Path
    low_rank: LowRank | None
    weights: Mapping[str, mx.array]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Adapter":
        """Read an adapter's small file, and the header of its large one.

        Raises:
            InputError: no such folder; a file of it that is missing, damaged, or of a kind that is not supported.
        """
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise InputError(f"there is no folder {str(path)!r} to read an adapter from")
        return cls(folder, _low_rank(folder / CONFIG), _tensors(folder / WEIGHTS))

    def digest(self) -> str:
        """A hash of all that both files say."""
        digest = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def merge(self, network: Network) -> None:
        """Change a network's weights in place, without evaluating them.

        Sums are taken in float32 and stored in the type that the weight has. A quantized layer is dequantized, changed,
        and quantized again in its own format, which rounds.

        Raises:
            InputError: a tensor that the network has no place for, or of another shape; half a pair of factors.
        """
        named = self._named(network)
        modules: Modules = dict(network.named_modules())  # type: ignore[no-untyped-call]  # MLX's has none
        if self.low_rank is None:
            for name, value in named.items():
                self._replace(modules, name, value)
            return
        for path in dict.fromkeys(name.rpartition(".")[0] for name in named):
            self._add(modules, path, named, self.low_rank)

    def _named(self, network: Network) -> dict[str, mx.array]:
        """The tensors under the network's names."""
        named: dict[str, mx.array] = {}
        for name, value in self.weights.items():
            own = network.parameter_name(name)
            if own is None or (self.low_rank is not None and own.rpartition(".")[2] not in FACTORS):
                raise self._misfit(name)
            if own in named:
                raise InputError(f"{self.folder / WEIGHTS} has {own} under two names")
            named[own] = value
        return named

    def _add(self, modules: Modules, path: str, named: Mapping[str, mx.array], low_rank: LowRank) -> None:
        """Add the product of a layer's two factors to its weight."""
        module, names = modules.get(path), [f"{path}.{factor}" for factor in FACTORS]
        missing = next((name for name in names if name not in named), None)
        if missing is not None:
            raise InputError(f"{self.folder / WEIGHTS} has no {missing}, but the other factor of that layer")
        if module is None or not isinstance(module.get("weight"), mx.array) or module.weight.ndim < 2:
            raise self._misfit(names[0])
        weight = _dense(module)
        for name, shape in zip(names, _factor_shapes(module, weight.shape, low_rank.rank), strict=True):
            self._check_shape(name, named[name], shape, f" with rank {low_rank.rank}")
        a, b = (named[name].astype(mx.float32) for name in names)
        _store(module, weight.astype(mx.float32) + low_rank.scale * _product(module, a, b), weight.dtype)

    def _replace(self, modules: Modules, name: str, value: mx.array) -> None:
        """Put a whole parameter in the place of the network's."""
        path, _, last = name.rpartition(".")
        module = modules.get(path)
        if module is None or not isinstance(module.get(last), mx.array):
            raise self._misfit(name)
        old: mx.array = _dense(module) if last == "weight" else module[last]
        self._check_shape(name, value, old.shape)
        if last == "weight":
            _store(module, value, old.dtype)
        else:
            module[last] = value.astype(old.dtype)

    def _misfit(self, name: str) -> InputError:
        return InputError(f"{self.folder / WEIGHTS} has {name}, which is of no layer that this model has")

    def _check_shape(self, name: str, value: mx.array, expected: tuple[int, ...], why: str = "") -> None:
        if value.shape != expected:
            raise InputError(f"{self.folder / WEIGHTS}: {name} is {value.shape}, expected {expected}{why}")


def _low_rank(file: Path) -> LowRank | None:
    """What a config says of factors; None for whole weights.

    Raises:
        InputError: a kind that is not supported; no rank or scale.
    """
    config = read_json(file)
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        return None
    if kind != "lora":
        raise InputError(f"{file}: fine_tune_type is {kind!r:.50}, which is not supported: expected lora or full")
    parameters = read_part(config, "lora_parameters", file=str(file))
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if not isinstance(rank, int) or rank < 1 or not isinstance(scale, int | float) or not abs(scale) <= LARGEST_SCALE:
        raise InputError(f"{file}: lora_parameters say rank {rank!r:.50}, scale {scale!r:.50}, expected two numbers")
    return LowRank(rank, float(scale))


def _tensors(file: Path) -> Mapping[str, mx.array]:
    """A file's tensors, unread.

    Raises:
        InputError: it is missing, damaged or empty.
    """
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}")
    if not checked_names(file):
        raise InputError(f"{file} has no tensors")
    return lazy_tensors(file)


def _dense(module: nn.Module) -> mx.array:
    """A layer's weight as numbers, dequantized if need be: (out, in), or (experts, out, in)."""
    weight: mx.array = module.weight
    if "scales" not in module:
        return weight
    return mx.dequantize(weight, module.scales, module.get("biases"), **_format(module))


def _store(module: nn.Module, weight: mx.array, dtype: mx.Dtype) -> None:
    """Give a layer a weight, in the type and the format that it had."""
    weight = weight.astype(dtype)
    if "scales" not in module:
        module.weight = weight
        return
    module.weight, module.scales, *biases = mx.quantize(weight, **_format(module))
    if biases:
        module.biases = biases[0]


def _format(module: nn.Module) -> dict[str, Any]:
    return {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}


def _factor_shapes(module: nn.Module, shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the two factors of a layer's weight, as mlx-lm has them."""
    *experts, out, into = shape
    if experts:
        return (*experts, rank, into), (*experts, out, rank)
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        return (out, rank), (rank, into)
    return (into, rank), (rank, out)


def _product(module: nn.Module, a: mx.array, b: mx.array) -> mx.array:
    """What two factors come to, in the shape of the layer's weight: see ``_factor_shapes``."""
    if a.ndim == 3:
        return b @ a
    return a @ b if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) else (a @ b).T
