"""A prompt's pictures, video frames and sounds, through the towers: soft tokens for the text network."""

import os
import warnings
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..cache.soft_tokens import MediaPrompt, SoftTokens
from ..checkpoints.hub import resolve
from ..checkpoints.loading import load_towers
from ..errors import InputError
from ..files import read_json
from ..models.config import Gemma4TextConfig, read_target_config
from ..models.towers import Towers, towers_of
from ..text.messages import NO_MEDIA, Conversation, Media
from ..text.processor import Processor, Prompt
from .config import AS_PUBLISHED, MediaOptions
from .known import KnownMedia
from .prepared import NOUNS, Picture, Placed, PreparedPrompt, Sound
from .processor import MediaProcessor

_TEXT_ONLY = "{} is a text model: it takes no pictures, sound or video"


class MediaReader(NamedTuple):
    """Prompts with pictures, video and sound for one target: called with messages, it gives what ``stream_generate``
    takes.

    Attributes:
        processor: opens media and prepares them.
        towers: encode them.
        config: of the text network.
    """

    processor: MediaProcessor
    towers: Towers
    config: Gemma4TextConfig

    def __call__(
        self,
        prompt: Prompt,
        media: Media = NO_MEDIA,
        *,
        chat: bool = True,
        enable_thinking: bool = False,
        options: MediaOptions = AS_PUBLISHED,
    ) -> MediaPrompt:
        """Arguments and errors as for ``MediaProcessor.encode`` and :func:`encode_media`.

        Warns:
            UserWarning: each of the prompt's notes, such as that a sound is cut at 30 seconds.
        """
        read = self.read(prompt, media, chat=chat, enable_thinking=enable_thinking, options=options)
        for note in read.notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        return read

    def read(
        self,
        prompt: Prompt | Conversation,
        media: Media = NO_MEDIA,
        *,
        chat: bool = True,
        enable_thinking: bool = False,
        options: MediaOptions = AS_PUBLISHED,
    ) -> MediaPrompt:
        """The same without warnings, for callers who show the prompt's notes in a way of their own."""
        prepared = self.processor.encode(prompt, media, chat=chat, enable_thinking=enable_thinking, options=options)
        return encode_media(self.towers, prepared, self.config)


def load_media(
    path_or_repo: str | os.PathLike[str],
    processor: Processor | None = None,
    *,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
) -> MediaReader:
    """A target's towers, and what prepares media for them. ``load`` leaves both out.

    Args:
        path_or_repo, dtype, revision: as for ``load``.
        processor: from ``load``, if it has been read already.

    Raises:
        InputError: a text-only model, or what ``load`` raises.
    """
    folder = resolve(path_or_repo, revision=revision)
    towers = load_towers(folder, dtype=dtype)
    if towers is None:
        raise InputError(_TEXT_ONLY.format(path_or_repo))
    config = read_target_config(read_json(folder / "config.json"))
    return MediaReader(MediaProcessor.from_pretrained(folder, processor), towers, config)


def media_processor(
    path_or_repo: str | os.PathLike[str], folder: Path, processor: Processor | None = None
) -> MediaProcessor:
    """What prepares media for a target, whose weights are not read.

    Args:
        path_or_repo: what the caller calls it.
        folder: where it is.
        processor: its own, if it has been read already.

    Raises:
        InputError: a text-only model, or files that are missing or damaged.
    """
    if towers_of(read_json(folder / "config.json")) is None:
        raise InputError(_TEXT_ONLY.format(path_or_repo))
    return MediaProcessor.from_pretrained(folder, processor)


def encode_media(towers: Towers, prompt: PreparedPrompt, config: Gemma4TextConfig) -> MediaPrompt:
    """What ``stream_generate`` takes: the prompt's token ids, and soft tokens for its placeholders.

    Pictures, frames and sounds are encoded and evaluated one at a time, which bounds memory.

    Args:
        towers: of the target.
        prompt: from ``MediaProcessor.encode``.
        config: of the text network.

    Raises:
        InputError: media of a kind that the model has no tower for; as many placeholders as there are not soft tokens.
    """
    return MediaPrompt(prompt.tokens, [soft_tokens(towers, each, config) for each in prompt.media], prompt.notes)


def soft_tokens(
    towers: Towers, placed: Placed, config: Gemma4TextConfig, known: KnownMedia | None = None
) -> SoftTokens:
    """The soft tokens of one picture, frame or sound. Arguments and errors as for :func:`encode_media`.

    Args:
        known: those that need not be encoded again, of the same towers; what is encoded is added.
    """
    content = placed.content
    mutual = config.use_bidirectional_attention == "vision"  # those of a picture see one another
    shown = _Shown.picture(towers, content) if isinstance(content, Picture) else _Shown.sound(content)
    key = content_key(*shown)
    embeddings = None if known is None else known.find(key)
    if embeddings is None:
        encode = _see if isinstance(content, Picture) else _hear
        embeddings = encode(towers, *shown)
    count = embeddings.shape[0]
    if count != content.soft_tokens:
        has = f"a {NOUNS[placed.kind]} has {content.soft_tokens} placeholders in the prompt"
        raise InputError(f"{has}, and {count} soft tokens to put there")
    mx.eval(embeddings)
    if known is not None:
        known.keep(key, embeddings)
    return SoftTokens(placed.start, embeddings, key, mutual and isinstance(content, Picture))


class _Shown(NamedTuple):
    """What a tower reads: patches and their positions, or features and which of them are heard."""

    content: np.ndarray
    where: np.ndarray

    @classmethod
    def picture(cls, towers: Towers, picture: Picture) -> "_Shown":
        """Without padding.

        Raises:
            InputError: more columns or rows than the tower has positions for.
        """
        if picture.positions.max() >= max(towers.most_positions, 1):
            raise InputError(f"a picture has more than {towers.most_positions} columns or rows of patches")
        count = int((picture.positions[:, 0] >= 0).sum())
        return cls(picture.patches[:count], picture.positions[:count].astype(np.int32))

    @classmethod
    def sound(cls, sound: Sound) -> "_Shown":
        return cls(sound.features, sound.heard)


def _see(towers: Towers, patches: np.ndarray, positions: np.ndarray) -> mx.array:
    """(n, H)."""
    return towers.see(mx.array(patches)[None], mx.array(positions)[None])[0]


def _hear(towers: Towers, features: np.ndarray, heard: np.ndarray) -> mx.array:
    """(n, H)."""
    count = int(heard[:: towers.steps_per_token].sum())
    return towers.hear(mx.array(features)[None], mx.array(heard)[None])[0, :count]


def content_key(*arrays: np.ndarray) -> int:
    """A negative number that depends on the arrays' contents and shapes; 63 bits, so that no two are the same."""
    digest = blake2b(digest_size=8)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return -1 - (int.from_bytes(digest.digest()) >> 1)
