"""From a function of arrays to the operations that it consists of, as a GPU computes it, whatever device there is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..backend import branches
from .marks import MARK, Marks, whole
from .operations import OPERATIONS
from .primitives import Called, called

BROADCAST = "broadcast_to"

Function = Callable[[Sequence[mx.array]], Sequence[mx.array]]
Message = Mapping[str, Any]
"""What MLX tells of a part of a graph, whose arrays it names by letters."""


class Value(NamedTuple):
    """An array of a trace: the i-th of its inputs, of its constants, or of what its nodes give."""

    kind: str
    number: int


class Node(NamedTuple):
    """An operation on arrays, and how many it gives."""

    called: Called
    inputs: tuple[Value, ...]
    outputs: int


class Trace(NamedTuple):
    """What a function of arrays of certain shapes consists of, in an order in which it can be computed."""

    nodes: list[Node]
    outputs: list[Value]
    constants: list[mx.array]


def graph_of(function: Function, arguments: Sequence[mx.array], marks: Marks) -> list[Message]:
    """What MLX tells of a function; ``arguments`` need not be evaluated, and ``marks`` are left in it."""
    messages: list[Message] = []
    with branches("gpu"), whole(marks):
        mx.export_function(messages.append, lambda *given: tuple(function(given)), *arguments)
    return messages


def read_graph(messages: Sequence[Message], marks: Marks) -> Trace:
    """A graph in the operations of programs.

    Raises:
        InputError: it has one that programs lack.
    """
    return _Reader(marks).read(messages)


class _Reader:
    def __init__(self, marks: Marks):
        self._marks = marks
        self._values: dict[str, Value] = {}
        self._tags: dict[str, mx.array] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._narrow: dict[str, str] = {}  # what was broadcast, by what came of it
        self._nodes: list[Node] = []
        self._constants: list[mx.array] = []
        self._count = 0

    def read(self, messages: Sequence[Message]) -> Trace:
        outputs: list[str] = []
        for message in messages:
            match message["type"]:
                case "inputs":
                    self._values |= {name: Value("input", i) for i, (name, *_) in enumerate(message["inputs"])}
                    self._shapes |= {name: shape for name, shape, _ in message["inputs"]}
                case "outputs":
                    outputs = [name for name, *_ in message["outputs"]]
                case "constants":
                    self._tags |= dict(message["constants"])
                    self._shapes |= {name: array.shape for name, array in message["constants"]}
                case "primitive":
                    self._add(message)
        return _needed(self._nodes, [self._value(name) for name in outputs], self._constants)

    def _value(self, name: str) -> Value:
        """An array by MLX's name; a constant that nothing has asked for is numbered now, so that tags are not."""
        if name not in self._values:
            self._values[name] = Value("constant", len(self._constants))
            self._constants.append(self._tags[name])
        return self._values[name]

    def _add(self, message: Message) -> None:
        given = [name for name, *_ in message["inputs"]]
        made = [name for name, *_ in message["outputs"]]
        _, shape, dtype = message["outputs"][0]
        what: Called | None
        if message["name"] == MARK:
            mark = self._marks.of(self._tags[given.pop(0)])
            what = Called(mark.operation, dict(mark.arguments))
        else:
            what = called(message["name"], message["arguments"], dtype)
        self._shapes[made[0]] = shape
        if what is None:
            self._values[made[0]] = self._value(given[0])
            return
        if what.operation == BROADCAST:
            self._narrow[made[0]] = given[0]
        elif OPERATIONS[what.operation].broadcasts:
            given = self._unbroadcast(given, shape)
        self._nodes.append(Node(what, tuple([self._value(name) for name in given]), len(made)))
        for name in made:
            self._values[name] = Value("made", self._count)
            self._count += 1

    def _unbroadcast(self, given: list[str], shape: tuple[int, ...]) -> list[str]:
        """The inputs of an operation that broadcasts by itself, as they were, where another has its whole shape."""
        if any(name not in self._narrow and self._shapes[name] == shape for name in given):
            return [self._narrow.get(name, name) for name in given]
        return given


def _needed(nodes: Sequence[Node], outputs: Sequence[Value], constants: Sequence[mx.array]) -> Trace:
    """A trace without what nothing comes of, its arrays numbered anew."""
    wanted, firsts, count = set(outputs), list[int](), 0
    for node in nodes:
        firsts.append(count)
        count += node.outputs
    kept = []
    for node, first in zip(reversed(nodes), reversed(firsts), strict=True):
        if any(Value("made", first + place) in wanted for place in range(node.outputs)):
            wanted.update(node.inputs)
            kept.append((node, first))
    kept.reverse()
    made = [Value("made", first + place) for node, first in kept for place in range(node.outputs)]
    left = [value for value in (Value("constant", place) for place in range(len(constants))) if value in wanted]
    numbers = {value: Value(value.kind, number) for values in (made, left) for number, value in enumerate(values)}
    return Trace(
        [Node(node.called, tuple([numbers.get(each, each) for each in node.inputs]), node.outputs) for node, _ in kept],
        [numbers.get(each, each) for each in outputs],
        [constants[value.number] for value in left],
    )
