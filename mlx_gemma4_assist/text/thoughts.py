"""What holds a thought before a text: how it begins, how long it may be, and that it ends when it is told to."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from .masks import ALL, Words, allow, forbid, only

BEFORE, ANSWER = 0, -1  # where a text is; from 1 on, so many tokens of a thought's beginning have come


class TextState(Protocol):
    """What holds the text behind a thought: ``engine.guiding.Constraint``, and where thoughts may begin in it.

    Attributes:
        error: why the text could not go on, None if it could.
        thoughts: whether a thought may begin where the text is.
    """

    @property
    def error(self) -> str | None: ...
    @property
    def thoughts(self) -> bool: ...
    def mask(self, words: Words) -> int | None: ...
    def take(self, token: int) -> None: ...
    def back(self, count: int) -> None: ...
    def forced(self) -> list[int]: ...


@dataclass(frozen=True)
class Thinking:
    """A thought that may come before the answer, or has begun already.

    Attributes:
        opening: the ids with which one begins: the marker, and its name.
        close: the id that ends it.
        begun: how many of the first are in the prompt.
    """

    opening: tuple[int, ...]
    close: int
    begun: int = BEFORE


def never() -> bool:
    """Nobody wants the model to answer now."""
    return False


@dataclass(frozen=True)
class Limit:
    """How long thoughts may be.

    Attributes:
        tokens: all of them in a turn, those of their beginnings not counted; None sets no limit.
        enough: whether somebody wants the model to answer now. It may be called in any thread, at any time; once it has
            returned True it always does.
    """

    tokens: int | None = None
    enough: Callable[[], bool] = never

    def reached(self, spent: int) -> bool:
        """Whether no more is to be thought."""
        return (self.tokens is not None and spent >= self.tokens) or self.enough()


class ThoughtFirst:
    """How far a text has come that may begin with a thought; ``text`` holds what is no thought.

    A thought is free, but that it begins as the template spells it, and nothing in it ends the text, or is for outside.

    Args:
        text: in the state of a text that has not begun.
        thinking: how a thought begins and ends, and whether it has.
        outside: the ids that never come in a thought: those that end a text, or begin something else.
        limit: of thoughts.
    """

    def __init__(self, text: TextState, thinking: Thinking, outside: Collection[int], limit: Limit):
        self._text, self._thinking, self._limit = text, thinking, limit
        self._outside = [*outside, thinking.opening[0]]
        # Behind each token: where the text is, tokens of thoughts, whether ``text`` has taken the token.
        self._places = [(thinking.begun, 0, False)]

    @property
    def error(self) -> str | None:
        """Why the text could not go on, None if it could."""
        return self._text.error

    @property
    def thoughts(self) -> bool:
        """Whether a thought may begin where the text is."""
        return self._places[-1][0] == BEFORE or (self._places[-1][0] == ANSWER and self._text.thoughts)

    @property
    def _stopped(self) -> bool:
        return self._limit.reached(self._places[-1][1])

    def mask(self, words: Words) -> int | None:
        """Write which ids may come next; return the only one, if there is no choice."""
        place, thinking = self._places[-1][0], self._thinking
        if place in (BEFORE, ANSWER) or self.error is not None:
            return self._outside_thoughts(words, place)
        if place < len(thinking.opening):
            return only(words, thinking.opening[place])
        if self._stopped:
            return only(words, thinking.close)
        words[:] = ALL
        forbid(words, self._outside)
        return None

    def _outside_thoughts(self, words: Words, place: int) -> int | None:
        found, opening = self._text.mask(words), self._thinking.opening[0]
        if self._text.thoughts and self._stopped:
            forbid(words, [opening])
        elif place == BEFORE and not self._stopped:
            allow(words, [opening])
            return None
        return found

    def take(self, token: int) -> None:
        """The text goes on with this token."""
        place, spent, _ = self._places[-1]
        after = self._after(place, token)
        taken = after == ANSWER and place in (ANSWER, BEFORE)
        if taken:
            self._text.take(token)
        spent += place == after == len(self._thinking.opening)
        self._places.append((after, spent, taken))

    def _after(self, place: int, token: int) -> int:
        """Where the text is behind a token."""
        thinking = self._thinking
        if place == BEFORE or (place == ANSWER and self._text.thoughts):
            return 1 if token == thinking.opening[0] else ANSWER
        if place == ANSWER:
            return ANSWER
        if place < len(thinking.opening):
            return place + 1 if token == thinking.opening[place] else ANSWER
        return ANSWER if token == thinking.close else place

    def back(self, count: int) -> None:
        """The last ``count`` tokens were not meant."""
        if count:
            taken = sum(taken for _, _, taken in self._places[-count:])
            del self._places[-count:]
            self._text.back(taken)

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice."""
        place, thinking = self._places[-1][0], self._thinking
        if self.error is not None or (place == BEFORE and not self._stopped):
            return []
        if place in (BEFORE, ANSWER):
            return self._text.forced()
        if place < len(thinking.opening):
            return list(thinking.opening[place:])
        return [thinking.close, *self._text.forced()] if self._stopped else []
