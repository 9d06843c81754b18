"""What a request's listener hears, however many prompts and answers it has, in the order that the exchange has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..engine.tasks import Following, Task
from ..engine.worker import Worker
from ..text.deltas import AnswerDelta
from .answering import Answered
from .exchange import Event, Failed, Finished, Piece, Progress, RequestError, Started


@dataclass(frozen=True)
class Desk:
    """What a delivery asks of its service.

    Attributes:
        error: an error of any kind as the request's.
        took: told how many seconds an answer has taken.
        following: (which prompt, its answer) -> what finds how the next prompt begins.
    """

    error: Callable[[Exception], RequestError]
    took: Callable[[float], None]
    following: Callable[[int, Answered], Following | None]


class Delivery:
    """A request's events, from all its answers: :class:`answering.Whole`. All but ``stop`` is the engine's thread's.

    Args:
        listener: hears them.
        prompts: token ids.
        answers: of each prompt.
        desk: of the service.
        echo: texts of the prompts, where they are wanted before the answers.
        notes: on what the prompts show.
        streams: whether events are wanted as they come. Else they are held back until all prompts have been read, so
            that ``Started`` tells of all of them; only ``Progress`` is not.
    """

    def __init__(
        self,
        listener: Callable[[Event], None],
        prompts: Sequence[Sequence[int]],
        answers: int,
        desk: Desk,
        *,
        echo: Sequence[str] = (),
        notes: Sequence[str] = (),
        streams: bool = True,
    ):
        self._listener, self._prompts, self._answers, self._desk = listener, prompts, answers, desk
        self._echo, self._notes, self._streams = echo, tuple(notes), streams
        self._read: dict[int, int] = {}  # of each prompt that was begun, how many tokens are there
        self._cached: dict[int, int] = {}  # of each prompt that has been read
        self._held: list[Event] | None = []  # what comes behind Started; None when that has been told
        self._over = False
        self._cancel: Callable[[], None] = lambda: None
        self._told: dict[int, list[Told]] = {}  # pieces of each answer

    def on_failure(self, cancel: Callable[[], None]) -> None:
        """What ends the other answers if one fails."""
        self._cancel = cancel

    def stop(self) -> None:
        """Nothing more is to be told. For any thread."""
        self._over = True

    def read(self, number: int, done: int, total: int) -> None:
        place = number // self._answers
        whole = len(self._prompts[place])
        self._read[place] = whole if done == total else max(0, whole - 1 - total + done)  # the last token is a round's
        if self._held is not None:
            self._tell(Progress(sum(self._read.values()), sum(map(len, self._prompts))))

    def started(self, number: int, cached_tokens: int) -> None:
        self._cached.setdefault(number // self._answers, cached_tokens)
        if self._held is None or not (self._streams or len(self._cached) == len(self._prompts)):
            return
        self._tell(Started(sum(map(len, self._prompts)), sum(self._cached.values()), self._notes))
        held, self._held = self._held, None
        for place, text in enumerate(self._echo):
            for answer in range(self._answers):
                self._tell(Piece(place * self._answers + answer, (AnswerDelta(text),)))
        for event in held:
            self._tell(event)

    def emit(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._desk.took(event.prompt + event.generation)
        if self._held is None:
            self._tell(event)
        else:
            self._held.append(event)

    def ended(self, number: int, answered: Answered) -> Following | None:
        return self._desk.following(number // self._answers, answered)

    def failed(self, error: Exception) -> None:
        if not self._over:
            self._tell(Failed(self._desk.error(error)))
            self.stop()
            self._cancel()

    def told(self, number: int) -> "Told":
        """What the listener has of an answer. For any thread."""
        pieces = list(self._told.get(number, ()))
        return Told(sum(piece.tokens for piece in pieces), "".join(piece.text for piece in pieces))

    def _tell(self, event: Event) -> None:
        if self._over:
            return
        self._listener(event)
        if isinstance(event, Piece):
            text = "".join(delta.text for delta in event.deltas if isinstance(delta, AnswerDelta))
            self._told.setdefault(event.choice, []).append(Told(len(event.tokens), text))


class Told(NamedTuple):
    """As much of an answer as its listener has.

    Attributes:
        tokens: how many.
        text: without thoughts and calls.
    """

    tokens: int = 0
    text: str = ""


@dataclass(frozen=True)
class Submitted:
    """A request that has been handed over: ``endpoint.Ticket``.

    Attributes:
        worker: has its tasks.
        tasks: one for each answer.
        delivery: of their events.
        end_thoughts: lets all answers end their thoughts.
        cut: (which answer, what of it was told) -> what finds how a later prompt begins that has so much of it.
    """

    worker: Worker
    tasks: Sequence[Task]
    delivery: Delivery
    end_thoughts: Callable[[], None]
    cut: Callable[[int, Told], Following | None]

    def cancel(self) -> None:
        """As ``endpoint.Ticket`` has it."""
        self.delivery.stop()
        for number, task in enumerate(self.tasks):
            told = self.delivery.told(number)
            self.worker.cancel(task, told.tokens, self.cut(number, told))

    def cancel_tasks(self) -> None:
        """Let the worker do nothing more for it."""
        for task in self.tasks:
            self.worker.cancel(task)

    def end_thought(self) -> None:
        """As ``endpoint.Ticket`` has it."""
        self.end_thoughts()
