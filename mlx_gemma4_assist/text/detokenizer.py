"""Token ids to text, one at a time."""

from functools import cached_property

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from .panics import refused

_DAMAGED = refused("the checkpoint's tokenizer cannot turn tokens into text")


def decode(tokenizer: Tokenizer, tokens: list[int], *, skip_special_tokens: bool) -> str:
    """The text of all tokens at once.

    Raises:
        InputError: the tokenizer is damaged.
    """
    with _DAMAGED:
        return tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)


class TokenKinds:
    """Which ids of a vocabulary need care in a stream; found once, shared by all its detokenizers."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @cached_property
    def special(self) -> frozenset[int]:
        return frozenset(i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def bytes(self) -> frozenset[int]:
        """The tokens that are one byte of a character that the vocabulary does not have."""
        found = (self.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token for token in found if token is not None)

    def is_known(self, token: int) -> bool:
        """False for an id beyond the tokenizer's vocabulary, which models pad; it has no text."""
        return self.tokenizer.id_to_token(token) is not None


class Detokenizer:
    """Finished text as soon as there is some; all of it together equals ``decode`` of all tokens.

    ``tokenizers``' own ``DecodeStream`` does the work, with a few tokens in view, so the cost of a token does not grow
    with the text. Only runs of byte tokens are kept from it until they end: it would show their first whole character
    at once, but ``decode`` replaces a run by U+FFFD altogether if its end is no valid UTF-8.
    """

    def __init__(self, kinds: TokenKinds, *, skip_special_tokens: bool = True):
        self._kinds = kinds
        self._skip = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._run: list[int] = []
        self._tokens: list[int] = []
        self._emitted = 0

    def add(self, token: int) -> str:
        """Take a token; return the text that it finishes, "" if none: never a part of a character.

        Raises:
            InputError: the tokenizer is damaged.
        """
        self._tokens.append(token)
        if not self._kinds.is_known(token) or (self._skip and token in self._kinds.special):
            return ""
        self._run.append(token)
        if token in self._kinds.bytes:
            return ""
        with _DAMAGED:
            text = self._stream.step(self._kinds.tokenizer, self._run) or ""
        self._run = []
        self._emitted += len(text)
        return text

    def finalize(self) -> str:
        """The text that was held back, when no more tokens are to come; incomplete characters become U+FFFD."""
        text = decode(self._kinds.tokenizer, self._tokens, skip_special_tokens=self._skip)[self._emitted :]
        self._emitted += len(text)
        self._run = []
        return text
