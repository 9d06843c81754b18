"""A linear layer whose matrix is not turned anew for each product."""

from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn


class Linear(nn.Linear):
    """``nn.Linear`` without a bias that remembers its weight's transpose, one node less in the graph of each product.

    The transpose is a view. It is used for as long as the weight is the very array that it was taken from, and is part
    neither of the parameters nor of a copy.
    """

    NOT_TURNED: ClassVar[tuple[None, None]] = (None, None)

    def __init__(self, input_dims: int, output_dims: int):
        super().__init__(input_dims, output_dims, bias=False)
        self.__dict__["_turned"] = self.NOT_TURNED

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_turned": self.NOT_TURNED}

    def turn(self) -> mx.array:
        """Remember the transpose of the weight as it is now; to be evaluated by the caller, as any lazy array."""
        weight: mx.array = self["weight"]
        transpose = weight.T
        self.__dict__["_turned"] = weight, transpose
        return transpose

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., input) -> (..., output)."""
        weight: mx.array = self["weight"]
        turned_from, transpose = self.__dict__["_turned"]
        return x @ (transpose if turned_from is weight else weight.T)
