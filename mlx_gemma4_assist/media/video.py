"""Video from wherever it is to a few frames and the seconds at which they are shown."""

import io
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import InputError
from ..extras import media_library
from ..options import number
from .fetch import Bounds, open_source, shown
from .pictures import check_size, open_picture

BOUNDS = Bounds(size=1 << 30, seconds=300)
# What transformers' processor assumes where the rate is not known.
UNKNOWN_RATE = 24.0
SLOWEST = 1 / 86_400  # frames per second; of what is slower the model could not read the times
Frame = tuple[float, np.ndarray]
_PICTURES = ("image2", "ico")
"""FFmpeg's names of formats of single pictures, besides those that end in ``_pipe``."""


@dataclass(frozen=True)
class Sampling:
    """Which frames are taken.

    Attributes:
        num_frames: how many, evenly spread; all of them, if there are not more. None takes all.
        fps: frames per second to take instead; at least one is.
    """

    num_frames: int | None = 32
    fps: float | None = None

    def indices(self, total: int, rate: float) -> list[int]:
        """Indices of frames out of ``total``, shown at ``rate`` frames per second.

        As in transformers' ``default_sample_indices_fn``, which however refuses to take more frames than there are.
        """
        count = total if self.num_frames is None else self.num_frames
        if self.fps is not None:
            count = max(1, int(min(total, total / rate * self.fps)))
        count = min(count, total)
        return [i * total // count for i in range(count)]


def read_video(source: Any, sampling: Sampling) -> Iterator[Frame]:
    """Yield (seconds, frame) pairs; a frame is an array (height, width, 3) uint8, upright.

    Args:
        source: what ``open_source`` takes: a path, a URL, the bytes of a file; an array (frames, height, width,
            channels) uint8, or a sequence of pictures, taken to be shown at 24 frames per second; or either of them
            with its own rate, ``{"frames": ..., "fps": ...}``.
        sampling: which frames.

    Raises:
        InputError: it is no video but a picture, for one, is damaged or has no frames; av is needed and not installed.
    """
    if isinstance(source, str | os.PathLike | bytes):
        yield from _decode(source, sampling)
        return
    rate = UNKNOWN_RATE
    if isinstance(source, Mapping):
        source, rate = _with_rate(source)
    if not isinstance(source, Sequence | np.ndarray) or (isinstance(source, np.ndarray) and source.ndim != 4):
        raise InputError(f"{shown(source)} is no video: expected a file, a URL, or a sequence of pictures")
    if len(source) == 0:
        raise InputError("a video has no frames")
    for index in sampling.indices(len(source), rate):
        yield index / rate, open_picture(source[index])


def refuse_picture(container: Any, source: Any) -> None:
    """Refuse a picture's file, which FFmpeg reads as a video of one frame: who names it has meant another option.

    Raises:
        InputError: PyAV's container is one.
    """
    name = container.format.name
    if name in _PICTURES or name.endswith("_pipe"):
        raise InputError(f"{shown(source)} is a picture, expected a video")


def timestamp(seconds: float) -> str:
    """As the model reads it: minutes and seconds."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def _with_rate(source: Mapping[str, Any]) -> tuple[Any, float]:
    if "frames" not in source or "fps" not in source:
        raise InputError("a video given as a mapping needs frames and fps")
    rate = source["fps"]
    try:
        rate = number(rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not SLOWEST <= rate < math.inf:
        expected = "expected frames per second, at least one a day"
        raise InputError(f"the fps of a video is {source['fps']!r:.100}, {expected}")
    return source["frames"], rate


def _decode(source: str | os.PathLike[str] | bytes, sampling: Sampling) -> Iterator[Frame]:
    av = media_library("av", "reading video")
    file = open_source(source, BOUNDS)
    found = False
    try:
        with _opened(av, file, source) as (container, stream):
            check_size(stream.width, stream.height, source)
            rate = float(stream.average_rate or 0)
            rate = rate if rate >= SLOWEST else UNKNOWN_RATE
            survey = _survey(container, stream)
        # Opened anew, for not every container can be wound back.
        with _opened(av, file, source) as (container, stream):
            for index, frame in survey.frames(container, stream, sampling.indices(survey.total, rate)):
                found = True
                yield index / rate, _upright(frame)
    except av.FFmpegError as error:
        raise InputError(f"{shown(source)} is no video that can be read: {error.strerror}") from None
    if not found:
        raise InputError(f"{shown(source)} has no frames that can be decoded")


@contextmanager
def _opened(av: ModuleType, file: Path | io.BytesIO, source: Any) -> Iterator[tuple[Any, Any]]:
    """A container and the stream of pictures in it."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with av.open(os.fspath(file) if isinstance(file, Path) else file, metadata_errors="replace") as container:
        refuse_picture(container, source)
        if not container.streams.video:
            raise InputError(f"{shown(source)} has no pictures in it")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise InputError(f"{shown(source)} has pictures in a format that FFmpeg does not know")
        stream.thread_type = "AUTO"
        yield container, stream


def _upright(frame: Any) -> np.ndarray:
    """Phones write how they were held beside the pictures; the angle is counterclockwise."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _survey(container: Any, stream: Any) -> "_Survey":
    """Read all packets without decoding them."""
    times, starts = [], []
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            times.append(packet.pts)
            if packet.is_keyframe:
                starts.append(packet.pts)
    if None in times or len(set(times)) < len(times):
        return _Survey(len(times))
    return _Survey(len(times), sorted(times), sorted(starts))


@dataclass(frozen=True)
class _Survey:
    """The frames of a stream by their indices: the n-th is the n-th in the order in which they are shown.

    Attributes:
        total: number of frames.
        times: when each is shown, ascending, in units of the stream; empty if the stream does not tell.
        starts: the times of those that decoding can start at.
    """

    total: int
    times: Sequence[int] = ()
    starts: Sequence[int] = ()

    def frames(self, container: Any, stream: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The frames of ascending ``indices``; fewer if the end is missing."""
        if not self.starts:
            wanted = set(indices)
            yield from ((i, frame) for i, frame in enumerate(container.decode(stream)) if i in wanted)
            return
        position = 0
        decoder: Iterator[Any] | None = None
        for index in indices:
            target = self.times[index]
            start = self.starts[max(0, bisect_right(self.starts, target) - 1)]
            if decoder is None or start > position:
                container.seek(start, stream=stream)
                decoder = container.decode(stream)
            for frame in decoder:
                position = start if frame.pts is None else frame.pts
                if position >= target:
                    yield index, frame
                    break
