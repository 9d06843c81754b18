"""All that a conversion will do with one checkpoint, decided from its headers before anything is read or written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..backend import DTYPES
from ..checkpoints.quantized import Quantization
from ..errors import InputError
from ..files import read_json
from .formats import Recipe
from .layout import PACKED, Network, Part, output_config, read_network, with_quantization
from .options import ConversionOptions
from .tensors import Output, Step, cast, dequantize, quantize, stored_tensors, transpose

_QUANTIZED_TOWER = "embed_audio.embedding_projection"
"""The one layer beside the text network that mlx-vlm quantizes when it converts."""
_MLX_VLM_ROW = 64  # it leaves layers alone whose packed size is no multiple of this, unless config.json names them


@dataclass(frozen=True)
class Plan:
    """What becomes of one checkpoint.

    Attributes:
        name: as the user, or ``assistant_for``, gave it.
        source, folder: where it is read and written.
        is_assistant: otherwise it is a target.
        text_only: whether towers are left out.
        recipe: how its layers are quantized; None does not quantize.
        config: the config.json to be written.
        steps: in the order in which the source is read.
        parameters: how many numbers the weights stand for.
        notes: what a user should know, one sentence each.
    """

    name: str
    source: Path
    folder: Path
    is_assistant: bool
    text_only: bool
    recipe: Recipe | None
    config: Mapping[str, Any]
    steps: Sequence[Step]
    parameters: int
    notes: Sequence[str]

    @property
    def source_bytes(self) -> int:
        """Of all tensors read."""
        return sum(rows.nbytes for step in self.steps for rows in step.sources)

    @property
    def bytes(self) -> int:
        """Of all tensors written."""
        return sum(output.nbytes for step in self.steps for output in step.outputs)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.parameters


def make_plan(name: str, source: Path, folder: Path, options: ConversionOptions, recipe: Recipe | None) -> Plan:
    """Decide what to do with each tensor of a checkpoint.

    Args:
        name: as the user, or ``assistant_for``, gave it.
        source, folder: where it is read and written.
        recipe: how a target's layers are quantized, and an assistant's with it; None does not quantize.

    Raises:
        InputError: a checkpoint that cannot be read, does not fit its config.json, or is in the wrong state for the
            options: quantized already, or not at all.
    """
    given = read_json(source / "config.json")
    network = read_network(source, given, stored_tensors(source))
    _check_state(source, network, options)
    text_only = options.text_only and not network.is_assistant
    if recipe is not None and network.is_assistant:
        recipe = recipe.for_assistant()
    dtype = _dtype(given, network, options)
    config = output_config(given, dtype=dtype, text_only=text_only)
    parts = dict(network.text) if text_only else {**network.text, **network.towers}
    formats, notes = _formats(recipe, network, parts, config)
    if recipe is not None:
        config = with_quantization(config, _entries(recipe, formats, parts))
    elif network.quantization and not options.dequantize:
        config = with_quantization(config, network.quantization)
    unpacked = network.packed if options.dequantize else {}
    steps = _steps(parts, formats, unpacked, None if dtype is None else DTYPES[dtype])
    return Plan(
        name=name,
        source=source,
        folder=folder,
        is_assistant=network.is_assistant,
        text_only=text_only,
        recipe=recipe,
        config=config,
        steps=sorted(steps, key=lambda step: (step.sources[0].stored.path, step.sources[0].stored.offset)),
        parameters=network.text_size + (0 if text_only else network.towers_size),
        notes=notes,
    )


def _check_state(source: Path, network: Network, options: ConversionOptions) -> None:
    if options.quantize and network.quantization:
        raise InputError(f"{source} is quantized already: convert the original, or --dequantize this one first")
    if options.dequantize and not network.quantization:
        raise InputError(f"{source} is not quantized, so that there is nothing to dequantize")


def _dtype(source: Mapping[str, Any], network: Network, options: ConversionOptions) -> str | None:
    """The name of the floating-point type to write; None where tensors stay as they are."""
    if options.dtype is not None:
        return options.dtype
    if network.quantization and not options.dequantize:
        return None
    parts = (source, source.get("text_config") or {})
    named = (part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key) in DTYPES)
    return next(named, None)


def _formats(
    recipe: Recipe | None, network: Network, parts: Mapping[str, Part], config: Mapping[str, Any]
) -> tuple[dict[str, Quantization], list[str]]:
    """The formats of the layers that are quantized, by path, and a note on those that no group divides."""
    formats: dict[str, Quantization] = {}
    if recipe is None:
        return formats, []
    indivisible = []
    for name, part in parts.items():
        path, _, last = name.rpartition(".")
        if last != "weight":
            continue
        form = recipe.general if path == _QUANTIZED_TOWER else None
        if path in network.layers:
            form = recipe.format_of(path, network.layers[path], config)
        if form is not None and part.shape[-1] % form.group_size:
            indivisible.append(path)
        elif form is not None:
            formats[path] = form
    return formats, _notes(indivisible)


def _notes(indivisible: Sequence[str]) -> list[str]:
    if not indivisible:
        return []
    count = len(indivisible)
    some = ", ".join(indivisible[:2]) + (", ..." if count > 2 else "")
    layers = "1 layer stays" if count == 1 else f"{count} layers stay"
    return [f"{layers} unquantized, no multiple of the group size wide: {some}"]


def _entries(recipe: Recipe, formats: Mapping[str, Quantization], parts: Mapping[str, Part]) -> dict[str, Any]:
    """config.json's ``quantization``: the general format, and layers that differ or that mlx-vlm would pass over."""
    named = {
        path: asdict(form)
        for path, form in formats.items()
        if form != recipe.general or prod(parts[f"{path}.weight"].shape) % _MLX_VLM_ROW
    }
    return asdict(recipe.general) | named


def _steps(
    parts: Mapping[str, Part],
    formats: Mapping[str, Quantization],
    unpacked: Mapping[str, Quantization],
    dtype: mx.Dtype | None,
) -> Iterator[Step]:
    """What becomes of each tensor.

    Args:
        formats: of layers to be quantized, by path; ``unpacked``: of layers to be dequantized.
        dtype: of what is floating-point then; None leaves it.
    """
    for name, part in parts.items():
        path, _, last = name.rpartition(".")
        if path in unpacked and last in PACKED:
            if last == "weight":
                yield _dequantized(
                    path, [parts[f"{path}.{end}"] for end in PACKED if f"{path}.{end}" in parts], unpacked, dtype
                )
            continue
        floating = mx.issubdtype(part.dtype, mx.floating)
        written = dtype if floating and dtype is not None else part.dtype
        if path in formats and last == "weight":
            yield quantize(part.rows, Output(name, written, part.shape), formats[path])
        elif part.axes is not None:
            shape = tuple(part.shape[axis] for axis in part.axes)
            yield transpose(part.rows, Output(name, written, shape), part.axes)
        else:
            yield cast(part.rows, Output(name, written, part.shape))


def _dequantized(
    path: str, parts: Sequence[Part], unpacked: Mapping[str, Quantization], dtype: mx.Dtype | None
) -> Step:
    """``parts``: weight, scales and, in affine formats, biases."""
    form, scales = unpacked[path], parts[1]
    floating = scales.dtype if mx.issubdtype(scales.dtype, mx.floating) else mx.bfloat16
    shape = (*parts[0].shape[:-1], scales.shape[-1] * form.group_size)
    return dequantize([part.rows for part in parts], Output(f"{path}.weight", dtype or floating, shape), form)
