"""How the answers of a conversation were asked for, so that one can be made again as it was."""

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from ..engine.session import Session
from ..errors import InputError
from .exchange import ChatRequest


class AnsweredRequests:
    """The requests of answers: options, seeds and system prompts, for as long as a conversation has the answers.

    The messages themselves are the conversation's, whose branches share them.
    """

    def __init__(self) -> None:
        self._requests: WeakKeyDictionary[Any, ChatRequest] = WeakKeyDictionary()

    def keep(self, answer: object, request: ChatRequest) -> None:
        """Keep how an answer was asked for; ``answer`` is ``Session.last`` once it is there."""
        lead = [message for message in request.messages[:1] if message["role"] == "system"]
        self._requests[answer] = replace(request, messages=lead, written=())

    def last(self, session: Session, now: ChatRequest) -> ChatRequest:
        """The request that the last answer of a conversation has answered.

        Args:
            session: the conversation.
            now: the request that would be made of it now, which counts where nobody knows how it was.

        Raises:
            InputError: the last message is no answer.
        """
        *before, last = now.messages or [{"role": ""}]
        if last["role"] != "assistant" or not before:
            raise InputError("nothing was answered that could be compared")
        kept = self._requests.get(session.last)
        if kept is None:
            return replace(now, messages=before)
        said = before if session.system_prompt is None else before[1:]
        return replace(kept, messages=[*kept.messages, *said], written=now.written)
