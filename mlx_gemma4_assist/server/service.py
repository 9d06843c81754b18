"""Who answers the protocols' requests: :class:`endpoint.Backend` on an engine in a thread of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

from ..engine.engine import Engine
from ..engine.pair import Checkpoint, Pair
from ..engine.tasks import State
from ..engine.worker import MAX_WAITING, Worker
from ..errors import InputError, first_line
from ..media.config import AS_PUBLISHED, MediaOptions
from ..options import GenerationOptions
from .answering import Answering
from .delivery import Delivery, Desk, Submitted
from .endpoint import Health, Request
from .exchange import ChatRequest, Event, Model, RequestError, TextRequest, bad_request
from .facts import check_media_options, model_of
from .order import Order
from .refusals import as_request_errors, request_error
from .turns import Admit, Asked, ChatFormat

MAX_TOKENS = 4096
STUCK = 120.0
LONGEST_WAIT = 60  # seconds that who is refused is told to wait


def only_data(source: object) -> object:
    """Bytes, and what a ``data:`` URL holds: nothing that would have to be opened or fetched.

    Raises:
        InputError: it is something else.
    """
    if isinstance(source, bytes) or (isinstance(source, str) and source[:5].lower() == "data:"):
        return source
    raise InputError("pictures, sound and video are taken as data: URLs only")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a service answers.

    Attributes:
        name: of the model; None takes the repo's, or the folder's own.
        aliases: its other names.
        options: keywords of ``GenerationOptions``, for requests that do not say otherwise.
        max_tokens: of an answer, unless the request says otherwise.
        context: the most tokens of prompt and answer; None is what the model has, which is the most in any case.
        thinking: whether the model thinks first, unless the request says otherwise.
        max_waiting: requests that wait, beyond those that there are rows for; more are refused.
        ttl: seconds without a request after which the model is freed; None keeps it.
        stuck_after: seconds for a step, after which :meth:`Service.health` says that the engine is stuck.
        admit: what may be opened of what requests show. It is called in the thread that submits.
        media: how many soft tokens and frames pictures and videos of all requests take.
    """

    name: str | None = None
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = MAX_TOKENS
    context: int | None = None
    thinking: bool = False
    max_waiting: int = MAX_WAITING
    ttl: float | None = None
    stuck_after: float = STUCK
    admit: Admit = only_data
    media: MediaOptions = AS_PUBLISHED


class Service:
    """A pair behind a thread: ``endpoint.Backend``.

    Args:
        checkpoint: the pair before its weights are read. They are read with the first request, or by :meth:`load`.
        settings: how it answers.
        load: reads the weights, in the engine's thread; None is ``checkpoint.load``.
        engine: makes what runs requests, in that thread.

    Raises:
        InputError: the options are out of range, or are for pictures that the model does not take.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings = Settings(),
        *,
        load: Callable[[], Pair] | None = None,
        engine: Callable[[Pair], Engine] = Engine,
    ):
        read = checkpoint.load if load is None else load
        GenerationOptions(**settings.options)
        check_media_options(checkpoint, settings.media)
        self._checkpoint, self._settings, self._processor = checkpoint, settings, checkpoint.processor
        longest = checkpoint.config.max_position_embeddings
        context = min(longest, settings.context or longest)
        self._model = model_of(checkpoint, settings.name, settings.aliases, context, settings.max_tokens)
        takes_media = self._model.pictures or self._model.sound
        self._format = ChatFormat(checkpoint, takes_media, settings.admit, settings.media)
        self._texts: dict[int, str] = {}
        self._seconds = 1.0  # that an answer took lately
        self._worker = Worker(lambda: engine(read()), max_waiting=settings.max_waiting, ttl=settings.ttl)

    @property
    def model(self) -> Model:
        return self._model

    def load(self) -> None:
        """Load the model, if it is not there, and wait for it.

        Raises:
            InputError: it cannot be loaded.
        """
        self._worker.load()

    def close(self, seconds: float = 0.0) -> None:
        """Take no more requests in; finish what there is within so many seconds, and cut off what is left then."""
        self._worker.close(seconds)

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Submitted:
        """As ``endpoint.Backend`` has it. What a request shows is opened and prepared before this returns.

        Raises:
            RequestError: it is refused.
        """
        with as_request_errors(self._retry_after, request.fields):
            order = Order(self._checkpoint, self._format, self._asked(request), self._options(request))
            order.prepare(self._model.context)
            delivery = Delivery(
                listener,
                [prompt.tokens for prompt in order.prompts],
                request.answers,
                Desk(partial(self._error, request.fields), self._took, order.following),
                echo=order.echo(),
                notes=[note for prompt in order.prompts for note in prompt.notes],
                streams=request.stream,
            )
            tasks = order.tasks(lambda number, turn: Answering(delivery, number, turn, self._spelled))
            ticket = Submitted(self._worker, tasks, delivery, partial(order.end_thoughts, self._worker), order.cut)
            delivery.on_failure(ticket.cancel_tasks)
            self._worker.submit(tasks)
            return ticket

    def tokens(self, request: Request) -> Sequence[int]:
        """As ``endpoint.Backend`` has it: those of several prompts one behind the other.

        Raises:
            RequestError: it is refused.
        """
        with as_request_errors(self._retry_after, request.fields):
            order = Order(self._checkpoint, self._format, self._asked(request), self._options(request))
            order.prepare(self._model.context)
            return [token for prompt in order.prompts for token in prompt.tokens]

    def tokenize(self, text: str) -> Sequence[int]:
        """The ids of raw text, without BOS.

        Raises:
            RequestError: it is no valid Unicode.
        """
        with as_request_errors(self._retry_after):
            return self._processor.tokenize(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of ids, special tokens included.

        Raises:
            RequestError: ids beyond the vocabulary.
        """
        last = self._checkpoint.config.vocab_size - 1
        outside = next((token for token in tokens if not 0 <= token <= last), None)
        if outside is not None:
            raise bad_request(f"there is no token {outside}: the model's vocabulary ends at {last}", "tokens")
        with as_request_errors(self._retry_after):
            return self._processor.decode(tokens, skip_special_tokens=False)

    def render(self, request: ChatRequest) -> str:
        """The text of a request's prompt, special tokens included.

        Raises:
            RequestError: it is refused.
        """
        with as_request_errors(self._retry_after, request.fields):
            asked = self._asked(request)
            assert isinstance(asked, Asked)
            return self._format.render(asked)

    def health(self) -> Health:
        """As ``endpoint.Backend`` has it."""
        figures = self._worker.figures()
        status = str(figures.state)
        busy = figures.running + figures.waiting > 0
        if figures.state is State.LOADED and busy and figures.idle > self._settings.stuck_after:
            status = "stuck"
        return Health(
            status,
            self._model.id,
            figures.running,
            figures.waiting,
            figures.idle,
            figures.active_memory,
            figures.peak_memory,
        )

    # Requests

    def _options(self, request: Request) -> GenerationOptions:
        defaults = {"max_tokens": self._settings.max_tokens} | dict(self._settings.options)
        try:
            return GenerationOptions(**(defaults | dict(request.options)))
        except TypeError as error:
            raise bad_request(first_line(error)) from None

    def _asked(self, request: Request) -> Asked | TextRequest:
        if isinstance(request, TextRequest):
            return request
        thinks = self._settings.thinking and self._format.thinks if request.thinking is None else request.thinking
        return Asked(request, thinks)

    # What deliveries ask for

    def _spelled(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._processor.decode([token], skip_special_tokens=False)
        return self._texts[token]

    def _error(self, fields: Mapping[str, str], error: Exception) -> RequestError:
        return request_error(error, self._retry_after, fields)

    def _took(self, seconds: float) -> None:
        self._seconds += (seconds - self._seconds) / 8

    def _retry_after(self) -> int:
        return max(1, min(LONGEST_WAIT, ceil(self._seconds)))
