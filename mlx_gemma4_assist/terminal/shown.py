"""Files that a message shows: which kind they are, and what a person reads instead of their content."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..errors import InputError, first_line
from ..extras import media_library
from ..text.messages import Kind

_PICTURES = "png jpg jpeg jpe jfif gif webp bmp tif tiff avif heic heif jp2 ico ppm pgm pbm tga"
_SOUNDS = "wav mp3 flac ogg oga opus m4a aac aif aiff aifc caf wma amr au"
_VIDEOS = "mp4 m4v mov mkv webm avi mpg mpeg 3gp ogv wmv flv mts"
KINDS: Mapping[str, Kind] = MappingProxyType(
    dict.fromkeys(_PICTURES.split(), Kind.PICTURE)
    | dict.fromkeys(_SOUNDS.split(), Kind.SOUND)
    | dict.fromkeys(_VIDEOS.split(), Kind.VIDEO)
)
"""Kinds by the suffixes, in lower case and without the dot, of files that ``media`` reads."""
_LONGEST_NAME = 40


class Shown(NamedTuple):
    """A file that a message shows.

    Attributes:
        kind: what it is.
        path: where it is.
        label: what stands for it on the screen, such as ``[picture 1: cat.png 640x480]``.
    """

    kind: Kind
    path: Path
    label: str


def kind_of(name: str | os.PathLike[str]) -> Kind | None:
    """The kind that a file's suffix tells; None if it is no medium's."""
    return KINDS.get(os.path.splitext(name)[1][1:].lower())


def labelled(path: Path, kind: Kind, number: int) -> Shown:
    """A file with its label; of the file only the header is read.

    Args:
        path: of an existing file.
        kind: what it is taken for.
        number: which of its kind it is in the conversation, from 1.

    Raises:
        InputError: it is broken, or a library that reads the kind is missing.
    """
    size = _pixels(path) if kind is Kind.PICTURE else _duration(path, kind)
    return Shown(kind, path, f"[{kind.noun} {number}: {_name(path)}{size and ' '}{size}]")


def _name(path: Path) -> str:
    """A file's name, fit for a screen."""
    name = "".join(_printed(each) for each in path.name)
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 2]}...{name[1 - half :]}"


def _printed(character: str) -> str:
    """Blanks of other widths, as of macOS's screenshots, become ordinary ones."""
    if character.isprintable():
        return character
    return " " if character.isspace() else "?"


def _pixels(path: Path) -> str:
    from ..media.pictures import picture_size

    width, height = picture_size(path)
    return f"{width}x{height}"


def _duration(path: Path, kind: Kind) -> str:
    """As minutes and seconds; empty if the header does not say it."""
    seconds = _sound_seconds(path) if kind is Kind.SOUND else _av_seconds(path, kind)
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"


def _sound_seconds(path: Path) -> float | None:
    soundfile = media_library("soundfile", "reading sound")
    try:
        seconds: float = soundfile.info(os.fspath(path)).duration
    except soundfile.LibsndfileError:
        return _av_seconds(path, Kind.SOUND)
    return seconds


def _av_seconds(path: Path, kind: Kind) -> float | None:
    from ..media.video import refuse_picture

    av = media_library("av", f"reading {kind.noun}")
    try:
        with av.open(os.fspath(path), metadata_errors="replace") as container:
            if kind is Kind.VIDEO:
                refuse_picture(container, path)
            if not (container.streams.audio if kind is Kind.SOUND else container.streams.video):
                raise InputError(f"{path} has no {kind.noun} in it")
            duration: int | None = container.duration
    except av.FFmpegError as error:
        raise InputError(f"{path} is no {kind.noun} that can be read: {error.strerror or first_line(error)}") from None
    return None if duration is None or duration < 0 else duration / av.time_base
