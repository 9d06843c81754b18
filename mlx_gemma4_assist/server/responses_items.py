"""Items that an answer of the Responses API consists of, as they grow and as they are in the end."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import openai_answers as answers
from .exchange import TokenInfo
from .responses_input import sealed
from .responses_tools import INPUT, Declared

Told = dict[str, Any]
"""An event without its number: ``type``, and its fields."""


@dataclass
class Item(ABC):
    """Something that an answer brings.

    Attributes:
        id: names it.
        index: which of the answer's items it is.
        text: what it holds so far; of a call, its arguments.
    """

    id: str
    index: int
    text: str = ""

    @property
    def place(self) -> Told:
        """Whose event one is."""
        return {"item_id": self.id, "output_index": self.index}

    @abstractmethod
    def made(self, status: str) -> Told:
        """The item as it is now."""

    def begin(self) -> list[Told]:
        """The events with which it begins."""
        return [{"type": "response.output_item.added", "output_index": self.index, "item": self.made("in_progress")}]

    def add(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[Told]:
        """It goes on."""
        self.text += text
        return []

    def end(self, status: str) -> list[Told]:
        """The events with which it ends."""
        return [{"type": "response.output_item.done", "output_index": self.index, "item": self.made(status)}]


@dataclass
class Thought(Item):
    """What the model thinks.

    Attributes:
        summarized: whether it is shown where OpenAI shows a summary, since such a one is asked for.
        opaque: whether it also goes out in the form that clients send back.
    """

    summarized: bool = False
    opaque: bool = False

    def made(self, status: str) -> Told:
        text = [self._part(self.text)] if self.text else []
        made: Told = {"id": self.id, "type": "reasoning", "status": status}
        made |= {"summary": text} if self.summarized else {"summary": [], "content": text}
        return made | ({"encrypted_content": sealed(self.text)} if self.opaque and self.text else {})

    def begin(self) -> list[Told]:
        return [*super().begin(), self._event("part.added", part=self._part(""))]

    def add(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[Told]:
        super().add(text)
        return [self._event("text.delta", delta=text)]

    def end(self, status: str) -> list[Told]:
        done = [self._event("text.done", text=self.text), self._event("part.done", part=self._part(self.text))]
        return done + super().end(status)

    def _part(self, text: str) -> Told:
        return {"type": "summary_text" if self.summarized else "reasoning_text", "text": text}

    def _event(self, kind: str, **fields: Any) -> Told:
        if self.summarized:
            return {"type": f"response.reasoning_summary_{kind}", **self.place, "summary_index": 0, **fields}
        name = f"content_{kind}" if kind.startswith("part") else f"reasoning_{kind}"
        return {"type": f"response.{name}", **self.place, "content_index": 0, **fields}


@dataclass
class Message(Item):
    """What the model answers."""

    tokens: list[TokenInfo] = field(default_factory=list)

    def made(self, status: str) -> Told:
        content = [self._part()] if self.text or status != "in_progress" else []
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def begin(self) -> list[Told]:
        return [*super().begin(), self._event("content_part.added", part=self._part())]

    def add(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[Told]:
        super().add(text)
        self.tokens += tokens
        return [self._event("output_text.delta", delta=text, logprobs=_probable(tokens))]

    def end(self, status: str) -> list[Told]:
        done = [
            self._event("output_text.done", text=self.text, logprobs=_probable(self.tokens)),
            self._event("content_part.done", part=self._part()),
        ]
        return done + super().end(status)

    def _part(self) -> Told:
        logprobs = [answers.log_probability(token) for token in self.tokens]
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs}

    def _event(self, kind: str, **fields: Any) -> Told:
        return {"type": f"response.{kind}", **self.place, "content_index": 0, **fields}


def _probable(tokens: Sequence[TokenInfo]) -> list[Told]:
    """Log-probabilities as events have them, which is without bytes."""
    return [
        {
            "token": token.text,
            "logprob": answers.finite(token.logprob),
            "top_logprobs": [{"token": text, "logprob": answers.finite(logprob)} for _, text, logprob in token.top],
        }
        for token in tokens
    ]


@dataclass
class Call(Item):
    """A call of a tool; its name is told as the request declares it, apart from its namespace."""

    call_id: str = ""
    name: str = ""
    declared: Declared | None = None

    @property
    def named(self) -> Told:
        """Names as they go out."""
        if self.declared is None:
            return {"name": self.name}
        namespace = {} if self.declared.namespace is None else {"namespace": self.declared.namespace}
        return {"name": self.declared.tool["name"], **namespace}


@dataclass
class FunctionCall(Call):
    """A call of a function."""

    def made(self, status: str) -> Told:
        made = {"id": self.id, "type": "function_call", "status": status, "call_id": self.call_id}
        return made | self.named | {"arguments": self.text}

    def add(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[Told]:
        super().add(text)
        return [{"type": "response.function_call_arguments.delta", **self.place, "delta": text}]

    def end(self, status: str) -> list[Told]:
        done = {"type": "response.function_call_arguments.done", **self.place, "name": self.named["name"]}
        return [done | {"arguments": self.text}, *super().end(status)]


@dataclass
class FreeCall(Call):
    """A call of a tool of free text, which goes out when it is complete."""

    def made(self, status: str) -> Told:
        said = "" if status == "in_progress" else self._input()
        return {"id": self.id, "type": "custom_tool_call", "call_id": self.call_id} | self.named | {"input": said}

    def end(self, status: str) -> list[Told]:
        said = self._input()
        done: list[Told] = [
            {"type": "response.custom_tool_call_input.delta", **self.place, "delta": said},
            {"type": "response.custom_tool_call_input.done", **self.place, "input": said},
        ]
        return done + super().end(status)

    def _input(self) -> str:
        """The free text; arguments of another form, or cut off, go out as they are."""
        try:
            read = json.loads(self.text)
        except ValueError:
            return self.text
        said = read.get(INPUT) if isinstance(read, dict) else None
        return said if isinstance(said, str) else self.text
