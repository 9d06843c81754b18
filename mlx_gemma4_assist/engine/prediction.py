"""A text that an answer is likely to repeat: where the answer follows it, its next tokens are drafts.

Nothing is forced: the target verifies these drafts like any others. Where the answer leaves the text, the assistant
drafts again; where its last tokens stand in the text once more, it is followed from there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..options import MAX_DRAFTS
from ..text.masks import ALL, Words
from .guiding import Held

LEAST, MOST = 3, 24
"""Tokens of an answer by which its place in the text is found again. More are asked for after a place was wrong."""


class _Place(NamedTuple):
    """Where an answer is in the text.

    Attributes:
        next: the place of what is likely to follow; None where nothing is known.
        recent: the answer's last tokens.
        last: the last place that was known.
        followed: for how many tokens the answer has followed the text up to here.
        needed: how many of the last tokens must stand in the text for it to be followed from there.
    """

    next: int | None = 0
    recent: tuple[int, ...] = ()
    last: int = 0
    followed: int = 0
    needed: int = LEAST


class Prediction:
    """Follows an answer through the text that it is likely to repeat.

    Args:
        tokens: of the text.
        begins: behind these ids the answer begins, and with it perhaps the text.
    """

    def __init__(self, tokens: Sequence[int], begins: Collection[int] = ()):
        self._text, self._begins = tuple(tokens), frozenset(begins)
        self._place = _Place()
        self._places: dict[tuple[int, ...], list[int]] = {}  # behind each run of ``LEAST`` tokens
        for end in range(LEAST, len(self._text)):
            self._places.setdefault(self._text[end - LEAST : end], []).append(end)

    def take(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these."""
        for token in tokens:
            self._place = self._behind(self._place, token)

    def following(self) -> Sequence[int]:
        """What is likely to follow, as far as two rounds can use it."""
        place = self._place.next
        return () if place is None else self._text[place : place + 2 * MAX_DRAFTS + 2]

    def _behind(self, place: _Place, token: int) -> _Place:
        """Where the answer is behind one token more."""
        recent, at = (*place.recent, token)[-MOST:], place.next
        if token in self._begins:
            return _Place(recent=recent)
        if at is None:
            return self._found(place._replace(recent=recent))
        if at < len(self._text) and self._text[at] == token:
            return _Place(at + 1, recent, at + 1, place.followed + 1, place.needed)
        needed = LEAST if place.followed >= place.needed else min(2 * place.needed, MOST)
        return self._found(_Place(None, recent, place.last, 0, needed))

    def _found(self, place: _Place) -> _Place:
        """The first place behind the last tokens that is not before the last one known, or else any."""
        needed = place.recent[-place.needed :]
        ends = self._places.get(needed[-LEAST:], ())
        fitting = [end for end in ends if self._text[max(0, end - place.needed) : end] == needed]
        found = next((end for end in fitting if end >= place.last), fitting[0] if fitting else None)
        return place if found is None else place._replace(next=found, last=found)


class Free:
    """Lets any token come: ``guiding.Constraint``."""

    error = None

    def mask(self, words: Words) -> int | None:
        words[:] = ALL
        return None

    def take(self, token: int) -> None:
        pass

    def back(self, count: int) -> None:
        pass

    def forced(self) -> list[int]:
        return []


@dataclass(eq=False)
class Foreseen(Held):
    """A row whose text is likely to go on like another.

    What is forced comes first. While a round is in flight, it is supposed to emit what the other text has: its drafts
    as far as they agree with that, and one token more. Where it does not, the next round's drafts fall.

    Attributes:
        prediction: follows the text as far as it has been read.
        supposed: drafts for the round behind the last one in flight.
    """

    prediction: Prediction = field(default_factory=lambda: Prediction(()))
    supposed: Sequence[int] = ()

    def advance(self, tokens: Sequence[int]) -> None:
        super().advance(tokens)
        self.prediction.take(tokens)

    def known(self, unread: bool) -> list[int]:
        forced = super().known(unread)
        if forced or self.longest == 0:
            return forced
        return list((self.supposed if unread else self.prediction.following())[: self.longest])

    def mask(self, drafts: Sequence[int], words: Sequence[Words]) -> None:
        super().mask(drafts, words)
        following = self.prediction.following()
        alike = [one == other for one, other in zip(drafts, following, strict=False)]
        agreed = alike.index(False) if False in alike else len(alike)
        self.supposed = following[agreed + 1 :]
