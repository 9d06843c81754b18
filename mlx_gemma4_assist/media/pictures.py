"""Pictures from wherever they are to arrays of red, green and blue."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import InputError, first_line
from ..extras import media_library
from .fetch import Bounds, open_source, shown

MAX_PIXELS = 100_000_000
MAX_SIDE = 1_000_000
_AT_ONCE = 1 << 22  # pixels that are laid on white
BOUNDS = Bounds(size=64 << 20)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""How a file of the HEIF family begins, after its first box's length and name; as in pillow-heif's own plugin."""


def open_picture(source: Any) -> np.ndarray:
    """A picture as an array (height, width, 3) uint8, upright.

    What is transparent is laid on white, as in transformers' ``convert_to_rgb``. Other than in its ``load_image``, so
    are files, whose colours below full transparency are anything; 16-bit grey is scaled instead of clipped, and PIL
    images are turned upright by their EXIF data, too. HEIC, the iPhone's format, takes pillow-heif of the extra
    ``media``; it is used here only, and Pillow itself is left as it was.

    Args:
        source: what ``open_source`` takes: a path, a URL, the bytes of a file; a PIL image; an array
            (height, width), (height, width, channels) or (channels, height, width) of uint8, bool, or floats from 0 to
            1, with 1, 3 or 4 channels. Of an animation the first picture is taken.

    Raises:
        InputError: it is none, is damaged, or has no pixels, more than 100 million, or more than a million on a side;
            pillow-heif is needed and not installed.
    """
    if isinstance(source, Image.Image):
        check_size(*source.size, source)
        return _decode(source, source)
    with _read(source) if isinstance(source, str | os.PathLike | bytes) else _from_array(source) as image:
        return _decode(image, source)


def picture_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Width and height in pixels, as they are stored; only the header is read.

    Args:
        source: what ``open_source`` takes.

    Raises:
        InputError: as of :func:`open_picture`, as far as the header tells.
    """
    with _read(source) as image:
        return image.size


def _decode(image: Image.Image, source: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice to those who write programs with it
        try:
            image.load()
            return np.asarray(_rgb(_upright(image)))
        except MemoryError:
            raise InputError(f"{shown(source)} does not fit into memory") from None
        except Exception as error:  # whatever Pillow's decoders stumble over in a broken file
            raise InputError(f"{shown(source)} is damaged: {first_line(error)}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; the picture itself, uncopied, if they say nothing."""
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def check_size(width: int, height: int, source: Any) -> None:
    """Refuse more pixels than any camera makes, and lines that resizing would first make a thousand times as large.

    Raises:
        InputError: there are none, or more than 100 million, or more than a million on a side.
    """
    if width * height == 0:
        raise InputError(f"{shown(source)} has no pixels")
    if max(width, height) > MAX_SIDE:
        raise InputError(f"{shown(source)} is too long: {width:,} x {height:,} pixels, more than a million on a side")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{shown(source)} is too large: {width:,} x {height:,} pixels, more than {MAX_PIXELS // 1_000_000} million"
        )


def _read(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Pillow reads the header only; the size is checked before anything is decoded."""
    file = open_source(source, BOUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _open(file)
        except InputError:  # a library is missing
            raise
        except Image.DecompressionBombError:
            raise InputError(f"{shown(source)} is too large: more than {MAX_PIXELS // 1_000_000} million") from None
        except UnidentifiedImageError:
            raise InputError(f"{shown(source)} is no picture in a format that Pillow reads") from None
        except PermissionError as error:
            raise InputError(f"cannot read {shown(source)}: {error.strerror}") from None
        except Exception as error:  # a broken header
            raise InputError(f"{shown(source)} is damaged: {first_line(error)}") from None
    try:
        check_size(*image.size, source)
    except InputError:
        image.close()
        raise
    return image


def _open(file: Path | io.BytesIO) -> Image.Image:
    """What Pillow or, for HEIC, pillow-heif opens; the latter turns pictures upright and takes the flag out of EXIF."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not _is_heif(file):
            raise
    image: Image.Image = media_library("pillow_heif", "reading HEIC pictures").HeifImageFile(file)
    return image


def _is_heif(file: Path | io.BytesIO) -> bool:
    """Whether a file begins as those of the HEIF family do; bytes are left at their beginning."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            begin = opened.read(12)
    else:
        file.seek(0)
        begin = file.read(12)
        file.seek(0)
    return begin[4:8] == b"ftyp" and begin[8:] in _HEIF_BRANDS


def _from_array(source: Any) -> Image.Image:
    try:
        array = np.asarray(source)
    except (TypeError, ValueError) as error:
        raise InputError(f"{shown(source)} is no picture: {first_line(error)}") from None
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise InputError(f"an array of shape {array.shape} is no picture: expected height, width, 1, 3 or 4 channels")
    check_size(array.shape[1], array.shape[0], source)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(_bytes(array)))


def _bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"an array of {array.dtype} is no picture: expected uint8, or floats from 0 to 1")
    if not (np.min(array) >= 0 and np.max(array) <= 1):  # false for NaN, too
        raise InputError("an array of floats is a picture only if they are all from 0 to 1")
    return np.round(array * 255).astype(np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        # Of "I" as Pillow reads it: 16 bits in 32. Converted to "RGB" all above 255 would be white.
        image = Image.fromarray(np.clip(grey >> 8 if grey.max() > 255 else grey, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """What is transparent laid on white, a few rows at a time: a large picture takes memory once."""
    out = Image.new("RGB", image.size)
    rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        out.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return out
