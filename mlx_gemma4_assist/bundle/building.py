"""A bundle's programs, traced from a pair's networks; their weights are inputs, which need not be read for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..cache.layout import BUCKET, CacheLayout, round_up
from ..errors import InputError
from ..models.attention import BAND
from ..models.config import FULL
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.network import Network, named_parameters
from ..rounds.export import Function, buffer_names, read_function, read_inputs, round_function, round_inputs
from ..rounds.state import Decoder, Target
from .fitting import Point, content, fitted
from .marks import Marks
from .program import Input, Linear, Program, Use
from .tracing import Message, Trace, Value, graph_of

END, BEGIN, COUNT = "end", "begin", "count"
"""The variables: where attention over linear buffers ends in a round; what the cache holds before a piece of a prompt,
and how many tokens that has."""
TARGET, ASSISTANT = "target", "assistant"
SHIFTS = 4  # sets of lengths that are tried
SORTED = 64  # experts' rows in a block, from which on mlx-lm sorts them

Inputs = Mapping[str, mx.array]


class Constants:
    """The constants of all programs, each once."""

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self._numbers: dict[object, int] = {}

    def number(self, array: mx.array) -> int:
        """Where an array is among them; it is added if it is not."""
        number = self._numbers.setdefault(content(array), len(self.arrays))
        if number == len(self.arrays):
            self.arrays.append(mx.contiguous(array))
        return number


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
    ends = [*sorted(cut for cut in cuts if 2 <= cut < most), most]
    return [Piece(before + 1, end) for before, end in zip([1, *ends], ends, strict=False)]


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
        for shift in range(SHIFTS):
            counts = _spread(piece, shift)
            try:
                return self._read(name, target, layout, counts)
            except InputError:
                if shift == SHIFTS - 1:
                    raise
        raise AssertionError

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
        return _Assembled(self._constants, len(self._arrays), trace).program(name, tuple(points[0]), taken, outputs)


def _spread(piece: Piece, shift: int) -> list[int]:
    """Four lengths of a range, of which two are equal, so that begin and length vary by themselves."""
    least, most = piece
    one, other, middle = least + shift, most - shift, (2 * least + most) // 3 + shift
    if least == most or not least <= one < other <= most:
        return [least] * 4
    return [one, one, other, min(middle, most)]


def least_end(layout: CacheLayout) -> int:
    """Where attention ends at least: rounds attend to whole rings, which a shorter linear buffer would not fill."""
    return round_up(layout.ring, BUCKET)


def _with_free_count(program: Program) -> Program:
    ids = Input("ids", mx.int32, (1, Linear(0, ((COUNT, 1),))))
    return replace(program, inputs=tuple(ids if each.name == "ids" else each for each in program.inputs))


class _Assembled:
    """A program of a trace, whose arrays are numbered anew.

    Constants precede a program's own arrays, and are not all known before the last program has been traced: until then
    they have negative numbers.
    """

    def __init__(self, constants: Constants, weights: int, trace: Trace):
        self._weights = weights
        self._trace = trace
        self._numbers = [constants.number(array) for array in trace.constants]

    def program(
        self, name: str, variables: tuple[str, ...], inputs: tuple[Input, ...], outputs: Sequence[str]
    ) -> Program:
        uses: dict[Use, int] = {}
        steps = []
        for node in self._trace.nodes:
            use = Use(node.called.operation, tuple(node.called.arguments.items()), len(node.inputs), node.outputs)
            number = uses.setdefault(use, len(uses))
            steps.append((number, *(self._number(each, len(inputs)) for each in node.inputs)))
        made = tuple(
            (each, self._number(value, len(inputs))) for each, value in zip(outputs, self._trace.outputs, strict=True)
        )
        return Program(name, variables, self._weights, 0, inputs, tuple(uses), tuple(steps), made)

    def _number(self, value: Value, inputs: int) -> int:
        if value.kind == "constant":
            return -1 - self._numbers[value.number]
        return value.number if value.kind == "input" else self._weights + inputs + value.number


def numbered(program: Program, constants: int) -> Program:
    """A program whose constants are numbered, once it is known how many there are."""
    first = program.weights

    def number(given: int) -> int:
        if given < 0:
            return first - 1 - given
        return given if given < first else given + constants

    steps = tuple((use, *map(number, taken)) for use, *taken in program.steps)
    outputs = tuple((name, number(value)) for name, value in program.outputs)
    return replace(program, constants=constants, steps=steps, outputs=outputs)
