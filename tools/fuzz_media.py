"""Gives odd pictures, sounds and videos to small models: each is read, or refused with an InputError of one line.

A case is made from the seed and its number only, so that a failure is found again by ``--seed`` and ``--only``. Cases
are files of many formats (whole, cut off, bytes changed, sizes of 0 and huge in headers, of another name, empty),
arrays and objects of odd types and sizes, frame rates and sampling rates from 1e-308 to 1e9, malformed messages and
URLs (nothing is downloaded), and checkpoints whose settings for media are damaged. Each case runs within bounds of
memory and time, in a process that may die of it. Prints the counts by kind of outcome and the failures; the exit code
is 1 if there are any.
"""

import base64
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fuzzing
from damage import ODD, damage_bytes, damage_json
from fuzz_checkpoints import ADDED, QUESTION, media_base
from odd_media import (
    NUMBERS,
    odd_content,
    odd_picture,
    odd_sound,
    odd_video,
    picture_files,
    sound_files,
    video_files,
)

from mlx_gemma4_assist import InputError, Media, MediaOptions
from mlx_gemma4_assist.commands.media import MediaChoice, find_media
from mlx_gemma4_assist.media.processor import MediaProcessor
from mlx_gemma4_assist.media.reader import MediaReader, load_media
from mlx_gemma4_assist.text.messages import SOURCES, Kind

ADDRESSES = (
    "", " ", "~", "file://", "file:///nowhere", "file://[", "data:", "data:,", "data:image/png;base64,AAAA",
    "data:;base64,é", "data:;base64,A", "http://", "http://[", "https://:0", "\x00", "a" * 70_000, ".", "/",
    "/dev/null", "no/such.png", b"", b"\x00" * 9, b"hello",
)  # fmt: skip


FEW = {"max_soft_tokens": 70, "frame_soft_tokens": 70, "num_frames": 3}
SETTINGS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
Read = Callable[[], object]


class OddMedia(fuzzing.Cases):
    """Media for the two models that take it, and the settings of these."""

    def __init__(self, folder: Path):
        self.whole = [media_base(folder / "whole" / name, name == "unified") for name in ("towers", "unified")]
        self.readers = [load_media(base) for base in self.whole]
        self.files = {Kind.PICTURE: picture_files(), Kind.SOUND: sound_files(), Kind.VIDEO: video_files()}
        self.objects = {Kind.PICTURE: odd_picture, Kind.SOUND: odd_sound, Kind.VIDEO: odd_video}
        self.folder = folder / "odd"
        self._read: Read = lambda: None

    def make(self, rng: random.Random) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        reader = rng.choice(self.readers)
        kinds = (self._file, self._file, self._file, self._object, self._object, self._message, self._options)
        make = rng.choice((*kinds, self._settings))
        what, self._read = make(rng, reader)
        return what

    def attempt(self) -> None:
        self._read()

    def _file(self, rng: random.Random, reader: MediaReader) -> tuple[str, Read]:
        kind = rng.choice(list(Kind))
        name, content = rng.choice(sorted(self.files[kind].items()))
        content, what = odd_content(rng, content)
        if rng.random() < 0.1:
            name = rng.choice([name for files in self.files.values() for name in files])
        if rng.random() < 0.1:
            kind = rng.choice(list(Kind))
        path = self.folder / name
        path.write_bytes(content)
        address = f"data:;base64,{base64.b64encode(content).decode()}"
        source = rng.choice((path, str(path), content, address, path.as_uri()))
        return f"{kind} {name} {what} as {type(source).__name__}", partial(_read, reader, kind, source)

    def _object(self, rng: random.Random, reader: MediaReader) -> tuple[str, Read]:
        kind = rng.choice(list(Kind))
        source = self.objects[rng.choice((kind, kind, kind, *Kind))](rng)
        return f"{kind} {source!r:.200}", partial(_read, reader, kind, source)

    def _message(self, rng: random.Random, reader: MediaReader) -> tuple[str, Read]:
        """As ``--messages`` and ``--image`` have them."""
        kind = rng.choice(list(Kind))
        source: Any = rng.choice((*ADDRESSES, *ODD))
        part: Any = {"type": rng.choice((kind, kind, "image_url")), rng.choice((*SOURCES[kind], "image_url")): source}
        content = rng.choice(([part], [part], [part, part], part, [source], source))
        messages: Any = [{"role": "user", "content": content}]
        if isinstance(source, str) and rng.random() < 0.3:
            choice = MediaChoice(**{kind.value: [source]})
            return f"--{kind} {source!r:.100}", partial(_command, reader, "What?", choice)
        return f"messages {messages!r:.200}", partial(_command, reader, messages, MediaChoice())

    def _options(self, rng: random.Random, reader: MediaReader) -> tuple[str, Read]:
        kind = rng.choice((Kind.PICTURE, Kind.VIDEO, Kind.VIDEO))
        options = {rng.choice((*FEW, "fps")): rng.choice((*ODD, *NUMBERS))}
        source = QUESTION.by_kind[kind][0]
        return f"{kind} {options}", lambda: reader.read("What?", _media(kind, source), options=MediaOptions(**options))

    def _settings(self, rng: random.Random, reader: MediaReader) -> tuple[str, Read]:
        whole = self.whole[self.readers.index(reader)]
        names = [name for name in SETTINGS if (whole / name).exists()]
        for name in (*names, "config.json"):
            shutil.copy(whole / name, self.folder)
        file = self.folder / rng.choice(names)
        damage = damage_bytes if rng.random() < 0.1 else partial(damage_json, added=ADDED["preprocessor_config.json"])
        return damage(rng, file), partial(_read_with, reader, self.folder)


def _media(kind: Kind, source: Any) -> Media:
    sources = {each: (source,) if each is kind else () for each in Kind}
    return Media(sources[Kind.PICTURE], sources[Kind.SOUND], sources[Kind.VIDEO])


def _read(reader: MediaReader, kind: Kind, source: Any) -> None:
    reader.read("What?", _media(kind, source), options=MediaOptions(**FEW))


def _read_with(reader: MediaReader, folder: Path) -> None:
    """Read one of each kind as other settings want it."""
    processor = MediaProcessor.from_pretrained(folder, reader.processor.text)
    MediaReader(processor, reader.towers, reader.config).read("What?", QUESTION)


def _command(reader: MediaReader, content: Any, choice: MediaChoice) -> None:
    """As the commands read, but that nothing is downloaded."""
    found = find_media(content, choice)
    media = choice.media if isinstance(found, str) else found.media
    addresses = [source for sources in media.by_kind.values() for source in sources]
    if any(isinstance(source, str) and source.startswith("http") for source in addresses):
        raise InputError("nothing is downloaded here")
    reader.read(found, choice.media, options=MediaOptions(**FEW))


def arguments():
    return fuzzing.arguments(__doc__)


if __name__ == "__main__":
    sys.exit(fuzzing.main(arguments().parse_args(), OddMedia))
