"""All that a conversion will do with one checkpoint, decided from its headers before anything is read or written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..backend import DTYPES
from ..checkpoints.quantized import Quantization
from ..errors import InputError
from ..files import read_json
from .config_file import output_config, with_quantization
from .layout import Network, Part, read_network
from .recipes import Recipe
from .steps import Dequantize, Keep, Output, Quantize, Step, Transpose
from .tensors import stored_tensors

_PACKED = (".weight", ".scales", ".biases")
_QUANTIZED_TOWER = "embed_audio.embedding_projection"
"""The one layer beside the text network that mlx-vlm quantizes when it converts."""
_MLX_VLM_ROW = 64  # it leaves layers alone whose packed size is no multiple of this, unless config.json names them


@dataclass(frozen=True)
class Wishes:
    """What is to become of a checkpoint.

    Attributes:
        recipe: how to quantize it; None does not.
        dequantize: whether to unpack a quantized one.
        dtype: float32, bfloat16 or float16; None follows config.json, or leaves a quantized checkpoint as it is.
        text_only: whether towers are left out.
    """

    recipe: Recipe | None = None
    dequantize: bool = False
    dtype: str | None = None
    text_only: bool = False


@dataclass
class Plan:
    """Steps in the order in which the source is read.

    Attributes:
        config: to be written.
        parameters: how many numbers the weights stand for.
        notes: what a user should know, one sentence each.
    """

    config: dict[str, Any]
    steps: list[Step]
    parameters: int
    notes: list[str] = field(default_factory=list)

    @property
    def read_bytes(self) -> int:
        return sum(rows.nbytes for step in self.steps for rows in step.sources)

    @property
    def written_bytes(self) -> int:
        outputs = (output for step in self.steps for output in step.outputs)
        return sum(prod(output.shape) * output.dtype.size for output in outputs)


def make_plan(folder: Path, wishes: Wishes) -> Plan:
    """Decide what to do with each tensor of a checkpoint.

    Raises:
        InputError: a checkpoint that cannot be read, does not fit its config.json, or is in the wrong state for the
            wishes: quantized already, or not at all.
    """
    source = read_json(folder / "config.json")
    network = read_network(folder, source, stored_tensors(folder))
    if wishes.recipe and network.quantization:
        raise InputError(f"{folder} is quantized already: convert the original, or --dequantize this one first")
    if wishes.dequantize and not network.quantization:
        raise InputError(f"{folder} is not quantized, so that there is nothing to dequantize")
    dtype = _dtype(source, network, wishes)
    config = output_config(source, dtype=dtype, text_only=wishes.text_only)
    planner = _Planner(network, wishes, config, None if dtype is None else DTYPES[dtype])
    planner.add_text()
    if not wishes.text_only:
        planner.add_towers()
    if wishes.recipe:
        config = with_quantization(config, wishes.recipe.general, planner.entries)
    elif network.quantization and not wishes.dequantize:
        config |= dict.fromkeys(("quantization", "quantization_config"), _renamed(network))
    steps = sorted(planner.steps, key=lambda step: (step.sources[0].stored.path, step.sources[0].stored.offset))
    return Plan(config, steps, network.parameters, planner.notes())


def _dtype(source: Mapping[str, Any], network: Network, wishes: Wishes) -> str | None:
    """The name of the floating-point type to write; None where tensors stay as they are."""
    if wishes.dtype is not None:
        if wishes.dtype not in DTYPES:
            raise InputError(f"dtype is {wishes.dtype!r}, expected {', '.join(DTYPES)}")
        return wishes.dtype
    if network.quantization and not wishes.dequantize:
        return None
    parts = (source, source.get("text_config") or {})
    named = (part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key) in DTYPES)
    return next(named, None)


def _renamed(network: Network) -> dict[str, Any]:
    """The source's ``quantization``, its entries under the paths that are written."""
    entries = {}
    for path, value in network.quantization.items():
        own = network.model.parameter_name(f"{path}.weight") if isinstance(value, dict | bool) else None
        entries[path if own is None else network.written(own.removesuffix(".weight"))] = value
    return entries


class _Planner:
    """Collects steps, and what config.json has to say about them."""

    def __init__(self, network: Network, wishes: Wishes, config: Mapping[str, Any], dtype: mx.Dtype | None):
        self._network = network
        self._wishes = wishes
        self._config = config
        self._dtype = dtype
        self._indivisible: list[str] = []
        self.steps: list[Step] = []
        self.entries: dict[str, Quantization] = {}

    def add_text(self) -> None:
        """Steps for the text network, or for an assistant."""
        packed = {path: module for path, module in self._network.model.named_modules() if "scales" in module}
        for name, part in self._network.text.items():
            path, _, last = name.rpartition(".")
            layer, written = self._network.layers.get(path), self._network.written(path)
            if path in packed and self._wishes.dequantize:
                if last == "weight":
                    module = packed[path]
                    self._dequantize(written, path, Quantization(module.group_size, module.bits, module.mode))
            elif last == "weight" and self._wishes.recipe and layer is not None:
                form = self._wishes.recipe.format_of(written, layer, self._config)
                self._quantize_or_keep(written, part, form)
            else:
                self._keep(self._network.written(name), part)

    def add_towers(self) -> None:
        """Steps for all that is beside the text network, as mlx-vlm converts it."""
        quantization = self._network.quantization or {}
        for name, part in self._network.towers.items():
            path, _, last = name.rpartition(".")
            if f"{path}.scales" in self._network.towers and self._wishes.dequantize and f".{last}" in _PACKED:
                if last == "weight":
                    own = quantization.get(path)
                    form = Quantization.from_dict(own if isinstance(own, dict) else quantization)
                    self._dequantize(path, path, form)
            elif name == f"{_QUANTIZED_TOWER}.weight" and self._wishes.recipe:
                self._quantize_or_keep(path, part, self._wishes.recipe.general)
            else:
                self._keep(name, part)

    def notes(self) -> list[str]:
        if not self._indivisible:
            return []
        count = len(self._indivisible)
        some = ", ".join(self._indivisible[:2]) + (", ..." if count > 2 else "")
        layers = "1 layer stays" if count == 1 else f"{count} layers stay"
        return [f"{layers} unquantized, no multiple of the group size wide: {some}"]

    def _quantize_or_keep(self, path: str, part: Part, form: Quantization | None) -> None:
        if form is not None and part.shape[-1] % form.group_size:
            self._indivisible.append(path)
            form = None
        if form is None:
            self._keep(f"{path}.weight", part)
            return
        step = Quantize(part.rows, path, part.shape, self._float(part), form)
        if form != self._wishes.recipe.general or prod(part.shape) % _MLX_VLM_ROW:
            self.entries[path] = form
        self.steps.append(step)

    def _dequantize(self, written: str, path: str, form: Quantization) -> None:
        tensors = self._network.text if f"{path}.scales" in self._network.text else self._network.towers
        parts = [tensors[path + suffix] for suffix in _PACKED if path + suffix in tensors]
        packed, scales = parts[:2]
        shape = (*packed.shape[:-1], scales.shape[-1] * form.group_size)
        floating = scales.dtype if mx.issubdtype(scales.dtype, mx.floating) else mx.bfloat16
        output = Output(f"{written}.weight", self._dtype or floating, shape)
        self.steps.append(Dequantize(tuple(part.rows for part in parts), output, form))

    def _keep(self, name: str, part: Part) -> None:
        dtype = self._float(part)
        if part.axes is None:
            self.steps.append(Keep(part.rows, Output(name, dtype, part.shape)))
        else:
            shape = tuple(part.shape[axis] for axis in part.axes)
            self.steps.append(Transpose(part.rows, Output(name, dtype, shape), part.axes))

    def _float(self, part: Part) -> mx.Dtype:
        """The type that a tensor is written in."""
        floating = mx.issubdtype(part.dtype, mx.floating)
        return self._dtype if floating and self._dtype is not None else part.dtype
