"""A checkpoint's tokenizer and chat template, and the ids that end or never enter a text."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import InputError, first_line
from ..files import read_json, read_json_if_there, read_part
from .detokenizer import Detokenizer, TokenKinds
from .messages import Message, check_messages
from .template import render
from .token_ids import Array, has_token_ids, read_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Prompt = str | Sequence[int] | Sequence[Message] | Array | Mapping[str, Any]


class Processor:
    """Text and conversations to token ids, and back.

    Attributes:
        tokenizer: transformers' tokenizer, for what is not wrapped here.
        bos_token_id: what every prompt of Gemma begins with.
        eos_token_ids: any of these ends a text: the ids of generation_config.json; without them the config's, or the
            tokenizer's.
        suppress_tokens: ids that are never generated, from generation_config.json.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        *,
        eos_token_ids: Iterable[int],
        suppress_tokens: Iterable[int] = (),
    ):
        if tokenizer.bos_token_id is None:
            raise InputError("the tokenizer names no BOS token, without which Gemma does not work")
        self.tokenizer = tokenizer
        self.bos_token_id: int = tokenizer.bos_token_id
        self.eos_token_ids = frozenset(eos_token_ids)
        self.suppress_tokens = tuple(suppress_tokens)
        self._kinds = TokenKinds(tokenizer.backend_tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Processor":
        """Read a checkpoint's folder; nothing is downloaded.

        Raises:
            InputError: tokenizer.json is missing, or one of the files is damaged.
        """
        folder = Path(folder)
        tokenizer = _read_tokenizer(folder)
        generation = read_json_if_there(folder / "generation_config.json")
        config = read_json_if_there(folder / "config.json")
        candidates = (generation, config, read_part(config, "text_config"))
        ends = next((part["eos_token_id"] for part in candidates if part.get("eos_token_id") is not None), None)
        return cls(
            tokenizer,
            eos_token_ids=_ids(tokenizer.eos_token_id if ends is None else ends, "eos_token_id"),
            suppress_tokens=_ids(generation.get("suppress_tokens"), "suppress_tokens"),
        )

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def encode(self, prompt: Prompt, *, chat: bool = True, enable_thinking: bool = False) -> list[int]:
        """A prompt's token ids.

        Args:
            prompt: ids, in a list, an array (L,) or (1, L), or a mapping with ``input_ids``, are taken exactly as they
                are. Messages go through the chat template, which writes BOS itself
                and leaves the model's turn open. Text is one user message; without ``chat``, or without a chat
                template, it is raw text, with BOS before it exactly once.
            chat: whether text is a user message.
            enable_thinking: handed to the chat template, if it knows of it.

        Raises:
            InputError: an empty prompt; malformed messages; messages without a chat template; a conversation that the
                template refuses; ``enable_thinking`` where nothing would come of it.
        """
        if isinstance(prompt, str):
            if not chat or not self.has_chat_template:
                refuse_thinking(enable_thinking)
                return self._encode_text(prompt)
            if not prompt.strip():
                raise InputError("the prompt is empty")
            prompt = [{"role": "user", "content": prompt}]
        if is_conversation(prompt):
            check_messages(prompt)
            return self.tokenize(self.render(prompt, enable_thinking=enable_thinking))
        refuse_thinking(enable_thinking)
        return read_token_ids(prompt)

    def render(self, messages: Sequence[Message], *, enable_thinking: bool = False) -> str:
        """What the chat template makes of messages that ``check_messages`` has passed: text with BOS, the turn open.

        Raises:
            InputError: there is no chat template, it refuses the conversation, or it knows no ``enable_thinking``.
        """
        if enable_thinking and self.has_chat_template and "enable_thinking" not in str(self.tokenizer.chat_template):
            raise InputError("the checkpoint's chat template knows no enable_thinking")
        values = {"add_generation_prompt": True, "enable_thinking": enable_thinking}
        return render(self.tokenizer, messages, values)

    def tokenize(self, text: str) -> list[int]:
        """The ids of exactly this text, special tokens that are written in it included.

        Raises:
            InputError: the text is no valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes on the command line that are no UTF-8
            raise InputError(f"the prompt is not valid Unicode: {error.reason}") from None
        # Not by way of transformers, which warns of any text longer than its model_max_length.
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def begin(self, ids: list[int]) -> list[int]:
        """The ids with BOS before them, exactly once."""
        return ids if ids[:1] == [self.bos_token_id] else [self.bos_token_id, *ids]

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids beyond the vocabulary have none."""
        return self.tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh one, for one stream of tokens."""
        return Detokenizer(self._kinds, skip_special_tokens=skip_special_tokens)

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            raise InputError("the prompt is empty")
        return self.begin(self.tokenize(text))


def _read_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder} has no tokenizer.json")
    # Silences the advice to install PyTorch, which is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Imported late, for it takes a second. AutoTokenizer, other than this class, would import PyTorch if it is there.
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself for a file that it cannot read
        raise InputError(f"the tokenizer files of {folder} are damaged: {first_line(error)}") from None
    if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
        tokenizer.chat_template = read_json(folder / "chat_template.json").get("chat_template")
    return tokenizer


def is_conversation(prompt: object) -> TypeGuard[Sequence[Message]]:
    """Whether a prompt can only be messages: a sequence, an empty one too, without token ids."""
    if isinstance(prompt, str | bytes | bytearray) or not isinstance(prompt, Sequence):
        return False
    return not has_token_ids(prompt)


def refuse_thinking(enable_thinking: bool) -> None:
    """Refuse what only a chat template could heed.

    Raises:
        InputError: thinking is asked for.
    """
    if enable_thinking:
        raise InputError("enable_thinking needs a conversation and a chat template")


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """An id, a list of ids or null, as the JSON files have them."""
    ids = () if value is None else (value,) if isinstance(value, int) else value
    if not isinstance(ids, list | tuple) or not all(isinstance(i, int) for i in ids):
        raise InputError(f"{name} is {value!r}, expected a token id or a list of them")
    return tuple(ids)
