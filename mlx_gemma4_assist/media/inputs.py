"""What a model reads: token ids, and arrays for pictures, sound and video."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np

TEXT, PICTURE, VIDEO, SOUND = range(4)
"""Token types, with the numbers of transformers' ``mm_token_type_ids``."""


@dataclass(frozen=True)
class ModelInputs:
    """One prompt. Names and shapes of arrays are those of transformers' ``Gemma4Processor``; what is absent is None.

    Attributes:
        tokens: ids, each soft token of a picture, video or sound written as its placeholder.
        token_types: of each token TEXT, PICTURE, VIDEO or SOUND.
        pixel_values: (pictures, patches, patch values) float32 from 0 to 1, patches padded to a common number.
        image_position_ids: (pictures, patches, 2) int64, x and y of each patch, -1 for padding.
        picture_tokens: soft tokens of each picture.
        pixel_values_videos: (frames of all videos, patches, patch values) float32.
        video_position_ids: (frames of all videos, patches, 2) int64.
        video_frames: frames of each video.
        frame_tokens: soft tokens of one frame of each video.
        input_features: (sounds, steps, features) float32, zero where padded.
        input_features_mask: (sounds, steps) bool, False for padding.
        sound_tokens: soft tokens of each sound.
        notes: what the user should know, one sentence each.
    """

    tokens: list[int]
    token_types: list[int]
    pixel_values: np.ndarray | None = None
    image_position_ids: np.ndarray | None = None
    picture_tokens: tuple[int, ...] = ()
    pixel_values_videos: np.ndarray | None = None
    video_position_ids: np.ndarray | None = None
    video_frames: tuple[int, ...] = ()
    frame_tokens: tuple[int, ...] = ()
    input_features: np.ndarray | None = None
    input_features_mask: np.ndarray | None = None
    sound_tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_text(cls, tokens: list[int]) -> "ModelInputs":
        """A prompt of nothing but text."""
        return cls(tokens, [TEXT] * len(tokens))

    @property
    def has_media(self) -> bool:
        return any(array is not None for array in (self.pixel_values, self.pixel_values_videos, self.input_features))

    def spans(self) -> list[tuple[int, int, int]]:
        """(type, first token, one after the last) of each picture, each frame and each sound, in order."""
        spans, position = [], 0
        for kind, run in groupby(self.token_types):
            length = len(list(run))
            if kind != TEXT:
                spans.append((kind, position, position + length))
            position += length
        return spans

    def named(self) -> dict[str, np.ndarray]:
        """Everything by the reference's names, as a batch of one; (1, L) int64 for what there is per token."""
        arrays = {
            "input_ids": np.array([self.tokens], dtype=np.int64),
            "attention_mask": np.ones((1, len(self.tokens)), dtype=np.int64),
            "mm_token_type_ids": np.array([self.token_types], dtype=np.int64),
            "pixel_values": self.pixel_values,
            "image_position_ids": self.image_position_ids,
            "pixel_values_videos": self.pixel_values_videos,
            "video_position_ids": self.video_position_ids,
            "num_frames_per_video": np.array(self.video_frames, dtype=np.int64) if self.video_frames else None,
            "input_features": self.input_features,
            "input_features_mask": self.input_features_mask,
        }
        return {name: array for name, array in arrays.items() if array is not None}
