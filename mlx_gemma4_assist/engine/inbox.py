"""What other threads ask of a thread, in order."""

import threading
from collections.abc import Callable

Message = Callable[[], None]
"""To be called by whoever takes it."""


class Inbox:
    """Messages from any thread to one that waits for them."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._changed = threading.Condition()

    def put(self, message: Message) -> None:
        """Leave a message, and wake who waits."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def take(self, seconds: float | None) -> list[Message]:
        """All messages, the oldest first, once there are some or so many seconds have passed; None sets no limit."""
        with self._changed:
            if not self._messages:
                self._changed.wait(seconds)
            found, self._messages = self._messages, []
            return found
