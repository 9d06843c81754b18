"""A checkpoint's conversations: requests to prompts, tokens to answers, and what the next request will begin with.

All that depends on how conversations are written and read is here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..engine.guiding import Constraint
from ..engine.pair import Checkpoint
from ..media.config import MediaOptions
from ..media.prepared import PreparedPrompt
from ..media.processor import MediaProcessor
from ..options import GenerationOptions
from ..text.issued import IssuedCalls
from ..text.messages import Media
from ..text.renderer import Rendered, Renderer
from ..text.thoughts import Limit
from ..text.turn_constraint import TurnWishes, turn_constraint
from ..text.turn_reader import TurnReader
from ..text.written import WrittenAnswers
from .answering import Answered
from .exchange import ChatRequest, TextRequest

Admit = Callable[[object], object]
"""A source of a picture, sound or video to what may be opened; raises ``InputError`` over what may not."""


@dataclass(frozen=True)
class Asked:
    """A request for a conversation's next turn.

    Attributes:
        request: as it came.
        thinking: whether the model thinks first.
    """

    request: ChatRequest
    thinking: bool


class ChatFormat:
    """How a checkpoint's conversations are written and read. Any thread may use it.

    Args:
        checkpoint: whose.
        takes_media: whether it takes any.
        admit: what may be opened of what a conversation shows.
        options: how many soft tokens and frames that takes.
    """

    def __init__(self, checkpoint: Checkpoint, takes_media: bool, admit: Admit, options: MediaOptions):
        self._checkpoint, self._processor = checkpoint, checkpoint.processor
        self._takes_media, self._admit, self._options = takes_media, admit, options
        self._issued = IssuedCalls()
        self._written = WrittenAnswers(checkpoint.processor)
        self._renderer = Renderer(checkpoint.processor, self._issued.find, self._written.find)

    @property
    def thinks(self) -> bool:
        """Whether the model can be asked to think."""
        return self._renderer.thinks

    @property
    def takes_tools(self) -> bool:
        """Whether it can be told of tools."""
        return self._renderer.takes_tools

    def prepare(self, asked: Asked) -> PreparedPrompt:
        """A conversation as the model reads it.

        Raises:
            InputError: it is malformed, or shows what cannot be opened, or may not.
        """
        rendered = self._rendered(asked)
        if not rendered.media:
            return PreparedPrompt(self._processor.tokenize(rendered.text))
        if not self._takes_media:
            return self._checkpoint.prepare("", rendered.media)  # which says so
        return self._media.expand(rendered.text, self._admitted(rendered.media), self._options)

    def render(self, asked: Asked) -> str:
        """The same as text, each picture and sound one placeholder.

        Raises:
            InputError: it is malformed.
        """
        return self._renderer.shown(self._rendered(asked).text)

    def reader(self, prompt: Sequence[int], options: GenerationOptions) -> TurnReader:
        """What turns an answer's tokens into text."""
        return TurnReader(self._processor, prompt, stop=options.stop, skip_special_tokens=options.skip_special_tokens)

    def constraint(
        self, prompt: Sequence[int], request: ChatRequest, options: GenerationOptions, enough: Callable[[], bool]
    ) -> Callable[[], Constraint] | None:
        """What holds an answer, made anew for each.

        Args:
            prompt: token ids.
            request: as it came.
            options: of its answers.
            enough: whether the model is to answer now; ``bool`` if nobody is going to say so.

        Raises:
            InputError: a grammar or a tool that is not supported.
        """
        wishes = TurnWishes(
            tools=request.tools,
            tool_choice=request.tool_choice,
            named_tool=request.named_tool,
            parallel_tool_calls=request.parallel_tool_calls,
            limit=Limit(request.thinking_budget, enough),
        )
        ends, vocabulary = stop_tokens(self._checkpoint, options), self._checkpoint.config.vocab_size
        return turn_constraint(self._processor, options, prompt, ends, vocabulary, wishes)

    def remember(self, prompt: PreparedPrompt, answered: Answered) -> None:
        """Keep what the model wrote, for when it comes back in a later request."""
        turn = answered.turn
        if isinstance(turn, TurnReader) and turn.issued is not None:
            self._issued.remember(turn.issued)
        else:
            self._written.remember(prompt.tokens, answered.tokens, answered.text)

    def remember_cut(self, prompt: PreparedPrompt, tokens: Sequence[int]) -> None:
        """Keep what the model wrote until nobody wanted more of it."""
        self._written.remember_cut(prompt.tokens, tokens)

    def following(self, asked: Asked, prompt: PreparedPrompt, answered: Answered) -> Sequence[int]:
        """How the conversation's next prompt begins, if not with the prompt and the answer as they are."""
        whole, request = [*prompt.tokens, *answered.tokens], asked.request
        if answered.turn.calls:
            return whole if answered.turn.thought_tokens else ()
        turns = self._processor.turn_begins(prompt.tokens)
        shows = any(each.start > turns[-1] for each in prompt.media) if turns else bool(prompt.media)
        if shows or request.continue_last or not answered.text.strip():
            history = self._processor.history(prompt.tokens, answered.tokens)
            return history if len(history) < len(whole) else ()
        tokens = self._next(asked, prompt, answered.text)
        return () if tokens[: len(whole) - 1] == whole[:-1] else tokens

    def _next(self, asked: Asked, prompt: PreparedPrompt, answer: str) -> list[int]:
        """The prompt that goes on with an answer, up to the token that begins the user's turn.

        What the conversation shows is not opened again: up to the answer's turn it is the prompt that there was.
        """
        messages = [
            *asked.request.messages,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "?"},
        ]
        rendered = self._renderer.render(messages, tools=asked.request.tools, thinking=asked.thinking)
        tokens = self._processor.tokenize(rendered.text)
        turns = self._processor.turn_begins(tokens)
        if len(turns) < 2:
            return []
        if not prompt.media:
            return tokens[: turns[-2] + 1]
        before = self._processor.turn_begins(prompt.tokens)
        return [*prompt.tokens[: before[-1]], *tokens[turns[len(before) - 1] : turns[-2] + 1]]

    def _rendered(self, asked: Asked) -> Rendered:
        for text, tokens in asked.request.written:
            self._written.recall(text, tokens)
        request = asked.request
        return self._renderer.render(
            request.messages, tools=request.tools, thinking=asked.thinking, continue_last=request.continue_last
        )

    @cached_property
    def _media(self) -> MediaProcessor:
        return MediaProcessor.from_pretrained(self._checkpoint.folder, self._processor)

    def _admitted(self, media: Media) -> Media:
        return Media(*(tuple(map(self._admit, sources)) for sources in (media.pictures, media.sounds, media.videos)))


def raw_reader(checkpoint: Checkpoint, options: GenerationOptions) -> TurnReader:
    """What turns the tokens behind raw text into text."""
    skips = options.skip_special_tokens
    return TurnReader(checkpoint.processor, stop=options.stop, channels=False, skip_special_tokens=skips)


def raw_prompt(checkpoint: Checkpoint, prompt: str | Sequence[int]) -> PreparedPrompt:
    """Raw text, or token ids, as the model reads them.

    Raises:
        InputError: there is nothing, or what is no text.
    """
    return PreparedPrompt(checkpoint.processor.encode(prompt if isinstance(prompt, str) else list(prompt), chat=False))


def raw_constraint(
    checkpoint: Checkpoint, prompt: Sequence[int], request: TextRequest, options: GenerationOptions
) -> Callable[[], Constraint] | None:
    """What a grammar among the options makes of the text behind raw text; None without one.

    Raises:
        InputError: it is not supported.
    """
    if options.grammar is None:
        return None
    ends = stop_tokens(checkpoint, options)
    return checkpoint.processor.grammar(options, prompt, ends, checkpoint.config.vocab_size)


def stop_tokens(checkpoint: Checkpoint, options: GenerationOptions) -> frozenset[int]:
    """The ids that end an answer."""
    processor = checkpoint.processor
    return processor.eos_token_ids | processor.stop_ids(options.stop)
