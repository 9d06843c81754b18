"""What a model's turn brings, bit by bit: pieces of its answer, of its thoughts, and of its calls of tools."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerDelta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class ThoughtDelta:
    """The next piece of what the model thinks."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call of a tool begins.

    Attributes:
        index: which of the turn's calls it is, from 0.
        id: names the call: the tool's answer comes back with it.
        name: of the tool.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """The next piece of a call's arguments; all pieces together are a JSON object.

    Attributes:
        index: of the call.
        json: text.
    """

    index: int
    json: str


@dataclass(frozen=True)
class CallEnded:
    """A call is complete.

    Attributes:
        index: of the call.
    """

    index: int


Delta = AnswerDelta | ThoughtDelta | CallBegun | CallArguments | CallEnded
