"""What MLX's modules lack: types, and a protocol for weights that come from a checkpoint."""

from abc import ABC, abstractmethod

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


class Module(nn.Module):
    """``nn.Module`` with a typed constructor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # MLX's has no annotations


class Network(Module, ABC):
    """A network that knows its parameters under the names that checkpoints have for them."""

    @abstractmethod
    def parameter_name(self, name: str) -> str | None:
        """The parameter that a checkpoint's tensor (or module) belongs to, None for what this network does not have."""

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """A checkpoint's tensors, in any supported layout, under this network's names; others are left out."""
        named = ((self.parameter_name(name), value) for name, value in weights.items())
        return {name: value for name, value in named if name is not None}


def named_parameters(module: nn.Module) -> dict[str, mx.array]:
    """A module's parameters by their paths, such as ``model.layers.0.layer_scalar``."""
    found: dict[str, mx.array] = {}
    tree_flatten(module.parameters(), destination=found)
    return found
