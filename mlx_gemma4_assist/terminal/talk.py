"""A conversation at a terminal: what the loop and its commands share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..server.chat_session import ChatSession, Reply
from ..server.endpoint import Backend
from ..server.exchange import Usage
from ..text.messages import Kind
from .answer_view import AnswerView
from .attached import Attached, check_taken, counts, of_file
from .dropped import dropped
from .keeping import Keeping
from .keys import Keys
from .setting import SETTABLE
from .statistics import statistics
from .style import Terminal

LOOK = 0.05  # seconds between two looks at the keyboard where no text comes
NUMBER_OF_DRAFTS = "num_assistant_tokens"


@dataclass
class Look:
    """How answers are shown.

    Attributes:
        drafts: whether tokens are coloured by which draft of a round they were.
        thinking: whether thoughts are shown.
    """

    drafts: bool = False
    thinking: bool = True


@dataclass
class Totals:
    """Of all answers since the chat began.

    Attributes:
        answers: how many.
        usage: their tokens and drafts.
        seconds: that were spent on making them, behind their first tokens.
    """

    answers: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0

    def add(self, reply: Reply) -> None:
        """One answer more."""
        self.answers += 1
        self.usage += reply.usage
        self.seconds += 0.0 if reply.finished is None else reply.finished.generation


class Edited(NamedTuple):
    """A message that another one is about to take the place of.

    Attributes:
        turn: which of the user's, from 1; None is the last.
        shows: what it shows, which goes with the new one.
    """

    turn: int | None
    shows: Sequence[Attached]


class Talk:
    """A conversation between a person at a terminal and a model.

    Args:
        session: the conversation.
        backend: who answers.
        terminal: where.
        keeping: where the conversation is kept.
        look: how answers are shown.
        settable: options of generation that the backend heeds.

    Attributes:
        attached: what goes with the next message.
        draft: what the next line at the prompt begins with.
        edited: what the next message takes the place of; None for nothing.
        last: the last answer, if it was made here.
        used: tokens of the conversation, as far as known without counting.
        drafting: options of drafts to go back to where there are none now.
        stopped: whether Ctrl-C has ended the last answer.
    """

    def __init__(
        self,
        session: ChatSession,
        backend: Backend,
        terminal: Terminal,
        keeping: Keeping,
        look: Look,
        settable: Sequence[str] = SETTABLE,
    ):
        self.settable = tuple(settable)
        self.session, self.backend, self.terminal = session, backend, terminal
        self.keeping, self.look = keeping, look
        self.totals = Totals()
        self.attached: list[Attached] = []
        self.draft = ""
        self.edited: Edited | None = None
        self.last: Reply | None = None
        self.used = 0
        self.drafting: dict[str, Any] = {}
        self._noted: set[str] = set()
        self.stopped = False

    def say(self, text: str) -> None:
        """Tell the person something that is no part of the conversation."""
        self.terminal.note(text)

    def forget(self) -> None:
        """Another conversation goes on."""
        self.attached, self.edited, self.last, self.used = [], None, None, 0
        self._noted.clear()

    def message(self, text: str) -> None:
        """Send what was typed, with what it drops on the window. Dropped files alone wait for words.

        Raises:
            InputError: the model does not take such files, or the message is not answered.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        before, edited = list(self.attached), self.edited
        words, found = dropped(text, self.counts(), self.say)
        self.attach([of_file(each) for each in found])
        if found and not words.strip():
            return
        attached, self.attached, self.edited = self.attached, [], None
        answered = None
        try:
            answered = self.answer(lambda: self._sent(words, attached, edited))
        finally:
            if answered is None:
                self.attached, self.edited = before, edited
                self.draft = text if self.terminal.interactive else ""

    def attach(self, found: Sequence[Attached]) -> None:
        """Let the next message show something.

        Raises:
            InputError: the model does not take it.
        """
        for each in found:
            check_taken(self.backend.model, each.kind)
        for each in found:
            self.attached.append(each)
            self.say(each.label)

    def answer(self, begin: Callable[[], Reply], *, recorded: bool = True) -> Reply | None:
        """Show an answer as it is made, and a line on it. Ctrl-C ends it, and keeps what there is.

        Args:
            begin: lets it be made.
            recorded: whether it becomes a part of the conversation.

        Returns:
            The answer; None if it was stopped before anything was made.

        Raises:
            InputError: it cannot be made, or not to its end.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        self.stopped = False
        view = AnswerView(self.terminal, show_drafts=self.look.drafts, show_thinking=self.look.thinking)
        try:
            reply = self._shown(begin, view, recorded)
        except KeyboardInterrupt:
            self.session.cancel()
            self.stopped = True
            raise
        finally:
            view.finish(cancelled=self.stopped)
            if recorded:
                self.keeping.save(self.session)
        return self._told(reply, recorded)

    def counted(self) -> int:
        """Tokens of the conversation, counted.

        Raises:
            InputError: they cannot be.
        """
        self.used = self.session.context_used()
        return self.used

    def counts(self) -> dict[Kind, int]:
        """How many of each kind the conversation and the next message show."""
        return counts(self.session.messages, self.attached)

    @property
    def max_tokens(self) -> int | None:
        """The most of an answer, None without a limit."""
        found = self.session.options.get("max_tokens") or self.backend.model.max_tokens
        return int(found) or None

    def _sent(self, words: str, attached: Sequence[Attached], edited: Edited | None) -> Reply:
        shows = [*(edited.shows if edited is not None else ()), *attached]
        pictures, sounds, videos = ([each.source for each in shows if each.kind is kind] for kind in Kind)
        if edited is None:
            return self.session.send(words, pictures=pictures, sounds=sounds, videos=videos)
        return self.session.edit(words, edited.turn, pictures=pictures, sounds=sounds, videos=videos)

    def _shown(self, begin: Callable[[], Reply], view: AnswerView, recorded: bool) -> Reply:
        """The answer, once it has been shown."""
        reply: Reply | None = None

        def stop() -> None:
            self.stopped = True
            if reply is not None:
                reply.cancel()

        def end_thought() -> None:
            if reply is not None:
                reply.end_thought()

        with Keys(self.terminal, on_stop=stop, on_end_thought=end_thought) as keys:
            reply = begin()
            if recorded:
                self.keeping.save(self.session)
            _follow(reply, view, keys)
        self.draft = keys.typed
        return reply

    def _told(self, reply: Reply, recorded: bool) -> Reply | None:
        """The answer, once a line has told of it."""
        if not (reply.answer or reply.thought) and reply.finish_reason == "cancelled":
            self.say("Nothing was answered; the message is taken back.")
            return None
        for note in dict.fromkeys(reply.notes):
            if note not in self._noted:
                self.say(note)
        self._noted.update(reply.notes)
        self.say(statistics(reply, max_tokens=self.max_tokens, context=self.backend.model.context))
        if recorded:
            self.last = reply
            self.used = reply.prompt_tokens + len(reply.token_ids)
            self.totals.add(reply)
        return reply


def _follow(reply: Reply, view: AnswerView, keys: Keys) -> None:
    """Show an answer as it is made, and hear keys meanwhile, up to its end."""
    while True:
        keys.poll()
        try:
            piece = reply.next_piece(LOOK)
        except StopIteration:
            return
        if piece is None:
            view.waiting(*reply.progress)
        else:
            view.show(piece)
