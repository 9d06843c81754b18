"""A bundle's programs, traced from a pair's networks; their weights are inputs, which need not be read for it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from ..cache.layout import BUCKET, CacheLayout, round_up
from ..errors import InputError
from ..models.attention import BAND
from ..models.config import FULL
from ..rounds.export import (
    Function,
    buffer_names,
    least_end,
    read_function,
    read_inputs,
    round_function,
    round_inputs,
)
from ..rounds.state import Decoder, Target
from .assembling import Constants, assembled
from .fitting import Point, fitted
from .marks import Marks
from .program import Input, Linear, Program
from .tracing import Message, graph_of
from .weights import Weights

END, BEGIN, COUNT = "end", "begin", "count"
"""The variables: where attention over linear buffers ends in a round; what the cache holds before a piece of a prompt,
and how many tokens that has."""
SHIFTS = 4  # sets of lengths that are tried, besides a range's ends
SORTED = 64  # experts' rows in a block, from which on mlx-lm sorts them

Inputs = Mapping[str, mx.array]


class Piece(NamedTuple):
    """How many tokens of a prompt a program reads at once: from the least to the most."""

    least: int
    most: int


def pieces(layout: CacheLayout) -> list[Piece]:
    """The ranges of lengths that have a program each.

    Up to the slack a piece is written before it attends; a longer one, of at most one band, attends first. Experts are
    sorted from some length on.
    """
    config = layout.config
    most = min(BAND, layout.window)
    cuts = {layout.slack}
    if config.enable_moe_block:
        cuts.add(-(-SORTED // config.top_k_experts) - 1)
    if 2 in cuts:
        cuts.add(1)
    ends = [*sorted(cut for cut in cuts if 1 <= cut < most), most]
    return [Piece(before + 1, end) for before, end in zip([0, *ends], ends, strict=False)]


class Builder:
    """Traces programs.

    Args:
        weights: of the networks.
        constants: are added to.
    """

    def __init__(self, weights: Weights, constants: Constants):
        self._weights, self._constants = weights, constants
        self._arrays = list(weights.named.values())
        self._marks = Marks()

    def round(self, name: str, decoder: Decoder, count: int, *, confirmed: bool = True) -> Program:
        """A round of ``count`` drafts; ``confirmed`` by one more graph than it takes."""
        least = least_end(decoder.layout)
        points = [{END: least + more} for more in (BUCKET, 5 * BUCKET, 13 * BUCKET)[: 2 + confirmed]]
        graphs: list[list[Message]] = []
        outputs: list[str] = []
        for spare, point in enumerate(points, start=1):
            inputs = round_inputs(decoder, point[END] + spare * BUCKET)
            graph, outputs = self._graph(round_function(decoder, count, point[END]), inputs)
            graphs.append(graph)
        return self._program(name, points, graphs, inputs, outputs, decoder.layout)

    def read(self, name: str, target: Target, layout: CacheLayout, piece: Piece) -> Program:
        """A piece of a prompt.

        Where a length happens to be a number that is in the function for another reason, MLX makes one constant of
        both: other lengths are tried then.
        """
        for shift in range(min(SHIFTS, (piece.most - piece.least) // 2)):
            with suppress(InputError):
                return self._read(name, target, layout, _spread(piece, shift + 1))
        return self._read(name, target, layout, _spread(piece, 0))

    def _read(self, name: str, target: Target, layout: CacheLayout, counts: Sequence[int]) -> Program:
        first = least_end(layout)
        begins = [first + more for more in (7, 131, 7, 517)]
        varies = len(set(counts)) > 1
        points: list[Point] = [
            {BEGIN: begin, COUNT: count} if varies else {BEGIN: begin}
            for begin, count in zip(begins, counts, strict=True)
        ]
        graphs: list[list[Message]] = []
        outputs: list[str] = []
        for spare, (begin, count) in enumerate(zip(begins, counts, strict=True), start=1):
            inputs = read_inputs(layout, count, round_up(begin + count, BUCKET) + spare * BUCKET)
            graph, outputs = self._graph(read_function(target, layout, begin), inputs)
            graphs.append(graph)
        program = self._program(name, points, graphs, inputs, outputs, layout)
        return _with_free_count(program) if varies else program

    def _graph(self, function: Function, inputs: Inputs) -> tuple[list[Message], list[str]]:
        names: list[str] = []

        def run(arrays: Sequence[mx.array]) -> Sequence[mx.array]:
            with self._weights.replaced(arrays[: len(self._arrays)]):
                made = function(dict(zip(inputs, arrays[len(self._arrays) :], strict=True)))
            names[:] = made
            return list(made.values())

        return graph_of(run, [*self._arrays, *inputs.values()], self._marks), names

    def _program(
        self,
        name: str,
        points: Sequence[Point],
        graphs: Sequence[Sequence[Message]],
        inputs: Inputs,
        outputs: Sequence[str],
        layout: CacheLayout,
    ) -> Program:
        linear = {
            name
            for kind, names in zip(layout.kinds, buffer_names(layout), strict=True)
            if kind == FULL
            for name in names
        }
        taken = tuple(
            Input(
                each,
                array.dtype,
                tuple(None if each in linear and i == 2 else size for i, size in enumerate(array.shape)),
            )
            for each, array in inputs.items()
        )
        trace = fitted(points, graphs, self._marks)
        variables = tuple(points[0])
        return assembled(name, variables, taken, outputs, trace, len(self._arrays), self._constants)


def _spread(piece: Piece, shift: int) -> list[int]:
    """Four lengths of a range, of which two are equal, so that begin and length vary by themselves.

    Of one token alone MLX makes another graph than of more, whose graph serves one as well.
    """
    least, most = min(max(2, piece.least), piece.most), piece.most
    one, other = min(least + shift, most - 1), max(most - shift, least + 1)
    return [least] * 4 if least == most else [one, one, other, min((2 * least + most) // 3 + shift, most)]


def _with_free_count(program: Program) -> Program:
    ids = Input("ids", mx.int32, (1, Linear(0, ((COUNT, 1),))))
    return replace(program, inputs=tuple(ids if each.name == "ids" else each for each in program.inputs))
