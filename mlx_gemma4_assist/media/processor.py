"""Conversations with pictures, sound and video to model inputs, as transformers' ``Gemma4Processor`` makes them.

transformers' own image processor (the Pillow one) and audio feature extractor do the work; its processor itself and its
video processor need PyTorch. What they add is here: placeholders written out to as many soft tokens as a source has.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, first_line
from ..text.messages import Media, split_media, user_message
from ..text.processor import Processor, Prompt
from .config import MediaConfig, MediaOptions, read_media_config
from .fetch import shown
from .inputs import PICTURE, SOUND, TEXT, VIDEO, ModelInputs
from .pictures import open_picture
from .sound import read_sound
from .video import Sampling, read_video, timestamp

if TYPE_CHECKING:
    from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

# As Gemma 4's tokenizer spells them, for checkpoints whose tokenizer_config.json does not say.
SPELLING = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
NO_MEDIA = Media()
AS_PUBLISHED = MediaOptions()
KINDS = {"image": PICTURE, "video": VIDEO, "audio": SOUND}
# Samples that transformers' Gemma4AudioFeatureExtractor listens to: 30 seconds.
HEARD = 480_000


class MediaProcessor:
    """Prompts of any kind to ``ModelInputs``.

    Attributes:
        text: what handles text, here as everywhere.
        config: how the checkpoint wants media prepared.
    """

    def __init__(self, text: Processor, config: MediaConfig):
        self.text = text
        self.config = config

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], text: Processor | None = None) -> "MediaProcessor":
        """Read a checkpoint's folder; nothing is downloaded, and the classes for media are imported when needed.

        Args:
            folder: of the checkpoint.
            text: its ``Processor``, if it has been read before.

        Raises:
            InputError: a file is missing or damaged.
        """
        return cls(text or Processor.from_pretrained(folder), read_media_config(Path(folder)))

    def encode(
        self,
        prompt: Prompt,
        media: Media = NO_MEDIA,
        *,
        chat: bool = True,
        enable_thinking: bool = False,
        options: MediaOptions = AS_PUBLISHED,
    ) -> ModelInputs:
        """What the model reads.

        Args:
            prompt: messages, whose parts may name media; or text, which is one user message or, without ``chat`` or
                without a chat template, raw text with a placeholder for each source; or token ids.
            media: what text shows; messages name theirs themselves.
            chat: whether text is a user message.
            enable_thinking: handed to the chat template, if it knows of it.
            options: number of soft tokens and frames.

        Raises:
            InputError: as in ``Processor.encode``; a source that cannot be read; a kind of media that the checkpoint
                does not take; placeholders that do not match the sources.
        """
        if isinstance(prompt, str) and not (chat and self.text.has_chat_template):
            if enable_thinking:
                raise InputError("enable_thinking needs a conversation and a chat template")
            return self._begin(self.expand(prompt, media, options))
        if isinstance(prompt, str):
            if not prompt.strip() and not media:
                raise InputError("the prompt is empty")
            prompt = [user_message(prompt, media)]
        elif media:
            raise InputError("messages name their media themselves, and token ids have none")
        elif not isinstance(prompt, Sequence) or any(isinstance(item, int) for item in prompt):
            return ModelInputs.of_text(self.text.encode(prompt, enable_thinking=enable_thinking))
        messages, media = split_media(prompt)
        return self.expand(self.text.render(messages, enable_thinking=enable_thinking), media, options)

    def expand(self, text: str, media: Media = NO_MEDIA, options: MediaOptions = AS_PUBLISHED) -> ModelInputs:
        """Inputs for text that has one placeholder for each source; a chat template or the caller has written BOS.

        Raises:
            InputError: see ``encode``.
        """
        if not text:
            raise InputError("the prompt is empty")
        self._check(text, media)
        parts: dict[str, Any] = {}
        written: dict[str, list[str]] = {kind: [] for kind in KINDS}
        if media.pictures:
            parts |= self._pictures(media.pictures, options, written["image"])
        if media.videos:
            parts |= self._videos(media.videos, options, written["video"])
        if media.sounds:
            parts |= self._sounds(media.sounds, written["audio"])
        tokens = self.text.tokenize(self._write_out(text, written))
        types = {self._ids[kind]: number for kind, number in KINDS.items() if self._ids[kind] is not None}
        return ModelInputs(tokens, [types.get(token, TEXT) for token in tokens], **parts)

    def _begin(self, inputs: ModelInputs) -> ModelInputs:
        tokens = self.text.begin(inputs.tokens)
        added = len(tokens) - len(inputs.tokens)
        return replace(inputs, tokens=tokens, token_types=[TEXT] * added + inputs.token_types)

    # Placeholders

    @cached_property
    def _spelling(self) -> dict[str, str]:
        named = self.text.tokenizer.special_tokens_map
        return {name: str(named.get(name, usual)) for name, usual in SPELLING.items()}

    @cached_property
    def _ids(self) -> dict[str, int | None]:
        """The placeholder's id of each kind; None if the vocabulary has none."""
        vocabulary = self.text.tokenizer.backend_tokenizer
        return {kind: vocabulary.token_to_id(self._spelling[f"{kind}_token"]) for kind in KINDS}

    def _check(self, text: str, media: Media) -> None:
        given = {"image": media.pictures, "video": media.videos, "audio": media.sounds}
        able = {"image": self.config.has_vision, "video": self.config.has_vision, "audio": self.config.has_audio}
        for kind, sources in given.items():
            placeholder = self._spelling[f"{kind}_token"]
            if sources and (not able[kind] or self._ids[kind] is None):
                raise InputError(f"the checkpoint takes no {kind}")
            count = text.count(placeholder)
            if self._ids[kind] is not None and count != len(sources):
                times, plural = "" if count == 1 else "s", "" if len(sources) == 1 else "s"
                raise InputError(
                    f"the prompt says {placeholder} {count} time{times}, but has {len(sources)} {kind}{plural}"
                )

    def _write_out(self, text: str, written: dict[str, list[str]]) -> str:
        """Replace each placeholder by the text of its source; in one pass, for these texts have placeholders, too."""
        texts = {self._spelling[f"{kind}_token"]: iter(those) for kind, those in written.items() if those}
        if not texts:
            return text
        return re.sub("|".join(map(re.escape, texts)), lambda found: next(texts[found.group()]), text)

    def _image_text(self, kind: str, count: int) -> str:
        spelling = self._spelling
        return f"{spelling['boi_token']}{spelling[f'{kind}_token'] * count}{spelling['eoi_token']}"

    # Pictures and video

    def _pictures(self, sources: Sequence[Any], options: MediaOptions, written: list[str]) -> dict[str, Any]:
        patches, positions, counts = [], [], []
        for source in sources:
            out = _prepare(self._picture_processor, open_picture(source), options.max_soft_tokens, source)
            patches.append(out[0])
            positions.append(out[1])
            counts.append(out[2])
            written.append(self._image_text("image", out[2]))
        return {
            "pixel_values": np.concatenate(patches),
            "image_position_ids": np.concatenate(positions),
            "picture_tokens": tuple(counts),
        }

    def _videos(self, sources: Sequence[Any], options: MediaOptions, written: list[str]) -> dict[str, Any]:
        sampling = Sampling(options.num_frames or self.config.num_frames, options.fps)
        patches, positions, frames, counts = [], [], [], []
        for source in sources:
            texts = []
            for seconds, frame in read_video(source, sampling):
                out = _prepare(self._frame_processor, frame, options.frame_soft_tokens, source)
                patches.append(out[0])
                positions.append(out[1])
                texts.append(f"{timestamp(seconds)} {self._image_text('video', out[2])}")
            frames.append(len(texts))
            counts.append(out[2])
            written.append(" ".join(texts))
        return {
            "pixel_values_videos": np.concatenate(patches),
            "video_position_ids": np.concatenate(positions),
            "video_frames": tuple(frames),
            "frame_tokens": tuple(counts),
        }

    @cached_property
    def _picture_processor(self) -> "Gemma4ImageProcessorPil":
        return _image_processor(self.config.picture)

    @cached_property
    def _frame_processor(self) -> "Gemma4ImageProcessorPil":
        return _image_processor(self.config.frame)

    # Sound

    def _sounds(self, sources: Sequence[Any], written: list[str]) -> dict[str, Any]:
        extractor = self._extractor
        samples = [read_sound(source, extractor.sampling_rate) for source in sources]
        notes = []
        if self.config.unified:
            out = extractor(samples, return_tensors="np")
        else:
            out = extractor(samples, max_length=HEARD, truncation=True, return_tensors="np")
            heard = HEARD / extractor.sampling_rate
            notes = [
                f"{shown(source)} lasts {len(those) / extractor.sampling_rate:.0f} seconds, "
                f"of which the model hears the first {heard:.0f}"
                for source, those in zip(sources, samples, strict=True)
                if len(those) > HEARD
            ]
        features, mask = np.asarray(out["input_features"]), np.asarray(out["input_features_mask"])
        # The tower halves time twice; the unified model has none.
        counts = [int(row.sum()) for row in (mask if self.config.unified else mask[:, ::4])]
        for source, count in zip(sources, counts, strict=True):
            if count == 0:
                raise InputError(f"{shown(source)} is too short to be heard")
            written.append(
                f"{self._spelling['boa_token']}{self._spelling['audio_token'] * count}{self._spelling['eoa_token']}"
            )
        return {
            "input_features": features,
            "input_features_mask": mask,
            "sound_tokens": tuple(counts),
            "notes": tuple(notes),
        }

    @cached_property
    def _extractor(self) -> "SequenceFeatureExtractor":
        # Imported late, as all of transformers.
        if self.config.unified:
            try:
                from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import (
                    Gemma4UnifiedAudioFeatureExtractor as Extractor,
                )
            except ImportError:
                raise InputError("sound for the 12B needs a newer transformers: pip install -U transformers") from None
        else:
            from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor as Extractor
        try:
            return Extractor.from_dict(dict(self.config.sound))
        except (TypeError, ValueError) as error:
            raise InputError(f"the checkpoint's settings for sound are damaged: {first_line(error)}") from None


def _image_processor(settings: Any) -> "Gemma4ImageProcessorPil":
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    try:
        return Gemma4ImageProcessorPil(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"the checkpoint's settings for pictures are damaged: {first_line(error)}") from None


def _prepare(
    processor: "Gemma4ImageProcessorPil", picture: np.ndarray, max_soft_tokens: int | None, source: Any
) -> tuple[np.ndarray, np.ndarray, int]:
    """Patches (1, patches, values) float32, their positions (1, patches, 2) int64, and the number of soft tokens."""
    chosen = {} if max_soft_tokens is None else {"max_soft_tokens": max_soft_tokens}
    try:
        out = processor(picture, input_data_format="channels_last", return_tensors="np", **chosen)
    except ValueError as error:  # settings that do not fit this picture
        raise InputError(f"{shown(source)} cannot be shown to the model: {first_line(error)}") from None
    patches = np.asarray(out["pixel_values"], dtype=np.float32)
    return patches, np.asarray(out["image_position_ids"]), int(out["num_soft_tokens_per_image"][0])
