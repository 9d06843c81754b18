"""Pictures, sounds and videos as people have them, and as nobody should: files, arrays and objects.

The extra ``media`` is imported where it is needed, so that tests can be collected without it.
"""

import io
import random
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
from damage import ODD, broken
from PIL import Image
from support import media

HEAD = 200  # bytes that most sizes are in
SIZES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
RATES = (1, 7, 8000, 44_100, 192_000, 10**6, 2**31 - 1)
NUMBERS = (
    0,
    -1,
    1,
    1e-308,
    1e-9,
    0.5,
    24,
    1e9,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    10**400,
    True,
    None,
    "24",
    [],
)
FRAME_RATES = (1, 24, 10**9, Fraction(1, 10**6), Fraction(24_000, 1001))
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16B",
    "RGBa",
    "La",
)
SHAPES = (
    (0, 4),
    (4, 0),
    (1, 1),
    (1, 3000),
    (3000, 1),
    (2, 2, 2),
    (3, 5, 7),
    (0, 0, 3),
    (4, 4, 0),
    (1,),
    (),
    (2, 3, 4, 5),
)
TYPES = (
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "bool",
    "complex64",
    "object",
    "U3",
)


def picture_files() -> dict[str, bytes]:
    """Name and content of pictures in all formats and modes that people have."""
    colour, clear = (Image.fromarray(media.picture(30, 40, channels)) for channels in (3, 4))
    moving = {"save_all": True, "append_images": [clear, colour], "duration": 40}
    whole = {f"colour.{format}": media.encoded(colour, format) for format in ("bmp", "ppm", "tga", "ico", "gif")}
    whole |= _grey_pictures() | _jpegs(colour)
    return whole | {
        "colour.png": media.encoded(colour, "PNG"),
        "clear.png": media.encoded(clear, "PNG"),
        "palette.png": media.encoded(colour.convert("P"), "PNG", transparency=0),
        "moving.png": media.encoded(clear, "PNG", **moving),
        "moving.gif": media.encoded(colour, "GIF", **moving),
        "moving.webp": media.encoded(colour, "WEBP", **moving),
        "clear.webp": media.encoded(clear, "WEBP", lossless=True),
        "colour.avif": media.encoded(colour, "AVIF"),
        "colour.jp2": media.encoded(colour, "JPEG2000"),
        "pages.tiff": media.encoded(colour, "TIFF", save_all=True, append_images=[clear]),
        "packed.tiff": media.encoded(colour, "TIFF", compression="tiff_lzw"),
    }


def _jpegs(colour: Image.Image) -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "colour.jpg": media.encoded(colour, "JPEG"),
        "turned.jpg": media.encoded(colour, "JPEG", exif=turned),
        "cmyk.jpg": media.encoded(colour.convert("CMYK"), "JPEG"),
        "progressive.jpg": media.encoded(colour, "JPEG", progressive=True),
    }


def _grey_pictures() -> dict[str, bytes]:
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    return {
        "deep.png": media.encoded(deep, "PNG"),
        "deep.tiff": media.encoded(deep, "TIFF"),
        "bits.png": media.encoded(deep.convert("1"), "PNG"),
        "numbers.tiff": media.encoded(Image.new("F", (9, 9), float("nan")), "TIFF"),
        "line.png": media.encoded(Image.new("1", (100_000, 1)), "PNG"),
        "largest.png": media.encoded(Image.new("1", (10_000, 10_000)), "PNG"),
    }


def _sound_file(samples: np.ndarray, rate: int, format: str, subtype: str | None = None) -> bytes:
    """samples: (channels, n)."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=format, subtype=subtype)
    return file.getvalue()


def sound_files() -> dict[str, bytes]:
    """The same of sounds, silent, broken and loud ones among them."""
    tone, silent = media.tone(0.2, 16_000), np.zeros((1, 0))
    odd = np.array([[0.0, float("nan"), float("inf"), 1e30] * 500])
    whole = {f"{rate}.wav": _sound_file(tone[:, :2000], rate, "WAV") for rate in RATES}
    whole |= {f"{kind}.wav": _sound_file(tone, 16_000, "WAV", kind) for kind in ("PCM_U8", "PCM_24", "DOUBLE", "ULAW")}
    whole |= {
        f"tone.{kind}": _sound_file(tone, 16_000, kind.upper()) for kind in ("flac", "ogg", "aiff", "au", "w64", "mp3")
    }
    return whole | {
        "none.wav": _sound_file(silent, 16_000, "WAV"),
        "none.ogg": _sound_file(silent, 16_000, "OGG"),
        "odd.wav": _sound_file(odd, 16_000, "WAV", "FLOAT"),
        "many.wav": _sound_file(np.repeat(tone[:, :1000], 64, axis=0), 16_000, "WAV"),
        "eight.flac": _sound_file(np.repeat(tone[:, :1000], 8, axis=0), 48_000, "FLAC"),
        "tone.m4a": _encoded_sound("ipod", "aac"),
        "tone.opus": _encoded_sound("ogg", "libopus"),
    }


def _encoded_sound(format: str, codec: str) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        samples = media.tone(0.2, 48_000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampled = av.AudioResampler(format=stream.format, layout="mono", rate=48_000, frame_size=960)
        for each in (*resampled.resample(frame), *resampled.resample(None)):
            container.mux(stream.encode(each))
        container.mux(stream.encode())
    return file.getvalue()


def _video_file(format: str, codec: str, pixels: str, rate: Any = 10) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 72, 128, pixels
        for frame in media.video(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def video_files() -> dict[str, bytes]:
    """The same of videos, those with odd frame rates first."""
    made = {f"{i}.mkv": _video_file("matroska", "ffv1", "bgr0", rate) for i, rate in enumerate(FRAME_RATES)}
    return made | {
        "moving.mp4": _video_file("mp4", "mpeg4", "yuv420p"),
        "moving.avi": _video_file("avi", "mjpeg", "yuvj420p"),
        "moving.nut": _video_file("nut", "ffv1", "bgr0"),
        "moving.ts": _video_file("mpegts", "mpeg2video", "yuv420p", 25),
        "moving.mov": _video_file("mov", "qtrle", "rgb24"),
        "moving.y4m": _video_file("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
        "moving.gif": _video_file("gif", "gif", "rgb8"),
    }


def odd_content(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """A file as it is, or damaged, and what was done."""
    kind = rng.choice(("whole", "broken", "broken", "sizes", "sizes", "empty"))
    if kind == "broken":
        return broken(rng, content, HEAD)
    if kind == "sizes":
        return _sized(rng, bytearray(content))
    return (content, kind) if kind == "whole" or rng.random() < 0.8 else (b"", kind)


def _sized(rng: random.Random, content: bytearray) -> tuple[bytes, str]:
    """With a number of two or four bytes near the beginning replaced; a PNG's sum stays right."""
    width, order = rng.choice((2, 4)), rng.choice(("little", "big"))
    size, at = rng.choice(SIZES) % 256**width, rng.randrange(min(HEAD, len(content)))
    if content.startswith(b"\x89PNG"):
        at, width, order = rng.choice((16, 20)), 4, "big"
    content[at : at + width] = size.to_bytes(width, order)
    if content.startswith(b"\x89PNG"):
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content), f"{width} bytes at {at} {size} {order}"


def odd_array(rng: random.Random) -> Any:
    """Of any shape and type, with any numbers in it."""
    shape = rng.choice((*SHAPES, (rng.choice((1, 2, 3, 4, 5, 64)), 500), (20, 30, rng.choice((1, 2, 3, 4, 5)))))
    array = np.full(shape, rng.choice((0, 0.5, 1, 255, 300, -1, 1e30, float("nan"), float("inf"))), "float64")
    with np.errstate(all="ignore"):
        array = array.astype(rng.choice(TYPES))
    return rng.choice((array, array, array, array.tolist(), array[::-1] if array.ndim else array))


def odd_picture(rng: random.Random) -> Any:
    """An array, an image of any mode and size, or none at all."""
    kind = rng.choice(("array", "array", "image", "image", "image", "any"))
    if kind == "array":
        return odd_array(rng)
    if kind == "any":
        return rng.choice(ODD)
    sizes = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 2000), (2000, 1), (30, 40), (30, 40), (31, 33)]
    size = rng.choice(((10_000, 10_000), (1, 10**8))) if rng.random() < 0.04 else rng.choice(sizes)
    return Image.new(rng.choice(MODES), size)


def odd_sound(rng: random.Random) -> Any:
    """An array, one with a rate, or none at all."""
    kind = rng.choice(("array", "rate", "rate", "rate", "any"))
    if kind == "any":
        return rng.choice(ODD)
    array = odd_array(rng) if rng.random() < 0.5 else np.zeros(rng.choice((0, 1, 5, 500, 16_000)), np.float32)
    return {"array": array, "sampling_rate": rng.choice((*RATES, *NUMBERS))} if kind == "rate" else array


def odd_video(rng: random.Random) -> Any:
    """Frames, some of them odd, perhaps with a rate, or none at all."""
    kind = rng.choice(("frames", "rate", "rate", "odd frames", "any"))
    if kind == "any":
        return rng.choice(ODD)
    frames: Any = media.video(3)
    if kind == "odd frames" or rng.random() < 0.2:
        frames = rng.choice((odd_array(rng), [odd_picture(rng) for _ in range(rng.choice((0, 1, 2)))]))
    return {"frames": frames, "fps": rng.choice(NUMBERS)} if kind == "rate" else frames
