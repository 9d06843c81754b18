"""A bundle's weights: the networks' parameters in one order, and the files that they lie in."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..checkpoints.loading import unread_assistant, unread_model
from ..engine.pair import Checkpoint
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.network import Network, named_parameters
from .manifest import WEIGHTS, Kept
from .tensor_files import read_header, tensors_as_they_lie, write_tensors

TARGET, ASSISTANT = "target", "assistant"


class Weights:
    """The parameters of some networks, in one order.

    Args:
        networks: by the names that their parameters' names begin with.
    """

    def __init__(self, networks: Mapping[str, Network]):
        self._networks = networks
        self._names = {prefix: list(named_parameters(network)) for prefix, network in networks.items()}

    @property
    def named(self) -> dict[str, mx.array]:
        """All of them by name: the networks' own arrays."""
        return {
            f"{prefix}.{name}": array
            for prefix, network in self._networks.items()
            for name, array in named_parameters(network).items()
        }

    @contextmanager
    def replaced(self, arrays: Sequence[mx.array]) -> Iterator[None]:
        """Let the networks compute with others, in the same order."""
        own = list(self.named.values())
        self._set(arrays)
        try:
            yield
        finally:
            self._set(own)

    def _set(self, arrays: Sequence[mx.array]) -> None:
        given = iter(arrays)
        for prefix, names in self._names.items():
            self._networks[prefix].update(tree_unflatten([(name, next(given)) for name in names]))


def named_networks(target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM | None) -> dict[str, Network]:
    """A pair's networks by what their parameters' names begin with."""
    networks: dict[str, Network] = {TARGET: target}
    return networks if assistant is None else networks | {ASSISTANT: assistant}


@dataclass(frozen=True)
class Networks:
    """A pair's networks before their weights are read, and their folders."""

    target: Gemma4ForCausalLM
    assistant: Gemma4AssistantForCausalLM | None
    folders: dict[str, Path]

    @classmethod
    def unread(cls, checkpoint: Checkpoint) -> "Networks":
        dtype, drafter = checkpoint.source.dtype, checkpoint.assistant
        target = unread_model(checkpoint.folder, dtype)
        if drafter is None:
            return cls(target, None, {TARGET: checkpoint.folder})
        folders = {TARGET: checkpoint.folder, ASSISTANT: drafter.folder}
        return cls(target, unread_assistant(drafter.folder, dtype), folders)

    @property
    def named(self) -> dict[str, Network]:
        return named_networks(self.target, self.assistant)


def write_weights(folder: Path, networks: Networks, copy: bool) -> tuple[list[dict[str, Any]], list[Kept]]:
    """The manifest's files of weights, and where each weight is; what lies in no file as it is wanted is written."""
    lying: dict[str, tuple[Path, str]] = {}
    for prefix, network in networks.named.items():
        if not copy:
            found = tensors_as_they_lie(networks.folders[prefix], network)
            lying |= {f"{prefix}.{name}": where for name, where in found.items()}
    named = Weights(networks.named).named
    copied = {name: array for name, array in named.items() if name not in lying}
    own = folder / WEIGHTS
    paths = list(dict.fromkeys(path for path, _ in lying.values())) + ([own] if copied else [])
    kept = [
        Kept(name, paths.index(lying[name][0]), lying[name][1], array.dtype, array.shape)
        if name in lying
        else Kept(name, len(paths) - 1, name, array.dtype, array.shape)
        for name, array in named.items()
    ]
    del named
    if copied:
        _let_go(networks.named)
        write_tensors(own, copied)
    return [_weight_file(folder, path) for path in paths], kept


def _let_go(networks: Mapping[str, Network]) -> None:
    """Leave copied weights to those who write them: nobody else holds what they have read."""
    for network in networks.values():
        network.clear()


def _weight_file(folder: Path, path: Path) -> dict[str, Any]:
    header = read_header(path)
    where = path.name if path.parent == folder else os.path.relpath(path.absolute(), folder.absolute())
    return {"path": where, "bytes": header.size, "header_sha256": header.digest}
