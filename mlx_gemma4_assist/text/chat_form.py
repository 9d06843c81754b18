"""What a checkpoint's chat template makes of Gemma 4's chat format, found by rendering a few conversations.

Google's templates of one date come in two forms: the larger models' begins an answer without thinking by an empty
thought. Older ones, which are in the wild, differ in more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .channels import CALL, CLOSE, END_OF_CALL, OPEN, QUOTE, THOUGHT, TURN
from .control import END_OF_TURN, THINK, ControlTokens
from .messages import Kind, Message
from .syntax import ANSWER, DECLARATION, END_OF_ANSWER, END_OF_DECLARATION
from .template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OPENED = f"{OPEN}{THOUGHT}"
EMPTY_THOUGHT = f"{OPENED}{CLOSE}"
NEEDED = (
    *(OPEN, CLOSE, CALL, END_OF_CALL, QUOTE, TURN, END_OF_TURN, THINK),
    *(ANSWER, END_OF_ANSWER, DECLARATION, END_OF_DECLARATION),
)
"""The control tokens of the format."""
_NEXT = ("", OPENED, EMPTY_THOUGHT)  # what may stand before what the model writes


@dataclass(frozen=True)
class ChatForm:
    """One form of the format.

    Attributes:
        think: what asks for thoughts, at the beginning of the system turn.
        begun: what stands between the model's turn's beginning and what it writes, without thinking and with it.
        resumed: the same, behind a tool's answer.
        placeholders: what stands for media in messages.
    """

    think: str
    begun: tuple[str, str]
    resumed: tuple[str, str]
    placeholders: Mapping[str, str]


def form_of(tokenizer: "PreTrainedTokenizerFast", control: ControlTokens) -> ChatForm | None:
    """The form of a tokenizer's template; None if it renders anything else, or the vocabulary lacks control tokens."""
    if tokenizer.chat_template is None or not set(NEEDED) <= set(control.ids):
        return None
    try:
        return _Probe(tokenizer).form()
    except InputError:
        return None


def turn(role: str, text: str) -> str:
    """A turn that is over."""
    return f"{TURN}{role}\n{text}{END_OF_TURN}\n"


class _Probe:
    """Renders with a template.

    Raises:
        InputError: the template refuses what all of Gemma 4's take.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast"):
        self._tokenizer, self._bos = tokenizer, str(tokenizer.bos_token)

    def form(self) -> ChatForm | None:
        asked, model = turn("user", "Q"), f"{TURN}model\n"
        off = self._behind([_says("user", "Q")], False, f"{asked}{model}")
        on = self._made([_says("user", "Q")], True).removeprefix(f"{self._bos}{TURN}system\n")
        think, between, begun = on.partition(f"{END_OF_TURN}\n{asked}{model}")
        if not between or off not in _NEXT or begun not in _NEXT or think.rstrip("\n") != THINK:
            return None
        talk = f"{turn('user', 'Q')}{turn('model', 'A')}{turn('user', 'R')}{model}"
        messages = [_says("system", "S"), _says("user", "Q"), _says("assistant", "A"), _says("user", "R")]
        if self._behind(messages, False, f"{turn('system', 'S')}{talk}") != off:
            return None
        if self._behind(messages, True, f"{turn('system', f'{think}S')}{talk}") != begun:
            return None
        return ChatForm(think, (off, begun), (self._resumed(False), self._resumed(True)), self._placeholders())

    def _made(self, messages: Sequence[Message], thinking: bool) -> str:
        return render(self._tokenizer, messages, {"add_generation_prompt": True, "enable_thinking": thinking})

    def _behind(self, messages: Sequence[Message], thinking: bool, beginning: str) -> str | None:
        """What the template writes behind what it should; None if it does not."""
        made, expected = self._made(messages, thinking), f"{self._bos}{beginning}"
        return made.removeprefix(expected) if made.startswith(expected) else None

    def _resumed(self, thinking: bool) -> str:
        call: Message = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
        messages = [
            _says("user", "Q"),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "T"},
        ]
        usual = OPENED if thinking else ""
        try:
            _, answered, behind = self._made(messages, thinking).rpartition(END_OF_ANSWER)
        except InputError:
            return usual
        return behind if answered and behind in _NEXT else usual

    def _placeholders(self) -> Mapping[str, str]:
        return {kind: self._placeholder(kind) for kind in Kind}

    def _placeholder(self, kind: Kind) -> str:
        usual = f"<|{kind}|>"
        try:
            made = self._made(
                [{"role": "user", "content": [{"type": kind.value}, {"type": "text", "text": "Q"}]}], False
            )
        except InputError:
            return usual
        shown = made.removeprefix(f"{self._bos}{TURN}user\n").partition(f"Q{END_OF_TURN}")[0]
        return shown if shown.strip() == usual else usual


def _says(role: str, text: Any) -> Message:
    return {"role": role, "content": text}
