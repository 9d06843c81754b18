"""How a checkpoint wants pictures, sound and video prepared, from its JSON files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..files import read_json_if_there
from ..models.validation import expect, is_count
from ..options import integer, number, option, read_options
from .settings import (
    FILES,
    SOFT_TOKENS,
    FrameSettings,
    MelSettings,
    PictureSettings,
    SampleSettings,
    SoundSettings,
)

Settings = Mapping[str, Any]
_IN_WORDS = f"one of {', '.join(map(str, SOFT_TOKENS))}"


@dataclass(frozen=True)
class MediaConfig:
    """Settings as transformers' classes take them, checked.

    Attributes:
        unified: whether the model is the 12B, which has no towers and reads larger patches and raw samples.
        picture: for pictures.
        frame: the same for frames of a video.
        num_frames: how many frames of a video are taken.
        sound: for the audio feature extractor.
        has_vision, has_audio: whether the model can see and hear at all.
    """

    unified: bool
    picture: PictureSettings
    frame: PictureSettings
    num_frames: int
    sound: SoundSettings
    has_vision: bool = True
    has_audio: bool = True


@dataclass(frozen=True)
class MediaOptions:
    """What a caller may choose; None leaves it to the checkpoint.

    Attributes:
        max_soft_tokens: at most so many for a picture: 70, 140, 280, 560 or 1120.
        frame_soft_tokens: at most so many for a frame of a video, out of the same.
        num_frames: frames of a video, evenly spread.
        fps: frames per second of video instead.

    Raises:
        OptionError: another number, or none.
    """

    max_soft_tokens: int | None = option(None, integer, SOFT_TOKENS.__contains__, _IN_WORDS, "")
    frame_soft_tokens: int | None = option(None, integer, SOFT_TOKENS.__contains__, _IN_WORDS, "")
    num_frames: int | None = option(None, integer, lambda x: x > 0, "a positive integer", "")
    fps: float | None = option(None, number, lambda x: 0 < x < inf, "more than 0", "")

    def __post_init__(self) -> None:
        read_options(self)
        if self.num_frames is not None and self.fps is not None:
            raise OptionError("{num_frames} and {fps} exclude each other")


AS_PUBLISHED = MediaOptions()


def read_media_config(folder: Path) -> MediaConfig:
    """Read ``processor_config.json``, or the three files of older spelling, and ``config.json``.

    As in transformers, settings nested in ``processor_config.json`` come first, then ``preprocessor_config.json``, for
    video ``video_preprocessor_config.json`` before that.

    Raises:
        InputError: there is none of them, or one is damaged.
    """
    nested = read_json_if_there(folder / "processor_config.json")
    flat = read_json_if_there(folder / "preprocessor_config.json")
    picture = _part(nested, "image_processor") or flat
    video = _part(nested, "video_processor") or read_json_if_there(folder / "video_preprocessor_config.json") or flat
    sound = _part(nested, "feature_extractor") or _part(nested, "audio_processor") or flat
    if not nested and not flat:
        raise InputError(
            f"{folder} has neither processor_config.json nor preprocessor_config.json, so it takes text only"
        )
    config = read_json_if_there(folder / "config.json")
    unified = _is_unified(nested.get("processor_class"), picture.get("image_processor_type"), config.get("model_type"))
    num_frames = 32 if video.get("num_frames") is None else video["num_frames"]
    expect(is_count(num_frames), "num_frames of the settings for video", num_frames, "a positive integer", file=FILES)
    return MediaConfig(
        unified=unified,
        picture=_merged(PictureSettings.from_dict(picture), unified),
        frame=_merged(FrameSettings.from_dict(video), unified),
        num_frames=num_frames,
        sound=(SampleSettings if unified else MelSettings).from_dict(sound),
        has_vision=not config or bool(config.get("vision_config")),
        has_audio=not config or bool(config.get("audio_config")),
    )


def _is_unified(*names: Any) -> bool:
    """Whether one of these names of classes and models is the 12B's."""
    return any(str(name).lower().replace("_", "").startswith("gemma4unified") for name in names)


def _part(nested: Settings, name: str) -> dict[str, Any]:
    part = nested.get(name) or {}
    if not isinstance(part, dict):
        raise InputError(f"processor_config.json has {name} of type {type(part).__name__}, expected an object")
    return part


def _merged(settings: PictureSettings, unified: bool) -> PictureSettings:
    """The unified model merges square groups of patches into one each, which is the same as larger patches."""
    if not unified:
        return settings
    return replace(settings, patch_size=settings.patch_size * settings.pooling_kernel_size, pooling_kernel_size=1)
