"""A chat put together: its terminal, what it keeps, who answers it, and how its conversation begins."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..engine.session import Session
from ..errors import InputError
from ..server.chat_session import ChatSession
from ..server.remote_wire import OF_SERVERS
from ..terminal.attached import Attached, check_taken, counts, named
from ..terminal.chat import Chat
from ..terminal.keeping import Keeping
from ..terminal.opening import Opened
from ..terminal.setting import NAMES, SETTABLE
from ..terminal.slash_stored import greet
from ..terminal.statistics import legend
from ..terminal.store import Store
from ..terminal.store_names import printable
from ..terminal.style import Terminal
from ..terminal.talk import Look, Talk
from .chat_cache import ConversationFile
from .chat_opening import Local, open_server
from .chat_options import Beginning, Networks, Remote, Thinking
from .media import MediaChoice
from .notes import Notes
from .options import EMBEDDED, ModelChoice, Said

WHO_ANSWERS = """\
The embedded tiny pair answers, from Jane Austen's novels.
--model google/gemma-4-E2B-it is a real one."""
HELP = "/help lists commands, Ctrl-D leaves."
PLACES = 4  # drafts of a round that the legend names


class Start:
    """How a chat begins.

    Args:
        networks, beginning, thinking, remote: as typed.
        said: options of generation that were typed.
        held: what holds the answers, as options.
        media: what goes with the first message, and how many soft tokens pictures take.

    Attributes:
        terminal: where.

    Raises:
        InputError: there is nothing to go on with, nobody to do it, or nowhere to keep conversations.
    """

    def __init__(
        self,
        networks: Networks,
        said: Said,
        held: Mapping[str, Any],
        beginning: Beginning,
        media: MediaChoice,
        thinking: Thinking,
        remote: Remote,
    ):
        self._said, self._held, self._beginning, self._media = said, held, beginning, media
        self._networks, self._thinking, self._remote = networks, thinking, remote
        self.terminal = Terminal.of()
        self._person = self.terminal.interactive and beginning.prompt is None
        self._notes = Notes()
        self._keeps = self._person and not beginning.no_history
        self._keeping = Keeping(Store(notes=self._notes.add), self.terminal.note, automatic=self._keeps)
        file = beginning.prompt_cache_file
        self._file = None if file is None else ConversationFile(file, self.terminal.note)
        self._model_before = ""  # of the conversation that goes on
        self._resumed = self._resume()
        self._attached = self._named()
        self._choice = self._choice_of(networks)

    def chat(self) -> Chat:
        """The chat; who answers is being opened."""
        if self._person:
            self._notes.install()
            self._greet()
        name = self._choice.model if self._remote.server is None else self._remote.server
        return Chat(self.terminal, name, self._opening(), self._begin, history=self._history(), notes=self._notes.take)

    def _history(self) -> Path | None:
        """The file of typed lines; None where they are not kept, or cannot be."""
        if not self._keeps:
            return None
        try:
            return self._keeping.store.history
        except InputError as error:
            self.terminal.note(f"Typed lines are not kept: {error}")
            return None

    def _resume(self) -> Session | None:
        if self._beginning.resume is None:
            return None
        found = self._keeping.open(self._beginning.resume or None)
        if self._keeping.entry is not None:
            self._model_before = self._keeping.entry.model
        if self._beginning.no_history:
            self._keeping.entry = None
        return found

    def _named(self) -> list[Attached]:
        """What goes with the first message."""
        found: list[Attached] = []
        messages = () if self._resumed is None else self._resumed.messages
        for kind, sources in self._media.media.by_kind.items():
            for source in sources:
                found += named(kind, source, counts(messages, found))
        return found

    def _choice_of(self, networks: Networks) -> ModelChoice:
        """The networks that were named; where no model was, that of the conversation that goes on.

        Raises:
            InputError: that is no repo, so that nobody knows where it is.
        """
        before = self._model_before
        if not before or networks.model is not None or self._remote.server is not None:
            return networks.choice()
        if "/" not in before and before != EMBEDDED:
            raise InputError(
                f"it was a conversation with {printable(before, 80)}, which is no repo: --model or --server names who "
                "goes on with it"
            )
        return networks.choice(before)

    def _greet(self) -> None:
        served = self._remote.server
        if served is None and self._choice.model == EMBEDDED:
            self.terminal.note(WHO_ANSWERS)
        self.terminal.note(HELP)
        if self._resumed is not None:
            entry = self._keeping.entry
            greet(self.terminal.note, "The conversation" if entry is None else entry.name, self._resumed)
        self._label()
        if self._thinking.show_drafts and self.terminal.colour:
            self.terminal.note(legend(PLACES))

    def _label(self) -> None:
        for each in self._attached:
            self.terminal.note(each.label)

    def _opening(self) -> Callable[[], Opened]:
        options = {**self._said.values, **self._held}
        if self._remote.server is not None:
            url, key, model = self._remote.server, self._remote.key, self._networks.model
            return lambda: open_server(url, key, model, options)
        store = self._keeping.store if self._keeps else None
        system = self._beginning.system_prompt
        if system is None and self._resumed is not None:
            system = self._resumed.system_prompt
        note = self._notes.add if self._person else None
        return Local(
            choice=self._choice,
            said=self._said,
            held=self._held,
            system_prompt=system,
            thinking=self._thinking.option,
            shows=frozenset(each.kind for each in self._attached),
            media=self._media.options,
            learned=self._beginning.learned,
            store=store,
            file=self._file,
            note=note,
        ).open

    def _begin(self, opened: Opened) -> Talk:
        """The conversation, once requests are taken.

        Raises:
            InputError: the model does not take what goes with the first message, or does not think.
        """
        thinks, budget = self._thinking.asked
        if thinks and not opened.backend.model.thinking:
            raise InputError(f"{opened.backend.model.id} knows no thinking")
        session = ChatSession(
            opened.backend,
            self._beginning.system_prompt,
            thinking=thinks,
            options=dict(opened.options),
            thinking_budget=budget,
            names=NAMES,
        )
        if self._resumed is not None:
            self._go_on(session, self._resumed)
        if self._file is not None:
            self._file.follow(session)
        self._keep(opened.backend.model.id)
        look = Look(self._thinking.show_drafts, self._thinking.show_thinking or self._person)
        settable = [name for name in SETTABLE if self._remote.server is None or name in OF_SERVERS]
        talk = Talk(session, opened.backend, self.terminal, self._keeping, look, settable)
        if not self._person and self._remote.server is None and self._choice.model == EMBEDDED:
            self.terminal.note(WHO_ANSWERS)
        for each in self._attached:
            check_taken(opened.backend.model, each.kind)
        talk.attached += self._attached
        if not self._person:
            self._label()
        return talk

    def _go_on(self, session: ChatSession, resumed: Session) -> None:
        session.load_session(resumed)
        if self._beginning.system_prompt is not None:
            session.system_prompt = self._beginning.system_prompt

    def _keep(self, model: str) -> None:
        """Keep the conversation as one with a model."""
        keeping, before = self._keeping, self._model_before
        keeping.model = model
        if before and before != model:
            self.terminal.note(
                f"It was a conversation with {printable(before, 80)}; {model} reads it again and goes on."
            )
        if keeping.entry is None:
            keeping.anew()
        else:
            keeping.entry.model = model
