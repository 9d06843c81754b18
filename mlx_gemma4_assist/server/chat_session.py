"""A conversation for Python apps: messages go in from any thread, answers come out as they are made."""

import base64
import json
import mimetypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import InputError, described
from ..files import read_json, replacing, why_not_written
from ..media.fetch import fetch
from ..options import GenerationOptions
from ..text.deltas import AnswerDelta, ThoughtDelta
from ..text.messages import Media, Message, user_message
from .endpoint import Backend, Ticket
from .exchange import Answer, ChatRequest, Event, Failed, Finished, Piece, RequestError, Usage
from .saved_chat import checked_messages, saved

Source = str | os.PathLike[str] | bytes
"""A picture, sound or video: a path, a ``data:`` URL, one that is downloaded, or the bytes of a file."""


@dataclass(frozen=True)
class ReplyPiece:
    """The next piece of a reply.

    Attributes:
        text: of the answer, or of what the model thinks.
        channel: which of both it is.
    """

    text: str
    channel: Literal["answer", "thought"] = "answer"


class Reply(Iterator[ReplyPiece]):
    """A reply while it is made; iterate over it for its pieces. It goes on being made if nobody does.

    Attributes are there at any time, and complete once the iteration has ended.
    """

    def __init__(self, finish: Callable[["Reply"], None]):
        self._finish = finish
        self._queue: SimpleQueue[ReplyPiece | RequestError | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._made = Answer()
        self._ticket: Ticket | None = None
        self._ended = self._cancelled = self._read = False
        self._error: RequestError | None = None

    def __next__(self) -> ReplyPiece:
        """Raises:
        InputError: the request has failed.
        """
        if self._read:
            raise StopIteration
        found = self._queue.get()
        if isinstance(found, ReplyPiece):
            return found
        self._read = True
        if found is not None:
            raise InputError(found.message)
        raise StopIteration

    @property
    def answer(self) -> str:
        """The answer so far."""
        return self._made.choices[0].answer if self._made.choices else ""

    @property
    def thought(self) -> str:
        """What the model has thought so far."""
        return self._made.choices[0].thought if self._made.choices else ""

    @property
    def finish_reason(self) -> str | None:
        """``stop`` or ``length``; ``cancelled``; ``error``; None as long as it goes on."""
        if self._cancelled:
            return "cancelled"
        if self._error is not None:
            return "error"
        finished = self._finished
        return None if finished is None else finished.reason.value

    @property
    def usage(self) -> Usage:
        """Tokens and drafts, once it has ended by itself."""
        finished = self._finished
        return Usage() if finished is None else finished.usage

    @property
    def _finished(self) -> Finished | None:
        return self._made.choices[0].finished if self._made.choices else None

    def cancel(self) -> None:
        """End it. What was made stays in the conversation; nothing more comes."""
        with self._lock:
            if self._ended:
                return
            self._ended = self._cancelled = True
            ticket = self._ticket
        if ticket is not None:
            ticket.cancel()
        self._end(None)

    def end_thought(self) -> None:
        """Let the model stop thinking, and answer now."""
        if self._ticket is not None:
            self._ticket.end_thought()

    def _accept(self, ticket: Ticket) -> None:
        """The backend has taken the request; whoever has cancelled it meanwhile is heard now."""
        with self._lock:
            self._ticket = ticket
            cancelled = self._cancelled
        if cancelled:
            ticket.cancel()

    def _take(self, event: Event) -> None:
        """An event, in the backend's thread."""
        with self._lock:
            if self._ended:
                return
            if isinstance(event, Failed):
                self._error = event.error
            else:
                self._made.take(event)
            self._ended = isinstance(event, Failed | Finished)
        if isinstance(event, Piece):
            for piece in _pieces(event):
                self._queue.put(piece)
        elif isinstance(event, Failed | Finished):
            self._end(self._error)

    def _end(self, error: RequestError | None) -> None:
        self._finish(self)
        self._queue.put(error)


def _pieces(event: Piece) -> Iterator[ReplyPiece]:
    for delta in event.deltas:
        match delta:
            case AnswerDelta(text):
                yield ReplyPiece(text)
            case ThoughtDelta(text):
                yield ReplyPiece(text, "thought")
            case _:  # nobody has offered tools
                pass


class ChatSession:
    """A conversation with a model. Every method may be called from any thread; one message is answered at a time.

    Args:
        backend: who answers; :meth:`open` makes one. Sessions may share it: their replies are made side by side.
        system_prompt: goes before the first message.
        thinking: whether the model thinks first; None leaves that to the backend.
        options: keywords of ``GenerationOptions``, such as ``{"temperature": 0.7}``; what is not named is as the
            checkpoint says.

    Raises:
        OptionError: an option of another kind or out of its range.
        InputError: there is no such option.
    """

    def __init__(
        self,
        backend: Backend,
        system_prompt: str | None = None,
        *,
        thinking: bool | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        self._options = _checked(options or {})
        self._backend = backend
        self._thinking = thinking
        self._system: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._messages: list[Message] = []
        self._lock = threading.Lock()
        self._reply: Reply | None = None
        self._close: Callable[[], None] | None = None

    @classmethod
    def open(
        cls,
        model: str,
        assistant_model: str = "matching",
        system_prompt: str | None = None,
        *,
        thinking: bool | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "ChatSession":
        """A session with a backend of its own, which :meth:`close` ends.

        Args:
            model: a folder, a repo on the Hub, or ``tiny`` for the pair that comes with the package.
            assistant_model: the same of an assistant; "matching" looks for the one that belongs to the target, "none"
                goes without.
            system_prompt, thinking, options: as of the class.

        Raises:
            InputError: see ``Checkpoint.open``.
        """
        _checked(options or {})
        from .opening import open_backend

        backend, close = open_backend(model, assistant_model)
        session = cls(backend, system_prompt, thinking=thinking, options=options)
        session._close = close
        return session

    def __enter__(self) -> "ChatSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def messages(self) -> list[Message]:
        """All that was said, the system prompt first, as chat messages; a copy."""
        with self._lock:
            return deepcopy([*self._system, *self._messages])

    def send(
        self,
        text: str,
        *,
        pictures: Sequence[Source] = (),
        sounds: Sequence[Source] = (),
        videos: Sequence[Source] = (),
    ) -> Reply:
        """Say something. The reply is begun at once, and comes as one iterates over it.

        Raises:
            InputError: the message is empty, a file cannot be read, the last message is still being answered, or the
                backend refuses the request, such as one that is longer than the context.
        """
        message = _message(text, Media(*(tuple(map(_url, each)) for each in (pictures, sounds, videos))))
        reply = Reply(self._record)
        with self._lock:
            if self._reply is not None:
                raise InputError("the last message is still being answered: cancel() ends that")
            self._reply = reply
            self._messages.append(message)
            request = self._request()
        try:
            reply._accept(self._backend.submit(request, reply._take))
        except RequestError as error:
            self._take_back(reply)
            raise InputError(error.message) from None
        return reply

    def cancel(self) -> None:
        """End the reply that is being made, if there is one. What was made of it stays."""
        reply = self._reply
        if reply is not None:
            reply.cancel()

    def undo(self) -> bool:
        """Take back the last message and its answer; False if there is none.

        Raises:
            InputError: it is still being answered.
        """
        with self._lock:
            self._check_idle()
            last = next((i for i in reversed(range(len(self._messages))) if self._messages[i]["role"] == "user"), None)
            if last is not None:
                del self._messages[last:]
            return last is not None

    def reset(self) -> None:
        """Forget all but the system prompt.

        Raises:
            InputError: a message is still being answered.
        """
        with self._lock:
            self._check_idle()
            self._messages = []

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to a file, pictures and sounds in it: JSON, which only its owner can read.

        Raises:
            InputError: a message is still being answered, or the file cannot be written.
        """
        with self._lock:
            self._check_idle()
            content = saved([*self._system, *self._messages], self._backend.model.id)
        try:
            with replacing(Path(path)) as file:
                file.write(json.dumps(content, ensure_ascii=False, indent=1).encode())
        except OSError as error:
            raise InputError(f"cannot write {path}: {why_not_written(error)}") from None

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with a conversation from :meth:`save`, its system prompt included; of another model too.

        Raises:
            InputError: a message is still being answered; the file cannot be read, or is no conversation.
        """
        messages = checked_messages(read_json(Path(path)), str(path))
        with self._lock:
            self._check_idle()
            self._system = [each for each in messages[:1] if each["role"] == "system"]
            self._messages = messages[len(self._system) :]

    def close(self) -> None:
        """End the reply that is being made, and the backend that :meth:`open` has made."""
        self.cancel()
        close, self._close = self._close, None
        if close is not None:
            close()

    def _request(self) -> ChatRequest:
        return ChatRequest(
            model=self._backend.model.id,
            messages=[*self._system, *self._messages],
            options=self._options,
            thinking=self._thinking,
            stream=True,
        )

    def _check_idle(self) -> None:
        if self._reply is not None:
            raise InputError("a message is still being answered: cancel() ends that")

    def _record(self, reply: Reply) -> None:
        """A reply has ended: it is kept as far as it was made; of a failed one nothing is, its message neither."""
        nothing = reply.finish_reason == "cancelled" and not (reply.answer or reply.thought)
        if nothing or reply.finish_reason == "error":
            self._take_back(reply)
            return
        message: dict[str, Any] = {"role": "assistant", "content": reply.answer}
        if reply.thought:
            message["reasoning_content"] = reply.thought
        with self._lock:
            self._messages.append(message)
            self._reply = None

    def _take_back(self, reply: Reply) -> None:
        with self._lock:
            if self._reply is reply:
                self._messages.pop()
                self._reply = None


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    known = GenerationOptions.__dataclass_fields__
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"there is no option {unknown[0]!r}")
    GenerationOptions(**options)
    return dict(options)


def _message(text: str, media: Media) -> Message:
    if not isinstance(text, str):
        raise InputError(f"the message is {described(text)}, expected text")
    if not text.strip() and not media:
        raise InputError("the message is empty")
    return user_message(text, media)


def _url(source: Source) -> str:
    """What a message names: a backend opens and fetches nothing, so that it is read here."""
    if isinstance(source, bytes):
        return _data_url(source, None)
    if isinstance(source, str) and source.startswith("data:"):
        return source
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _data_url(fetch(source), mimetypes.guess_type(urlsplit(source).path)[0])
    path = Path(source).expanduser()
    try:
        return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _data_url(content: bytes, kind: str | None) -> str:
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(content).decode()}"
