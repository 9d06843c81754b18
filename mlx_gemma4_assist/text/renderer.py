"""Conversations to prompts in Gemma 4's chat format, as its chat template renders them where it renders them right.

Where the template goes wrong, this does not: text beside calls of tools stands where the model wrote it, before the
calls, and the turn stays open for what comes behind the tools' answers; what tools answer may be anything; calls that
were issued here are put back as the very tokens that the model wrote; an answer can be continued. Whatever text spells,
no control tokens come of it. ``docs/chat_format.md`` says more.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, OptionError
from .channels import CLOSE, TURN, without_channels
from .chat_form import OPENED, ChatForm, form_of, turn
from .control import END_OF_TURN, pieces, spliced
from .issued import Issued, may_be_spliced
from .messages import Media, Message, split_media
from .syntax import ANSWER, Syntax
from .template import render
from .turns import SYSTEM, Content, Step, Turn, mended, read_turns
from .written import nothing_written

if TYPE_CHECKING:
    from .processor import Processor

Tool = Mapping[str, Any]
_END = f"\ufdd2{secrets.token_hex(8)}\ufdd3"  # marks where a template has put the end of a message


def nothing_issued(call_id: str) -> Issued | None:
    """No call has been issued."""
    return None


class Rendered(NamedTuple):
    """A prompt: ``media.processor.MediaProcessor.expand`` or, without media, ``Processor.tokenize`` makes tokens of it.

    Attributes:
        text: BOS and control tokens included, with seams where text of messages spells any.
        media: what is shown, in the order of its placeholders.
    """

    text: str
    media: Media


class Renderer:
    """Renders for one checkpoint.

    Args:
        processor: of the checkpoint.
        issued: the message in which a call was issued, by the call's id; None if it is not known.
        written: the tokens of an answer, by its text without white space behind it; None if they are not known.
    """

    def __init__(
        self,
        processor: "Processor",
        issued: Callable[[str], Issued | None] = nothing_issued,
        written: Callable[[str], Sequence[int] | None] = nothing_written,
    ):
        self._processor, self._issued, self._written = processor, issued, written
        self._syntax = Syntax(processor.control.sealed)

    @cached_property
    def form(self) -> ChatForm | None:
        """The checkpoint's form of Gemma 4's format; None if it has another, which only its template knows."""
        return form_of(self._processor.tokenizer, self._processor.control)

    @property
    def thinks(self) -> bool:
        """Whether thoughts can be asked for."""
        return self.form is not None or "enable_thinking" in self._template

    @property
    def takes_tools(self) -> bool:
        """Whether tools can be declared."""
        return self.form is not None or "tools" in self._template

    @property
    def _template(self) -> str:
        return str(self._processor.tokenizer.chat_template)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        thinking: bool = False,
        continue_last: bool = False,
    ) -> Rendered:
        """A conversation as the model reads it.

        Args:
            messages: as ``split_media`` takes them. An assistant's may have ``reasoning_content`` and ``tool_calls``; a
                tool's has ``tool_call_id``, or ``name``, or answers the calls in their order.
            tools: as OpenAI has them, ``{"type": "function", "function": {...}}``.
            thinking: whether the model is asked to think first.
            continue_last: whether the last message, an assistant's, is left open rather than answered.

        Raises:
            InputError: malformed messages, calls or tools; a tool's answer without a call; nothing to continue; no chat
                template, or one that refuses the conversation or knows no tools or thoughts.
        """
        conversation = split_media(mended(messages))
        _check_tools(tools)
        if continue_last:
            _check_last(conversation.messages[-1])
        write = self._by_template if self.form is None else self._by_form
        try:
            return Rendered(write(conversation.messages, tools, thinking, continue_last), conversation.media)
        except RecursionError:
            raise InputError("the conversation's values or schemas are nested too deeply") from None

    def shown(self, text: str) -> str:
        """Rendered text fit to be looked at: without seams, with the text of what was spliced in."""
        parts = pieces(text)
        return "".join(each if isinstance(each, str) else self._processor.decode(each, False) for each in parts)

    def _by_template(self, messages: list[Message], tools: Sequence[Tool], thinking: bool, open_: bool) -> str:
        if tools and not self.takes_tools:
            raise InputError("the checkpoint's chat template knows no tools")
        if thinking and not self.thinks:
            raise OptionError("the checkpoint's chat template knows no {enable_thinking}")
        sealed = self._processor.control.sealed
        if open_:
            messages = [*messages[:-1], _ended(messages[-1])]
        values = {"add_generation_prompt": not open_, "enable_thinking": thinking}
        if tools:
            values["tools"] = sealed(tools)
        plain = sealed(messages)
        made = render(self._processor.tokenizer, plain, values)
        own = self._in_own_words(messages[:-1] if open_ else messages, plain)
        if own != plain:
            again = render(self._processor.tokenizer, own, values)
            made = again if self.shown(again) == self.shown(made) else made
        return made.partition(_END)[0]

    def _by_form(self, messages: list[Message], tools: Sequence[Tool], thinking: bool, open_: bool) -> str:
        assert self.form is not None
        lead = messages[0]["content"] if messages[0]["role"] in SYSTEM else None
        turns = read_turns(messages if lead is None else messages[1:])
        written = [str(self._processor.tokenizer.bos_token)]
        if lead is not None or tools or thinking:
            think = self.form.think if thinking else ""
            declared = "".join(self._syntax.declaration(tool["function"]) for tool in tools)
            written.append(turn("system", f"{think}{self._lead(lead or '')}{declared}"))
        written += self._turns(turns[:-1] if open_ else turns, turns)
        written += self._open_turn(turns, thinking) if open_ else [self._prompt(turns, thinking)]
        return "".join(written)

    def _turns(self, some: Sequence[Turn], turns: Sequence[Turn]) -> Iterator[str]:
        """Some of all turns."""
        for each in some:
            if each.role == "model":
                yield from self._model_turn(each, turns)
            else:
                yield turn(each.role, self._content(each.steps[0].contents[0]))

    def _prompt(self, turns: Sequence[Turn], thinking: bool) -> str:
        """What makes the model write on."""
        assert self.form is not None
        step = turns[-1].steps[-1] if turns else None
        if step is None or not step.calls:
            return f"{TURN}model\n{self.form.begun[thinking]}"
        return self.form.resumed[thinking] if step.answers else ""

    def _model_turn(self, own: Turn, turns: Sequence[Turn]) -> Iterator[str]:
        yield f"{TURN}model\n"
        last_question, last = _last_question(turns), own.steps[-1]
        for step in own.steps:
            yield self._step(step, step.place > last_question)
        if not last.calls or (last.answers and own is not turns[-1]):
            yield f"{END_OF_TURN}\n"

    def _step(self, step: Step, keeps_thoughts: bool) -> str:
        said = self._as_issued(step, keeps_thoughts)
        if said is None:
            thought = f"{OPENED}{self._sealed(step.thought)}\n{CLOSE}" if keeps_thoughts and step.thought else ""
            text = self._said(step.contents)
            said = thought + text + "".join(self._syntax.call(call.name, call.arguments) for call in step.calls)
        if step.calls and not step.answers:
            return said + ANSWER
        return said + "".join(self._answer(answer.name, answer.content) for answer in step.answers)

    def _as_issued(self, step: Step, keeps_thoughts: bool) -> str | None:
        """The tokens that the model wrote, if they are known and say what the messages say."""
        found = [None if call.id is None else self._issued(call.id) for call in step.calls]
        if not found or found[0] is None or any(each is not found[0] for each in found):
            return None
        texts = [text for content in step.contents for text in _texts(content)]
        if any(text is None for text in texts):
            return None
        issued, markers = found[0], self._processor.markers
        said = [(call.name, call.arguments) for call in step.calls]
        if not issued.says("".join(map(str, texts)), said):
            return None
        tokens = issued.tokens if keeps_thoughts else markers.without_channels(issued.tokens)
        return spliced(tokens) if may_be_spliced(tokens, markers, self._processor.control) else None

    def _open_turn(self, turns: Sequence[Turn], thinking: bool) -> list[str]:
        """The last turn, whose last step the model goes on with: a thought, if that is all there is."""
        assert self.form is not None
        *before, last = turns[-1].steps
        written = [f"{TURN}model\n", *(self._step(step, True) for step in before)]
        text = self._unfinished(last.contents)
        if last.thought:
            written.append(f"{OPENED}{self._sealed(last.thought)}" + (f"\n{CLOSE}" if text else ""))
        elif not before:
            written.append(self.form.begun[thinking])
        return [*written, text]

    def _said(self, contents: Sequence[Content]) -> str:
        """What the model said, in the tokens that it wrote if they are known."""
        texts = [None if text is None else _own_text(text) for content in contents for text in _texts(content)]
        tokens = None if None in texts else self._written("".join(map(str, texts)))
        return spliced(tokens) if tokens else "".join(self._content(content, own=True) for content in contents)

    def _in_own_words(self, messages: Sequence[Message], plain: Sequence[Message]) -> list[Message]:
        """Sealed messages of which the model's are the tokens that it wrote, where they are known.

        Args:
            messages: those that may be, as they came.
            plain: all of them, sealed.
        """
        found = list(plain)
        for place, message in enumerate(messages):
            texts = _texts(message["content"] or "") if message["role"] == "assistant" else []
            tokens = self._written(texts[0].rstrip()) if len(texts) == 1 and texts[0] else None
            if tokens:
                found[place] = {**plain[place], "content": spliced(tokens)}
        return found

    def _unfinished(self, contents: Sequence[Content]) -> str:
        """Text that is to be continued: as it is at its end."""
        *before, last = contents
        if not isinstance(last, str):
            *parts, end = last or [{"type": "text", "text": ""}]
            before, last = [*before, parts], end.get("text", "")
        text = without_channels(last).lstrip()
        beginning = "".join(self._content(content, own=True) for content in before)
        tokens = None if beginning else self._written(text)
        return spliced(tokens) if tokens else beginning + self._sealed(text)

    def _content(self, content: Content, *, own: bool = False) -> str:
        """What a message says and shows.

        Args:
            content: of the message.
            own: whether the model said it, without the thoughts that its text may have.
        """
        assert self.form is not None
        if isinstance(content, str):
            return self._sealed(_own_text(content) if own else content.strip())
        shown = self.form.placeholders
        return "".join(
            self._content(part["text"], own=own) if part["type"] == "text" else shown[part["type"]] for part in content
        )

    def _lead(self, content: Content) -> str:
        """What the first system message says: unlike others', its parts have a blank behind them."""
        if isinstance(content, str):
            return self._content(content)
        return "".join(f"{self._content([part])} " for part in content)

    def _answer(self, name: str, content: Content) -> str:
        assert self.form is not None
        if isinstance(content, str):
            return self._syntax.answer(name, content)
        text = "".join(part["text"] for part in content if part["type"] == "text")
        shown = [f"<|{part['type']}|>" for part in content if part["type"] != "text"]
        return "".join([self._syntax.answer(name, text), *shown])

    def _sealed(self, text: str) -> str:
        return str(self._processor.control.sealed(text))


def _last_question(turns: Sequence[Turn]) -> int:
    """The place of the user's last message; thoughts from before it are left out."""
    return next((each.steps[0].place for each in reversed(turns) if each.role == "user"), -1)


def _own_text(text: str) -> str:
    """What the model said, as later turns have it."""
    return without_channels(text).strip()


def _texts(content: Content) -> list[str | None]:
    """The texts of a message's content; None for what it shows."""
    return [content] if isinstance(content, str) else [part.get("text") for part in content]


def _ended(message: Message) -> Message:
    """A message with a mark at the end of its text."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _END}
    return {**message, "content": [*content, {"type": "text", "text": _END}]}


def _check_last(message: Message) -> None:
    if message["role"] != "assistant" or message.get("tool_calls"):
        raise InputError("only an assistant's last message that calls no tools can be continued")


def _check_tools(tools: Sequence[Tool]) -> None:
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InputError("a tool is no function with a name")
