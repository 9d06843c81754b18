"""What every protocol is translated to and from: a request, the events that answer it, and the answer as a whole.

Nothing here, nor in the protocols, imports MLX.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..text.deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, Delta, ThoughtDelta
from ..text.messages import Message

Tool = Mapping[str, Any]
"""As OpenAI has it: ``{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}``."""


class ToolChoice(StrEnum):
    """Whether the model may, must or must not call tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation that is to be continued.

    Attributes:
        model: the name that was asked for.
        messages: as ``text.messages`` takes them: roles of ``ROLES``; content a string or parts, media among them as
            ``{"type": "image", "url": ...}``, ``{"type": "audio", ...}``, ``{"type": "video", ...}``; an assistant's
            may have ``reasoning_content`` and ``tool_calls``, each ``{"id": ..., "type": "function", "function":
            {"name": ..., "arguments": {...}}}`` with arguments read already; a tool's has ``tool_call_id`` and text.
        options: keywords of ``GenerationOptions``, only those that were given. ``json_schema`` is among them.
        tools: that the model may call.
        tool_choice: whether it does.
        named_tool: which one it must call, with ``NAMED``.
        parallel_tool_calls: whether it may call more than one.
        thinking: whether it thinks first; None leaves that to the server.
        thinking_budget: the most tokens of thought; None sets no limit.
        continue_last: whether the last message, an assistant's, is to be continued rather than answered.
        prediction: text that the answer is likely to repeat: its tokens are drafts.
        written: texts of assistant's messages, and the token ids that the model made them of, without thoughts; a
            backend that knows them need not read these messages anew.
        answers: how many are wanted of the one prompt.
        stream: whether they are wanted as they are made.
        priority: as ``engine.request.Request.priority``.
        fields: what the request calls options that it gave under another name, such as ``json_schema``.
    """

    model: str
    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    named_tool: str | None = None
    parallel_tool_calls: bool = True
    thinking: bool | None = None
    thinking_budget: int | None = None
    continue_last: bool = False
    prediction: str | None = None
    written: Sequence[tuple[str, Sequence[int]]] = ()
    answers: int = 1
    stream: bool = False
    priority: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Raw text, or token ids, to be continued, without a chat template.

    Attributes:
        model, options, prediction, answers, stream, priority, fields: as of :class:`ChatRequest`.
        prompts: one or several; ids are used as they are, text has BOS put before it.
        echo: whether the prompt is wanted before its continuation.
    """

    model: str
    prompts: Sequence[str | Sequence[int]]
    options: Mapping[str, Any] = field(default_factory=dict)
    echo: bool = False
    prediction: str | None = None
    answers: int = 1
    stream: bool = False
    priority: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)


class RequestError(Exception):
    """A request that is not answered, or not to its end.

    Args:
        status: of HTTP.
        message: one sentence for the user.
        kind: OpenAI's ``type``: ``invalid_request_error``, ``not_found_error``, ``overloaded_error``, ``server_error``.
        param: the field that is wrong.
        code: OpenAI's ``code``, such as ``context_length_exceeded``, ``model_not_found``.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after


def bad_request(message: str, param: str | None = None, code: str | None = None) -> RequestError:
    """A request with a field that is wrong: status 400."""
    return RequestError(400, message, param=param, code=code)


# Events, in this order: Progress*, Started, (Piece* Finished) for each choice, mixed; or Failed at any point, the last.


@dataclass(frozen=True)
class Progress:
    """A sign of life, while prompts are read: how many of their tokens have been computed, or a cache had, and how many
    there are."""

    done: int
    total: int


@dataclass(frozen=True)
class Started:
    """The first tokens are there.

    Attributes:
        prompt_tokens: of all prompts.
        cached_tokens: how many of them were not computed, since a cache had them.
        notes: what whoever asked should know of what the prompts show, a sentence each.
    """

    prompt_tokens: int
    cached_tokens: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenInfo:
    """A token.

    Attributes:
        id: in the vocabulary.
        text: of this token alone.
        draft: 0 where the target chose it, n where it was the n-th draft of a round.
        logprob: its log-probability, if asked for.
        top: (id, text, log-probability) of the likeliest in its place, in falling order.
    """

    id: int
    text: str
    draft: int = 0
    logprob: float | None = None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What a round brought to an answer; tokens whose text is held back come before it.

    Attributes:
        choice: of which answer, from 0: prompt by prompt, the answers of each together.
        deltas: in order; perhaps none.
        tokens: in order.
    """

    choice: int
    deltas: tuple[Delta, ...]
    tokens: tuple[TokenInfo, ...] = ()


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, or of all.

    Attributes:
        completion_tokens: generated, thoughts and markers included.
        reasoning_tokens: of them, how many are thoughts.
        drafted, accepted: proposed, and how many of these stood.
        rounds: forwards of the target after the prompt.
        accepted_at, drafted_at: by the draft's place in a round.
    """

    completion_tokens: int = 0
    reasoning_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    accepted_at: tuple[int, ...] = ()
    drafted_at: tuple[int, ...] = ()

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.rounds + other.rounds,
            _sums(self.accepted_at, other.accepted_at),
            _sums(self.drafted_at, other.drafted_at),
        )


def _sums(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return tuple(count + (shorter[i] if i < len(shorter) else 0) for i, count in enumerate(longer))


@dataclass(frozen=True)
class Finished:
    """An answer has ended.

    Attributes:
        choice: which.
        reason: why.
        stop: the stop string that ended it, None if none did.
        usage: of this answer.
        queued, prompt, generation: seconds until its prompt was begun, from then to its first token, from then on.
    """

    choice: int
    reason: FinishReason
    stop: str | None
    usage: Usage
    queued: float = 0.0
    prompt: float = 0.0
    generation: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens per second; 0 where all came with the first round, of which no time can be told."""
        measured = self.usage.rounds > 1 and self.generation > 0
        return self.usage.completion_tokens / self.generation if measured else 0.0


@dataclass(frozen=True)
class Failed:
    """No more comes of any answer."""

    error: RequestError


Event = Progress | Started | Piece | Finished | Failed


@dataclass
class Call:
    """A call of a tool: its id, the tool's name, its arguments as JSON text, and whether these are complete."""

    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass
class Choice:
    """One answer as a whole.

    Attributes:
        answer, thought: texts.
        calls: of tools; the last one is not complete where the answer was cut off in it.
        tokens: all of them.
        finished: how it ended; None as long as it has not.
    """

    answer: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        """The answer goes on."""
        match delta:
            case AnswerDelta(text):
                self.answer += text
            case ThoughtDelta(text):
                self.thought += text
            case CallBegun(_, identity, name):
                self.calls.append(Call(identity, name))
            case CallArguments(index, json):
                self.calls[index].arguments += json
            case CallEnded(index):
                self.calls[index].complete = True


@dataclass
class Answer:
    """What all events of a request come to.

    Attributes:
        choices: one for each answer.
        prompt_tokens, cached_tokens, notes: as of ``Started``.
    """

    choices: list[Choice] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """Of all answers."""
        return sum((choice.finished.usage for choice in self.choices if choice.finished is not None), Usage())

    def take(self, event: Event) -> None:
        """One event more.

        Raises:
            RequestError: the request has failed.
        """
        match event:
            case Started(prompt_tokens, cached_tokens, notes):
                self.prompt_tokens, self.cached_tokens, self.notes = prompt_tokens, cached_tokens, notes
            case Piece(choice, deltas, tokens):
                self._choice(choice).tokens += tokens
                for delta in deltas:
                    self._choice(choice).add(delta)
            case Finished(choice):
                self._choice(choice).finished = event
            case Failed(error):
                raise error
            case Progress():
                pass

    def _choice(self, number: int) -> Choice:
        self.choices += [Choice() for _ in range(number + 1 - len(self.choices))]
        return self.choices[number]


def collected(events: Iterable[Event]) -> Answer:
    """All events of a request.

    Raises:
        RequestError: it has failed.
    """
    answer = Answer()
    for event in events:
        answer.take(event)
    return answer


@dataclass(frozen=True)
class Model:
    """What the server serves, as protocols tell of it.

    Attributes:
        id: its name, such as ``google/gemma-4-E2B-it``.
        aliases: other names that are its own.
        created: Unix time of its files.
        context: the most tokens of prompt and answer together.
        max_tokens: of an answer, unless the request says otherwise.
        pictures, sound, video, thinking, tools: whether it takes, does, calls such.
        family: such as ``gemma4``.
        parameters: such as ``2B``; empty if not known.
        quantization: such as ``4bit``; empty for none.
        dtype: of weights that are not quantized, such as ``bfloat16``; empty if not known.
        size: bytes of the weights.
        assistant: the drafter's name, None without one.
    """

    id: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    context: int = 0
    max_tokens: int = 0
    pictures: bool = False
    sound: bool = False
    video: bool = False
    thinking: bool = False
    tools: bool = False
    family: str = "gemma4"
    parameters: str = ""
    quantization: str = ""
    dtype: str = ""
    size: int = 0
    assistant: str | None = None


@dataclass(frozen=True)
class Frame:
    """A piece of a streamed answer.

    Attributes:
        data: an object for JSON, or text that goes as it is, such as ``[DONE]``.
        event: its name, for protocols that name events.
    """

    data: Mapping[str, Any] | str
    event: str | None = None
