"""Rows whose text a grammar holds: what the host tells the device between the two halves of a round.

    submit   the first half of round r + 1: draft and verify, while round r is still being settled;
    read     round r; the grammars go on by what it emitted;
    masks    the drafts of round r + 1 are known long before the target has verified them: which ids may come behind
             each is found meanwhile;
    settle   the second half of round r + 1: accept and advance, under these masks.

Where a grammar leaves no choice, the host knows what a round will emit before the device does. What the grammar forces
behind that are the next round's drafts, in the place of the assistant's; nobody waits for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..text.masks import ALL, Words, has


class Constraint(Protocol):
    """What holds one text, in the state that the text has reached: ``text.grammar.GrammarState``.

    What may come next depends on the tokens of the text alone.

    Attributes:
        error: why the text could not go on; None if it could.
    """

    @property
    def error(self) -> str | None: ...
    def mask(self, words: Words) -> int | None:
        """Write which ids may come next; return the only one, if there is no choice."""

    def take(self, token: int) -> None:
        """The text goes on with this token."""

    def back(self, count: int) -> None:
        """The last ``count`` tokens were not meant."""

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice."""


@dataclass(eq=False)
class Held:
    """A row's constraint, and what is known of the rounds behind what has been read.

    Attributes:
        constraint: in the state of the text as far as it has been read.
        longest: how many of a round's drafts what is forced may be; 0 leaves all to the assistant.
        behind: what must follow the last round in flight, if that is known.
    """

    constraint: Constraint
    longest: int
    behind: list[int] = field(default_factory=list)

    def advance(self, tokens: Sequence[int]) -> None:
        """A round was read."""
        for token in tokens:
            self.constraint.take(token)

    def known(self, unread: bool) -> list[int]:
        """The first tokens that the next round must give, if they are known already.

        Args:
            unread: whether the row has a part in a round in flight.
        """
        if self.longest == 0:
            return []
        return (self.behind if unread else self.constraint.forced())[: self.longest]

    def mask(self, drafts: Sequence[int], words: Sequence[Words]) -> None:
        """Write the mask of each place of a round, up to the first draft that may not come: it falls.

        Everything that was emitted before the round has been read.

        Args:
            drafts: those that count.
            words: of one place more.
        """
        constraint, taken, certain = self.constraint, 0, True
        for place, row in enumerate(words):
            only = constraint.mask(row)
            certain = certain and only is not None
            if place == len(drafts) or not has(row, drafts[place]):
                break
            constraint.take(drafts[place])
            taken += 1
        self.behind = []
        if self.longest and certain and only is not None:
            constraint.take(only)
            taken += 1
            self.behind = constraint.forced()
        constraint.back(taken)


class Guide:
    """Speaks for the rows of a batch that are held; nothing is said of the others.

    Args:
        rows: what holds each.
        vocabulary: of the target.
    """

    def __init__(self, rows: Sequence[Held | None], vocabulary: int):
        self._rows, self._width = rows, -(-vocabulary // 32)
        self.limits: Sequence[int] = []

    def known(self, count: int, unread: Sequence[bool]) -> tuple[mx.array, bool]:
        """As ``loop.Guide`` has it."""
        found, all_known = np.full((len(self._rows), count), -1, np.int32), count > 0
        for row, held in enumerate(self._rows):
            tokens = [] if held is None else held.known(unread[row])[:count]
            found[row, : len(tokens)] = tokens
            all_known = all_known and len(tokens) >= min(self.limits[row], count)
        return mx.array(found), all_known

    def masks(self, drafts: Sequence[Sequence[int]]) -> mx.array:
        """As ``loop.Guide`` has it. Of each row as many drafts count as ``limits`` says."""
        words = np.full((len(self._rows), len(drafts[0]) + 1, self._width), ALL)
        for row, held in enumerate(self._rows):
            if held is not None:
                counted = drafts[row][: self.limits[row]]
                held.mask(counted, list(words[row, : len(counted) + 1]))
        return mx.array(words)
