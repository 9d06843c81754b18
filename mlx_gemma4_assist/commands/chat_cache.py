"""A chat's keys and values in a file: read into the engine's prefix cache when it begins, written when it ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..server.exchange import ChatRequest, RequestError
from .prompt_cache import CacheFile

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..options import GenerationOptions
    from ..server.chat_session import ChatSession
    from ..server.endpoint import Backend


class ConversationFile:
    """The file that a chat was told to keep its keys and values in.

    Args:
        path: of the file.
        note: told what the file has been good for.

    Raises:
        InputError: the file cannot be what is wanted, as far as can be seen without a model.
    """

    def __init__(self, path: Path, note: Callable[[str], None]):
        self._file, self._path, self._note = CacheFile(path), path, note
        self._engine: Engine | None = None
        self._options: GenerationOptions | None = None
        self._session: ChatSession | None = None

    def follow(self, session: "ChatSession") -> None:
        """The conversation that is written in the end."""
        self._session = session

    def fill(self, engine: "Engine", options: "GenerationOptions") -> None:
        """Let an engine begin with what the file holds. In the engine's thread.

        Raises:
            InputError: a file of another model, or of keys that are quantized otherwise; a damaged one.
        """
        cache = self._file.open(engine.pair, options)
        if cache is not None:
            tokens = cache.tokens[0]
            for position in (*engine.pair.text().turn_begins(tokens), len(tokens)):
                if cache.can_rewind(0, position):
                    engine.prefix.take(cache, position)
        self._engine, self._options = engine, options

    def write(self, backend: "Backend") -> None:
        """Write what the engine, whose thread has ended, knows of the conversation's beginning.

        Raises:
            InputError: the file cannot be written, or the conversation cannot be read again.
        """
        if self._engine is None or self._options is None or self._session is None or not self._session.messages:
            return
        engine = self._engine
        cache = self._file.empty(engine.pair, self._options)
        engine.prefix.restore(cache, _tokens(self._session, backend), 0)
        if cache.lengths[0]:
            self._note(self._file.replace(cache))
        else:
            self._note(f"Prompt cache: {self._path} is not written, nothing is kept of so short a conversation")


def _tokens(session: "ChatSession", backend: "Backend") -> list[int]:
    """Of a conversation; without its last answer where that has filled the context.

    Raises:
        InputError: it cannot be read again.
    """
    request = ChatRequest(
        model=backend.model.id,
        messages=session.messages,
        thinking=session.thinking,
        written=session.session.written,
    )
    try:
        try:
            return list(backend.tokens(request))
        except RequestError:
            return list(backend.tokens(replace(request, messages=session.messages[:-1])))
    except RequestError as error:
        raise InputError(f"the prompt cache is not written: {error.message}") from None
