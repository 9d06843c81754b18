"""A prompt's pictures, video frames and sounds, through the towers: soft tokens for the text network."""

import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..cache.soft_tokens import MediaPrompt, SoftTokens
from ..checkpoints.hub import resolve
from ..checkpoints.loading import load_towers
from ..errors import InputError
from ..files import read_json
from ..models.config import Gemma4TextConfig, read_target_config
from ..models.towers import Towers
from ..text.messages import Media
from ..text.processor import Processor, Prompt
from .config import MediaOptions
from .inputs import PICTURE, SOUND, VIDEO, ModelInputs
from .processor import AS_PUBLISHED, NO_MEDIA, MediaProcessor

NAMES = {PICTURE: "picture", VIDEO: "video frame", SOUND: "sound"}


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
        self, prompt: Prompt, media: Media = NO_MEDIA, *, chat: bool = True, options: MediaOptions = AS_PUBLISHED
    ) -> MediaPrompt:
        """Arguments and errors as for ``MediaProcessor.encode`` and :func:`encode_media`."""
        return encode_media(self.towers, self.processor.encode(prompt, media, chat=chat, options=options), self.config)


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
        raise InputError(f"{path_or_repo} is a text model: it takes no pictures, sound or video")
    config = read_target_config(read_json(folder / "config.json"))
    return MediaReader(MediaProcessor.from_pretrained(folder, processor), towers, config)


def encode_media(towers: Towers, inputs: ModelInputs, config: Gemma4TextConfig) -> MediaPrompt:
    """What ``stream_generate`` takes: the prompt's token ids, and soft tokens for its placeholders.

    Pictures, frames and sounds are encoded and evaluated one at a time, which bounds memory.

    Args:
        towers: of the target.
        inputs: from ``MediaProcessor.encode``.
        config: of the text network.

    Raises:
        InputError: media of a kind that the model has no tower for; as many placeholders as there are not soft tokens.
    """
    sources = {
        PICTURE: _pictures(towers, inputs.pixel_values, inputs.image_position_ids),
        VIDEO: _pictures(towers, inputs.pixel_values_videos, inputs.video_position_ids),
        SOUND: _sounds(towers, inputs.input_features, inputs.input_features_mask),
    }
    media = []
    for kind, start, end in inputs.spans():
        key, embeddings = next(sources[kind], (0, None))
        if embeddings is None or embeddings.shape[0] != end - start:
            found = "nothing" if embeddings is None else f"{embeddings.shape[0]} soft tokens"
            raise InputError(f"a {NAMES[kind]} has {end - start} placeholders in the prompt, and {found} to put there")
        mutual = kind != SOUND and config.use_bidirectional_attention == "vision"
        media.append(SoftTokens(start, embeddings, key, mutual))
    for kind, those in sources.items():
        if next(those, None) is not None:
            raise InputError(f"there are more {NAMES[kind]}s than the prompt has placeholders for")
    return MediaPrompt(inputs.tokens, media)


def _pictures(
    towers: Towers, pixel_values: np.ndarray | None, position_ids: np.ndarray | None
) -> Iterator[tuple[int, mx.array]]:
    """For each picture its key and its soft tokens (n, H)."""
    if pixel_values is None:
        return
    for values, positions in zip(pixel_values, position_ids, strict=True):
        if positions.max() >= max(towers.most_positions, 1):
            raise InputError(f"a picture has more than {towers.most_positions} columns or rows of patches")
        count = int((positions[:, 0] >= 0).sum())
        values, positions = values[:count], positions[:count].astype(np.int32)
        embeddings = towers.see(mx.array(values)[None], mx.array(positions)[None])[0]
        mx.eval(embeddings)
        yield content_key(values, positions), embeddings


def _sounds(towers: Towers, features: np.ndarray | None, mask: np.ndarray | None) -> Iterator[tuple[int, mx.array]]:
    """For each sound its key and its soft tokens (n, H)."""
    if features is None:
        return
    for steps, heard in zip(features, mask, strict=True):
        count = int(heard[:: towers.steps_per_token].sum())
        embeddings = towers.hear(mx.array(steps)[None], mx.array(heard)[None])[0, :count]
        mx.eval(embeddings)
        yield content_key(steps, heard), embeddings


def content_key(*arrays: np.ndarray) -> int:
    """A negative number that depends on the arrays' contents and shapes; 63 bits, so that no two are the same."""
    digest = blake2b(digest_size=8)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return -1 - (int.from_bytes(digest.digest()) >> 1)
