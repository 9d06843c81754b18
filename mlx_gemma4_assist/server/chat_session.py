"""A conversation for Python apps: messages go in from any thread, answers come out as they are made."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import randbits
from typing import Any

from ..engine.session import Mark, Session
from ..engine.session_file import encoded_session
from ..errors import InputError
from ..files import read_json, replacing, why_not_written
from ..media.fetch import fetch
from ..text.messages import Message
from .answered_requests import AnsweredRequests
from .endpoint import Backend
from .exchange import ChatRequest, RequestError
from .reply import Reply, ReplyPiece
from .session_values import check_names, checked_budget, checked_options, checked_path, checked_thinking
from .sources import Source, user_says
from .spans import Span

__all__ = ["ChatSession", "Reply", "ReplyPiece", "Source", "Span"]

CONTEXT_FULL = "context_length_exceeded"  # the code of a prompt that leaves no room for an answer


class ChatSession:
    """A conversation with a model. Every method may be called from any thread; one message is answered at a time.

    Args:
        backend: who answers; :meth:`open` makes one. Sessions may share it: their replies are made side by side.
        system_prompt: goes before the first message.
        thinking: whether the model thinks first; None leaves that to the backend.
        options: keywords of ``GenerationOptions``, such as ``{"temperature": 0.7}``; what is not named is as the
            checkpoint says.
        thinking_budget: the most tokens of thought; None sets no limit.
        seeded: whether each message gets a seed of its own where the options name none, so that :meth:`compare` draws
            what the answer drew.
        names: what the backend's errors call options, by their Python names.

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
        thinking_budget: int | None = None,
        seeded: bool = False,
        names: Mapping[str, str] | None = None,
    ):
        self._options = checked_options(options)
        self._backend = backend
        self._thinking, self._thinking_budget = checked_thinking(thinking), checked_budget(thinking_budget)
        self._seeded, self._names = seeded, names or {}
        self._session = Session(system_prompt)
        self._lock = threading.RLock()  # whoever cancels in a signal handler may interrupt who holds it
        self._reply: Reply | None = None
        self._asked: tuple[Mark, ChatRequest] | None = None  # how all was before, and what is being answered
        self._answered = AnsweredRequests()
        self._close: Callable[[], None] | None = None
        self._closed = False

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
        checked_options(options)
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
    def session(self) -> Session:
        """What was said, with its branches. It may be changed while no message is being answered."""
        return self._session

    @property
    def messages(self) -> list[Message]:
        """All that was said, the system prompt first, as chat messages; a copy."""
        with self._lock:
            return self._session.messages

    @property
    def system_prompt(self) -> str | None:
        """What goes before the first message; set while a message is being answered, it counts from the next one on."""
        return self._session.system_prompt

    @system_prompt.setter
    def system_prompt(self, text: str | None) -> None:
        with self._lock:
            self._session.system_prompt = text

    @property
    def thinking(self) -> bool | None:
        """Whether the model thinks before its next answer; None leaves that to the backend. InputError if neither."""
        return self._thinking

    @thinking.setter
    def thinking(self, thinking: bool | None) -> None:
        self._thinking = checked_thinking(thinking)

    @property
    def thinking_budget(self) -> int | None:
        """The most tokens of thought from the next message on; None sets no limit. InputError if it is no number."""
        return self._thinking_budget

    @thinking_budget.setter
    def thinking_budget(self, tokens: int | None) -> None:
        self._thinking_budget = checked_budget(tokens)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the next answers, as far as they were given; a copy."""
        with self._lock:
            return dict(self._options)

    def set_option(self, name: str, value: Any) -> None:
        """Set one of the options for the next answers; None leaves it to the checkpoint again.

        Raises:
            OptionError: it is of another kind or out of its range, or another one cannot be without it.
            InputError: there is no such option.
        """
        check_names([name])
        with self._lock:
            others = {key: each for key, each in self._options.items() if key != name}
            self._options = checked_options(others if value is None else others | {name: value})

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
            InputError: the message is empty, a file cannot be read, the last message is still being answered, the
                session is closed, or the backend refuses the request, such as one that is longer than the context.
        """
        message = user_says(text, (pictures, sounds, videos), fetch)
        return self._ask(lambda: self._session.say(message))

    def retry(self) -> Reply:
        """Let the user's last message be answered once more; the answer that there was stays as a branch.

        Raises:
            InputError: nothing was asked; otherwise as for :meth:`send`.
        """
        return self._ask(lambda: self._session.retry())

    def edit(
        self,
        text: str,
        turn: int | None = None,
        *,
        pictures: Sequence[Source] = (),
        sounds: Sequence[Source] = (),
        videos: Sequence[Source] = (),
    ) -> Reply:
        """Say something in the place of an earlier message; that one and all behind it stay as a branch.

        Args:
            text: of the new message.
            turn: which of the user's messages it replaces, from 1; None is the last one.
            pictures, sounds, videos: as for :meth:`send`.

        Raises:
            InputError: there is no such turn; otherwise as for :meth:`send`.
        """
        message = user_says(text, (pictures, sounds, videos), fetch)
        return self._ask(lambda: self._session.edit(message, turn))

    def compare(self) -> Reply:
        """Make the last answer again, without drafts: the same prompt, options and seed. It is recorded nowhere.

        Raises:
            InputError: nothing was answered; otherwise as for :meth:`send`.
        """
        reply = Reply(self._take_back)
        with self._lock:
            self._check_free()
            request = self._answered.last(self._session, self._request())
            self._reply = reply
        plain = {name: value for name, value in request.options.items() if name != "draft_temperature"}
        return self._submit(reply, replace(request, options=plain | {"num_assistant_tokens": 0}))

    def answer_options(self) -> dict[str, Any]:
        """The options that :meth:`compare` goes by: of the last answer, as far as they were given. InputError: none."""
        with self._lock:
            return dict(self._answered.last(self._session, self._request()).options)

    def cancel(self) -> None:
        """End the reply that is being made, if there is one. What was made of it stays."""
        reply = self._reply
        if reply is not None:
            reply.cancel()

    def undo(self) -> bool:
        """Take back the last message and its answer, which stay as a branch; False if there is none.

        Raises:
            InputError: it is still being answered.
        """
        with self._lock:
            self._check_idle()
            return self._session.undo() is not None

    def reset(self) -> None:
        """Forget all but the system prompt.

        Raises:
            InputError: a message is still being answered.
        """
        with self._lock:
            self._check_idle()
            self._session.reset()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to a file, pictures, sounds and branches in it: JSON, which only its owner can read.

        Raises:
            InputError: a message is still being answered, or the file cannot be written, or JSON has no such message.
        """
        with self._lock:
            self._check_idle()
            content = self._session.saved() | {"model": self._backend.model.id}
        encoded, whole = encoded_session(content), checked_path(path)
        try:
            with replacing(whole) as file:
                file.write(encoded)
        except OSError as error:
            raise InputError(f"cannot write {path}: {why_not_written(error)}") from None
        except ValueError:
            raise InputError(f"cannot write {str(path)!r}: there can be no such file") from None

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with a conversation from :meth:`save`, its system prompt included; of another model too.

        Raises:
            InputError: a message is still being answered; the file cannot be read, or is no conversation.
        """
        self.load_session(Session.restored(read_json(checked_path(path)), str(path)))

    def load_session(self, session: Session) -> None:
        """Go on with another conversation, its system prompt included.

        Raises:
            InputError: a message is still being answered.
        """
        with self._lock:
            self._check_idle()
            self._session = session

    def context_used(self) -> int:
        """How many tokens the conversation takes, as the backend counts them; all of its context if it takes more.

        Raises:
            InputError: the backend refuses the conversation.
        """
        with self._lock:
            if not self._session.messages:
                return 0
            request = self._request()
        try:
            return len(self._backend.tokens(request))
        except RequestError as error:
            if error.code == CONTEXT_FULL:
                return self._backend.model.context
            raise InputError(error.message) from None

    def close(self) -> None:
        """End the reply that is being made, and the backend that :meth:`open` has made. No more is answered."""
        with self._lock:
            self._closed = True
        self.cancel()
        close, self._close = self._close, None
        if close is not None:
            close()

    # Replies

    def _ask(self, change: Callable[[], None]) -> Reply:
        """Answer the conversation as it is after a change; where that fails, the change is undone."""
        reply = Reply(self._record)
        with self._lock:
            self._check_free()
            before = self._session.mark()
            try:
                change()
                request = self._seed(self._request())
                self._reply, self._asked = reply, (before, request)
            finally:
                if self._reply is not reply:
                    self._session.go_back(before)
        return self._submit(reply, request)

    def _submit(self, reply: Reply, request: ChatRequest) -> Reply:
        taken = False
        try:
            reply._accept(self._backend.submit(request, reply._take))
            taken = True
        except RequestError as error:
            raise InputError(error.message) from None
        finally:
            if not taken:  # Ctrl-C may have come while pictures were read
                self._take_back(reply)
        return reply

    def _request(self) -> ChatRequest:
        return ChatRequest(
            model=self._backend.model.id,
            messages=self._session.messages,
            written=self._session.written,
            options=self._options,
            thinking=self._thinking,
            thinking_budget=self._thinking_budget,
            stream=True,
            fields=self._names,
        )

    def _seed(self, request: ChatRequest) -> ChatRequest:
        """A request with a seed, if it is to have one."""
        if not self._seeded or "seed" in request.options:
            return request
        return replace(request, options={**request.options, "seed": randbits(32)})

    def _check_free(self) -> None:
        if self._closed:
            raise InputError("the session is closed")
        if self._reply is not None:
            raise InputError("the last message is still being answered: cancel() ends that")

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
            if self._reply is reply and self._asked is not None:
                _, request = self._asked
                self._reply = self._asked = None  # first: whoever cancels in a signal handler comes here, too
                self._session.answer(message, reply.answer_ids)
                self._answered.keep(self._session.last, request)

    def _take_back(self, reply: Reply) -> None:
        with self._lock:
            if self._reply is reply:
                if self._asked is not None:
                    self._session.go_back(self._asked[0])
                self._reply = self._asked = None
