"""Keys while an answer is made: Ctrl-C stops it, Ctrl-T ends a thought, what else is typed is kept for later."""

import os
import re
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .style import Terminal

CTRL_T = b"\x14"
# macOS takes Ctrl-T for a question about the process, Ctrl-O and Ctrl-Y for others. Its number of the first is not
# among those that Python names.
_TAKEN = ("VSTATUS", "VDISCARD", "VDSUSP", "VLNEXT")
_DARWIN = {"VSTATUS": 18}
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|[^\[O])?", re.DOTALL)  # of arrows and other keys
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Keys:
    """Hears keys as long as it is entered; :meth:`poll` acts on them.

    Where standard input is a terminal that can draw, keys come one by one and are not echoed; its attributes are
    restored when the block ends, and when SIGTERM or SIGHUP ends the process. Elsewhere only Ctrl-C is heard. Outside
    of the main thread, and where the parent process had it ignored, Ctrl-C is left as it is.

    Args:
        terminal: tells whether keys can come one by one.
        on_stop: called by :meth:`poll` after the first Ctrl-C. The second raises KeyboardInterrupt wherever the block
            is.
        on_end_thought: called by :meth:`poll` after Ctrl-T.
    """

    def __init__(
        self, terminal: "Terminal", *, on_stop: Callable[[], object], on_end_thought: Callable[[], object]
    ) -> None:
        self._terminal, self._on_stop, self._on_end_thought = terminal, on_stop, on_end_thought
        self._input: int | None = None
        self._typed = b""
        self._entered = self._pressed = self._told = False
        self._leave = ExitStack()

    @property
    def typed(self) -> str:
        """What was typed meanwhile, as the default text of the next prompt; Enter at its end is left out."""
        return _edited(self._typed.decode(errors="ignore")).rstrip("\n")

    def __enter__(self) -> "Keys":
        with ExitStack() as stack:
            stack.enter_context(_handling(signal.SIGINT, self._press))
            if self._terminal.interactive:
                self._input = sys.stdin.fileno()
                stack.enter_context(_single_keys(self._input))
            self._leave = stack.pop_all()
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self._entered = False  # from here on nothing interrupts
        try:
            self._hear()
        finally:
            self._leave.close()
            self._input = None

    def poll(self) -> None:
        """Act on what was pressed since the last call; it does not wait."""
        if CTRL_T in self._hear():
            self._on_end_thought()
        if self._pressed and not self._told:
            self._told = True
            self._on_stop()

    def _hear(self) -> bytes:
        """Read and keep what was typed."""
        heard = b""
        while self._input is not None and select.select([self._input], [], [], 0)[0]:
            try:
                piece = os.read(self._input, 4096)
            except OSError:
                piece = b""
            if not piece:  # the terminal is gone
                self._input = None
            heard += piece
        self._typed += heard
        return heard

    def _press(self, number: int, frame: FrameType | None) -> None:
        """SIGINT. What it calls may hold locks that the main thread holds just now: it only takes note."""
        if self._pressed and self._entered:
            raise KeyboardInterrupt
        self._pressed = True


@contextmanager
def _handling(number: int, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """A signal handled otherwise than before, unless it is ignored; signals belong to the main thread."""
    before = signal.getsignal(number)
    if before is None or before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def restored_when_ended(number: int, leaving: bytes = b"") -> Iterator[Callable[[], None]]:
    """A terminal that SIGTERM and SIGHUP leave as it is now: with its attributes, whatever changes them meanwhile.

    Args:
        number: of its file.
        leaving: written to it then.

    Yields:
        What restores the attributes.
    """
    before = termios.tcgetattr(number)

    def restore() -> None:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(number, termios.TCSANOW, before)

    def end(signal_number: int, frame: FrameType | None) -> None:
        restore()
        with suppress(OSError):
            os.write(number, leaving)
        signal.signal(signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), signal_number)

    with ExitStack() as stack:
        for each in _ENDING:
            if signal.getsignal(each) is signal.SIG_DFL:
                stack.enter_context(_handling(each, end))
        yield restore


@contextmanager
def _single_keys(number: int) -> Iterator[None]:
    """A terminal whose keys come one by one, unseen, and of which only Ctrl-C, Ctrl-Z and Ctrl-\\ are signals."""
    changed = _without_lines(termios.tcgetattr(number), number)

    def go_on(signal_number: int, frame: FrameType | None) -> None:
        termios.tcsetattr(number, termios.TCSANOW, changed)  # the shell had the terminal meanwhile

    with ExitStack() as stack:
        stack.callback(stack.enter_context(restored_when_ended(number)))
        stack.enter_context(_handling(signal.SIGCONT, go_on))
        termios.tcsetattr(number, termios.TCSANOW, changed)
        yield


def _without_lines(attributes: list[Any], number: int) -> list[Any]:
    """A terminal's attributes with neither lines nor echo."""
    *flags, local, speed_in, speed_out, characters = attributes
    local &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    known = vars(termios) | (_DARWIN if sys.platform == "darwin" else {})
    for name in _TAKEN:
        if name in known:
            characters[known[name]] = bytes([os.fpathconf(number, "PC_VDISABLE")])
    return [*flags, local, speed_in, speed_out, characters]


def _edited(typed: str) -> str:
    """The text that keys have made: Backspace and Ctrl-U delete, Enter begins a line, other keys do nothing."""
    text = ""
    for key in _SEQUENCE.sub("", typed):
        if key in "\x7f\b":
            text = text[:-1]
        elif key == "\x15":
            text = text[: text.rfind("\n") + 1]
        elif key in "\r\n":
            text += "\n"
        elif key >= " " or key == "\t":
            text += key
    return text
