"""Prompts of any kind to token ids and arrays, as transformers' ``Gemma4Processor`` makes them, in one pass.

transformers' processor itself and its video processor need PyTorch. What they add to its feature extractors is here:
placeholders written out to as many soft tokens as a source has.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..text.messages import NO_MEDIA, Conversation, Kind, Media, split_media, user_message
from ..text.processor import Processor, Prompt, is_conversation, refuse_thinking
from .config import AS_PUBLISHED, MediaConfig, MediaOptions, read_media_config
from .features import Features
from .placeholders import Placeholders
from .prepared import Picture, PreparedPrompt, Sound
from .video import timestamp


class _Source(NamedTuple):
    """A source that has been opened.

    Attributes:
        kind: of the source.
        contents: the picture, the sound, or the frames of the video.
        text: what stands for it in the prompt.
        note: what the user should know of it, if there is something.
    """

    kind: Kind
    contents: list[Picture | Sound]
    text: str
    note: str | None = None


class MediaProcessor:
    """Prompts of any kind to ``PreparedPrompt``.

    Attributes:
        text: what handles text, here as everywhere.
        config: how the checkpoint wants media prepared.
    """

    def __init__(self, text: Processor, config: MediaConfig):
        self.text = text
        self.config = config
        self._features = Features(config)

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
        prompt: Prompt | Conversation,
        media: Media = NO_MEDIA,
        *,
        chat: bool = True,
        enable_thinking: bool = False,
        options: MediaOptions = AS_PUBLISHED,
    ) -> PreparedPrompt:
        """What the model reads.

        Args:
            prompt: messages, whose parts may name media, also as ``split_media`` returns them; or text, which is one
                user message or, without ``chat`` or without a chat template, raw text with a placeholder for each
                source; or token ids.
            media: what text shows; messages name theirs themselves.
            chat: whether text is a user message.
            enable_thinking: handed to the chat template, if it knows of it.
            options: number of soft tokens and frames.

        Raises:
            InputError: as in ``Processor.encode``; a source that cannot be read; a kind of media that the checkpoint
                does not take; placeholders that do not match the sources.
        """
        if isinstance(prompt, str):
            if not (chat and self.text.has_chat_template):
                refuse_thinking(enable_thinking)
                return self.expand(prompt, media, options, begin=True)
            if not prompt.strip() and not media:
                raise InputError("the prompt is empty")
            prompt = split_media([user_message(prompt, media)])
        elif media:
            raise InputError("messages name their media themselves, and token ids have none")
        if not isinstance(prompt, Conversation):
            if not is_conversation(prompt):
                return PreparedPrompt(self.text.encode(prompt, enable_thinking=enable_thinking))
            prompt = split_media(prompt)
        rendered = self.text.render(prompt.messages, enable_thinking=enable_thinking)
        return self.expand(rendered, prompt.media, options)

    def expand(
        self, text: str, media: Media = NO_MEDIA, options: MediaOptions = AS_PUBLISHED, *, begin: bool = False
    ) -> PreparedPrompt:
        """A prompt from text that has one placeholder for each source.

        Each source is opened where the text has its placeholder, which tells how many soft tokens to write there, and
        with that where they are.

        Args:
            text: from a chat template, or the caller's own.
            media: the sources.
            options: number of soft tokens and frames.
            begin: whether to put BOS before it, unless it is there.

        Raises:
            InputError: see ``encode``.
        """
        if not text:
            raise InputError("the prompt is empty")
        self._check(text, media)
        waiting = {kind: iter(sources) for kind, sources in media.by_kind.items() if sources}
        opened: list[_Source] = []

        def written(kind: Kind) -> str:
            opened.append(self._open(kind, next(waiting[kind]), options))
            return opened[-1].text

        tokens = self.text.tokenize(self._placeholders.replace(text, waiting, written))
        if begin:
            tokens = self.text.begin(tokens)
        return PreparedPrompt(
            tokens,
            self._placeholders.locate(tokens, _contents(opened)),
            tuple(len(source.contents) for source in opened if source.kind is Kind.VIDEO),
            tuple(source.note for source in opened if source.note is not None),
        )

    @cached_property
    def _placeholders(self) -> Placeholders:
        return Placeholders(self.text)

    def _check(self, text: str, media: Media) -> None:
        """Refuse, before a source is opened, kinds that the checkpoint does not take, and other placeholders."""
        for kind, sources in media.by_kind.items():
            able = self.config.has_audio if kind is Kind.SOUND else self.config.has_vision
            if sources and (not able or self._placeholders.ids[kind] is None):
                raise InputError(f"the checkpoint takes no {kind.noun}s")
        self._placeholders.check(text, media)

    def _open(self, kind: Kind, source: Any, options: MediaOptions) -> _Source:
        write = self._placeholders.write
        if kind is Kind.PICTURE:
            picture = self._features.picture(source, options)
            return _Source(kind, [picture], write(kind, picture.soft_tokens))
        if kind is Kind.SOUND:
            sound, note = self._features.sound(source)
            return _Source(kind, [sound], write(kind, sound.soft_tokens), note)
        frames: list[Picture | Sound] = []
        texts = []
        for seconds, frame in self._features.video(source, options):
            frames.append(frame)
            texts.append(f"{timestamp(seconds)} {write(kind, frame.soft_tokens)}")
        return _Source(kind, frames, " ".join(texts))


def _contents(sources: list[_Source]) -> Iterator[tuple[Kind, Picture | Sound]]:
    """Each picture, sound and frame, in order, with its kind."""
    for source in sources:
        for content in source.contents:
            yield source.kind, content
