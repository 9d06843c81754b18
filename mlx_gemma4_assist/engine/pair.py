"""A target with all that belongs to it: its assistant, its processor, its towers."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from ..backend import dtype_of
from ..checkpoints.adapter import Adapter
from ..checkpoints.hub import resolve
from ..checkpoints.loading import load_assistant, load_model
from ..checkpoints.pairing import assistant_for
from ..errors import InputError, OptionError, described
from ..files import read_json
from ..media.config import AS_PUBLISHED, MediaOptions
from ..media.prepared import PreparedPrompt
from ..media.reader import MediaReader, load_media, media_processor
from ..models.config import (
    Gemma4AssistantConfig,
    Gemma4TextConfig,
    check_pair,
    read_assistant_config,
    read_target_config,
)
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.network import named_parameters
from ..text.messages import NO_MEDIA, Conversation, Media
from ..text.processor import Processor, Prompt, TextProcessor
from .request import check_tokens

PathOrRepo = str | os.PathLike[str]


@runtime_checkable
class _Configured(Protocol):
    """A network with its configuration."""

    config: object


MATCHING, NONE = "matching", "none"
SAMPLED = 8  # places of each axis of a tensor that a fingerprint looks at


def load(
    path_or_repo: PathOrRepo,
    *,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    adapter_path: str | os.PathLike[str] | None = None,
) -> tuple[Gemma4ForCausalLM, Processor]:
    """A target and its processor. Arguments and errors as for ``checkpoints.loading.load_model``."""
    _check_dtype(dtype)
    folder = resolve(path_or_repo, revision=revision)
    processor = Processor.from_pretrained(folder)  # first: it fails faster
    return load_model(folder, dtype=dtype, adapter_path=adapter_path), processor


@dataclass(frozen=True)
class Source:
    """What a target was loaded from; the arguments of ``load``."""

    path_or_repo: PathOrRepo
    dtype: str | mx.Dtype | None = None
    revision: str | None = None
    adapter_path: str | os.PathLike[str] | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A target and its assistant, checked to belong together, and what reads and writes for them.

    Attributes:
        target: from ``load``.
        assistant: from ``load_assistant``; None decodes plainly.
        processor: from ``load``; None where token ids are all that goes in and out.
        source: where the target came from, for its towers; None if nobody asks for these.

    Raises:
        InputError: the assistant was made for another target; one of them is something else.
    """

    target: Gemma4ForCausalLM
    assistant: Gemma4AssistantForCausalLM | None = None
    processor: Processor | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target, Gemma4ForCausalLM):
            raise InputError(f"the target is {described(self.target)}, expected a model from load")
        if self.processor is not None and not isinstance(self.processor, TextProcessor):
            raise InputError(f"the processor is {described(self.processor)}, expected one from load")
        if self.assistant is None:
            return
        if not isinstance(self.assistant, _Configured) or not isinstance(self.assistant.config, Gemma4AssistantConfig):
            raise InputError(f"the assistant is {described(self.assistant)}, expected a model from load_assistant")
        check_pair(self.target.config, self.assistant.config)

    @classmethod
    def load(
        cls,
        path_or_repo: PathOrRepo,
        assistant_model: PathOrRepo = MATCHING,
        *,
        dtype: str | mx.Dtype | None = None,
        revision: str | None = None,
        adapter_path: str | os.PathLike[str] | None = None,
    ) -> "Pair":
        """Read a target, its processor and its assistant. Arguments and errors as for :meth:`Checkpoint.open`; what is
        wrong with the weights is an error too."""
        found = Checkpoint.open(
            path_or_repo, assistant_model, dtype=dtype, revision=revision, adapter_path=adapter_path
        )
        return found.load()

    def encode(self, prompt: Prompt, *, chat: bool = True) -> list[int]:
        """A prompt's token ids. Arguments and errors as for ``Processor.encode``.

        Raises:
            InputError: there is no processor.
        """
        return self.text().encode(prompt, chat=chat)

    def text(self) -> Processor:
        """The processor.

        Raises:
            InputError: there is none: the pair takes and gives token ids only.
        """
        if self.processor is None:
            raise InputError("the pair has no processor, which turns text into tokens and back")
        return self.processor

    @cached_property
    def dtype(self) -> mx.Dtype:
        """What the networks compute in."""
        return self.target.embed(mx.array([[0]])).dtype

    @property
    def fingerprint(self) -> str:
        """A name for the target's weights, taken when it is first asked for: see :func:`fingerprint`."""
        kept: str = self.target.kept.get("fingerprint", lambda: fingerprint(self.target))
        return kept

    @cached_property
    def nbytes(self) -> int:
        """Bytes of both networks' weights."""
        networks = [self.target] if self.assistant is None else [self.target, self.assistant]
        return sum(array.nbytes for each in networks for array in named_parameters(each).values())

    @cached_property
    def media(self) -> MediaReader:
        """What turns pictures, video and sound into soft tokens; the target's towers are loaded for it now.

        Raises:
            InputError: the target reads text only, or nobody has said what it was loaded from.
        """
        if self.source is None:
            raise InputError("the pair was not loaded from a checkpoint, which its towers would be read from")
        source = self.source
        return load_media(source.path_or_repo, self.processor, dtype=source.dtype, revision=source.revision)


@dataclass(frozen=True)
class Checkpoint:
    """A target and its assistant before their weights are read: what can be wrong is found out here, at no cost.

    Attributes:
        source: what was named.
        folder: of the target.
        config: of the target's text network.
        processor: of the target.
        assistant: where the assistant is; None goes without.
    """

    source: Source
    folder: Path
    config: Gemma4TextConfig
    processor: Processor
    assistant: "_Assistant | None" = None

    @classmethod
    def open(
        cls,
        path_or_repo: PathOrRepo,
        assistant_model: PathOrRepo = MATCHING,
        *,
        dtype: str | mx.Dtype | None = None,
        revision: str | None = None,
        adapter_path: str | os.PathLike[str] | None = None,
    ) -> "Checkpoint":
        """Find both, downloaded if need be, and read their small files.

        Args:
            path_or_repo: a folder, a repo on the Hub, or ``tiny`` for the pair that comes with the package.
            assistant_model: the same of an assistant; "matching" looks for the one that belongs to the target and goes
                without if none is known, "none" goes without.
            dtype: float32, bfloat16 or float16 instead of what the checkpoints say, for both networks.
            revision: a branch, tag or commit of the target's repo.
            adapter_path: the folder of an adapter of mlx-lm's, merged into the target's weights.

        Raises:
            InputError: one sentence on what is not there, is damaged, or does not belong together.
        """
        _check_dtype(dtype)
        folder = resolve(path_or_repo, revision=revision)
        processor = Processor.from_pretrained(folder)
        config = read_target_config(read_json(folder / "config.json"))
        if adapter_path is not None:
            Adapter.open(adapter_path).merge(Gemma4ForCausalLM(config))  # whose weights are never read
        found = assistant_for(path_or_repo) if assistant_model == MATCHING else assistant_model
        assistant = None
        if found is not None and found != NONE:
            assistant = _Assistant.find(found, assistant_model != MATCHING, config)
        return cls(Source(path_or_repo, dtype, revision, adapter_path), folder, config, processor, assistant)

    def prepare(
        self,
        prompt: Prompt | Conversation,
        media: Media = NO_MEDIA,
        *,
        chat: bool = True,
        enable_thinking: bool = False,
        options: MediaOptions = AS_PUBLISHED,
    ) -> PreparedPrompt:
        """A prompt as the target reads it. Arguments as for ``MediaProcessor.encode``.

        Raises:
            InputError: see there; a prompt that is longer than the context; pictures, sound or video for a text model.
        """
        shows = media or (isinstance(prompt, Conversation) and prompt.media)
        if shows:
            reader = media_processor(self.source.path_or_repo, self.folder, self.processor)
            prepared = reader.encode(prompt, media, chat=chat, enable_thinking=enable_thinking, options=options)
        else:
            text = prompt.messages if isinstance(prompt, Conversation) else prompt
            prepared = PreparedPrompt(self.processor.encode(text, chat=chat, enable_thinking=enable_thinking))
        check_tokens(prepared.tokens, self.config)
        return prepared

    def load(self) -> Pair:
        """Read the weights, the assistant's first: it is small, so that a damaged one costs little.

        Raises:
            InputError: damaged or misfitting weights, see ``checkpoints.loading.load_model``.
        """
        assistant = None if self.assistant is None else self.assistant.load(self.source.dtype)
        target = load_model(self.folder, dtype=self.source.dtype, adapter_path=self.source.adapter_path)
        return Pair(target, assistant, self.processor, self.source)


@dataclass(frozen=True)
class _Assistant:
    """An assistant before its weights are read.

    Attributes:
        path_or_repo: a folder, a repo on the Hub, or an alias.
        was_named: whether the caller named it, or it was found as the one that belongs to the target.
        folder: where it is.
    """

    path_or_repo: PathOrRepo
    was_named: bool
    folder: Path

    @classmethod
    def find(cls, path_or_repo: PathOrRepo, was_named: bool, target: Gemma4TextConfig) -> "_Assistant":
        """Look for it, downloaded if need be, and read its config.json.

        Raises:
            InputError: it is not there, is no assistant, or is another target's.
        """
        with _explained(path_or_repo, was_named):
            folder = resolve(path_or_repo)
            config = read_assistant_config(read_json(folder / "config.json"))
        check_pair(target, config)
        return cls(path_or_repo, was_named, folder)

    def load(self, dtype: str | mx.Dtype | None) -> Gemma4AssistantForCausalLM:
        """Its network. Errors as for ``checkpoints.loading.load_assistant``."""
        with _explained(self.path_or_repo, self.was_named):
            return load_assistant(self.folder, dtype=dtype)


@contextmanager
def _explained(assistant: PathOrRepo, was_named: bool) -> Iterator[None]:
    """An error of an assistant that nobody has named says where it came from."""
    try:
        yield
    except InputError as error:
        if was_named:
            raise
        sentence = "the assistant {named} of this model: {error} ({assistant_model} none goes without)"
        raise OptionError(sentence, named=assistant, error=error) from None


def fingerprint(target: Gemma4ForCausalLM) -> str:
    """A hash of a target's configuration, its adapter, and some numbers of every tensor, spread over it.

    Keys and values that were computed with one target are of no use with another, also where sizes are equal. Training
    changes nearly all numbers of the tensors that it changes; a change of a few that are not looked at goes unseen.
    """
    digest = hashlib.sha256(repr(target.config).encode() + target.adapter.encode())
    tensors = [(name, value) for name, value in named_parameters(target).items() if value.size]
    sampled = [_spread(value).astype(mx.float32) for _, value in tensors]
    for (name, value), numbers in zip(tensors, sampled, strict=True):
        digest.update(f"{name} {value.shape} {value.dtype}".encode())
        digest.update(np.array(numbers).tobytes())
    return digest.hexdigest()[:32]


def _spread(value: mx.array) -> mx.array:
    """A few numbers of a tensor, the same places for the same shape; nothing large is copied."""
    return value[tuple(slice(0, None, max(1, size // SAMPLED)) for size in value.shape)]


def _check_dtype(dtype: str | mx.Dtype | None) -> None:
    """Refuse a name of no type, before anything is looked for.

    Raises:
        InputError: with the names that there are.
    """
    if dtype is not None:
        dtype_of(dtype)
