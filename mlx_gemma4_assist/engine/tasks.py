"""What a worker is asked for, whom it tells, and why it may refuse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ..cache.soft_tokens import MediaPrompt, SoftTokens
from ..errors import InputError
from ..media.known import KnownMedia
from ..media.prepared import Placed
from ..media.reader import soft_tokens
from .pair import Pair
from .request import Request, TokenEvent


class QueueFull(InputError):
    """As many requests wait as may."""


class Closing(InputError):
    """Nobody is served any longer."""


class LoadingFailed(InputError):
    """The model could not be loaded."""


class StepFailed(Exception):
    """The engine failed in a step that the request had a part in; later ones may work."""


Following = Callable[[], Sequence[int]]
"""Finds how a later prompt begins; nothing where that is the prompt and the text as they are."""


class Listener(Protocol):
    """Who hears of a task, in the worker's thread. None of it may wait; what it raises ends the task."""

    def progress(self, done: int, total: int) -> None:
        """Of the prompt so many tokens were computed, of so many that are to be. The first call is (0, total)."""

    def take(self, event: TokenEvent, cached_tokens: int) -> int | None:
        """The text goes on.

        Args:
            event: what a round gave.
            cached_tokens: of the prompt, how many tokens were not computed.

        Returns:
            How many of the text's tokens so far belong to it, where it ends with them; None lets it go on.
        """

    def ended(self) -> Following | None:
        """The text has ended, and its row is free.

        Returns:
            What finds out how a later prompt is going to begin, if one may. It is called when nobody waits.
        """

    def failed(self, error: Exception) -> None:
        """The text does not go on: ``InputError`` of any kind, ``StepFailed``, or what the listener raised."""


@dataclass(eq=False)
class Task:
    """A request on its way through a worker.

    Attributes:
        request: its prompt has token ids only.
        listener: hears of it.
        media: what the prompt shows; it is encoded in the worker's thread.
        begun: whether its prompt is being read, or has been.
    """

    request: Request
    listener: Listener
    media: Sequence[Placed] = ()
    begun: bool = False


@dataclass(eq=False)
class Coming:
    """A task that the engine does not know yet.

    Attributes:
        task: as handed in.
        encoded: of its media, those that are soft tokens already.
    """

    task: Task
    encoded: list[SoftTokens] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether all media are encoded."""
        return len(self.encoded) == len(self.task.media)

    def encode_next(self, pair: Pair, known: KnownMedia) -> None:
        """Encode one picture, frame or sound, unless it is known.

        Raises:
            InputError: the pair's target has no towers, or not for this kind.
        """
        placed = self.task.media[len(self.encoded)]
        self.encoded.append(soft_tokens(pair.media.towers, placed, pair.target.config, known))

    @property
    def prompt(self) -> MediaPrompt:
        return MediaPrompt(self.task.request.prompt.tokens, tuple(self.encoded))


class State(StrEnum):
    """Of a worker's model."""

    LOADING = "loading"
    LOADED = "ok"
    UNLOADED = "unloaded"
    DEAD = "dead"


@dataclass(frozen=True)
class Figures:
    """How a worker does.

    Attributes:
        state: of the model.
        running: requests whose prompts are read, or have been.
        waiting: other requests.
        idle: seconds since the last step or message was finished.
        active_memory, peak_memory: bytes of MLX's arrays, as of then.
    """

    state: State
    running: int
    waiting: int
    idle: float
    active_memory: int
    peak_memory: int
