"""A call's arguments from Gemma 4's syntax to JSON, while they are written.

What is written wrong is mended as far as the first key and its colon have been read, since then JSON may have gone out:
whatever comes, all pieces and ``end`` together are a JSON object. Before that it is malformed.
"""

import json
import math
import re
from enum import Enum, auto

DEEPEST = 64
"""Objects and lists within one another; deeper ones are text."""
_LONGEST = 300  # digits of a number that every reader of JSON takes
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSED_BY = {"}": "{", "]": "["}
_CLOSES = {"{": "}", "[": "]"}


class _Place(Enum):
    """What comes next: the beginning of a key, more of a bare or quoted one, the colon behind a quoted one, a value,
    more of a bare value, of one in JSON's quotes, of a string; a comma or the end; nothing."""

    KEY = auto()
    BARE_KEY = auto()
    QUOTED_KEY = auto()
    COLON = auto()
    VALUE = auto()
    BARE = auto()
    IN_JSON = auto()
    STRING = auto()
    BEHIND = auto()
    DONE = auto()


class Arguments:
    """Reads what stands behind a call's first brace.

    Attributes:
        sure: whether JSON has been given.
        malformed: whether what came is no call, found before JSON was given.
        exact: whether nothing had to be mended.
    """

    def __init__(self) -> None:
        self.sure, self.malformed, self.exact = False, False, True
        self._place = _Place.KEY
        self._open = ["{"]
        self._filled = [False]
        self._held = ""
        self._given = ["{"]
        self._steps = {
            _Place.KEY: self._key,
            _Place.BARE_KEY: self._bare_key,
            _Place.COLON: self._colon,
            _Place.VALUE: self._value,
            _Place.BARE: self._bare,
            _Place.IN_JSON: self._in_json,
            _Place.BEHIND: self._behind,
        }

    @property
    def complete(self) -> bool:
        """Whether the last brace has come."""
        return self._place is _Place.DONE

    def feed(self, text: str) -> str:
        """The JSON that text gives."""
        for at, letter in enumerate(text):
            if self._place is _Place.STRING:
                self._give(_escaped(text[at:]))
                break
            if self._place is _Place.QUOTED_KEY:
                self._held += letter
            elif self._place is not _Place.DONE:
                self._steps[self._place](letter)
        return self._taken()

    def quote(self) -> str:
        """The JSON that a quoting token gives."""
        place = self._place
        if place is _Place.STRING:
            self._give('"')
            self._place = _Place.BEHIND
        elif place is _Place.QUOTED_KEY:
            self._place = _Place.COLON
        elif place is _Place.IN_JSON:
            self._held += '<|"|>'
        elif place is not _Place.DONE:
            self._open_quote()
        return self._taken()

    def end(self) -> str:
        """The JSON that is missing at the end."""
        self.exact = self.exact and self.complete
        if self._place is _Place.STRING:
            self._give('"')
        elif self._place is _Place.VALUE and self._open[-1] == "{":
            self._give("null")
        elif self._place in (_Place.BARE, _Place.IN_JSON):
            self._scalar()
        self.sure = True
        while self._open:
            self._close()
        return self._taken()

    def _taken(self) -> str:
        """What is to be given; all of it is held back until the first key is read."""
        if not self.sure:
            return ""
        given, self._given = "".join(self._given), []
        return given

    def _give(self, json_text: str) -> None:
        self._given.append(json_text)

    def _mend(self) -> None:
        """Something is wrong."""
        self.exact = False
        self.malformed = self.malformed or not self.sure

    # Places

    def _key(self, letter: str) -> None:
        if letter == "}":
            self.sure = not self.malformed
            self._shut(letter)
        elif letter in ",]":
            self._mend()
            if letter == "]":
                self._shut(letter)
        elif not letter.isspace():
            self._held, self._place = letter, _Place.BARE_KEY

    def _bare_key(self, letter: str) -> None:
        if letter == ":":
            self._name(self._held.strip())
        elif letter in ",}":
            self._without_value(self._held.strip(), letter)
        else:
            self._held += letter

    def _colon(self, letter: str) -> None:
        if letter == ":":
            self._name(self._held)
        elif letter in ",}":
            self._without_value(self._held, letter)
        elif not letter.isspace():
            self._mend()
            self._name(self._held)
            self._value(letter)

    def _value(self, letter: str) -> None:
        if letter in ",}]":
            self._missing(letter)
        elif letter in "{[" and len(self._open) < DEEPEST:
            self._item()
            self._give(letter)
            self._open.append(letter)
            self._filled.append(False)
            self._place = _Place.KEY if letter == "{" else _Place.VALUE
        elif not letter.isspace():
            self._held, self._place = letter, _Place.IN_JSON if letter == '"' else _Place.BARE

    def _bare(self, letter: str) -> None:
        if letter in ",}]":
            self._scalar()
            self._behind(letter)
        else:
            self._held += letter

    def _in_json(self, letter: str) -> None:
        self._held += letter
        if letter == '"' and (len(self._held) - len(self._held[:-1].rstrip("\\"))) % 2:
            self._scalar()

    def _behind(self, letter: str) -> None:
        if letter in "}]":
            self._shut(letter)
        elif letter == ",":
            self._next()
        elif not letter.isspace():
            self._mend()
            self._next()
            self._steps[self._place](letter)

    # What they do

    def _next(self) -> None:
        self._place = _Place.KEY if self._open[-1] == "{" else _Place.VALUE

    def _name(self, key: str) -> None:
        """A key has been read."""
        if len(key) > 1 and key[0] == key[-1] == '"':
            key = key[1:-1]
        self.sure = not self.malformed
        self._comma()
        self._give(f"{json.dumps(key, ensure_ascii=False)}:")
        self._place = _Place.VALUE

    def _without_value(self, key: str, letter: str) -> None:
        self._mend()
        self._name(key)
        self._give("null")
        self._behind(letter)

    def _missing(self, letter: str) -> None:
        """A comma or an end where a value should be: right only in a list that is empty."""
        if self._open[-1] == "{":
            self._give("null")
        if letter != "]" or self._filled[-1] or self._open[-1] == "{":
            self._mend()
        if letter != "," or self._open[-1] == "{":
            self._place = _Place.BEHIND
            self._behind(letter)

    def _item(self) -> None:
        """A value begins."""
        if self._open[-1] == "[":
            self._comma()

    def _comma(self) -> None:
        if self._filled[-1]:
            self._give(",")
        self._filled[-1] = True

    def _scalar(self) -> None:
        """A value without Gemma's quotes has been read."""
        self._item()
        value, told = self._held.strip(), _told(self._held.strip())
        self.exact = self.exact and value == told
        self._give(told)
        self._place = _Place.BEHIND

    def _open_quote(self) -> None:
        """A quoting token where a key or a value may begin, or where something is missing before it."""
        if self._place in (_Place.BARE_KEY, _Place.COLON):
            self._mend()
            self._name(self._held.strip() if self._place is _Place.BARE_KEY else self._held)
        elif self._place is _Place.BARE:
            self._scalar()
        if self._place is _Place.BEHIND:
            self._mend()
            self._next()
        if self._place is _Place.KEY:
            self._held, self._place = "", _Place.QUOTED_KEY
        else:
            self._item()
            self._give('"')
            self._place = _Place.STRING

    def _shut(self, letter: str) -> None:
        """An end, of what is open or of what that is in."""
        kind = _CLOSED_BY[letter]
        if kind not in self._open:
            self._mend()
            return
        if self._open[-1] != kind:
            self._mend()
        while self._close() != kind:
            pass

    def _close(self) -> str:
        kind = self._open.pop()
        self._filled.pop()
        self._give(_CLOSES[kind])
        self._place = _Place.BEHIND if self._open else _Place.DONE
        return kind


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _told(text: str) -> str:
    """A value without Gemma's quotes as JSON: text where it is nothing else."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _LONGEST and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return text
    if text[:1] == '"':
        try:
            read = json.loads(text)
        except ValueError:
            read = text.strip('"')
        return json.dumps(read)
    return json.dumps(text, ensure_ascii=False)
