"""Answers that a model wrote: its own tokens, to be put back where a later prompt has their text.

A tokenizer need not make of a text the tokens that a model has made it of. A prompt with the very tokens continues what
a cache has; what they spell is the same.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .processor import Processor

MOST = 1_000_000
"""Tokens that are remembered in all."""
MOST_CUT = 256
"""Answers of which the asker may have only a part that are remembered."""
SHARE_CUT = 0.25
"""How much of the memory they take at most, so that whole answers have the rest."""
MOST_OTHERS = 16
"""Tokens that are left out of a piece of text, to see whether the others spell the part that is looked for."""


def nothing_written(text: str) -> Sequence[int] | None:
    """No answer is known."""
    return None


@dataclass(eq=False)
class _Answer:
    """An answer without thoughts and without what has ended it.

    Attributes:
        tokens: ids.
        text: of all of them, without white space before it, once somebody has looked for a beginning of it.
        spelled: those that are its text without white space around it, once somebody has asked.
    """

    tokens: "array[int]"
    text: str | None = None
    spelled: list[int] | None = None


class WrittenAnswers:
    """The memory of a server, by the texts of answers; the oldest go first. Any thread may use it.

    Tokens are only looked at once a text is asked for, so that remembering takes no time of an engine's thread.

    Args:
        processor: of the checkpoint.
        most: tokens that are kept.
    """

    def __init__(self, processor: "Processor", most: int = MOST):
        self._processor, self._most, self._size = processor, most, 0
        self._known: OrderedDict[str, _Answer] = OrderedDict()  # by their text without white space around it
        self._cut: deque[_Answer] = deque()
        self._lock = Lock()

    def remember(self, prompt: Sequence[int], tokens: Sequence[int], text: str) -> None:
        """Keep an answer. Answers with control tokens besides those of thoughts are not kept.

        Args:
            prompt: token ids.
            tokens: all that were made.
            text: of the answer as the asker has it, without thoughts; it may end before the tokens do.
        """
        answer, key = self._answer(prompt, tokens), text.strip()
        if answer is None or not key:
            return
        with self._lock:
            self._keep(key, answer)

    def recall(self, text: str, tokens: Sequence[int]) -> None:
        """Keep an answer that somebody else has remembered, unless its text is known or it has ids of another model."""
        with self._lock:
            known = text.strip() in self._known
        if not known and all(token < self._vocabulary for token in tokens):
            self.remember((), tokens, text)

    def remember_cut(self, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep an answer that was cancelled: it is found by any beginning of its text."""
        answer = self._answer(prompt, tokens)
        if answer is None:
            return
        with self._lock:
            self._cut.append(answer)
            self._size += len(answer.tokens)
            while len(self._cut) > MOST_CUT or sum(len(each.tokens) for each in self._cut) > self._most * SHARE_CUT:
                self._size -= len(self._cut.popleft().tokens)
            self._make_room()

    def find(self, text: str) -> Sequence[int] | None:
        """The tokens of an answer whose text is this; None if it is not known.

        Args:
            text: white space before it is left aside, and behind it too if the answer has none there.
        """
        text, key = text.lstrip(), text.strip()
        with self._lock:
            answer, cut = self._known.get(key), list(self._cut)
            if answer is not None:
                self._known.move_to_end(key)
        if answer is None:
            answer = self._found_cut(key, cut) if key else None
        if answer is None:
            return None
        if text != key:
            return spelling(self._processor, answer.tokens, text)
        if answer.spelled is None:
            answer.spelled = spelling(self._processor, answer.tokens, key) or []
        return answer.spelled or None

    @cached_property
    def _control(self) -> frozenset[int]:
        return frozenset(self._processor.control.ids.values())

    @cached_property
    def _vocabulary(self) -> int:
        return self._processor.tokenizer.backend_tokenizer.get_vocab_size()

    def _answer(self, prompt: Sequence[int], tokens: Sequence[int]) -> _Answer | None:
        """What stays of an answer in later prompts; None if that cannot be put back."""
        processor, control = self._processor, self._control
        begun = processor.markers.unfinished(prompt, processor.eos_token_ids)
        kept = processor.markers.without_channels([*begun, *tokens])
        while kept and kept[-1] in control:  # the end of the turn, mostly
            kept.pop()
        return _Answer(array("I", kept)) if kept and control.isdisjoint(kept) else None

    def _keep(self, key: str, answer: _Answer) -> None:
        if (old := self._known.pop(key, None)) is not None:
            self._size -= len(old.tokens)
        self._known[key] = answer
        self._size += len(answer.tokens)
        self._make_room()

    def _make_room(self) -> None:
        while self._size > self._most:
            dropped = self._known.popitem(last=False)[1] if self._known else self._cut.popleft()
            self._size -= len(dropped.tokens)

    def _found_cut(self, key: str, cut: Sequence[_Answer]) -> _Answer | None:
        """The latest cancelled answer that begins with a text; from now on it is known by it."""
        for answer in reversed(cut):
            if answer.text is None:
                answer.text = self._processor.decode(answer.tokens, False).lstrip()
            if answer.text.startswith(key):
                found = _Answer(answer.tokens)
                with self._lock:
                    self._keep(key, found)
                return found
        return None


def spelling(processor: "Processor", tokens: Sequence[int], text: str) -> list[int] | None:
    """The ids of a text that tokens begin with, but for white space: theirs, as far as they are whole within it.

    Returns:
        None if the tokens say something else, or their text depends on what surrounds it.
    """
    pieces = list(_pieces(processor, tokens))
    whole = "".join(piece for _, piece in pieces)
    begin = len(whole) - len(whole.lstrip())
    end, place = begin + len(text), 0
    found: list[int] = []
    for ids, piece in pieces:
        first, last = max(begin - place, 0), end - place
        if first == 0 and last >= len(piece):
            found += ids
        elif first < len(piece) and last > 0:
            found += _part(processor, ids, piece[first:last])
        place += len(piece)
        if place >= end:
            break
    return found if processor.decode(found, False) == text else None


def _part(processor: "Processor", ids: Sequence[int], text: str) -> Sequence[int]:
    """The ids of a part of what ids spell together: theirs where all but a few of them spell it, else the tokenizer's.

    Bytes that are no character have their text only with what follows them, which may be white space.
    """
    for others in range(1, min(len(ids), MOST_OTHERS)):
        for part in (ids[:-others], ids[others:]):
            if processor.decode(part, False) == text:
                return part
    return processor.tokenize(processor.control.sealed(text))


def _pieces(processor: "Processor", tokens: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Tokens with their text, several where only all of them have some."""
    detokenizer, ids = processor.detokenizer(skip_special_tokens=False), []
    for token in tokens:
        ids.append(token)
        if piece := detokenizer.add(token):
            yield ids, piece
            ids = []
    if ids:
        yield ids, detokenizer.finalize()
