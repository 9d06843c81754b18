"""Calls of tools that were issued: what a model wrote, to be put back when their answers come.

Rendered anew a call need not be what was written: keys are sorted, numbers printed anew, thoughts lost. A prompt with
the very tokens continues what a cache has.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

from .channels import Markers
from .control import ControlTokens

MOST = 1_000_000
"""Tokens that are remembered in all."""


class IssuedCall(NamedTuple):
    """A call: its id, the tool's name, and its arguments as JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Issued:
    """A message that calls tools.

    Attributes:
        tokens: ids, from behind the prompt to the last call's end; before them the beginning of a thought that the
            prompt has opened.
        text: that was answered beside the calls.
        calls: in their order.
    """

    tokens: tuple[int, ...]
    text: str
    calls: tuple[IssuedCall, ...]

    def says(self, text: str, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Whether a message of this text, or without text, with these names and arguments says the same."""
        if text.strip() not in ("", self.text.strip()) or len(calls) != len(self.calls):
            return False
        pairs = zip(calls, self.calls, strict=True)
        return all(name == own.name and _same(entries, json.loads(own.arguments)) for (name, entries), own in pairs)


def _same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same: 1.0 is 1, as clients may print it, but true is not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other and isinstance(one, bool) == isinstance(other, bool))


def may_be_spliced(tokens: Sequence[int], markers: Markers, control: ControlTokens) -> bool:
    """Whether tokens have no control token that would begin or end a turn, or stand for media."""
    return set(control.ids.values()).isdisjoint(set(tokens) - markers.ids - {markers.quote})


class IssuedCalls:
    """The memory of a server, by the ids of calls; the oldest go first. Any thread may use it.

    Args:
        most: tokens that are kept.
    """

    def __init__(self, most: int = MOST):
        self._most, self._size = most, 0
        self._found: OrderedDict[tuple[str, ...], Issued] = OrderedDict()
        self._keys: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()

    def remember(self, issued: Issued) -> None:
        """Keep a message."""
        key = tuple(call.id for call in issued.calls)
        with self._lock:
            if (known := self._found.pop(key, None)) is not None:
                self._size -= len(known.tokens)
            self._found[key] = issued
            self._keys |= dict.fromkeys(key, key)
            self._size += len(issued.tokens)
            while self._size > self._most:
                old, dropped = self._found.popitem(last=False)
                self._size -= len(dropped.tokens)
                for name in old:
                    self._keys.pop(name, None)

    def find(self, call_id: str) -> Issued | None:
        """The message in which a call was issued."""
        with self._lock:
            key = self._keys.get(call_id)
            if key is None:
                return None
            self._found.move_to_end(key)
            return self._found[key]
