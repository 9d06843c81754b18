"""How pictures, frames and sounds are prepared, as transformers' classes take it: checked before these see it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..models.validation import expect, expect_types, known

SOFT_TOKENS = (70, 140, 280, 560, 1120)
_LARGEST_PATCH = 128  # pixels on a side of what becomes one soft token, of which 48 are in use
FILES = "processor_config.json or preprocessor_config.json"
"""Where the settings are, for messages."""


@dataclass(frozen=True)
class _Settings:
    """What all have in common.

    Raises:
        InputError: a value of another type or out of range, with the value found and the value expected.
    """

    part = "the settings"  # as messages call them

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read an object of a JSON file; unknown names are left aside, and null means the default."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**known(cls, {**values, **lists}))

    def __post_init__(self) -> None:
        expect_types(self, of=self.part, file=FILES)

    def _expect(self, right: bool, name: str, expected: str) -> None:
        expect(right, f"{name} of {self.part}", vars(self)[name], expected, file=FILES)

    def _expect_range(self, name: str, least: float, most: float) -> None:
        self._expect(least <= vars(self)[name] <= most, name, f"{least:g} to {most:g}")

    def arguments(self) -> dict[str, Any]:
        """For transformers' class."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class PictureSettings(_Settings):
    """Of ``Gemma4ImageProcessorPil``.

    Attributes:
        resample: a number of Pillow's filters.
        max_soft_tokens: what a picture may take at most.
        patch_size: pixels on a side of a patch.
        pooling_kernel_size: patches on a side of the square that becomes one soft token.
    """

    part = "the settings for pictures"
    do_resize: bool = True
    resample: int = 3
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = False
    image_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    image_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    patch_size: int = 16
    max_soft_tokens: int = 280
    pooling_kernel_size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        # Else a picture would have as many patches as it is large.
        self._expect(self.do_resize, "do_resize", "true")
        self._expect_range("resample", 0, 5)
        self._expect(len(self.image_mean) == 3, "image_mean", "three numbers")
        self._expect(len(self.image_std) == 3 and 0 not in self.image_std, "image_std", "three numbers that are not 0")
        self._expect(self.max_soft_tokens in SOFT_TOKENS, "max_soft_tokens", f"one of {SOFT_TOKENS}")
        self._expect_range("patch_size", 1, _LARGEST_PATCH)
        self._expect_range("pooling_kernel_size", 1, _LARGEST_PATCH // self.patch_size)


@dataclass(frozen=True)
class FrameSettings(PictureSettings):
    """The same for frames of a video, with the defaults of transformers' ``Gemma4VideoProcessor``."""

    part = "the settings for video"
    do_normalize: bool = True
    max_soft_tokens: int = 70


@dataclass(frozen=True)
class SoundSettings(_Settings):
    """What both extractors of features take.

    Attributes:
        feature_size: numbers of a step of time.
        sampling_rate: samples per second.
    """

    part = "the settings for sound"
    feature_size: int = 128
    sampling_rate: int = 16_000
    padding_value: float = 0.0
    padding_side: str = "right"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_range("feature_size", 1, 4096)
        self._expect_range("sampling_rate", 1000, 192_000)
        self._expect(self.padding_side == "right", "padding_side", "right")


@dataclass(frozen=True)
class MelSettings(SoundSettings):
    """Of ``Gemma4AudioFeatureExtractor``, which names what they mean."""

    frame_length_ms: float = 20.0
    hop_length_ms: float = 10.0
    min_frequency: float = 0.0
    max_frequency: float = 8000.0
    preemphasis: float = 0.0
    preemphasis_htk_flavor: bool = True
    fft_overdrive: bool = False
    dither: float = 0.0
    input_scale_factor: float = 1.0
    mel_floor: float = 1e-3
    per_bin_mean: tuple[float, ...] | None = None
    per_bin_stddev: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_range("frame_length_ms", 2, 1000)
        self._expect_range("hop_length_ms", 1, 1000)
        self._expect_range("max_frequency", 1, self.sampling_rate)
        self._expect(0 <= self.min_frequency < self.max_frequency, "min_frequency", "0 to less than max_frequency")
        self._expect_range("preemphasis", 0, 1)
        self._expect_range("dither", 0, 1)
        self._expect(self.mel_floor > 0, "mel_floor", "a positive number")
        self._expect_bins("per_bin_mean")
        self._expect_bins("per_bin_stddev")
        self._expect(0 not in (self.per_bin_stddev or ()), "per_bin_stddev", "numbers that are not 0")

    def _expect_bins(self, name: str) -> None:
        found = vars(self)[name]
        self._expect(found is None or len(found) == self.feature_size, name, f"null or {self.feature_size} numbers")


@dataclass(frozen=True)
class SampleSettings(SoundSettings):
    """Of ``Gemma4UnifiedAudioFeatureExtractor``.

    Attributes:
        audio_samples_per_token: samples that become one soft token.
    """

    feature_size: int = 640
    audio_samples_per_token: int = 640

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_range("audio_samples_per_token", 1, 4096)
