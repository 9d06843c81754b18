"""A conversation: what was said, as a tree of which one branch is what the model sees.

Taking back, asking again and editing forget nothing: what they leave is a branch of its own, to which one can go back.
Keys and values are not kept here: an engine's prefix cache finds by itself what branches have in common.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import InputError, described
from ..text.messages import WITH_MEDIA, Message, check_messages
from .session_file import listed, messages_of, number_of, tokens_as_text, tokens_of

FORMAT = "mlx_gemma4_assist conversation"
VERSION = 2
LONGEST_TITLE = 60  # characters


class Branch(NamedTuple):
    """One way that a conversation has taken.

    Attributes:
        number: names the branch for as long as it exists, also in a file.
        title: the beginning of the last thing that the user said there; empty if nothing was said.
        messages: how many there are, the system prompt not counted.
        current: whether it is the one that the model sees.
    """

    number: int
    title: str
    messages: int
    current: bool


@dataclass(frozen=True, eq=False, repr=False)
class _Said:
    """A message, the tokens that the model made it of if they are known, and all that was said before it."""

    message: Message
    before: "_Said | None"
    tokens: tuple[int, ...] = ()


class Mark(NamedTuple):
    """How a session was, see :meth:`Session.mark`."""

    ends: Mapping[int, _Said | None]
    current: int
    last: int


class Session:
    """A conversation. Messages go in and come out as copies; it is for one thread at a time.

    Args:
        system_prompt: goes before the first message of every branch.

    Attributes:
        system_prompt: as given; it may be changed at any time, None takes it away.
    """

    def __init__(self, system_prompt: str | None = None):
        self.system_prompt = system_prompt
        self._ends: dict[int, _Said | None] = {1: None}  # the last message of each branch, by the branch's number
        self._current = self._last = 1  # numbers: of the branch that the model sees, and the highest given so far

    @property
    def messages(self) -> list[Message]:
        """What the model sees: the system prompt, and the messages of the current branch.

        An assistant's may have ``reasoning_content`` and ``tool_calls``; a tool's has ``tool_call_id``.
        """
        lead = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        return [*lead, *(deepcopy(said.message) for said in self._path(self._current))]

    @property
    def last(self) -> object:
        """What stands for the last message of the current branch wherever that is seen; None where nothing was said."""
        return self._ends[self._current]

    @property
    def turns(self) -> int:
        """How many messages of the user were answered on the current branch."""
        count, asked = 0, False
        for said in self._path(self._current):
            role = said.message["role"]
            count += asked and role == "assistant"
            asked = role == "user" or (asked and role != "assistant")
        return count

    @property
    def written(self) -> list[tuple[str, tuple[int, ...]]]:
        """Texts of answers on the current branch, and the tokens that the model made them of, where they are known.

        They outlive a server's memory: with them a conversation from a file fits a cache from a file.
        """
        path = self._path(self._current)
        answers = [(said.message.get("content"), said.tokens) for said in path if said.tokens]
        return [(text, tokens) for text, tokens in answers if isinstance(text, str)]

    # What is said

    def say(self, message: Message) -> None:
        """A message to the model, a user's or a tool's, goes behind the branch.

        Raises:
            InputError: the message is malformed, or the model's own.
        """
        check_messages([message], WITH_MEDIA)
        if _is_answer(message):
            raise InputError("a message to the model has the role user or tool")
        self._add(message)

    def answer(self, message: Message, tokens: Sequence[int] = ()) -> None:
        """A message of the model goes behind the branch.

        Args:
            message: the model's.
            tokens: ids that it made the message's text of, without thoughts, see :attr:`written`.

        Raises:
            InputError: the message is malformed, or nobody's answer.
        """
        check_messages([message], WITH_MEDIA)
        if not _is_answer(message):
            raise InputError("an answer has the role assistant")
        self._add(message, tokens)

    def take_back(self) -> None:
        """Forget the last message of the branch, whoever said it. Does nothing where there is none."""
        end = self._ends[self._current]
        if end is not None:
            self._ends[self._current] = end.before

    def undo(self) -> Message | None:
        """Leave out the user's last message and all behind it; what is left out stays as a branch.

        Returns:
            That message, None if there is none.
        """
        asked = self._asked()
        if not asked:
            return None
        self._go_on_from(asked[-1].before)
        return deepcopy(asked[-1].message)

    def retry(self) -> None:
        """Leave out what was answered to the user's last message; what is left out stays as a branch.

        Raises:
            InputError: nothing was asked.
        """
        asked = self._asked()
        if not asked:
            raise InputError("nothing was asked that could be answered again")
        if self._ends[self._current] is not asked[-1]:
            self._go_on_from(asked[-1])

    def edit(self, message: Message, turn: int | None = None) -> None:
        """Put another message in the place of one of the user's; that one and all behind it stay as a branch.

        Args:
            message: the new one, the user's.
            turn: which of the user's messages on the branch it replaces, from 1; None is the last one.

        Raises:
            InputError: the message is malformed, or there is none in its place.
        """
        check_messages([message], WITH_MEDIA)
        if message["role"] != "user":
            raise InputError("only messages of the user can be edited")
        asked = self._asked()
        if not asked:
            raise InputError("nothing was asked that could be edited")
        place = len(asked) if turn is None else turn
        if not isinstance(place, int):
            raise InputError(f"the turn is {described(turn)}, expected a number")
        if not 1 <= place <= len(asked):
            raise InputError(f"there is no turn {place}: turns are counted from 1 to {len(asked)}")
        self._go_on_from(asked[place - 1].before)
        self._add(message)

    def reset(self) -> None:
        """Forget all branches, but not the system prompt."""
        self._ends, self._current, self._last = {1: None}, 1, 1

    # Branches

    def branches(self) -> list[Branch]:
        """All that there are, by their numbers."""
        found = []
        for number in sorted(self._ends):
            path = self._path(number)
            asked = [said.message for said in path if said.message["role"] == "user"]
            title = _title(asked[-1]) if asked else ""
            found.append(Branch(number, title, len(path), number == self._current))
        return found

    def switch(self, number: int) -> None:
        """Let the model see another branch.

        Raises:
            InputError: there is no such branch, or it is no number.
        """
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(f"the branch is {described(number)}, expected a number")
        if number not in self._ends:
            raise InputError(f"there is no branch {number}: there are {', '.join(map(str, sorted(self._ends)))}")
        if number != self._current and self._is_within_another():
            del self._ends[self._current]
        self._current = number

    def mark(self) -> Mark:
        """How everything is, for :meth:`go_back`."""
        return Mark(dict(self._ends), self._current, self._last)

    def go_back(self, mark: Mark) -> None:
        """Let all messages and branches be as they were when the mark was made."""
        self._ends, self._current, self._last = dict(mark.ends), mark.current, mark.last

    def _path(self, number: int) -> list[_Said]:
        """The messages of a branch, the first one first."""
        path = []
        said = self._ends[number]
        while said is not None:
            path.append(said)
            said = said.before
        return path[::-1]

    def _asked(self) -> list[_Said]:
        """The user's messages on the current branch."""
        return [said for said in self._path(self._current) if said.message["role"] == "user"]

    def _add(self, message: Message, tokens: Sequence[int] = ()) -> None:
        self._ends[self._current] = _Said(deepcopy(message), self._ends[self._current], tuple(tokens))

    def _go_on_from(self, said: _Said | None) -> None:
        """Go on behind an earlier message: as a new branch, unless the current one has nothing of its own."""
        if not self._is_within_another():
            self._last += 1
            self._current = self._last
        self._ends[self._current] = said

    def _is_within_another(self) -> bool:
        """Whether other branches have all messages of the current one."""
        end = self._ends[self._current]
        others = [number for number in self._ends if number != self._current]
        return any(end is None or end in self._path(number) for number in others)

    # Files

    def saved(self) -> dict[str, Any]:
        """All of it as JSON has it.

        ``messages`` are those that the model sees. Each of ``branches``, which are the others, begins with the first
        ``shared`` messages of the branch ``like``, the system prompt not counted, and goes on with ``messages`` of its
        own. ``tokens`` are those of answers, by the places of their messages, which the system prompt has none of.
        """
        paths = {self._current: self._path(self._current)}
        branches: list[dict[str, Any]] = []
        for number in sorted(self._ends.keys() - paths.keys()):
            path = self._path(number)
            like = max(paths, key=lambda other: _shared(paths[other], path))
            shared = _shared(paths[like], path)
            messages = [deepcopy(said.message) for said in path[shared:]]
            place = {"number": number, "like": like, "shared": shared}
            branches.append(
                place | {"messages": messages, "tokens": tokens_as_text(said.tokens for said in path[shared:])}
            )
            paths[number] = path
        head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        seen = {"messages": self.messages, "tokens": tokens_as_text(said.tokens for said in paths[self._current])}
        return head | seen | {"branch": self._current, "branches": branches}

    @classmethod
    def restored(cls, content: object, name: str) -> "Session":
        """A session from what :meth:`saved` returned, or ``ChatSession.save`` wrote, in this version or version 1.

        Args:
            content: read from JSON.
            name: of the file, for errors.

        Raises:
            InputError: it is no conversation, one of a later version, or a damaged one.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise InputError(f"{name} holds no conversation of ChatSession.save")
        version = content.get("version")
        if version not in (1, VERSION):
            raise InputError(f"{name} holds a conversation of version {version!r:.20}, expected {VERSION}")
        what = f"{name} holds a conversation of version {version}"
        messages = messages_of(content, what, name)
        lead = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        session = cls(lead if isinstance(lead, str) else None)
        session._current = session._last = number_of(content.get("branch", 1), what)
        said = messages if session.system_prompt is None else messages[1:]
        session._ends = {session._current: _behind(None, said, tokens_of(content, len(said), what))}
        for branch in listed(content.get("branches", []), what, "a list of branches"):
            session._restore(branch, what, name)
        return session

    def _restore(self, branch: object, what: str, name: str) -> None:
        if not isinstance(branch, Mapping):
            raise InputError(f"{what} with a branch that is none")
        number, like, shared = (number_of(branch.get(key), what) for key in ("number", "like", "shared"))
        if number in self._ends or like not in self._ends or shared > len(self._path(like)):
            raise InputError(f"{what} with a branch {number} that does not belong to the others")
        before = self._path(like)[shared - 1] if shared else None
        said = messages_of(branch, what, name)
        self._ends[number] = _behind(before, said, tokens_of(branch, len(said), what))
        self._last = max(self._last, number)


def _is_answer(message: Message) -> bool:
    return message["role"] in ("assistant", "model")


def _title(message: Message) -> str:
    """The first line of a message; the kinds of what it shows, where it has no text."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = " ".join(part["text"] for part in parts if part["type"] == "text").strip()
    if not text:
        return " ".join(f"[{part['type']}]" for part in parts if part["type"] != "text")
    line = text.splitlines()[0]
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 3].rstrip()}..."


def _shared(one: Sequence[_Said], other: Sequence[_Said]) -> int:
    """How many messages two branches have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a is not b), min(len(one), len(other)))


def _behind(said: _Said | None, messages: Sequence[Message], tokens: Mapping[int, Sequence[int]]) -> _Said | None:
    """The last of messages that follow another."""
    for place, message in enumerate(messages):
        said = _Said(deepcopy(message), said, tuple(tokens.get(place, ())))
    return said
