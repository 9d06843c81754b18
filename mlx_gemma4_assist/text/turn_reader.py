"""A model's turn while it is written: token ids to pieces of its answer, of its thoughts, and of its calls of tools."""

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from .call_reader import CallReader
from .channels import CALL, END_OF_CALL, THOUGHT, Channel, Markers, named_channel
from .deltas import AnswerDelta, CallArguments, CallBegun, CallEnded, Delta, ThoughtDelta
from .issued import Issued, IssuedCall, may_be_spliced
from .stops import StopStrings

if TYPE_CHECKING:
    from .processor import Processor


def new_call_id() -> str:
    """One that no other call has."""
    return f"call_{secrets.token_hex(12)}"


class _Left(Enum):
    """Why a channel ends: by its own marker or another one; with the turn; since no more tokens come."""

    BY_MARKER = auto()
    BY_END = auto()
    CUT = auto()


class _Thought:
    """The text of a thought, without the white space around it that is the format's or all there is."""

    def __init__(self) -> None:
        self._held, self._begun = "", False

    def add(self, text: str) -> str:
        """What is sure to be shown."""
        text = self._held + text
        self._begun = self._begun or text.strip() != ""
        sure = len(text.removesuffix("\n")) if self._begun else 0
        self._held = text[sure:]
        return text[:sure]

    def rest(self) -> str:
        """What was held back, where the thought was not closed."""
        return self._held if self._begun else ""


class TurnReader:
    """Reads one turn.

    * Thoughts: a channel of another name than ``thought`` is answer. Thoughts of white space only are dropped, and so
      is the line's end before the token that closes them, since whoever renders a thought puts one there.
    * Calls: their arguments come as JSON as they are written. A call that is malformed, or not closed, before its first
      key has been read is answer, as it was written. Later nothing can be taken back. What is wrong then is mended: a
      call that its end or another marker closes has ended, and its JSON is whole. One that stops before, since no more
      tokens come or the turn ends within it, has not ended, and its JSON stays as it is: half an argument must not look
      whole.
    * Stops: stop strings cut the answer, nothing else. Nothing comes behind one, nor behind a token that ends the turn.

    Attributes:
        stop: the stop string that ended the turn, among them special tokens that were given as such; None so far.
        ended: whether nothing more comes of it.
        thought_tokens: tokens of thoughts, markers and names not counted.
        calls: how many have ended.

    Args:
        processor: of the checkpoint.
        prompt: token ids, which may have opened a channel.
        stop: strings that end the answer.
        ends: ids that end the turn; None for the processor's own.
        channels: whether thoughts and calls are told apart; all is answer otherwise, as for raw text.
        skip_special_tokens: whether they are left out of the answer; they are never part of thoughts.
        call_id: makes the ids of calls.
    """

    def __init__(
        self,
        processor: "Processor",
        prompt: Sequence[int] = (),
        *,
        stop: Iterable[str] = (),
        ends: Collection[int] | None = None,
        channels: bool = True,
        skip_special_tokens: bool = True,
        call_id: Callable[[], str] = new_call_id,
    ):
        self.stop: str | None = None
        self.ended, self.thought_tokens, self.calls = False, 0, 0
        self._processor, self._call_id, self._skip = processor, call_id, skip_special_tokens
        self._markers = processor.markers if channels else Markers()
        self._ends = frozenset(processor.eos_token_ids if ends is None else ends)
        stops, special = tuple(stop), processor.control.ids
        self._special_stops = {special[text]: text for text in stops if text in special}
        self._stops = StopStrings(text for text in stops if text not in special)
        self._deltas: list[Delta] = []
        self._begun: list[tuple[str, CallReader]] = []  # calls that have been told of
        self._tokens, self._text = list[int](), ""  # of the turn; of the answer
        self._issued: Issued | None = None
        self._enter(Channel.ANSWER)
        self._open(self._markers.unfinished(prompt, processor.eos_token_ids))

    @property
    def issued(self) -> Issued | None:
        """The turn up to the last call's end, for ``Renderer`` to put back; None without calls, or with mended ones."""
        return self._issued

    def add(self, tokens: Iterable[int]) -> list[Delta]:
        """What tokens bring, as far as it is sure to be shown."""
        for token in tokens:
            if self.ended:
                break
            self._take(token)
        return self._taken()

    def finish(self) -> list[Delta]:
        """What was held back, when no more tokens are to come."""
        if not self.ended:
            self._leave(_Left.CUT)
            self.ended = True
        return self._taken()

    def _open(self, begun: Sequence[int]) -> None:
        """Take the end of the prompt, which has opened a channel."""
        for token in begun:
            self._take(token)
        self._deltas, self._text, self.thought_tokens = [], "", 0

    def _taken(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return _joined(deltas)

    def _take(self, token: int) -> None:
        if token in self._ends or token in self._special_stops:
            self.stop = self._special_stops.get(token)
            self._leave(_Left.BY_END)
            self.ended = True
            return
        self._tokens.append(token)
        if token in self._markers.ids:
            self._switch(token)
        elif self._channel is Channel.TOOL_CALL:
            self._add_to_call(token)
        else:
            self.thought_tokens += self._channel is Channel.THOUGHT and self._named
            self._show(self._detokenizer.add(token))

    def _switch(self, token: int) -> None:
        closes = token == self._markers.end_of_call and self._channel is Channel.TOOL_CALL
        self._leave(_Left.BY_MARKER, END_OF_CALL if closes else "")
        opened = {self._markers.open: Channel.THOUGHT, self._markers.call: Channel.TOOL_CALL}
        self._enter(opened.get(token, Channel.ANSWER))
        if closes:
            self._remember()

    def _enter(self, channel: Channel) -> None:
        self._channel = channel
        skip = self._skip and channel is not Channel.TOOL_CALL
        self._detokenizer = self._processor.detokenizer(skip_special_tokens=skip)
        self._name, self._named = "", channel is not Channel.THOUGHT  # of a channel, as far as it has come
        self._thought, self._call = _Thought(), CallReader()

    def _leave(self, left: _Left, marker: str = "") -> None:
        """The channel is over."""
        if self._channel is Channel.TOOL_CALL:
            self._leave_call(left, marker)
            return
        self._show(self._detokenizer.finalize())
        if self._channel is not Channel.THOUGHT:
            self._rest()
        elif left is not _Left.BY_MARKER:
            self._deltas.append(ThoughtDelta(self._thought.rest()))

    def _show(self, text: str) -> None:
        """Text of a thought, or of the answer, or the name of a channel that will be either."""
        if self._channel is Channel.THOUGHT and not self._named:
            self._name += text
            named = named_channel(self._name)
            if named is None:
                return
            self._channel, self._named = named, True
            text = self._name.removeprefix(THOUGHT) if named is Channel.THOUGHT else self._name
        if self._channel is Channel.THOUGHT:
            self._deltas.append(ThoughtDelta(self._thought.add(text)))
        else:
            self._answer(text)

    def _answer(self, text: str) -> None:
        if self.ended:
            return
        safe, self.ended = self._stops.feed(text)
        self._text += safe
        self._deltas.append(AnswerDelta(safe))
        if self.ended:
            self.stop = self._stops.matched

    def _rest(self) -> None:
        """What was held back since a stop string might have come."""
        if not self.ended:
            rest = self._stops.flush()
            self._text += rest
            self._deltas.append(AnswerDelta(rest))

    # Calls

    def _add_to_call(self, token: int) -> None:
        if token != self._markers.quote:
            self._give(self._call.feed(self._detokenizer.add(token)))
            return
        self._give(self._call.feed(self._detokenizer.finalize()))
        self._give(self._call.quote())
        self._detokenizer = self._processor.detokenizer(skip_special_tokens=False)

    def _give(self, json_text: str) -> None:
        """A call goes on."""
        if not json_text:
            return
        if not self._begun or self._begun[-1][1] is not self._call:
            self._begun.append((self._call_id(), self._call))
            self._deltas.append(CallBegun(len(self._begun) - 1, self._begun[-1][0], self._call.name))
        self._deltas.append(CallArguments(len(self._begun) - 1, json_text))

    def _leave_call(self, left: _Left, marker: str) -> None:
        self._give(self._call.feed(self._detokenizer.finalize()))
        if not self._call.is_call:
            self._answer(f"{CALL}{self._call.raw}{marker}")
            self._rest()
        elif left is _Left.BY_MARKER or (left is _Left.BY_END and self._call.arguments.complete):
            self._give(self._call.end())
            self._deltas.append(CallEnded(len(self._begun) - 1))
            self.calls += 1

    def _remember(self) -> None:
        """A call was closed by its own marker: keep the turn up to here, if it can be put back as it is."""
        exact = self.calls == len(self._begun) and all(call.arguments.exact for _, call in self._begun)
        self._issued = None
        if exact and self._begun and may_be_spliced(self._tokens, self._processor.markers, self._processor.control):
            calls = tuple(IssuedCall(name, call.name, call.json) for name, call in self._begun)
            self._issued = Issued(tuple(self._tokens), self._text, calls)


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    """Without what is empty; neighbours of one kind as one."""
    found: list[Delta] = []
    for delta in deltas:
        match (found[-1] if found else None), delta:
            case _, AnswerDelta("") | ThoughtDelta("") | CallArguments(_, ""):
                pass
            case AnswerDelta(before), AnswerDelta(text):
                found[-1] = AnswerDelta(before + text)
            case ThoughtDelta(before), ThoughtDelta(text):
                found[-1] = ThoughtDelta(before + text)
            case CallArguments(index, before), CallArguments(same, text) if index == same:
                found[-1] = CallArguments(index, before + text)
            case _:
                found.append(delta)
    return found
