"""A prompt prepared for the towers: token ids, and arrays of the pictures, frames and sounds among them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..text.messages import Kind

NOUNS = {Kind.PICTURE: "picture", Kind.VIDEO: "video frame", Kind.SOUND: "sound"}
"""What one run of placeholders stands for."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, or a frame of a video, in patches.

    Attributes:
        patches: (P, patch values) float32 from 0 to 1, those of padding included.
        positions: (P, 2) int64, the column and row of each patch, -1 for padding.
        soft_tokens: as many as the tower makes of it.
    """

    patches: np.ndarray
    positions: np.ndarray
    soft_tokens: int


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound in steps of time.

    Attributes:
        features: (T, features) float32, 0 where padded.
        heard: (T,) bool, False for padding.
        soft_tokens: as many as the tower makes of it.
    """

    features: np.ndarray
    heard: np.ndarray
    soft_tokens: int


class Placed(NamedTuple):
    """A picture, a frame or a sound, and where a prompt has its placeholders.

    Attributes:
        kind: PICTURE, SOUND, or VIDEO for a frame.
        start: the position of the first placeholder.
        content: what is there.
    """

    kind: Kind
    start: int
    content: Picture | Sound

    @property
    def end(self) -> int:
        """The position after the last placeholder."""
        return self.start + self.content.soft_tokens


class PreparedPrompt(NamedTuple):
    """One prompt.

    Attributes:
        tokens: ids, a placeholder for each soft token among them.
        media: what replaces the placeholders, in the order of the prompt.
        video_frames: how many frames of ``media`` belong to each video.
        notes: what the user should know, one sentence each.
    """

    tokens: list[int]
    media: tuple[Placed, ...] = ()
    video_frames: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
