"""The chat in a real pseudo-terminal, and what its window shows: pexpect types, pyte draws."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pexpect
import pyte

ROOT = Path(__file__).resolve().parents[1]
ENTER, CTRL_C, CTRL_D, CTRL_T, ESCAPE = "\r", "\x03", "\x04", "\x14", "\x1b"
PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
SIGN = ">> "
PATIENCE = 30.0
LEAVING = 5.0  # seconds from a program's last sign to its end, at most
DIM, NOT_DIM = 2, 22
KEPT = 5000  # lines that have left the window


class Window(pyte.HistoryScreen):
    """Answers what programs ask a terminal, such as where the cursor is; dim text, which pyte has not, blinks.

    Args:
        columns, lines: of the window.
        answer: sends something to the program.
    """

    def __init__(self, columns: int, lines: int, answer: Callable[[str], object]):
        super().__init__(columns, lines, history=KEPT, ratio=0.5)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        """As pyte has it."""
        self._answer(data)

    def select_graphic_rendition(self, *attributes: int, **more: Any) -> None:
        """As pyte has it."""
        stand_ins = {DIM: (5,), NOT_DIM: (22, 25)}
        spelled = [each for attribute in attributes for each in stand_ins.get(attribute, (attribute,))]
        if 38 in attributes or 48 in attributes:  # numbers behind these are colours
            spelled = list(attributes)
        super().select_graphic_rendition(*spelled, **more)


class Screen:
    """``python -m mlx_gemma4_assist.chat`` in a terminal of its own.

    Args:
        arguments: of the command.
        data: where conversations are kept.
        columns, lines: of the window.
        environ: variables beside this process's own.
    """

    def __init__(self, *arguments: str, data: Path, columns: int = 80, lines: int = 24, **environ: str):
        variables = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        variables |= {"MLX_GEMMA4_ASSIST_DATA": str(data), "MLX_GEMMA4_ASSIST_CACHE": str(data / "learned")}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            variables.pop(name, None)
        self.raw = b""
        self._window = Window(columns, lines, self.type)
        self._stream = pyte.ByteStream(self._window)
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "mlx_gemma4_assist.chat", *arguments],
            env=variables | environ,
            dimensions=(lines, columns),
            preexec_fn=_hear_signals,
        )
        self.process.delaybeforesend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.close(force=True)

    # What is shown

    @property
    def rows(self) -> list[str]:
        """The window's rows, without blanks at their ends."""
        return [row.rstrip() for row in self._window.display]

    @property
    def shown(self) -> str:
        """The window's text, in which lines that the window has broken are whole."""
        return self._joined(self.rows)

    @property
    def cells(self) -> list[list[pyte.screens.Char]]:
        """All rows that there ever were, those of the window last, as characters with styles."""
        window = self._window
        return [
            [row[x] for x in range(window.columns)]
            for row in [*window.history.top, *(window.buffer[y] for y in range(window.lines))]
        ]

    @property
    def text(self) -> str:
        """All lines that there ever were."""
        return self._joined(["".join(cell.data for cell in row).rstrip() for row in self.cells]).rstrip()

    def styles(self, text: str) -> list[pyte.screens.Char]:
        """The characters of a text, where it stands last in a row."""
        for row in reversed(self.cells):
            found = "".join(cell.data or "\0" for cell in row).find(text)
            if found >= 0:
                return row[found : found + len(text)]
        raise LookupError(f"{text!r} is not on the screen:\n{self.text}")

    @property
    def toolbar(self) -> str:
        """The last row that shows something."""
        return next((row for row in reversed(self.rows) if row), "")

    @property
    def written(self) -> str:
        """All that was ever written, without styles."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.raw.decode(errors="replace"))

    @property
    def at_prompt(self) -> bool:
        """Whether the prompt waits, and nothing is typed."""
        return self._window.cursor.x == len(SIGN) and self._row == SIGN.rstrip()

    # What is done

    def type(self, text: str) -> None:
        """Press keys."""
        self.process.send(text)

    def say(self, text: str, keys: str = ENTER) -> None:
        """Type a line at the prompt, and send it once it is seen."""
        self.wait(lambda: self.at_prompt, "the prompt")
        self.type(text)
        end = text[-8:]
        self.wait(lambda: end in self._row, f"{text!r} as it is typed")
        self.type(keys)

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self._window.resize(lines, columns)
        self._window.ensure_vbounds()
        self.process.setwinsize(lines, columns)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill(signal.SIGKILL)
        self.process.wait()

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        self.wait(lambda: not self.process.isalive(), "the end")
        self.process.close()
        return self.process.exitstatus if self.process.exitstatus is not None else -int(self.process.signalstatus or 0)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Take in what is drawn until a condition holds.

        Raises:
            TimeoutError: it does not, in time or before the chat ends; with all that is shown.
        """
        deadline, gone = time.monotonic() + seconds, False
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no sight of {what}:\n{self.text}")
            if gone:
                time.sleep(LEAVING / 100)
            elif not self._take():  # it has left its terminal, a moment before it has ended
                deadline, gone = min(deadline, time.monotonic() + LEAVING), True

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Take in what is drawn until the window shows a text."""
        self.wait(lambda: text in self.shown, repr(text), seconds)

    def wait_for_answer(self, seconds: float = PATIENCE) -> None:
        """Take in what is drawn until the prompt waits again."""
        self.wait(lambda: self.at_prompt, "the prompt behind an answer", seconds)

    @property
    def _row(self) -> str:
        """The cursor's."""
        return self.rows[self._window.cursor.y]

    def _joined(self, rows: list[str]) -> str:
        text = ""
        for row in rows:
            text += row if len(row) == self._window.columns else f"{row}\n"
        return text

    def _take(self) -> bool:
        """Take in what has been drawn; False if there will be no more."""
        try:
            piece = self.process.read_nonblocking(1 << 16, 0.05)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True


def _hear_signals() -> None:
    """A child would ignore what its parent does: Ctrl-C in the background of a shell, the terminal's end by nohup."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
