"""A chat as token ids: earlier turns stay exactly as they were read and written, so that nothing is computed twice.

Rendering the whole conversation anew would tokenize the model's words again, perhaps otherwise than it made them: every
key after the first difference would be computed again. So only the new turn goes through the chat template. What the
template leaves out of earlier turns is left out here: thoughts, and the empty thought before an answer.
"""

from collections.abc import Sequence

from ..errors import InputError
from ..text.messages import Message
from ..text.processor import Processor


class Conversation:
    """What has been said, turn by turn.

    Attributes:
        tokens: ids of all turns so far; the last one ends as the model made it, mostly with the token that ends turns.

    Args:
        processor: of the target.
        system_prompt: goes before the first message.
        enable_thinking: handed to the chat template with every message.

    Raises:
        InputError: the checkpoint has no chat template, it refuses the system prompt, or it knows no
            ``enable_thinking``.
    """

    def __init__(self, processor: Processor, system_prompt: str | None = None, *, enable_thinking: bool = False):
        if not processor.has_chat_template:
            raise InputError("the checkpoint has no chat template: it continues text, but does not chat")
        self.tokens: list[int] = []
        self._processor = processor
        self._enable_thinking = enable_thinking
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._beginnings: list[list[int]] = []
        self._first("?")

    @property
    def exchanges(self) -> int:
        """How many messages have been answered."""
        return len(self._beginnings)

    def prompt(self, message: str) -> list[int]:
        """Everything so far and a new message, up to where the answer begins. Nothing is recorded yet.

        Raises:
            InputError: an empty message, or one that the chat template refuses.
        """
        if not message.strip():
            raise InputError("the message is empty")
        if not self.tokens:
            return self._first(message)
        following = self._following(message)
        if self.tokens[-1] == following[0]:  # the model has ended its turn as the template does
            return self.tokens + following[1:]
        cut_off = self.tokens[-1] not in self._processor.eos_token_ids
        return (self.tokens if cut_off else self.tokens[:-1]) + following

    def record(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """What :meth:`prompt` returned has been answered, perhaps not to its end; the answer's thoughts do not stay."""
        self._beginnings.append(self.tokens)
        self.tokens = self._processor.history(prompt, answer)

    def undo(self) -> bool:
        """Take back the last message and its answer; False if there is none."""
        if not self._beginnings:
            return False
        self.tokens = self._beginnings.pop()
        return True

    def reset(self) -> None:
        """Forget all but the system prompt."""
        self.tokens = []
        self._beginnings = []

    def _first(self, message: str) -> list[int]:
        return self._encode([*self._system, {"role": "user", "content": message}])

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return self._processor.encode(messages, enable_thinking=self._enable_thinking)

    def _following(self, message: str) -> list[int]:
        """The ids that the template puts after an answer when a message follows it, the end of the turn included.

        They are what two conversations that differ in the last letter of the answer have in common at their end.
        """

        def rendered(answer: str) -> list[int]:
            turns = (("user", "?"), ("assistant", answer), ("user", message))
            return self._encode([{"role": role, "content": content} for role, content in turns])

        one, other = rendered("0"), rendered("a")
        same = 0
        while one[-1 - same] == other[-1 - same]:
            same += 1
        return one[len(one) - same :]
