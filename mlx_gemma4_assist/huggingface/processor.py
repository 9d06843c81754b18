"""transformers' ``Gemma4Processor``: conversations and text with media to arrays, and token ids to text."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..checkpoints.hub import resolve
from ..errors import InputError
from ..media.config import MediaOptions
from ..media.prepared import PreparedPrompt
from ..media.processor import MediaProcessor
from ..text.messages import Media, Message, split_media
from ..text.processor import Processor
from ..text.template import render
from .arrays import ModelArrays, as_returned, to_numpy
from .prompts import named_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MEDIA_FILES = ("processor_config.json", "preprocessor_config.json")
# What every chat template is given; others take what they name.
_TEMPLATE_VALUES = ("add_generation_prompt", "chat_template", "continue_final_message", "documents", "tools")
_PICTURE_OPTIONS = {"max_soft_tokens": "max_soft_tokens"}
_VIDEO_OPTIONS = {"max_soft_tokens": "frame_soft_tokens", "num_frames": "num_frames", "fps": "fps"}
MEDIA_OPTIONS = ("max_soft_tokens", "num_frames", "fps", "images_kwargs", "videos_kwargs")


class Gemma4Processor:
    """One prompt at a time.

    Attributes:
        text: the checkpoint's tokenizer and chat template.
        media: what prepares pictures, video and sound; None where the checkpoint does not say how.
    """

    def __init__(self, text: Processor, media: MediaProcessor | None):
        self.text = text
        self.media = media

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        padding_side: str = "left",
        revision: str | None = None,
    ) -> Self:
        """Read a checkpoint's tokenizer and settings.

        Args:
            pretrained_model_name_or_path: a folder, a repo on the Hub, or ``tiny``.
            padding_side: "left"; prompts come one by one, so that nothing is padded.
            revision: a branch, tag or commit of the repo.

        Raises:
            InputError: no such checkpoint, or damaged files.
        """
        if padding_side != "left":
            raise InputError(f"padding_side is {padding_side!r}, expected 'left'")
        folder = resolve(pretrained_model_name_or_path, revision=revision)
        text = Processor.from_pretrained(folder)
        return cls(text, MediaProcessor.from_pretrained(folder, text) if _has_media(folder) else None)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """transformers' own."""
        return self.text.tokenizer

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **template: Any,
    ) -> Any:
        """A conversation as the model reads it.

        As in transformers, messages that spell special tokens have them: text of strangers can open turns of its own.
        ``Processor.encode``, and with it ``generate`` for messages, takes it for text.

        Args:
            conversation: messages, whose parts may be pictures, sound and video; or a list of one such list.
            tokenize: whether to return token ids, and what the media become; otherwise the text.
            return_dict: whether all arrays are returned, by name; otherwise ``input_ids`` alone.
            return_tensors: "np", "mlx", or "pt" if PyTorch is installed.
            processor_kwargs: ``max_soft_tokens``, ``num_frames`` and ``fps``, for all media or within
                ``images_kwargs`` and ``videos_kwargs``; also taken without being wrapped.
            **template: ``add_generation_prompt``, ``continue_final_message``, ``tools``, ``documents``,
                ``chat_template``, and what the template names, such as ``enable_thinking``.

        Returns:
            ``ModelArrays`` with what is per token (1, L), an array or list of ids, or text.

        Raises:
            TypeError: an argument that neither the template nor the processor knows.
            InputError: no chat template, malformed messages, several conversations, sources that cannot be read.
        """
        values = dict(processor_kwargs or {})
        values |= {name: template.pop(name) for name in MEDIA_OPTIONS if name in template}
        options = _media_options(values)
        nested = isinstance(conversation, Sequence) and any(isinstance(each, list | tuple) for each in conversation)
        messages, media = split_media(_only_one(conversation) if nested else conversation)
        text = self._render(messages, template)
        if not tokenize:
            return [text] if nested else text
        arrays = self._returned(self._encode(text, media, options), return_tensors)
        return arrays if return_dict else arrays["input_ids"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        **options: Any,
    ) -> ModelArrays:
        """Text that has a placeholder for each source.

        Args:
            images: a picture or a list of them: paths, URLs, PIL images or arrays.
            text: a string, or a list of one.
            videos, audio: as ``images``.
            return_tensors: "np", "mlx", or "pt" if PyTorch is installed.
            add_special_tokens: whether BOS comes first, unless the text begins with it.
            **options: ``processor_kwargs`` of :meth:`apply_chat_template`, and ``padding``, which one prompt has none.

        Raises:
            TypeError: another argument.
            InputError: no or several texts, other sources than placeholders, sources that cannot be read.
        """
        if options.pop("padding", True) not in (True, False, "longest"):
            raise InputError("one prompt is not padded to a length: padding is True, False or 'longest'")
        chosen = _media_options(options)
        texts = [text] if isinstance(text, str) else list(text or ())
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise InputError(f"there are {len(texts)} texts, but prompts are made one at a time")
        media = Media(_flat(images), _flat(audio), _flat(videos))
        return self._returned(self._encode(texts[0], media, chosen, add_special_tokens), return_tensors)

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, *, clean_up_tokenization_spaces: bool = False
    ) -> str | list[str]:
        """The text of token ids (T,), or a list of texts for (B, T); any array or list.

        Raises:
            InputError: no integers; ``clean_up_tokenization_spaces``, which changes texts behind the model's back.
        """
        _refuse_cleaning(clean_up_tokenization_spaces)
        if isinstance(token_ids, list | tuple) and any(isinstance(each, list | tuple) for each in token_ids):
            return [self._text(_ids(row), skip_special_tokens) for row in token_ids]
        ids = _ids(token_ids)
        if ids.ndim > 1:
            return [self._text(row, skip_special_tokens) for row in ids]
        return self._text(ids, skip_special_tokens)

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, *, clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """The text of each sequence; errors as for :meth:`decode`."""
        _refuse_cleaning(clean_up_tokenization_spaces)
        return [self._text(_ids(sequence), skip_special_tokens) for sequence in sequences]

    def _text(self, ids: np.ndarray, skip_special_tokens: bool) -> str:
        return self.text.decode(ids.astype(int).reshape(-1).tolist(), skip_special_tokens)

    def _render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        written = str(template.get("chat_template") or self.tokenizer.chat_template)
        unknown = sorted(name for name in template if name not in _TEMPLATE_VALUES and name not in written)
        if unknown:
            raise TypeError(f"neither the processor nor the chat template knows {', '.join(unknown)}")
        return render(self.tokenizer, messages, template)

    def _encode(self, text: str, media: Media, options: MediaOptions, begin: bool = True) -> PreparedPrompt:
        if self.media is not None:
            return self.media.expand(text, media, options, begin=begin)
        if media:
            raise InputError(f"the checkpoint has neither {' nor '.join(_MEDIA_FILES)}, so it takes text only")
        return PreparedPrompt(self.text.encode(text, chat=False) if begin else self.text.tokenize(text))

    def _returned(self, prompt: PreparedPrompt, return_tensors: str | None) -> ModelArrays:
        for note in prompt.notes:
            warnings.warn(note, stacklevel=3)
        return as_returned(named_arrays(prompt), return_tensors)


def _has_media(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MEDIA_FILES)


def _only_one(conversations: Sequence[Any]) -> Sequence[Message]:
    if len(conversations) != 1:
        raise InputError(f"there are {len(conversations)} conversations, but prompts are made one at a time")
    conversation: Sequence[Message] = conversations[0]
    return conversation


def _refuse_cleaning(clean_up_tokenization_spaces: bool) -> None:
    if clean_up_tokenization_spaces:
        raise InputError("clean_up_tokenization_spaces is not supported: text is what the model wrote")


def _ids(token_ids: Any) -> np.ndarray:
    """Token ids of any kind of array or list.

    Raises:
        InputError: no integers.
    """
    ids = to_numpy(token_ids, "token_ids")
    if ids.size and ids.dtype.kind not in "iu":
        raise InputError(f"token_ids have the type {ids.dtype}, expected integers")
    return ids


def _flat(sources: Any) -> tuple[Any, ...]:
    """One source, a list of them, or a list of one such list, as batches have it."""
    if sources is None:
        return ()
    if not isinstance(sources, list | tuple):
        return (sources,)
    if len(sources) == 1 and isinstance(sources[0], list | tuple):
        return tuple(sources[0])
    return tuple(sources)


def _media_options(values: Mapping[str, Any]) -> MediaOptions:
    """What is said for all media applies to each kind that has it."""
    unknown = sorted(set(values) - set(MEDIA_OPTIONS))
    chosen: dict[str, Any] = {}
    for group, names in (("images_kwargs", _PICTURE_OPTIONS), ("videos_kwargs", _VIDEO_OPTIONS)):
        own = values.get(group) or {}
        unknown += [f"{group}[{name!r}]" for name in own if name not in names]
        chosen |= {here: values[name] for name, here in names.items() if name in values}
        chosen |= {here: own[name] for name, here in names.items() if name in own}
    if unknown:
        raise TypeError(f"the processor does not take {', '.join(unknown)}; it takes {', '.join(MEDIA_OPTIONS)}")
    return MediaOptions(**chosen)
