"""The line editor: prompt_toolkit's, with a chat's keys. Only ``prompt`` imports it, when a person is asked at last."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import History as Remembered
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from .completion import Completions
from .history import History
from .keys import restored_when_ended
from .prompt import SIGN, SIGN_OF_MORE
from .quoted_lines import is_open

if TYPE_CHECKING:
    from .style import Terminal

LEAVING = b"\x1b[?2004l\x1b[?25h\x1b[0m\r\n"
"""Ends bracketed paste and styles, shows the cursor."""

REFRESH = 1.0
"""Seconds after which the toolbar's text is asked for again."""


class Editor:
    """One editor for all messages of a chat, which remembers them.

    Args:
        terminal: tells whether there may be colours.
        history: as of ``Prompt``.
        words: as of ``Prompt``.
        toolbar: as of ``Prompt``.
    """

    def __init__(
        self,
        terminal: "Terminal",
        history: Path | None,
        words: Callable[[], Completions],
        toolbar: Callable[[], str],
    ):
        self._note, self._notes = terminal.note, list[str]()
        self._session: PromptSession[str] = PromptSession(
            SIGN,
            multiline=True,
            prompt_continuation=SIGN_OF_MORE,
            completer=_Completer(words),
            complete_while_typing=Condition(_is_command),
            history=InMemoryHistory() if history is None else _Kept(History(history, self._notes.append)),
            search_ignore_case=True,
            enable_suspend=True,
            key_bindings=_keys(),
            bottom_toolbar=toolbar,
            refresh_interval=REFRESH,
            style=Style.from_dict({"bottom-toolbar": "noreverse dim" if terminal.colour else "noreverse"}),
            color_depth=None if terminal.colour else ColorDepth.DEPTH_1_BIT,
        )

    def read(self, default: str) -> str | None:
        """As of ``Prompt``, with triple quotes left as they are."""
        with self._restored_when_ended():
            try:
                return self._session.prompt(default=default)
            except EOFError:
                return None
            finally:
                self._tell()

    def _tell(self) -> None:
        """What was noted while the prompt was drawn, now that it is not."""
        for line in self._notes:
            self._note(line)
        self._notes.clear()

    def _restored_when_ended(self) -> AbstractContextManager[object]:
        number = self._session.input.fileno()
        return restored_when_ended(number, LEAVING) if os.isatty(number) else nullcontext()

    def leave(self) -> None:
        """As of ``Prompt``."""
        loop = self._session.app.loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=EOFError())


class _Kept(Remembered):
    """A history in a file, as prompt_toolkit asks for it."""

    def __init__(self, history: History):
        super().__init__()
        self._history = history

    def load_history_strings(self) -> Iterable[str]:
        """All messages, the latest first."""
        return reversed(self._history.read())

    def store_string(self, string: str) -> None:
        """Keep a message."""
        self._history.add(string)


class _Completer(Completer):
    """Completions, as prompt_toolkit asks for them."""

    def __init__(self, words: Callable[[], Completions]):
        self._words = words

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yield what may take the place of the last characters before the cursor."""
        for found in self._words().complete(document.text_before_cursor, complete_event.completion_requested):
            yield Completion(found.text, -found.replaced, display=found.shown, display_meta=found.help)


def _is_command() -> bool:
    """Whether a list may open while one types, for which lines are kept free below: not for a dropped path."""
    text = get_app().current_buffer.text
    return text.startswith("/") and "/" not in text[1:]


def _keys() -> KeyBindings:
    """What a chat has otherwise than other prompts of several lines."""
    keys, typing = KeyBindings(), has_focus(DEFAULT_BUFFER)
    keys.add("enter", filter=typing)(_enter)
    keys.add("escape", "enter", filter=typing)(_begin_line)
    keys.add("c-c", filter=typing)(_clear_or_interrupt)
    keys.add("<sigint>")(_clear_or_interrupt)
    return keys


def _enter(event: KeyPressEvent) -> None:
    """Send the message, unless its triple quotes are open or a backslash says that the line goes on."""
    buffer = event.current_buffer
    if is_open(buffer.text):
        buffer.newline(copy_margin=False)
    elif buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
        buffer.delete_before_cursor()
        buffer.newline(copy_margin=False)
    else:
        buffer.validate_and_handle()


def _begin_line(event: KeyPressEvent) -> None:
    event.current_buffer.newline(copy_margin=False)


def _clear_or_interrupt(event: KeyPressEvent) -> None:
    """Ctrl-C: clear what is typed; with nothing typed, interrupt."""
    if event.app.current_buffer.text:
        event.app.current_buffer.reset()
    else:
        event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")
