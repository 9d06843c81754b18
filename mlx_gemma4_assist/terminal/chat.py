"""The chat in a terminal: asks, answers, and so on, until the person leaves."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from . import slash
from .completion import Completions
from .opening import Opened, Opening
from .prompt import Prompt
from .statistics import tokens_per_second
from .style import Terminal
from .talk import Talk

INTERRUPTED = 130  # the exit code of what Ctrl-C has ended
PATIENCE = 1.0  # seconds in which it turns out whether an answer has failed since the model cannot be read


class Chat:
    """A chat, from its first prompt to its end.

    Args:
        terminal: where.
        name: of the model, as it was asked for.
        open_backend: opens who answers, in a thread of its own, while the person types.
        begin: makes the conversation once requests are taken.
        history: of typed lines; None keeps none beyond this chat.
        notes: takes out what other threads have to say, a line each.
    """

    def __init__(
        self,
        terminal: Terminal,
        name: str,
        open_backend: Callable[[], Opened],
        begin: Callable[[Opened], Talk],
        *,
        history: Path | None = None,
        notes: Callable[[], list[str]] = list,
    ):
        self._terminal, self._name, self._begin, self._notes = terminal, name, begin, notes
        self._talk: Talk | None = None
        self._broken = self._pressed = self._killed = False
        self._words: Completions | None = None
        self._prompt = Prompt(terminal, history=history, words=self._completions, toolbar=self._toolbar)
        self._opening = Opening(open_backend, self._prompt.leave)

    def run(self) -> int:
        """Talk until the person leaves; the exit code.

        Raises:
            InputError: there is nobody who answers.
        """
        while not self._killed:
            try:
                if not self._terminal.interactive:
                    self._opening.wait()
                if self._left():
                    return 0
            except KeyboardInterrupt:  # between an answer and the prompt: as if it were pressed at that
                self._killed, self._pressed = self._killed or self._talk is None, True
        return INTERRUPTED

    def once(self, text: str) -> int:
        """Have one message answered; the exit code.

        Raises:
            InputError: there is nobody who answers, or it is not answered.
        """
        try:
            talk = self._there()
            self._tell(self._notes())
            talk.message(text)
        except KeyboardInterrupt:
            return INTERRUPTED
        return INTERRUPTED if talk.stopped else 0

    def close(self, seconds: float | None = None) -> bool:
        """End what answers; False where that is still being opened or loaded after so many seconds."""
        return self._opening.close(seconds)

    def _left(self) -> bool:
        """Ask for a message, and do what it says; whether the person leaves.

        Raises:
            InputError: nobody answers any longer.
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        text = self._read()
        self._opening.check()
        if text is None:
            return True
        try:
            return self._done(text)
        except InputError as error:
            self._opening.check(PATIENCE)
            if self._broken:
                raise
            self._terminal.note(f"error: {error}")
        except KeyboardInterrupt:
            self._killed = self._talk is None or self._talk.stopped
            raise
        return False

    def _done(self, text: str) -> bool:
        """Do what a message says; whether the person leaves.

        Raises:
            InputError: it cannot be done.
        """
        command = slash.typed(text)
        if command is not None and command.name in slash.AT_ONCE:
            return slash.at_once(self._terminal, command)
        if not text.strip() and not (self._talk and self._talk.attached):
            if self._talk is not None:
                self._talk.edited = None
            return False
        talk = self._there()
        if command is None:
            talk.message(text)
        else:
            slash.run(talk, command)
        return False

    def _read(self) -> str | None:
        """The next message; None if the person leaves, by Ctrl-C too if it was pressed just before."""
        pressed, self._pressed = self._pressed or (self._talk is not None and self._talk.stopped), False
        lines = self._notes()
        while True:
            self._opening.check()
            try:
                self._tell(lines)
                return self._prompt.read(self._draft())
            except KeyboardInterrupt:
                if pressed:
                    return None
                if self._talk is not None:
                    self._talk.edited = None
                pressed, lines = True, ["Ctrl-C again, Ctrl-D or q leaves."]

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._terminal.note(line)

    def _draft(self) -> str:
        """What the next line begins with."""
        draft = ""
        if self._talk is not None:
            draft, self._talk.draft = self._talk.draft, ""
        return draft

    def _there(self) -> Talk:
        """The conversation, as soon as there is one.

        Raises:
            InputError: there will be none.
        """
        if self._talk is None:
            self._broken = True
            self._talk = self._begin(self._opening.wait(self._tell_to_wait))
            self._broken = False
        return self._talk

    def _tell_to_wait(self) -> None:
        if self._terminal.interactive:
            self._terminal.note(f"Opening {self._name} ...")

    def _completions(self) -> Completions:
        if self._words is None:
            self._words = slash.completions(lambda: self._talk)
        return self._words

    def _toolbar(self) -> str:
        """The last line of the screen. Opening begins when it is first drawn, its failure is seen when it is again."""
        self._opening.begin()
        if self._opening.failed:
            self._prompt.leave()
        if self._talk is None:
            return f"{self._name}, loading" if self._opening.loading else self._name
        return toolbar(self._talk, self._opening.loading)


def toolbar(talk: Talk, loading: bool) -> str:
    """Who answers, how much of the context is used, how fast the last answer was."""
    model, last = talk.backend.model, talk.last
    parts = [model.id if model.assistant is None else f"{model.id} + {model.assistant}"]
    if loading:
        parts.append("loading")
    if talk.used:
        parts.append(f"{talk.used:,} of {model.context:,} tokens" if model.context else f"{talk.used:,} tokens")
    speed = None if last is None or last.finished is None else tokens_per_second(last.finished)
    if speed is not None:
        parts.append(f"{speed:.1f} tokens per second")
    return "  ".join(parts)
