"""How a checkpoint wants pictures, sound and video prepared, from its JSON files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..files import read_json_if_there

Settings = Mapping[str, Any]
SOFT_TOKENS = (70, 140, 280, 560, 1120)
_PICTURE_SETTINGS = (
    "do_resize",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "patch_size",
    "max_soft_tokens",
    "pooling_kernel_size",
)
# Of transformers' Gemma4VideoProcessor, where it differs from the image processor.
_FRAME_DEFAULTS = {"do_normalize": True, "max_soft_tokens": 70}


@dataclass(frozen=True)
class MediaConfig:
    """Settings as transformers' classes take them.

    Attributes:
        unified: whether the model is the 12B, which has no towers and reads larger patches and raw samples.
        picture: for ``Gemma4ImageProcessorPil``.
        frame: the same for frames of a video.
        num_frames: how many frames of a video are taken.
        sound: for the audio feature extractor.
        has_vision, has_audio: whether the model can see and hear at all.
    """

    unified: bool
    picture: Settings
    frame: Settings
    num_frames: int
    sound: Settings
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
        OptionError: another number.
    """

    max_soft_tokens: int | None = None
    frame_soft_tokens: int | None = None
    num_frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_soft_tokens", "frame_soft_tokens"):
            value = vars(self)[name]
            if value is not None and value not in SOFT_TOKENS:
                expected = ", ".join(map(str, SOFT_TOKENS))
                raise OptionError(f"{{{name}}} is {{value!r}}, expected one of {expected}", value=value)
        if self.num_frames is not None and self.fps is not None:
            raise OptionError("{num_frames} and {fps} exclude each other")
        if self.num_frames is not None and self.num_frames < 1:
            raise OptionError("{num_frames} is {value!r}, expected at least 1", value=self.num_frames)
        if self.fps is not None and not self.fps > 0:
            raise OptionError("{fps} is {value!r}, expected more than 0", value=self.fps)


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
    return MediaConfig(
        unified=unified,
        picture=_picture_settings(picture, unified),
        frame=_picture_settings({**_FRAME_DEFAULTS, **_present(video)}, unified),
        num_frames=video.get("num_frames") or 32,
        sound=sound,
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


def _present(settings: Settings) -> dict[str, Any]:
    return {name: settings[name] for name in _PICTURE_SETTINGS if settings.get(name) is not None}


def _picture_settings(settings: Settings, unified: bool) -> dict[str, Any]:
    """The unified model merges square groups of patches into one each, which is the same as larger patches."""
    kept = _present(settings)
    if unified:
        pooling = kept.get("pooling_kernel_size", 3)
        kept |= {"patch_size": kept.get("patch_size", 16) * pooling, "pooling_kernel_size": 1}
    return kept
