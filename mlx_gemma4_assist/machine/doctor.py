"""What fits on this machine and what suits it: from MLX's device information, and of a target from all but weights.

Nothing here uses the network or prints. Only an assistant, which is small, is read whole.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from .. import __version__
from ..backend import memory_bytes, readable, wired_limit_bytes
from ..checkpoints.hub import EMBEDDED, folder_in_cache, repo_of, resolve
from ..checkpoints.loading import config_dtype
from ..checkpoints.pairing import assistant_for
from ..checkpoints.quantized import Quantization, read_quantization
from ..checkpoints.weights import checked_files, listed, tensors_with_nan
from ..errors import InputError
from ..files import read_json
from ..models.config import SLIDING, Gemma4TextConfig, check_pair, read_assistant_config, read_target_config
from ..models.families import families
from ..text.processor import Processor
from .chip import (
    chip_generation,
    fused_attention_queries,
    has_small_batch_kernel,
    recommended_format,
)
from .memory import TIGHT, ContextBytes, Fit, context_bytes, fit, pair_bytes

LEAST_MLX = "0.32.2"
DEFAULT_CONTEXT = 8192
NONE = "none"

FORMATS: dict[str, Quantization | None] = {
    "bf16": None,
    "8-bit": Quantization(64, 8),
    "4-bit": Quantization(64, 4),
}


# The machine


@dataclass(frozen=True)
class Machine:
    """Where MLX computes.

    Attributes:
        name: of the chip.
        architecture: of the GPU on Metal, of the CPU elsewhere.
        generation: of an Apple GPU, 13 for M1 and so on; None without Metal.
        metal: whether MLX computes on Metal.
        memory: in bytes.
        usable: of it, what MLX may use: what Metal recommends, or all.
    """

    name: str
    architecture: str
    generation: int | None
    metal: bool
    memory: int
    usable: int


def this_machine() -> Machine:
    """Read MLX's device information, and what it lacks without Metal from the operating system."""
    metal = mx.metal.is_available()
    return describe_machine(mx.device_info(mx.gpu if metal else mx.cpu), metal)


def describe_machine(device_info: Mapping[str, str | int], metal: bool) -> Machine:
    """``device_info``: ``mx.device_info()``'s; its keys depend on the backend."""
    name, architecture = str(device_info.get("device_name", "unknown")), str(device_info.get("architecture", "unknown"))
    memory = memory_bytes(device_info)
    generation = (chip_generation(architecture) or chip_generation(name)) if metal else None
    return Machine(name, architecture, generation, metal, memory, wired_limit_bytes(device_info) or memory)


def versions() -> dict[str, str]:
    """Of Python, the operating system and the packages that matter."""
    system = f"macOS {platform.mac_ver()[0]}" if platform.system() == "Darwin" else platform.system()
    packages = {name: metadata.version(name) for name in ("mlx", "mlx-lm", "transformers")}
    return {"system": system, "Python": platform.python_version(), "mlx-gemma4-assist": __version__} | packages


def package_problems(versions: Mapping[str, str]) -> list[str]:
    """What is wrong with the packages that are installed."""
    if is_older(versions["mlx"], LEAST_MLX):
        return [f"mlx {versions['mlx']} is older than {LEAST_MLX}, whose products of a few rows read each weight once"]
    return []


def is_older(version: str, least: str) -> bool:
    """Whether a version comes before another; only their leading numbers count."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:3] if part.isdecimal()]

    return numbers(version) < numbers(least)


# The five sizes


@dataclass(frozen=True)
class FamilyNeeds:
    """One size of Gemma 4 on a machine: bytes of weights and whether all fits, by format; what the context costs."""

    name: str
    weights: dict[str, int]
    fits: dict[str, Fit]
    context: ContextBytes


def family_needs(machine: Machine, context: int) -> list[FamilyNeeds]:
    """All five sizes with their assistants."""
    found = []
    for name, family in families().items():
        cost = context_bytes(family.target, context)
        weights = {form: pair_bytes(family, quantization) for form, quantization in FORMATS.items()}
        needed = {form: size + cost.keys_values + cost.scores for form, size in weights.items()}
        found.append(FamilyNeeds(name, weights, {form: fit(n, machine.usable) for form, n in needed.items()}, cost))
    return found


# A checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A target on disk and what is to be known before loading it.

    Attributes:
        name: as it was asked for.
        folder: where it is; None for a repo that is not in the Hub's cache, of which nothing else is known.
        format: of the weights, in words.
        small_batch_kernel: whether products of a few rows read each quantized weight once on this machine; None without
            Metal, and for weights that are not quantized.
        fused_drafts: the most drafts with which the sliding layers stay in Metal's fused attention.
        weights: bytes of the weight files, the assistant's among them where they are known.
        tokens: of a conversation that must fit.
        context: bytes that it costs.
        fit: of all these together; None where weights are missing or damaged.
        assistant: what was found out about it, in words.
        problems: what keeps it from running.
        advice: what would make it run better.
    """

    name: str
    folder: Path | None
    format: str = ""
    small_batch_kernel: bool | None = None
    fused_drafts: int = 0
    weights: int = 0
    tokens: int = 0
    context: ContextBytes | None = None
    fit: Fit | None = None
    assistant: str = ""
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def local_folder(name: str) -> Path | None:
    """A checkpoint's folder, as ``resolve`` finds it, but without the network; None for a repo that is not cached.

    Raises:
        InputError: nothing can be called by that name.
    """
    repo = repo_of(name)
    if name in EMBEDDED or Path(name).expanduser().exists() or repo is None:
        return resolve(name)
    return folder_in_cache(repo)


def examine(machine: Machine, name: str, assistant_name: str | None = None, context: int | None = None) -> Checkpoint:
    """Read a target's and its assistant's config.json and tokenizer, as far as they are on this disk.

    Of weights the headers are read, and compared with the sizes of the files; in an assistant's NaN is looked for.

    Args:
        machine: where it would run.
        name: as for ``load``.
        assistant_name: as for ``load_assistant``, or "none"; None looks for the matching one.
        context: tokens of a conversation; None takes ``DEFAULT_CONTEXT``, or all that the model has.

    Raises:
        InputError: nothing can be called ``name``, or what is there is no Gemma 4 target that can be loaded.
    """
    folder = local_folder(name)
    if folder is None:
        return Checkpoint(name, None)
    values = read_json(folder / "config.json")
    config = read_target_config(values)
    size, missing = _file_bytes(folder)
    assistant = _examine_assistant(config, name, assistant_name)
    weights = size + assistant.weights
    tokens = min(DEFAULT_CONTEXT, config.max_position_embeddings) if context is None else context
    cost = context_bytes(config, tokens)
    needed = weights + cost.keys_values + cost.scores
    kernel = _small_batch_kernel(machine, values)
    files = [*missing, *_tokenizer_problems(folder), *assistant.problems]
    problems = [*files, *_memory_problems(machine, needed), *_context_problems(config, tokens)]
    return Checkpoint(
        name=name,
        folder=folder,
        format=weight_words(values),
        small_batch_kernel=kernel,
        fused_drafts=_fused_drafts(config),
        weights=weights,
        tokens=tokens,
        context=cost,
        fit=None if missing else fit(needed, machine.usable),
        assistant=assistant.found,
        problems=tuple(problems),
        advice=tuple(_advice(machine, kernel)),
    )


def _small_batch_kernel(machine: Machine, values: Mapping[str, Any]) -> bool | None:
    quantization = read_quantization(values)
    if quantization is None or not machine.metal:
        return None
    return has_small_batch_kernel(Quantization.from_dict(quantization).mode, machine.generation)


def _fused_drafts(config: Gemma4TextConfig) -> int:
    heads = config.num_attention_heads, config.kv_heads(SLIDING), config.head_dim_of(SLIDING)
    return max(fused_attention_queries(*heads) - 1, 0)


def weight_words(values: Mapping[str, Any]) -> str:
    """The format of a checkpoint's weights, from its config.json."""
    quantization = read_quantization(values)
    if quantization is None:
        return f"not quantized, {config_dtype(values) or 'of unnamed type'}"
    general = Quantization.from_dict(quantization)
    exceptions = any(isinstance(value, dict | bool) for value in quantization.values())
    more = "; some layers otherwise" if exceptions else ""
    return f"{general.mode}, {general.bits} bits in groups of {general.group_size}{more}"


def _file_bytes(folder: Path) -> tuple[int, list[str]]:
    """Of all weights, or what is wrong with them: a file that is missing, cut off, or damaged at its beginning."""
    try:
        return sum(path.stat().st_size for path in checked_files(folder)), []
    except InputError as error:
        return 0, [str(error)]


def _tokenizer_problems(folder: Path) -> list[str]:
    try:
        Processor.from_pretrained(folder)
    except InputError as error:
        return [str(error)]
    return []


class _Assistant(NamedTuple):
    """What was found out about an assistant, the bytes of its files, and what is wrong with it."""

    found: str
    weights: int = 0
    problems: Sequence[str] = ()


def _examine_assistant(config: Gemma4TextConfig, name: str, assistant_name: str | None) -> _Assistant:
    found = assistant_for(name) if assistant_name is None else assistant_name
    if found is None:
        return _Assistant("none is known for this target")
    if found == NONE:
        return _Assistant(NONE)
    folder = local_folder(found)
    if folder is None:
        return _Assistant(f"{found}, not in the Hub's cache: loading it downloads it")
    try:
        check_pair(config, read_assistant_config(read_json(folder / "config.json")))
    except InputError as error:
        return _Assistant(found, problems=[f"{found}: {error}"])
    size, problems = _file_bytes(folder)
    return _Assistant(f"{found}, matches", size, problems or _nan_problems(found, folder))


def _nan_problems(name: str, folder: Path) -> list[str]:
    """Of an assistant whose file is whole: texts would be right, and slower than without it."""
    try:
        found = tensors_with_nan(folder)
    except InputError as error:
        return [str(error)]
    return [f"{name} drafts nothing that is accepted: there is NaN in {listed(found)}"] if found else []


def _memory_problems(machine: Machine, needed: int) -> list[str]:
    if fit(needed, machine.usable) is not Fit.NO:
        return []
    problem = f"it needs {readable(needed)}, and MLX may use {readable(machine.usable)}"
    if machine.metal and needed < TIGHT * machine.memory:
        problem += f"; `sudo sysctl iogpu.wired_limit_mb={-(-needed // 2**20)}` raises that limit until the next start"
    return [problem]


def _context_problems(config: Gemma4TextConfig, context: int) -> list[str]:
    longest = config.max_position_embeddings
    return [f"the context asked for is {context:,} tokens, the model's {longest:,}"] if context > longest else []


def _advice(machine: Machine, kernel: bool | None) -> list[str]:
    if not machine.metal or kernel is not False:
        return []
    choice = recommended_format(machine.generation)
    return [
        f"on this chip a block of drafts reads these weights once per token, so that drafts hardly pay: "
        f"{choice.mode}, {choice.bits} bits in groups of {choice.group_size}, reads them once"
    ]


# All of it


@dataclass(frozen=True)
class Report:
    """What the doctor says.

    Attributes:
        versions: of the packages that matter, by name.
        context: tokens of a conversation that must fit.
        sizes: what the five sizes need.
        checkpoint: the one that was asked about, if any.
        problems: what has to be mended.
    """

    machine: Machine
    versions: dict[str, str]
    context: int
    sizes: list[FamilyNeeds]
    checkpoint: Checkpoint | None
    problems: list[str]


def report(name: str | None, assistant_name: str | None, context: int | None) -> Report:
    """Examine this machine, and a checkpoint if one is named; arguments and errors as for ``examine``."""
    machine, found = this_machine(), versions()
    checkpoint = None if name is None else examine(machine, name, assistant_name, context)
    problems = [*package_problems(found), *(() if checkpoint is None else checkpoint.problems)]
    tokens = DEFAULT_CONTEXT if context is None else context
    return Report(machine, found, tokens, family_needs(machine, tokens), checkpoint, problems)
