"""Stand-ins for what a test does without: a processor that needs no tokenizer's files."""

from collections.abc import Iterable, Sequence

from mlx_gemma4_assist.text.channels import ChannelText, Markers
from mlx_gemma4_assist.text.stops import StopStrings


class LetterProcessor:
    """Has the interface of ``Processor``; an id is a letter, so that stops can be put where they hurt."""

    def __init__(self, eos_token_ids: Iterable[int] = (), suppress_tokens: Iterable[int] = ()):
        self.eos_token_ids = frozenset(eos_token_ids)
        self.suppress_tokens = tuple(suppress_tokens)

    def encode(self, prompt: str | Sequence[int], *, chat: bool = True) -> list[int]:
        return [ord(c) - 48 for c in prompt] if isinstance(prompt, str) else list(prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.add(token) for token in tokens)

    def stop_ids(self, stop: Iterable[str]) -> frozenset[int]:
        return frozenset()

    def turn(self, prompt: Sequence[int], stop: StopStrings, *, skip_special_tokens: bool = True) -> ChannelText:
        return ChannelText(lambda skip: self, Markers(), stop)

    def turn_begins(self, tokens: Sequence[int]) -> list[int]:
        return []

    left_out: frozenset[int] = frozenset()

    def add(self, token: int) -> str:
        return chr(48 + token)

    def finalize(self) -> str:
        return ""
