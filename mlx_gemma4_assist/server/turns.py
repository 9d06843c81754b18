"""Prompts and answers of the two kinds of requests: conversations by the checkpoint's chat format, and raw text.

All that depends on how conversations are written and read is here.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property

from ..engine.guiding import Constraint
from ..engine.pair import Checkpoint
from ..media.prepared import PreparedPrompt
from ..media.processor import MediaProcessor
from ..options import GenerationOptions
from ..text.channels import Channel, ChannelText, Markers
from ..text.control import SEAM
from ..text.deltas import AnswerDelta, Delta, ThoughtDelta
from ..text.detokenizer import Detokenizer
from ..text.messages import Media, split_media
from ..text.stops import StopStrings
from .answering import Turn
from .exchange import ChatRequest

Admit = Callable[[object], object]
"""A source of a picture, sound or video to what may be opened; raises ``InputError`` over what may not."""


class ChannelTurn:
    """A conversation's turn: :class:`answering.Turn`."""

    def __init__(self, text: ChannelText, markers: Markers, stops: StopStrings, ends: Collection[int], thinks: bool):
        self.ended, self.calls, self.thought_tokens = False, 0, 0
        self._text, self._markers, self._stops, self._ends, self._thinks = text, markers, stops, ends, thinks

    @property
    def stop(self) -> str | None:
        return self._stops.matched

    def add(self, tokens: Iterable[int]) -> list[Delta]:
        deltas: list[Delta] = []
        for token in tokens:
            if token in self._ends:
                return deltas + self.finish()
            if token in (self._markers.open, self._markers.close):
                self._thinks = token == self._markers.open
            else:
                self.thought_tokens += self._thinks
            deltas.append(_delta(*self._text.add(token)))
            self.ended = self._text.stopped
        return deltas

    def finish(self) -> list[Delta]:
        if self.ended:
            return []
        self.ended = True
        return [_delta(*self._text.finish())]


def _delta(text: str, channel: Channel) -> Delta:
    return ThoughtDelta(text) if channel is Channel.THOUGHT else AnswerDelta(text)


class RawTurn:
    """Text that goes on after raw text: :class:`answering.Turn`."""

    def __init__(self, text: Detokenizer, stops: StopStrings, ends: Collection[int]):
        self.ended, self.calls, self.thought_tokens = False, 0, 0
        self._text, self._stops, self._ends = text, stops, ends

    @property
    def stop(self) -> str | None:
        return self._stops.matched

    def add(self, tokens: Iterable[int]) -> list[Delta]:
        deltas: list[Delta] = []
        for token in tokens:
            if token in self._ends:
                return deltas + self.finish()
            safe, self.ended = self._stops.feed(self._text.add(token))
            deltas.append(AnswerDelta(safe))
        return deltas

    def finish(self) -> list[Delta]:
        if self.ended:
            return []
        safe, stopped = self._stops.feed(self._text.finalize())
        self.ended = True
        return [AnswerDelta(safe if stopped else safe + self._stops.flush())]


class ChatFormat:
    """How a checkpoint's conversations are written and read.

    Args:
        checkpoint: whose.
        takes_media: whether it takes any.
        admit: what may be opened of what a conversation shows.
    """

    def __init__(self, checkpoint: Checkpoint, takes_media: bool, admit: Admit):
        self._checkpoint, self._processor = checkpoint, checkpoint.processor
        self._takes_media, self._admit = takes_media, admit

    def prepare(self, request: ChatRequest, thinking: bool) -> PreparedPrompt:
        """A conversation as the model reads it.

        Raises:
            InputError: it is malformed, or shows what cannot be opened, or may not.
        """
        conversation = split_media(request.messages)
        if not conversation.media:
            return PreparedPrompt(self._processor.encode(conversation.messages, enable_thinking=thinking))
        if not self._takes_media:
            return self._checkpoint.prepare(conversation)  # which says so
        admitted = conversation._replace(media=self._admitted(conversation.media))
        return self._media.encode(admitted, enable_thinking=thinking)

    def render(self, request: ChatRequest, thinking: bool) -> str:
        """The same as text, each picture and sound one placeholder.

        Raises:
            InputError: it is malformed.
        """
        messages = split_media(request.messages).messages
        return self._processor.render(messages, enable_thinking=thinking).replace(SEAM, "")

    def turn(self, prompt: Sequence[int], request: ChatRequest, options: GenerationOptions) -> Turn:
        """What turns an answer's tokens into text."""
        stops, markers = StopStrings(options.stop), self._processor.markers
        thinks = bool(markers.unfinished(prompt, self._processor.eos_token_ids))
        text = self._processor.turn(prompt, stops, skip_special_tokens=options.skip_special_tokens)
        return ChannelTurn(text, markers, stops, stop_tokens(self._checkpoint, options), thinks)

    def constraint(
        self, prompt: Sequence[int], request: ChatRequest, options: GenerationOptions
    ) -> Callable[[], Constraint] | None:
        """What holds an answer, made anew for each.

        Raises:
            InputError: a grammar that is not supported.
        """
        return grammar_of(self._checkpoint, prompt, options)

    def following(self, prompt: Sequence[int], answer: Sequence[int], turn: Turn) -> Sequence[int]:
        """How the next prompt of a conversation begins, if not with the prompt and the answer as they are."""
        if turn.calls:
            return [*prompt, *answer] if turn.thought_tokens else ()
        history = self._processor.history(prompt, answer)
        return history if len(history) < len(prompt) + len(answer) else ()

    @cached_property
    def _media(self) -> MediaProcessor:
        return MediaProcessor.from_pretrained(self._checkpoint.folder, self._processor)

    def _admitted(self, media: Media) -> Media:
        return Media(*(tuple(map(self._admit, sources)) for sources in (media.pictures, media.sounds, media.videos)))


def stop_tokens(checkpoint: Checkpoint, options: GenerationOptions) -> frozenset[int]:
    """The ids that end an answer."""
    processor = checkpoint.processor
    return processor.eos_token_ids | processor.stop_ids(options.stop)


def grammar_of(
    checkpoint: Checkpoint, prompt: Sequence[int], options: GenerationOptions
) -> Callable[[], Constraint] | None:
    """What a grammar among the options makes of an answer; None without one.

    Raises:
        InputError: it is not supported.
    """
    if options.grammar is None:
        return None
    ends = stop_tokens(checkpoint, options)
    return checkpoint.processor.grammar(options, prompt, ends, checkpoint.config.vocab_size)
