"""Linear layers of the towers, whose inputs and outputs keep within bounds that the checkpoint carries."""

import mlx.core as mx
import mlx.nn as nn

from .network import Module


class ClippableLinear(Module):
    """transformers' ``Gemma4ClippableLinear``: no bias; four scalar bounds beside ``linear`` where they are used.

    Args:
        clipped: the config's ``use_clipped_linears``. Without it there are no bounds, in checkpoints neither.
    """

    def __init__(self, in_features: int, out_features: int, clipped: bool):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.clipped = clipped
        if clipped:
            self.input_min = mx.array(-mx.inf)
            self.input_max = mx.array(mx.inf)
            self.output_min = mx.array(-mx.inf)
            self.output_max = mx.array(mx.inf)

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., in) -> (..., out) of the same type, also where the bounds were saved in a wider one."""
        if not self.clipped:
            return self.linear(x)
        y = self.linear(_clip(x, self.input_min, self.input_max))
        return _clip(y, self.output_min, self.output_max)


def _clip(x: mx.array, low: mx.array, high: mx.array) -> mx.array:
    return mx.clip(x, low.astype(x.dtype), high.astype(x.dtype))
