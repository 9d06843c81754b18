"""Which tokens the text of a reply comes from: the target's own, or drafts of its assistant.

Tokens come with the text that each has alone, in the same event as the text that they finish, or before it. Some of
that text is never shown: markers, names of channels, the line's end before a thought is closed, calls of tools, what a
stop string cuts. What is left is shown in its order, thoughts and answers each for themselves.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import NamedTuple

from ..text.channels import CALL, CLOSE, END_OF_CALL, OPEN, THOUGHT, Channel, named_channel
from .exchange import TokenInfo

PART_OF_CHARACTER = "\ufffd"  # the text of a token that is one byte of a character
MOST_SKIPPED = 24  # tokens that give no text, where that was not to be known from the tokens before


@dataclass(frozen=True)
class Span:
    """A piece of text that comes from one place of rounds.

    Attributes:
        text: of one token, of several that follow one another, or of a part of one.
        draft: 0 where the target chose the tokens, n where they were the n-th drafts of their rounds. A character that
            several tokens make has the place of the last one.
    """

    text: str
    draft: int = 0


class _Token(NamedTuple):
    """What is left of a token's text; ``in_call`` if it belongs to a call, which is shown only if it is malformed."""

    text: str
    draft: int
    in_call: bool = False


class _Where(Enum):
    """Which part of a turn tokens belong to. Whether the prompt has opened a thought is not known at first."""

    BEGINNING = auto()
    ANSWER = auto()
    NAME = auto()
    THOUGHT = auto()
    CALL = auto()


class Sources:
    """The tokens of one reply, as far as their text has not been shown."""

    def __init__(self) -> None:
        self._where = _Where.BEGINNING
        self._begun: list[_Token] = []  # of the beginning, or of a channel's name
        self._answer: deque[_Token] = deque()
        self._thoughts: deque[_Token] = deque()  # that are closed
        self._thought: deque[_Token] = deque()  # that goes on
        self._blank = True  # whether that has nothing but white space

    def take(self, tokens: Iterable[TokenInfo]) -> None:
        """Tokens that have come."""
        for token in tokens:
            if token.text in (OPEN, CLOSE, CALL):
                self._switch(token)
            elif token.text:
                self._add(_Token(token.text, token.draft))

    def called(self) -> None:
        """The next call was told of as one: nothing of it is shown."""
        place = next((i for i, token in enumerate(self._answer) if token.in_call and token.text == CALL), None)
        if place is None:
            return
        before = [self._answer.popleft() for _ in range(place)]
        _pop_call(self._answer)
        self._answer.extendleft(token for token in reversed(before) if not token.in_call)

    def spans(self, text: str, *, thought: bool) -> tuple[Span, ...]:
        """Text that is shown, in pieces; together they are the text."""
        if self._where is _Where.BEGINNING:
            self._begin(_Where.THOUGHT if thought else _Where.ANSWER)
        if thought:
            self._thoughts += self._thought
            self._thought.clear()
        found: list[Span] = []
        for part, draft in _divided(text, self._thoughts if thought else self._answer):
            if found and found[-1].draft == draft:
                found[-1] = Span(found[-1].text + part, draft)
            else:
                found.append(Span(part, draft))
        return tuple(found)

    def _switch(self, token: TokenInfo) -> None:
        """A marker begins or ends a channel."""
        if self._where is _Where.BEGINNING:
            self._begin(_Where.THOUGHT if token.text == CLOSE else _Where.ANSWER)
        if self._where is _Where.THOUGHT:
            self._close()
        self._begun, self._blank = [], True
        if token.text == CALL:
            self._where = _Where.CALL
            self._add(_Token(token.text, token.draft))
        else:
            self._where = _Where.NAME if token.text == OPEN else _Where.ANSWER

    def _add(self, token: _Token) -> None:
        if self._where in (_Where.BEGINNING, _Where.NAME):
            self._begun.append(token)
            if self._where is _Where.NAME:
                self._look_at_name()
        elif self._where is _Where.THOUGHT:
            self._blank = self._blank and not token.text.strip()
            self._thought.append(token)
        else:
            self._answer.append(token._replace(in_call=self._where is _Where.CALL))
            if token.text == END_OF_CALL:
                self._where = _Where.ANSWER

    def _begin(self, where: _Where) -> None:
        """It is known now what the first tokens belong to."""
        begun, self._begun, self._where = self._begun, [], where
        for token in begun:
            self._add(token)

    def _look_at_name(self) -> None:
        """Whether a channel's name tells by now what it is; a thought's name is not shown."""
        named = named_channel("".join(token.text for token in self._begun))
        if named is Channel.ANSWER:
            self._begin(_Where.ANSWER)
        elif named is Channel.THOUGHT:
            last = self._begun[-1]
            rest = "".join(token.text for token in self._begun)[len(THOUGHT) :]
            self._begun = [last._replace(text=rest)] if rest else []
            self._begin(_Where.THOUGHT)

    def _close(self) -> None:
        """A thought is over: without the line's end before its marker, and without all if it is white space only."""
        if self._blank:
            self._thought.clear()
        elif self._thoughts or self._thought:
            left = self._thought or self._thoughts
            last = left.pop()
            if text := last.text.removesuffix("\n"):
                left.append(last._replace(text=text))
        self._thoughts += self._thought
        self._thought.clear()


def _divided(text: str, tokens: deque[_Token]) -> Iterator[tuple[str, int]]:
    """Text in pieces, each with the place of its draft; tokens are taken away as their text is used up."""
    while text:
        length, draft = _next(text, tokens)
        if length:
            yield text[:length], draft
        text = text[length:]


def _next(text: str, tokens: deque[_Token]) -> tuple[int, int]:
    """How much of a text comes from one token, and the token's draft; nothing where a token was only passed over."""
    if not tokens:
        return len(text), 0
    first = tokens[0]
    if first.in_call:
        _settle_call(text, tokens)
        return 0, 0
    if _fits(text, first):
        if len(first.text) <= len(text):
            tokens.popleft()
            return len(first.text), first.draft
        tokens[0] = first._replace(text=first.text[len(text) :])
        return len(text), first.draft
    if first.text == PART_OF_CHARACTER:
        return _character(text[0], tokens)
    return _passed_over(text, tokens)


def _settle_call(text: str, tokens: deque[_Token]) -> None:
    """A call is shown from its marker on, or not at all."""
    call = _pop_call(tokens)
    if call[0].text == CALL and _fits(text, call[0]):
        tokens.extendleft(token._replace(in_call=False) for token in reversed(call))


def _pop_call(tokens: deque[_Token]) -> list[_Token]:
    """The tokens of the call that comes first."""
    call = [tokens.popleft()]
    while tokens and tokens[0].in_call and tokens[0].text != CALL:
        call.append(tokens.popleft())
    return call


def _fits(text: str, token: _Token) -> bool:
    return text.startswith(token.text) or token.text.startswith(text)


def _character(character: str, tokens: deque[_Token]) -> tuple[int, int]:
    """A character of which each byte was a token; one byte alone is never the whole of another character."""
    size, draft = len(character.encode(errors="replace")), 0
    if size == 1:
        tokens.popleft()
        return 0, 0
    for _ in range(size):
        if tokens and tokens[0].text == PART_OF_CHARACTER:
            draft = tokens.popleft().draft
    return 1, draft


def _passed_over(text: str, tokens: deque[_Token]) -> tuple[int, int]:
    """The next token has text that was not shown, or the text is not what tokens have alone, such as trimmed blanks."""
    fitting = (i for i, token in enumerate(islice(tokens, MOST_SKIPPED)) if _fits(text, token))
    skipped = next(fitting, None)
    if skipped is not None:
        for _ in range(skipped):
            tokens.popleft()
        return 0, 0
    later = text.find(tokens[0].text)
    if later > 0:
        return later, tokens[0].draft
    return 1, tokens.popleft().draft
