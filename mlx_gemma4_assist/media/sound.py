"""Sound from wherever it is to samples of one channel at the rate a model hears."""

import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, first_line
from ..extras import media_library
from .fetch import open_source, shown

MAX_SECONDS = 3600
PURPOSE = "reading sound"


def read_sound(source: Any, rate: int) -> np.ndarray:
    """Samples (n,) float32 between -1 and 1, channels averaged.

    Decoded and resampled as transformers' ``load_audio`` does with soundfile and soxr. What soundfile cannot decode,
    such as m4a or the sound of a video, PyAV does.

    Args:
        source: what ``open_source`` takes: a path, a URL, the bytes of a file; samples at ``rate`` as an array
            (n,) or (channels, n), of floats or of integers that use their whole range; or such an array with its own
            rate, ``{"array": ..., "sampling_rate": ...}``.
        rate: samples per second to return.

    Raises:
        InputError: it is no sound, is damaged, silent for want of samples, or longer than an hour; soundfile, soxr or
            av are needed and not installed.
    """
    if isinstance(source, str | os.PathLike | bytes):
        samples, own_rate = _decode(source)
    elif isinstance(source, Mapping):
        samples, own_rate = _with_rate(source)
    else:
        samples, own_rate = _from_array(source), rate
    if samples.shape[-1] == 0:
        raise InputError(f"{shown(source)} holds no sound")
    samples = samples.mean(axis=0) if samples.shape[0] > 1 else samples[0]
    if not np.isfinite(samples).all():
        raise InputError(f"{shown(source)} has samples that are not numbers")
    if own_rate != rate:
        samples = _resample(samples, own_rate, rate)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _resample(samples: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    length = math.ceil(samples.shape[-1] * rate / own_rate)
    resampled = media_library("soxr", "resampling sound").resample(samples, own_rate, rate, quality="soxr_hq")
    return np.pad(resampled, (0, max(0, length - len(resampled))))[:length]


def _with_rate(source: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    if "array" not in source or "sampling_rate" not in source:
        raise InputError("a sound given as a mapping needs an array and a sampling_rate")
    rate = source["sampling_rate"]
    if not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0:
        raise InputError(f"the sampling_rate of a sound is {rate!r}, expected samples per second")
    return _from_array(source["array"]), rate


def _from_array(source: Any) -> np.ndarray:
    """Samples (channels, n) float32."""
    try:
        array = np.asarray(source)
    except (TypeError, ValueError) as error:
        raise InputError(f"{shown(source)} is no sound: {first_line(error)}") from None
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] > 8):
        raise InputError(f"an array of shape {array.shape} is no sound: expected samples, or channels by samples")
    if np.issubdtype(array.dtype, np.signedinteger):
        array = array / -np.float64(np.iinfo(array.dtype).min)
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"an array of {array.dtype} is no sound: expected floats or signed integers")
    return np.atleast_2d(array.astype(np.float32))


def _decode(source: str | os.PathLike[str] | bytes) -> tuple[np.ndarray, int]:
    """Samples (channels, n) float32, and their rate."""
    file = open_source(source)
    soundfile = media_library("soundfile", PURPOSE)
    try:
        with soundfile.SoundFile(os.fspath(file) if isinstance(file, Path) else file) as sound:
            samples = sound.read(MAX_SECONDS * sound.samplerate + 1, dtype="float32", always_2d=True)
            rate = sound.samplerate
    except soundfile.LibsndfileError:
        samples, rate = _decode_with_av(file, source)
    if len(samples) > MAX_SECONDS * rate:
        raise InputError(f"{shown(source)} is longer than an hour")
    return samples.T, rate


def _decode_with_av(file: Path | io.BytesIO, source: Any) -> tuple[np.ndarray, int]:
    """Samples (n, channels) float32, and their rate."""
    av = media_library("av", PURPOSE)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        with av.open(os.fspath(file) if isinstance(file, Path) else file) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or not stream.rate:
                raise InputError(f"{shown(source)} has no sound in it")
            rate = stream.rate
            planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            pieces = _until_too_long(container.decode(stream), planar, MAX_SECONDS * rate)
    except av.FFmpegError as error:
        raise InputError(f"{shown(source)} is no sound that can be read: {error.strerror}") from None
    if not pieces:
        raise InputError(f"{shown(source)} holds no sound")
    return np.concatenate(pieces, axis=-1).T, rate


def _until_too_long(decoded: Iterable[Any], planar: Any, longest: int) -> list[np.ndarray]:
    """Samples (channels, n) frame by frame; the last one is the first that goes beyond ``longest`` samples in all."""
    pieces: list[np.ndarray] = []
    length = 0
    for each in decoded:
        for frame in planar.resample(each):
            pieces.append(frame.to_ndarray())
            length += pieces[-1].shape[-1]
        if length > longest:
            break
    return pieces
