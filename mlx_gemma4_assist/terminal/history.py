"""What was typed before, in a file that only its owner can read: a JSON string per line, the latest last."""

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..files import replacing, why_not_written

MOST = 4 << 20
"""Bytes from which on the older half of the file is dropped."""


class History:
    """Typed messages. A file that cannot be used is told once, and is no failure.

    Args:
        path: the file, made with the first message; several chats may write to it.
        note: takes a line for the person.
    """

    def __init__(self, path: Path, note: Callable[[str], object]):
        self._path, self._note = path, note
        self._told = False

    def read(self) -> list[str]:
        """All messages, the latest last. What is damaged is left out."""
        try:
            lines = self._lines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._tell(f"cannot read {self._path}: {error.strerror}; typed lines of before are not there")
            return []
        messages = [message for line in lines if (message := _message(line)) is not None]
        if len(messages) < len(lines):
            self._tell(f"{len(lines) - len(messages)} lines of {self._path} are damaged, and left out")
        return messages

    def add(self, message: str) -> None:
        """Write a message, at once."""
        line = json.dumps(message) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self._path, "a+b", opener=_open_private) as file:
                end = file.tell()
                torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
                file.write(b"\n" * torn + line.encode())
        except OSError as error:
            self._tell(f"cannot write {self._path}: {why_not_written(error)}; typed lines are not kept")

    def _lines(self) -> list[bytes]:
        with open(self._path, "rb", opener=_open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST:
                file.seek(size - MOST // 2)
                file.readline()
            content = file.read()
        if size > MOST:
            with suppress(OSError), replacing(self._path) as file:
                file.write(content)
        return content.splitlines()

    def _tell(self, line: str) -> None:
        if not self._told:
            self._told = True
            self._note(line)


def _message(line: bytes) -> str | None:
    """What a line says; None if it is damaged."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, str) else None


def _open_regular(path: str, flags: int) -> int:
    """Open a file, and refuse what one would wait for, such as a pipe."""
    number = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(0, "it is no file")
    return number


def _open_private(path: str, flags: int) -> int:
    """Open a file that nobody else may read, from its first moment on."""
    number = os.open(path, flags | os.O_NONBLOCK, 0o600)
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise OSError(0, "it is no file")
    if mode & 0o077:
        os.fchmod(number, 0o600)
    return number
