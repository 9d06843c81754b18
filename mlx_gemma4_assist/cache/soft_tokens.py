"""Pictures and sound in a prompt: soft tokens in the place of their placeholders."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from ..errors import InputError


class SoftTokens(NamedTuple):
    """What one picture, video frame or clip puts into a prompt.

    Attributes:
        start: its first position in the prompt.
        embeddings: (n, H), in the text network's space: they replace the scaled embeddings of n placeholders.
        key: negative; what a cache remembers in the place of token ids, the same only for the same content.
        mutual: whether these tokens see one another, later ones too (``use_bidirectional_attention: "vision"``).
    """

    start: int
    embeddings: mx.array
    key: int
    mutual: bool = False

    @property
    def end(self) -> int:
        return self.start + self.embeddings.shape[0]


class MediaPrompt(NamedTuple):
    """A prompt's token ids, placeholders among them, and the soft tokens that replace these, in order.

    What ``stream_generate`` takes as well as text, token ids and messages.

    Attributes:
        tokens: ids.
        media: soft tokens.
        notes: what the user should know of the prompt, one sentence each, such as that a sound was cut.
    """

    tokens: list[int]
    media: Sequence[SoftTokens] = ()
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises:
        InputError: soft tokens that overlap, lie outside the prompt, or reach its end.
        """
        before = 0
        for each in self.media:
            if each.start < before or each.end >= len(self.tokens):
                raise InputError(
                    f"soft tokens at {each.start} to {each.end} do not fit a prompt of {len(self.tokens)} tokens, "
                    "which ends with text"
                )
            before = each.end

    @property
    def keys(self) -> list[int]:
        """The token ids, and the content's key at each position of a soft token."""
        keys = list(self.tokens)
        for each in self.media:
            keys[each.start : each.end] = [each.key] * (each.end - each.start)
        return keys


def chunk_end(begin: int, end: int, step_size: int, media: Sequence[SoftTokens]) -> int:
    """Where a chunk of a prefill ends that begins here: after ``step_size`` positions at most, never within a picture.

    Nor within a sound. A picture larger than a step gets a chunk of its own size.
    """
    reached = min(begin + step_size, end)
    for each in media:
        if each.start < reached < each.end:
            reached = each.start if each.start > begin else each.end
    return reached


def within(media: Sequence[SoftTokens], begin: int, end: int) -> list[SoftTokens]:
    """The soft tokens between two positions, which are now counted from the first of these."""
    return [each._replace(start=each.start - begin) for each in media if begin <= each.start < end]
