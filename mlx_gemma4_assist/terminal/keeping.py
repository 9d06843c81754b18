"""Where a conversation is kept while it goes on; what cannot be written is said once, and the conversation goes on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import InputError
from ..server.chat_session import ChatSession
from .store import Entry, Store

if TYPE_CHECKING:
    from ..engine.session import Session


class Keeping:
    """The stored conversation that a session is saved as.

    Args:
        store: of conversations.
        say: tells of what cannot be written.
        automatic: whether conversations are kept without being asked to.

    Attributes:
        store: as given.
        model: the id of who answers; to be set before anything is kept.
        entry: what is written; None where nothing is.
    """

    def __init__(self, store: Store, say: Callable[[str], None], *, automatic: bool = True):
        self.store, self.model = store, ""
        self.entry: Entry | None = None
        self._automatic, self._say = automatic, say
        self._failed = False

    def save(self, session: ChatSession) -> None:
        """Write the conversation if it is kept. What goes wrong is said once."""
        if self.entry is None:
            return
        try:
            self.entry.save(session.session)
        except InputError as error:
            if not self._failed:
                self._say(f"The conversation is not saved: {error}")
            self._failed = True
        else:
            self._failed = False

    def begin(self) -> Entry:
        """Keep the conversation from now on, as another one than before."""
        self.entry = self.store.begin(self.model)
        return self.entry

    def anew(self) -> None:
        """Another conversation begins: it is kept beside the one before, if conversations are kept by themselves."""
        self.entry = self.store.begin(self.model) if self._automatic else None

    def open(self, name: str | None) -> "Session":
        """A stored conversation, which is kept where it was from now on.

        Raises:
            InputError: it is not there, or damaged.
        """
        self.entry, session = self.store.open(name, model=self.model or None)
        return session
