"""Pictures, sounds and videos made on the spot, and a tokenizer that knows Gemma's placeholders.

Shared by the tests and by the script that asks the reference, so that both see the same sources; needs neither MLX nor
PyTorch.
"""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from support import byte_tokenizer, paths
from support.paths import PHOTO

GOLDENS = paths.GOLDENS / "media"
VIDEO_RATE = 10
SPECIAL = (*byte_tokenizer.SPECIAL, *byte_tokenizer.OF_MEDIA.values(), "<|video|>")
# In the manner of Gemma's own: blank lines around what is seen, none around what is heard.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{ '\n\n<|image|>\n\n' }}"
    "{% elif part.type == 'video' %}{{ '\n\n<|video|>\n\n' }}"
    "{% elif part.type == 'audio' %}{{ '<|audio|>' }}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<turn|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def save_tokenizer(folder: Path) -> Path:
    """Single characters and bytes, apart from Gemma's special tokens; with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    tokenizer = byte_tokenizer.byte_tokenizer(["▁", "\n", "\n\n", *letters], [("\n", "\n")], SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": byte_tokenizer.OF_MEDIA}
    config |= byte_tokenizer.OF_TEXT
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth waves (height, width, channels) uint8, no two channels alike."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return np.uint8(127.5 + 127 * np.sin(x / (9 + 4 * c) + y / (17 - 3 * c) + c))


def video(frames: int) -> np.ndarray:
    """(frames, 72, 128, 3) uint8; waves that move, by a step of their own in each frame."""
    wide = picture(72, 128 + 7 * frames)
    return np.stack([wide[:, 7 * i : 7 * i + 128] for i in range(frames)])


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """A picture as the content of a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    """A picture as the content of a HEIC file, exactly. The test is skipped where pillow-heif is not installed."""
    import pytest  # the script that asks the reference does without

    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return file.getvalue()


def avif(image: Image.Image, **options: Any) -> bytes:
    """A picture as the content of an AVIF file, to 4 in 255. The test is skipped where Pillow cannot write it."""
    import pytest

    if not features.check("avif"):
        pytest.skip("this Pillow knows no AVIF")
    return encoded(image, "AVIF", quality=100, subsampling="4:4:4", **options)


def save_video(path: Path, frames: np.ndarray, codec: str = "ffv1", rate: int = VIDEO_RATE, **options: int) -> Path:
    """ffv1 keeps RGB exactly. The test is skipped where PyAV is not installed."""
    import pytest  # the script that asks the reference does without

    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.options = {name: str(value) for name, value in options.items()}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A rising tone (channels, n) float64, each channel an octave above the one before."""
    t = np.arange(int(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 2**c * (220 + 300 * t) * t) for c in range(channels)])


def save_wave(path: Path, samples: np.ndarray, rate: int) -> Path:
    """16 bits per sample."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples.T * 32767).astype("<i2").tobytes())
    return path


SOURCES = (
    "wide",
    "tall",
    "turned",
    "see_through",
    "see_through_image",
    "photo",
    "stereo",
    "mono",
    "samples",
    "long_video",
    "short_video",
)


def write_sources(folder: Path) -> dict[str, Any]:
    """Write files into ``folder``; name what conversations show."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(180, 310)).save(folder / "wide.png")
    Image.fromarray(picture(400, 130)).save(folder / "tall.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(120, 300)).save(folder / "turned.jpg", quality=95, exif=turned)
    see_through = Image.fromarray(picture(150, 150, 4))
    see_through.save(folder / "see_through.png")
    save_wave(folder / "stereo.wav", tone(0.7, 44_100, 2), 44_100)
    save_wave(folder / "mono.wav", tone(0.45, 8_000), 8_000)
    files = {path.stem: str(path) for path in folder.iterdir()}
    return files | {
        "photo": str(PHOTO),
        "see_through_image": see_through,
        "samples": tone(0.3, 16_000)[0].astype(np.float32),
        "long_video": video(40),
        "short_video": video(5),
    }


def user(*parts: Any) -> dict[str, Any]:
    """A message of strings, which are text, and (kind, source) pairs."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], part[0]: part[1]}
        for part in parts
    ]
    return {"role": "user", "content": content}


def conversations(sources: dict[str, Any]) -> dict[str, tuple[list[dict[str, Any]], dict[str, int]]]:
    """Name: messages, and options for the image processor."""
    wide, tall, photo = (("image", sources[name]) for name in ("wide", "tall", "photo"))
    plain = {
        "text": [{"role": "user", "content": "Hello?"}],
        "photo": [user(photo, "Who is this?")],
        "two pictures": [user("Compare", wide, "with", tall, ".")],
        "turned": [user(("image", sources["turned"]), "Which way is up?")],
        "see-through file": [user(("image", sources["see_through"]), "What is behind?")],
        "see-through image": [user(("image", sources["see_through_image"]), "What is behind?")],
        "sounds": [user(("audio", sources["stereo"]), "and", ("audio", sources["mono"]), "Which is higher?")],
        "samples": [user("Transcribe: ", ("audio", sources["samples"]))],
        "long video": [user(("video", sources["long_video"]), "What moves?")],
        "short video": [user(("video", sources["short_video"]), "What moves?")],
        "everything": [
            {"role": "system", "content": "Be brief."},
            user(wide, ("audio", sources["mono"]), "First."),
            {"role": "model", "content": "Yes."},
            user(("video", sources["short_video"]), "Second", ("image", sources["turned"]), photo, "third."),
        ],
    }
    return {name: (messages, {}) for name, messages in plain.items()} | {
        "70 soft tokens": (plain["two pictures"], {"max_soft_tokens": 70}),
        "1120 soft tokens": (plain["photo"], {"max_soft_tokens": 1120}),
    }


def sample(patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Some values of some patches of each picture as bytes, (pictures, rows, values) uint8; small enough to be kept."""
    pictures, rows = [], max(1, 8 // len(patches))
    for those, at in zip(patches, positions, strict=True):
        real = np.flatnonzero(at[:, 0] >= 0)
        pictures.append(those[real[np.linspace(0, len(real) - 1, rows).astype(int)]])
    return np.round(np.stack(pictures)[..., ::7] * 255).astype(np.uint8)


def soft_tokens(prompt: Any, kind: str) -> list[int]:
    """How many each picture, frame or sound of a ``PreparedPrompt`` has."""
    return [each.content.soft_tokens for each in prompt.media if each.kind == kind]
