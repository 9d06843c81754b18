"""Channels of a model's turn: what it answers, what it thinks, which tools it calls.

They are told apart by token ids, never by text: text that only spells a marker stays text.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tokenizers import Tokenizer

from .detokenizer import Detokenizer
from .stops import StopStrings

OPEN, CLOSE = "<|channel>", "<channel|>"
CALL, END_OF_CALL = "<|tool_call>", "<tool_call|>"
TURN = "<|turn>"
QUOTE = '<|"|>'
"""What stands around strings in calls of tools."""
THOUGHT = "thought\n"
"""What a channel of thoughts begins with."""
_WELL_FORMED = re.compile(r"call:[^{}]+\{.*\}", re.DOTALL)


class Channel(StrEnum):
    """What a piece of generated text is; its members equal their names in lower case."""

    ANSWER = "answer"
    THOUGHT = "thought"
    TOOL_CALL = "tool_call"


@dataclass(frozen=True)
class Markers:
    """The ids of tokens that switch channels, begin turns or quote; None for those that a tokenizer does not have."""

    open: int | None = None
    close: int | None = None
    call: int | None = None
    end_of_call: int | None = None
    turn: int | None = None
    quote: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Markers":
        """By their names, which are Gemma 4's."""
        return cls(*(tokenizer.token_to_id(name) for name in (OPEN, CLOSE, CALL, END_OF_CALL, TURN, QUOTE)))

    @property
    def ids(self) -> frozenset[int]:
        """Of those that switch channels."""
        return frozenset(i for i in (self.open, self.close, self.call, self.end_of_call) if i is not None)

    def unfinished(self, prompt: Sequence[int], ends: Collection[int]) -> list[int]:
        """The end of a prompt that has opened a channel and not closed it, from its marker on; empty mostly."""
        for place in range(len(prompt) - 1, -1, -1):
            if prompt[place] == self.open:
                return list(prompt[place:])
            if prompt[place] == self.close or prompt[place] in ends:
                break
        return []

    def without_channels(self, tokens: Sequence[int]) -> list[int]:
        """A turn as history has it: thoughts are left out, and what is not closed."""
        kept, inside = [], False
        for token in tokens:
            if token in (self.open, self.close):
                inside = token == self.open
            elif not inside:
                kept.append(token)
        return kept


def named_channel(begun: str) -> Channel | None:
    """Which channel a name opens, as far as it has come; None as long as it may be either."""
    if begun.startswith(THOUGHT):
        return Channel.THOUGHT
    return None if THOUGHT.startswith(begun) else Channel.ANSWER


class Piece(NamedTuple):
    """Text of one channel."""

    text: str
    channel: Channel = Channel.ANSWER


class ChannelText:
    """A turn's tokens to text, each piece of one channel.

    Thoughts and answers come as soon as their text is known; a channel of another name is answer. A call of a tool
    comes as a whole with the token that ends it, and with the special tokens that quote its strings; one that is
    malformed or never ends comes as answer.

    Attributes:
        stopped: whether the answer has reached a stop string; in thoughts and calls there are none.

    Args:
        detokenizer: makes a fresh one, which skips special tokens or does not.
        markers: of the tokenizer; without any, all is answer.
        stop: cuts the answer.
        raw: whether all is answer, and has its special tokens.
    """

    def __init__(
        self,
        detokenizer: Callable[[bool], Detokenizer],
        markers: Markers,
        stop: StopStrings,
        *,
        raw: bool = False,
    ):
        self.stopped = False
        self._fresh, self._markers, self._stop = detokenizer, markers, stop
        self._switches = frozenset() if raw else markers.ids
        self._channel = Channel.ANSWER
        self._detokenizer = detokenizer(not raw)
        self._held = ""  # of a call, or of the name of a channel
        self._named = True

    def add(self, token: int) -> Piece:
        """The text that a token finishes. A marker finishes what was held back of the channel before it."""
        if token not in self._switches:
            return self._take(self._detokenizer.add(token))
        piece = self._leave(ended=token == self._markers.end_of_call)
        opened = {self._markers.open: Channel.THOUGHT, self._markers.call: Channel.TOOL_CALL}
        self._channel = opened.get(token, Channel.ANSWER)
        self._detokenizer = self._fresh(self._channel is not Channel.TOOL_CALL)
        self._held, self._named = "", token != self._markers.open
        return piece

    def finish(self) -> Piece:
        """The text that was held back, when no more tokens are to come."""
        return self._leave(ended=False)

    def _take(self, text: str) -> Piece:
        if self._channel is Channel.ANSWER:
            return Piece(self._cut(text))
        if self._channel is Channel.THOUGHT and self._named:
            return Piece(text, Channel.THOUGHT)
        self._held += text
        named = named_channel(self._held)
        if self._channel is Channel.TOOL_CALL or named is None:
            return Piece("", self._channel)
        self._named = True
        if named is Channel.THOUGHT:
            return Piece(self._held.removeprefix(THOUGHT), Channel.THOUGHT)
        self._channel = Channel.ANSWER
        return Piece(self._cut(self._held))

    def _leave(self, *, ended: bool) -> Piece:
        piece = self._take(self._detokenizer.finalize())
        if self._channel is Channel.ANSWER:
            return Piece(piece.text + self._rest())
        if self._channel is Channel.THOUGHT or not self._held:
            return piece
        if ended and _WELL_FORMED.fullmatch(self._held):
            return Piece(self._held, Channel.TOOL_CALL)
        return Piece(self._cut(f"{CALL}{self._held}{END_OF_CALL if ended else ''}") + self._rest())

    def _cut(self, answer: str) -> str:
        safe, self.stopped = self._stop.feed(answer)
        return safe

    def _rest(self) -> str:
        return "" if self.stopped else self._stop.flush()


def without_channels(text: str) -> str:
    """An earlier turn as Gemma's chat template shows it: thoughts are left out, and what is not closed."""
    return "".join(part.partition(OPEN)[0] for part in text.split(CLOSE))
