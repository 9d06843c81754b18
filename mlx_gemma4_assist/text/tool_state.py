"""What holds a turn in which tools may, must or must not be called."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from .grammar import Grammar, GrammarState
from .masks import ALL, Words, allow, forbid, only, single


@dataclass(frozen=True, kw_only=True)
class ToolRules:
    """What may be called, and what else may come.

    Attributes:
        begin, end: the ids around a call; None if the vocabulary has none.
        stops: the ids that end the turn.
        calls: the grammar of what follows the first of them, up to the second; None lets anything come.
        text: the grammar of a turn that calls nothing; None lets any text come, before calls and behind them.
        allowed: whether any call may come.
        required: whether there is nothing but calls.
        parallel: whether there may be more than one.
    """

    begin: int | None
    end: int | None
    stops: Collection[int]
    calls: Grammar | None = None
    text: Grammar | None = None
    allowed: bool = True
    required: bool = False
    parallel: bool = True


class _Place(Enum):
    BEGINNING = auto()
    TEXT = auto()
    CALL = auto()
    BEHIND = auto()  # a call
    ENDED = auto()


class ToolState:
    """How far a turn has come: ``thoughts.TextState``.

    Args:
        rules: that hold it.
    """

    def __init__(self, rules: ToolRules):
        self._rules = rules
        self._text = None if rules.text is None else GrammarState(rules.text)
        self._calls: list[GrammarState] = []  # those that have begun, where there is a grammar of them
        # Behind each token: where the turn is, what has taken the token, whether it has begun a call.
        self._places: list[tuple[_Place, GrammarState | None, bool]] = [(_Place.BEGINNING, None, False)]

    @property
    def error(self) -> str | None:
        """Why a grammar could not go on, None if each could; then the turn ends."""
        states = [*self._calls[-1:], *([] if self._text is None else [self._text])]
        return next((state.error for state in states if state.error is not None), None)

    @property
    def thoughts(self) -> bool:
        """Whether a thought may begin here: wherever the text is free."""
        return self._free and self._place not in (_Place.CALL, _Place.ENDED)

    @property
    def _place(self) -> _Place:
        return self._places[-1][0]

    @property
    def _free(self) -> bool:
        return self._text is None and not self._rules.required

    def mask(self, words: Words) -> int | None:
        """Write which ids may come next; return the only one, if there is no choice."""
        place, rules = self._place, self._rules
        if place is _Place.CALL and self._calls:
            return self._calls[-1].mask(words)
        if place is _Place.BEHIND and not (self._free and rules.parallel):
            return self._behind(words)
        if place is _Place.BEGINNING and rules.required and rules.begin is not None:
            return only(words, rules.begin)
        if place in (_Place.BEGINNING, _Place.TEXT) and self._text is not None:
            return self._within_grammar(words, self._text)
        words[:] = ALL
        if place in (_Place.BEGINNING, _Place.TEXT) and not rules.allowed:
            forbid(words, self._begins)
        return None

    @property
    def _begins(self) -> list[int]:
        return [] if self._rules.begin is None else [self._rules.begin]

    def _behind(self, words: Words) -> int | None:
        words[:] = 0
        allow(words, self._rules.stops)
        if self._rules.parallel:
            allow(words, self._begins)
        return single(words)

    def _within_grammar(self, words: Words, text: GrammarState) -> int | None:
        """A turn that a grammar holds is a text or calls, from its beginning on."""
        found = text.mask(words)
        if self._place is _Place.BEGINNING and self._rules.allowed and self._begins and text.error is None:
            allow(words, self._begins)
            return single(words)
        return found

    def take(self, token: int) -> None:
        """The turn goes on with this token."""
        place, rules = self._place, self._rules
        begins = token == rules.begin and self._may_begin(place)
        taker = self._taker(place, token) if not begins else None
        if begins and rules.calls is not None:
            self._calls.append(GrammarState(rules.calls))
        if taker is not None:
            taker.take(token)
        self._places.append((self._after(place, token, begins), taker, begins))

    def _may_begin(self, place: _Place) -> bool:
        if self._text is not None:
            return place in (_Place.BEGINNING, _Place.BEHIND) and self._rules.allowed
        return place in (_Place.BEGINNING, _Place.TEXT, _Place.BEHIND)

    def _taker(self, place: _Place, token: int) -> GrammarState | None:
        if place is _Place.CALL:
            return self._calls[-1] if self._calls else None
        return self._text if place in (_Place.BEGINNING, _Place.TEXT) else None

    def _after(self, place: _Place, token: int, begins: bool) -> _Place:
        if place is _Place.ENDED or token in self._rules.stops:
            return _Place.ENDED
        if begins:
            return _Place.CALL
        if place is _Place.CALL:
            return _Place.BEHIND if token == self._rules.end else _Place.CALL
        return _Place.TEXT

    def back(self, count: int) -> None:
        """The last ``count`` tokens were not meant."""
        for _ in range(count):
            _, taker, began = self._places.pop()
            if taker is not None:
                taker.back(1)
            if began and self._rules.calls is not None:
                self._calls.pop()

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice."""
        place, rules = self._place, self._rules
        if self.error is not None:
            return []
        if place is _Place.BEGINNING and rules.required and rules.begin is not None and rules.calls is not None:
            return [rules.begin, *self._to_its_end(GrammarState(rules.calls))]
        if place is _Place.CALL and self._calls:
            return self._to_its_end(self._calls[-1])
        if self._text is not None and (place is _Place.TEXT or (place is _Place.BEGINNING and not rules.allowed)):
            return self._text.forced()
        return []

    def _to_its_end(self, call: GrammarState) -> list[int]:
        """What a call forces; what follows is not the call's to say."""
        found = call.forced()
        return found[: found.index(self._rules.end) + 1] if self._rules.end in found else found
