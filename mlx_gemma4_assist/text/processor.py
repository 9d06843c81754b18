"""A checkpoint's tokenizer and chat template, and the ids that end or never enter a text."""

import os
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from ..errors import InputError, OptionError
from ..files import read_json_if_there, read_part
from ..options import GenerationOptions
from .channels import OPEN, THOUGHT, ChannelText, Markers, without_channels
from .control import END_OF_TURN, THINK, ControlTokens, pieces
from .detokenizer import Detokenizer, TokenKinds, decode
from .grammar import Grammar, GrammarState, GrammarTokens
from .messages import Message, check_messages
from .panics import refused
from .stops import StopStrings
from .template import render
from .thoughts import BEFORE, Limit, TextState, Thinking, ThoughtFirst
from .token_ids import Array, has_token_ids, read_token_ids
from .tokenizer_files import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Prompt = str | Sequence[int] | Sequence[Message] | Array | Mapping[str, Any]


@runtime_checkable
class TextProcessor(Protocol):
    """What generating text takes of a processor: :class:`Processor`, or a stand-in."""

    eos_token_ids: frozenset[int]
    suppress_tokens: tuple[int, ...]

    def encode(self, prompt: Prompt, *, chat: bool = True) -> list[int]: ...
    def stop_ids(self, stop: Iterable[str]) -> frozenset[int]: ...
    def turn(self, prompt: Sequence[int], stop: StopStrings, *, skip_special_tokens: bool = True) -> ChannelText: ...
    def turn_begins(self, tokens: Sequence[int]) -> list[int]: ...
    @property
    def left_out(self) -> frozenset[int]: ...


class Processor:
    """Text and conversations to token ids, and back.

    Attributes:
        tokenizer: transformers' tokenizer, for what is not wrapped here.
        bos_token_id: what every prompt of Gemma begins with: the tokenizer's own; without one that of
            generation_config.json, or else the config's.
        eos_token_ids: any of these ends a text: the ids of generation_config.json; without them the config's, or the
            tokenizer's; and always what the chat template writes behind an answer, so that no text runs into the next
            turn.
        suppress_tokens: ids that are never generated, from generation_config.json.
        markers: the tokens that tell answers, thoughts and calls of tools apart.
        control: the tokens that mean something beyond their letters.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        *,
        eos_token_ids: Iterable[int],
        suppress_tokens: Iterable[int] = (),
    ):
        if tokenizer.bos_token_id is None:
            raise InputError("neither tokenizer nor config names a BOS token, without which Gemma does not work")
        self.tokenizer = tokenizer
        self.bos_token_id: int = tokenizer.bos_token_id
        self.eos_token_ids = frozenset(eos_token_ids)
        self.suppress_tokens = tuple(suppress_tokens)
        self._kinds = TokenKinds(tokenizer.backend_tokenizer)
        self.control = ControlTokens(tokenizer)
        self.markers = Markers.of(tokenizer.backend_tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Processor":
        """Read a checkpoint's folder; nothing is downloaded.

        Raises:
            InputError: tokenizer.json is missing, and there is no tokenizer.model instead or nothing to read it with;
                one of the files is damaged, or none names a BOS token.
        """
        folder = Path(folder)
        tokenizer = read_tokenizer(folder)
        generation = read_json_if_there(folder / "generation_config.json")
        config = read_json_if_there(folder / "config.json")
        named = ChainMap(*(_without_nulls(part) for part in (generation, config, read_part(config, "text_config"))))
        if tokenizer.bos_token_id is None and "bos_token_id" in named:
            tokenizer.bos_token = _token(tokenizer, named["bos_token_id"], "bos_token_id")  # templates write it
        return cls(
            tokenizer,
            eos_token_ids={
                *_ids(named.get("eos_token_id", tokenizer.eos_token_id), "eos_token_id"),
                *ControlTokens(tokenizer).turn_ends(),
            },
            suppress_tokens=_ids(generation.get("suppress_tokens"), "suppress_tokens"),
        )

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def stop_ids(self, stop: Iterable[str]) -> frozenset[int]:
        """The ids of those stop strings that are special tokens: text never has these, so they stop by their ids."""
        return self.control.among(stop)

    def encode(self, prompt: Prompt, *, chat: bool = True, enable_thinking: bool = False) -> list[int]:
        """A prompt's token ids.

        Args:
            prompt: ids, in a list, an array (L,) or (1, L), or a mapping with ``input_ids``, are taken exactly as they
                are. Messages go through the chat template, which writes BOS itself
                and leaves the model's turn open; whatever their text spells, no special tokens come of it. Text is one
                user message; without ``chat``, or without a chat template, it is raw text, with BOS before it exactly
                once, and the special tokens that it spells.
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

        It is for ``tokenize``: where messages spell control tokens, it has seams. Thoughts that earlier answers have
        in their text are left out, if the template knows of thoughts.

        Raises:
            InputError: there is no chat template, it refuses the conversation, or it knows no ``enable_thinking``.
        """
        if enable_thinking and self.has_chat_template and "enable_thinking" not in str(self.tokenizer.chat_template):
            raise OptionError("the checkpoint's chat template knows no {enable_thinking}")
        values = {"add_generation_prompt": True, "enable_thinking": enable_thinking}
        if OPEN in str(self.tokenizer.chat_template):
            messages = [_without_thoughts(message) for message in messages]
        return render(self.tokenizer, self.control.sealed(messages), values)

    def tokenize(self, text: str) -> list[int]:
        """The ids of exactly this text, special tokens that are written in it included, but for those with seams.

        Ids that ``control.spliced`` has written stand for themselves.

        Raises:
            InputError: the text is no valid Unicode, or the tokenizer is damaged.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes on the command line that are no UTF-8
            raise InputError(f"the prompt is not valid Unicode: {error.reason}") from None
        # Not by way of transformers, which warns of any text longer than its model_max_length.
        tokenizer = self._whole_tokenizer()
        with refused("the checkpoint's tokenizer cannot encode the prompt"):
            encoded = [
                tokenizer.encode(piece, add_special_tokens=False).ids if isinstance(piece, str) else piece
                for piece in pieces(text)
            ]
        return [token for ids in encoded for token in ids]

    def _whole_tokenizer(self) -> "Tokenizer":
        """The tokenizer of tokenizers, which neither cuts nor pads.

        A tokenizer.json may say so, and a call of transformers' tokenizer with ``truncation`` leaves it behind.
        """
        tokenizer = self.tokenizer.backend_tokenizer
        if tokenizer.truncation is not None:
            tokenizer.no_truncation()
        if tokenizer.padding is not None:
            tokenizer.no_padding()
        return tokenizer

    def begin(self, ids: list[int]) -> list[int]:
        """The ids with BOS before them, exactly once."""
        return ids if ids[:1] == [self.bos_token_id] else [self.bos_token_id, *ids]

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids beyond the vocabulary have none.

        Raises:
            InputError: the tokenizer is damaged.
        """
        return decode(self.tokenizer.backend_tokenizer, list(tokens), skip_special_tokens=skip_special_tokens)

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh one, for one stream of tokens."""
        return Detokenizer(self._kinds, skip_special_tokens=skip_special_tokens)

    def turn(self, prompt: Sequence[int], stop: StopStrings, *, skip_special_tokens: bool = True) -> ChannelText:
        """What turns the tokens of the turn that a prompt begins into text, from the channel on that it has open.

        Args:
            prompt: token ids.
            stop: cuts the answer.
            skip_special_tokens: whether channels are told apart and special tokens left out; otherwise all is answer.
        """

        def fresh(skip: bool) -> Detokenizer:
            return self.detokenizer(skip_special_tokens=skip)

        text = ChannelText(fresh, self.markers, stop, raw=not skip_special_tokens)
        if skip_special_tokens:
            for token in self.markers.unfinished(prompt, self.eos_token_ids):
                text.add(token)
        return text

    def turn_begins(self, tokens: Sequence[int]) -> list[int]:
        """The positions where turns begin, by the token that opens them; none where the tokenizer has no such token.

        A later prompt of the same conversation mostly parts from this one there.
        """
        return [place for place, token in enumerate(tokens) if token == self.markers.turn]

    @property
    def left_out(self) -> frozenset[int]:
        """The ids with which something begins that later turns do not have: thoughts."""
        return frozenset() if self.markers.open is None else frozenset([self.markers.open])

    @cached_property
    def grammar_tokens(self) -> GrammarTokens:
        """The tokenizer as grammars have it.

        Raises:
            InputError: the checkpoint names no token that ends a text.
        """
        ends = self.control.among([END_OF_TURN]) & self.eos_token_ids or self.eos_token_ids
        if not ends:
            raise InputError("a grammar needs a token that ends the text, and the checkpoint names none")
        return GrammarTokens(self._whole_tokenizer(), self.control.ids, min(ends))

    def grammar(
        self, options: GenerationOptions, prompt: Sequence[int], stops: Collection[int], vocabulary: int
    ) -> Callable[[], TextState]:
        """What holds the answers to a prompt, each call from their beginning on.

        Args:
            options: which have a grammar.
            prompt: token ids; they say whether a thought comes before the answer, or has begun.
            stops: the ids that end the text.
            vocabulary: of the target.

        Raises:
            InputError: llguidance is not installed, or does not support the grammar; the checkpoint names no token that
                ends a text.
        """
        grammar = Grammar.of(options, self.grammar_tokens, stops, vocabulary)
        return self.behind_thoughts(lambda: GrammarState(grammar), prompt, stops)

    def behind_thoughts(
        self, text: Callable[[], TextState], prompt: Sequence[int], stops: Collection[int], limit: Limit | None = None
    ) -> Callable[[], TextState]:
        """What holds turns that may begin with a thought, each call from their beginning on.

        Args:
            text: makes what holds the rest, from its beginning on.
            prompt: token ids; they say whether a thought may come, or has begun.
            stops: the ids that end the turn.
            limit: of thoughts; None sets none.
        """
        thinking = self.thinking(prompt)
        if thinking is None:
            return text
        calls = (self.markers.call, self.markers.end_of_call)
        outside = [*stops, *(token for token in calls if token is not None)]
        return lambda: ThoughtFirst(text(), thinking, outside, limit or Limit())

    def thinking(self, prompt: Sequence[int]) -> Thinking | None:
        """The thought that may come behind a prompt: one that it has opened, or any, if its template asks for some."""
        opens, closes = self.markers.open, self.markers.close
        if opens is None or closes is None:
            return None
        opening = (opens, *self.tokenize(THOUGHT))
        begun = len(self.markers.unfinished(prompt, self.eos_token_ids))
        if begun:
            return Thinking(opening, closes, min(begun, len(opening)))
        asked = self.control.among([THINK]) & set(prompt) and prompt[-1] != closes
        return Thinking(opening, closes, BEFORE) if asked else None

    def history(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """A prompt and its answer as later turns have them: what was thought in between is left out.

        That includes an empty thought with which the chat template has begun the answer.
        """
        last = next((i for i in range(len(prompt), 0, -1) if prompt[i - 1] in self.eos_token_ids), 0)
        return [*prompt[:last], *self.markers.without_channels([*prompt[last:], *answer])]

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            raise InputError("the prompt is empty")
        return self.begin(self.tokenize(text))


def _without_thoughts(message: Message) -> Message:
    """A message whose text has no thoughts, if it is an answer."""
    content = message.get("content")
    if message["role"] not in ("assistant", "model") or not content:
        return message
    if isinstance(content, str):
        return {**message, "content": without_channels(content)}
    parts = [{**part, "text": without_channels(part["text"])} if "text" in part else part for part in content]
    return {**message, "content": parts}


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
        raise OptionError("{enable_thinking} needs a conversation and a chat template")


def _without_nulls(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON object says: null is as if nothing were there."""
    return {name: value for name, value in part.items() if value is not None}


def _token(tokenizer: "PreTrainedTokenizerFast", value: Any, name: str) -> str:
    """The token of an id that a JSON file has.

    Raises:
        InputError: it is no id, or the tokenizer does not know it.
    """
    if not _is_id(value):
        raise InputError(f"{name} is {value!r:.100}, expected a token id")
    token = tokenizer.backend_tokenizer.id_to_token(value) if 0 <= value < 2**32 else None
    if token is None:
        raise InputError(f"{name} is {value}, an id that the tokenizer does not know")
    return token


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """An id, a list of ids or null, as the JSON files have them."""
    ids = () if value is None else value if isinstance(value, list | tuple) else (value,)
    if not all(_is_id(each) for each in ids):
        raise InputError(f"{name} is {value!r:.100}, expected a token id or a list of them")
    return tuple(ids)
