"""One picture, video or sound to the arrays that its tower takes.

transformers' own image processor (the Pillow one) and audio feature extractors do the work. They are imported when a
prompt first needs them.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..errors import InputError, first_line
from ..text.importing import one_at_a_time
from .config import MediaConfig, MediaOptions
from .fetch import shown
from .pictures import open_picture
from .prepared import Picture, Sound
from .settings import PictureSettings
from .sound import read_sound
from .video import Sampling, read_video

if TYPE_CHECKING:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

# Samples that transformers' Gemma4AudioFeatureExtractor listens to: 30 seconds.
HEARD = 480_000
# The tower halves time twice; the unified model has none.
STEPS_PER_SOFT_TOKEN = 4


class Listened(NamedTuple):
    """A sound as it is heard, and what the user should know of it, if there is something."""

    sound: Sound
    note: str | None


class SoundExtractor(Protocol):
    """transformers' ``Gemma4AudioFeatureExtractor`` and ``Gemma4UnifiedAudioFeatureExtractor``."""

    sampling_rate: int

    def __call__(
        self, raw_speech: list[np.ndarray], *, max_length: int | None, truncation: bool, return_tensors: str
    ) -> Mapping[str, Any]:
        """``input_features`` (1, T, features) and ``input_features_mask`` (1, T) of one sound."""


class Features:
    """What a checkpoint's settings make of sources."""

    def __init__(self, config: MediaConfig):
        self.config = config

    def picture(self, source: Any, options: MediaOptions) -> Picture:
        """A picture in patches.

        Raises:
            InputError: it cannot be read, or the settings do not fit it.
        """
        return _in_patches(self._pictures, open_picture(source), options.max_soft_tokens, source)

    def video(self, source: Any, options: MediaOptions) -> Iterator[tuple[float, Picture]]:
        """Yield the seconds at which a frame is shown, and the frame in patches.

        Raises:
            InputError: it cannot be read, or the settings do not fit it.
        """
        sampling = Sampling(options.num_frames or self.config.num_frames, options.fps)
        for seconds, frame in read_video(source, sampling):
            yield seconds, _in_patches(self._frames, frame, options.frame_soft_tokens, source)

    def sound(self, source: Any) -> Listened:
        """A sound as the model hears it: all of it, or the first 30 seconds where there is an audio tower.

        Raises:
            InputError: it cannot be read, or is too short.
        """
        unified, rate = self.config.unified, self._sounds.sampling_rate
        samples = read_sound(source, rate)
        most = None if unified else HEARD
        out = self._sounds([samples], max_length=most, truncation=True, return_tensors="np")
        features, heard = np.asarray(out["input_features"])[0], np.asarray(out["input_features_mask"])[0]
        count = int(heard[:: 1 if unified else STEPS_PER_SOFT_TOKEN].sum())
        if count == 0:
            raise InputError(f"{shown(source)} is too short to be heard")
        note = None
        if most is not None and len(samples) > most:
            name = shown(source)
            lasts = f"{'a sound' if name.startswith('data:') else name} lasts {len(samples) / rate:.0f} seconds"
            note = f"{lasts}, of which the model hears the first {most / rate:.0f}"
        return Listened(Sound(features, heard, count), note)

    @cached_property
    def _pictures(self) -> "Gemma4ImageProcessorPil":
        return _image_processor(self.config.picture)

    @cached_property
    def _frames(self) -> "Gemma4ImageProcessorPil":
        return _image_processor(self.config.frame)

    @cached_property
    def _sounds(self) -> SoundExtractor:
        extractor = _unified_extractor() if self.config.unified else _extractor()
        try:
            return extractor(**self.config.sound.arguments())
        except (TypeError, ValueError) as error:
            raise InputError(f"the checkpoint's settings for sound are damaged: {first_line(error)}") from None


def _image_processor(settings: PictureSettings) -> "Gemma4ImageProcessorPil":
    with one_at_a_time:
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    try:
        return Gemma4ImageProcessorPil(**settings.arguments())
    except (TypeError, ValueError) as error:
        raise InputError(f"the checkpoint's settings for pictures are damaged: {first_line(error)}") from None


def _extractor() -> Callable[..., SoundExtractor]:
    with one_at_a_time:
        from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor

    return Gemma4AudioFeatureExtractor


def _unified_extractor() -> Callable[..., SoundExtractor]:
    try:
        with one_at_a_time:
            from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import (
                Gemma4UnifiedAudioFeatureExtractor,
            )
    except ImportError:
        raise InputError("sound for the 12B needs a newer transformers: pip install -U transformers") from None
    return Gemma4UnifiedAudioFeatureExtractor


def _in_patches(
    processor: "Gemma4ImageProcessorPil", picture: np.ndarray, max_soft_tokens: int | None, source: Any
) -> Picture:
    """A picture (height, width, 3) uint8 in patches; ``source`` is for the error message."""
    most = processor.max_soft_tokens if max_soft_tokens is None else max_soft_tokens
    try:
        out = processor.preprocess(
            picture, input_data_format="channels_last", return_tensors="np", max_soft_tokens=most
        )
    except ValueError as error:  # settings that do not fit this picture
        raise InputError(f"{shown(source)} cannot be shown to the model: {first_line(error)}") from None
    patches = np.asarray(out["pixel_values"], dtype=np.float32)[0]
    positions, count = np.asarray(out["image_position_ids"])[0], int(out["num_soft_tokens_per_image"][0])
    return Picture(patches, positions, count)
