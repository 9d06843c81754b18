"""The requests that are being answered: found by their answers' ids, and ended when the server stops."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .exchange import RequestError
from .mailbox import Mailbox

_ID = re.compile(r"[0-9a-f]{24}")
AGAIN = 5
"""Seconds after which a client may try again when the server is being stopped: another may have begun."""


def stopping() -> RequestError:
    """What clients are told while the server stops."""
    return RequestError(503, "The server is being stopped.", "overloaded_error", retry_after=AGAIN)


class Running:
    """Requests by id, as long as they are answered."""

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._boxes)

    @contextmanager
    def admitted(self, identity: str, mailbox: Mailbox) -> Iterator[None]:
        """Within it a request is being answered.

        Raises:
            RequestError: 503, no more are admitted.
        """
        self.check_open()
        self._boxes[identity] = mailbox
        self._empty.clear()
        try:
            yield
        finally:
            del self._boxes[identity]
            if not self._boxes:
                self._empty.set()

    def check_open(self) -> None:
        """Refuse requests while the server stops.

        Raises:
            RequestError: 503.
        """
        if self._closed:
            raise stopping()

    def end_thought(self, answer_id: str) -> None:
        """Let a model stop thinking.

        Args:
            answer_id: as a protocol gave it: the request's id with something before it, or behind it.

        Raises:
            RequestError: 404, there is no such request any more.
        """
        for identity in _ID.findall(answer_id):
            if identity in self._boxes:
                self._boxes[identity].end_thought()
                return
        raise RequestError(404, f"No answer {answer_id[:100]!r} is being written.", "not_found_error")

    def close(self) -> None:
        """Admit no more."""
        self._closed = True

    def cut(self) -> None:
        """End all answers with an error."""
        for mailbox in self._boxes.values():
            mailbox.fail(stopping())

    async def finished(self, seconds: float) -> bool:
        """Whether all answers have ended within a time."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
