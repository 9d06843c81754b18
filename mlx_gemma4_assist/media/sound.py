"""Sound from wherever it is to samples of one channel at the rate a model hears."""

import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, first_line
from ..extras import media_library
from ..options import integer
from .fetch import open_source, shown

MAX_SECONDS = 3600
MAX_SAMPLES = 200_000_000  # per channel; an hour at 48,000 per second has fewer
FASTEST = 10_000_000
RATES = f"expected samples per second, 1 to {FASTEST:,}"
BLOCK = 1 << 16  # samples per channel that are decoded at once
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
        InputError: it is no sound, is damaged, silent for want of samples, longer than an hour or 200 million samples;
            a rate is none; soundfile, soxr or av are needed and not installed.
    """
    if isinstance(source, str | os.PathLike | bytes):
        samples, own_rate = _decode(source)
    elif isinstance(source, Mapping):
        samples, own_rate = _with_rate(source)
    else:
        samples, own_rate = _from_array(source), rate
    if samples.size == 0:
        raise InputError(f"{shown(source)} holds no sound")
    _check_length(samples.shape[-1], own_rate, source)
    samples = _mono(samples)
    if not np.isfinite(samples).all():
        raise InputError(f"{shown(source)} has samples that are not numbers")
    if own_rate != rate:
        samples = _resample(samples, own_rate, rate)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _check_length(count: int, rate: int, source: Any) -> None:
    """Refuse so many samples per channel at a rate, if that is too long.

    Raises:
        InputError: it is longer than an hour, or has more samples than an hour of the usual rates.
    """
    if count > MAX_SECONDS * rate:
        raise InputError(f"{shown(source)} is longer than an hour")
    if count > MAX_SAMPLES:
        raise InputError(f"{shown(source)} has more than {MAX_SAMPLES // 1_000_000} million samples")


def _resample(samples: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    length = math.ceil(samples.shape[-1] * rate / own_rate)
    resampled = media_library("soxr", "resampling sound").resample(samples, own_rate, rate, quality="soxr_hq")
    return np.pad(resampled, (0, max(0, length - len(resampled))))[:length]


def _with_rate(source: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    if "array" not in source or "sampling_rate" not in source:
        raise InputError("a sound given as a mapping needs an array and a sampling_rate")
    rate = source["sampling_rate"]
    try:
        rate = integer(rate)
    except (TypeError, ValueError):
        rate = 0
    if not 0 < rate <= FASTEST:
        raise InputError(f"the sampling_rate of a sound is {source['sampling_rate']!r:.100}, {RATES}")
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
    """Samples (1, n) float32, channels averaged, and their rate."""
    file = open_source(source)
    soundfile = media_library("soundfile", PURPOSE)
    try:
        with soundfile.SoundFile(os.fspath(file) if isinstance(file, Path) else file) as sound:
            rate = _checked_rate(sound.samplerate, source)
            pieces = list(_blocks(sound, source))
    except soundfile.LibsndfileError:
        pieces, rate = _decode_with_av(file, source)
    return np.concatenate(pieces or [np.zeros(0, np.float32)])[None], rate


def _checked_rate(rate: int, source: Any) -> int:
    if not 0 < rate <= FASTEST:
        raise InputError(f"{shown(source)} has the sampling rate {rate}, {RATES}")
    return rate


def _blocks(sound: Any, source: Any) -> Iterator[np.ndarray]:
    """Yield samples (n,); a header that promises too many is not believed."""
    length = 0
    while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
        length += len(block)
        _check_length(length, sound.samplerate, source)
        yield _mono(block.T)


def _mono(samples: np.ndarray) -> np.ndarray:
    """Samples (channels, n) to (n,)."""
    mixed: np.ndarray = samples.mean(axis=0) if samples.shape[0] > 1 else samples[0]
    return mixed


def _decode_with_av(file: Path | io.BytesIO, source: Any) -> tuple[list[np.ndarray], int]:
    """Samples (n,), channels averaged, in pieces, and their rate."""
    av = media_library("av", PURPOSE)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        with av.open(os.fspath(file) if isinstance(file, Path) else file, metadata_errors="replace") as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None or not stream.rate:
                raise InputError(f"{shown(source)} has no sound in it")
            rate = _checked_rate(stream.rate, source)
            # Packed: of planar frames of eight channels PyAV reads a ninth, and crashes.
            packed = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
            pieces = list(_frames(container.decode(stream), packed, rate, source))
    except av.FFmpegError as error:
        raise InputError(f"{shown(source)} is no sound that can be read: {error.strerror}") from None
    return pieces, rate


def _frames(decoded: Iterable[Any], packed: Any, rate: int, source: Any) -> Iterator[np.ndarray]:
    """Yield samples (n,) frame by frame."""
    length = 0
    for each in decoded:
        for frame in packed.resample(each):
            length += frame.samples
            _check_length(length, rate, source)
            yield _mono(frame.to_ndarray().reshape(frame.samples, -1).T)
