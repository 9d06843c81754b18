"""What a request of the exchange comes to for the engine: a task for each answer to each prompt."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..cache.soft_tokens import MediaPrompt
from ..engine.guiding import Constraint
from ..engine.pair import Checkpoint
from ..engine.request import Request
from ..engine.tasks import Following, Task
from ..engine.worker import Worker
from ..media.prepared import PreparedPrompt
from ..options import GenerationOptions
from .answering import Answered, Answering, Turn
from .delivery import Told
from .exchange import ChatRequest, TextRequest, bad_request
from .refusals import too_long
from .turns import Asked, ChatFormat, raw_constraint, raw_prompt, raw_reader, stop_tokens

SEEDS = 2**64
Answer = Callable[[int, Turn], Answering]
"""(which answer, what reads it) -> who hears of it."""


class Order:
    """One request.

    Args:
        checkpoint: of the pair that answers.
        form: its chat format.
        asked: the request.
        options: of its answers.

    Attributes:
        prompts: as the model reads them, once they are prepared.
    """

    def __init__(
        self, checkpoint: Checkpoint, form: ChatFormat, asked: Asked | TextRequest, options: GenerationOptions
    ):
        self.prompts: list[PreparedPrompt] = []
        self._checkpoint, self._form, self._asked, self._options = checkpoint, form, asked, options
        self._request: ChatRequest | TextRequest = asked.request if isinstance(asked, Asked) else asked
        self._enough = threading.Event()
        self._later: list[tuple[Task, Answering, Callable[[], Constraint] | None]] = []

    def prepare(self, context: int) -> None:
        """Make the prompts.

        Args:
            context: the most tokens of a prompt and its answer.

        Raises:
            RequestError: there is none, or one leaves no room for an answer.
            InputError: one is malformed.
        """
        asked, request = self._asked, self._request
        if isinstance(asked, Asked):
            self.prompts = [self._form.prepare(asked)]
        else:
            self.prompts = [raw_prompt(self._checkpoint, each) for each in asked.prompts]
        if not self.prompts or request.answers < 1:
            raise bad_request("nothing is asked for", "prompt" if request.answers else "n")
        longest = max(len(prompt.tokens) for prompt in self.prompts)
        if longest >= context:
            raise too_long(longest, context, "messages" if isinstance(asked, Asked) else "prompt")
        self._context = context

    def echo(self) -> Sequence[str]:
        """The texts of the prompts, if they are wanted."""
        if not isinstance(self._asked, TextRequest) or not self._asked.echo:
            return ()
        return [self._checkpoint.processor.decode(prompt.tokens) for prompt in self.prompts]

    def tasks(self, answer: Answer) -> list[Task]:
        """One for each answer, prompt by prompt.

        Raises:
            InputError: an option does not fit the model, or a grammar is not supported.
        """
        found: list[Task] = []
        for prompt in self.prompts:
            options = replace(
                self._options, max_tokens=min(self._options.max_tokens, self._context - len(prompt.tokens))
            )
            request = self._engine_request(prompt, options)
            request.check(self._checkpoint.config)
            for number in range(self._request.answers):
                answering = answer(len(found), self._reader(prompt))
                found.append(Task(self._seeded(request, number), answering, prompt.media))
                self._later.append((found[-1], answering, self._late(prompt, request)))
        return found

    def following(self, place: int, answered: Answered) -> Following | None:
        """An answer to a prompt has ended: what finds how the next one begins."""
        if not isinstance(self._asked, Asked):
            return None
        self._form.remember(self.prompts[place], answered)
        return partial(self._form.following, self._asked, self.prompts[place], answered)

    def cut(self, number: int, told: Told) -> Following | None:
        """Nobody wants more of an answer: what there is of it is kept, for when it comes back.

        Args:
            number: of the answer.
            told: as much of it as its listener has.

        Returns:
            What finds how a later prompt begins that has so much of it.
        """
        if not isinstance(self._asked, Asked):
            return None
        (_, answering, _), prompt = self._later[number], self.prompts[number // self._request.answers]
        tokens = tuple(answering.tokens)
        self._form.remember_cut(prompt, tokens)  # over HTTP not all of it need have arrived
        if answering.turn.calls or not told.text.strip():
            return None
        answered = Answered(tokens[: told.tokens], told.text, answering.turn)
        self._form.remember(prompt, answered)
        return partial(self._form.following, self._asked, prompt, answered)

    def end_thoughts(self, worker: Worker) -> None:
        """Let all answers end their thoughts."""
        self._enough.set()
        for task, answering, constraint in self._later:
            if constraint is not None:
                worker.hold(task, partial(_caught_up, constraint, answering))

    def _seeded(self, request: Request, number: int) -> Request:
        """A further answer has the next seed."""
        seed = request.options.seed
        if seed is None or number == 0:
            return request
        return replace(request, options=replace(request.options, seed=(seed + number) % SEEDS))

    def _reader(self, prompt: PreparedPrompt) -> Turn:
        if isinstance(self._asked, Asked):
            return self._form.reader(prompt.tokens, self._options)
        return raw_reader(self._checkpoint, self._options)

    def _engine_request(self, prompt: PreparedPrompt, options: GenerationOptions) -> Request:
        processor, request = self._checkpoint.processor, self._request
        close = processor.markers.close
        return Request(
            MediaPrompt(list(prompt.tokens)),
            options,
            stop_tokens(self._checkpoint, options),
            processor.suppress_tokens,
            points=tuple(processor.turn_begins(prompt.tokens)),
            left_out=processor.left_out,
            constraint=self._constraint(prompt.tokens, options),
            prediction=tuple(processor.tokenize(request.prediction)) if request.prediction else (),
            answer_begins=frozenset() if close is None else frozenset([close]),
            priority=request.priority,
        )

    def _constraint(self, prompt: Sequence[int], options: GenerationOptions) -> Callable[[], Constraint] | None:
        """What holds the answers from their beginnings on; what holds thoughts only comes once they are to end."""
        if not isinstance(self._asked, Asked):
            return raw_constraint(self._checkpoint, prompt, self._asked, options)
        request = self._asked.request
        found = self._form.constraint(prompt, request, options, bool)
        if found is None or not self._asked.thinking:
            return found
        return self._form.constraint(prompt, request, options, self._enough.is_set)

    def _late(self, prompt: PreparedPrompt, request: Request) -> Callable[[], Constraint] | None:
        """What holds an answer from where its thoughts are to end; None if it is held already, or does not think."""
        if request.constraint is not None or not isinstance(self._asked, Asked) or not self._asked.thinking:
            return None
        return self._form.constraint(prompt.tokens, self._asked.request, request.options, self._enough.is_set)


def _caught_up(constraint: Callable[[], Constraint], answering: Answering) -> Constraint:
    """A constraint in the state of an answer so far."""
    found = constraint()
    for token in answering.tokens:
        found.take(token)
    return found
