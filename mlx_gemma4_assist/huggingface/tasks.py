"""transformers' ``pipeline``: a model, its processor and an assistant in one call."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import mlx.core as mx

from ..errors import InputError
from ..models.config import check_pair
from .arrays import check_device
from .auto import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from .model import Gemma4AssistantForCausalLM, Gemma4ForCausalLM, assistant_network
from .options import DEFAULTS, NEUTRAL, Values, said
from .processor import Gemma4Processor

GENERATION = (*DEFAULTS, "generation_config", "streamer", "seed")
Chat = Sequence[Mapping[str, Any]]
Named = str | os.PathLike[str]


def pipeline(
    task: str,
    model: Named | Gemma4ForCausalLM,
    *,
    assistant_model: Named | Gemma4AssistantForCausalLM | None = None,
    processor: Named | Gemma4Processor | None = None,
    dtype: Any = None,
    device_map: str | None = None,
    revision: str | None = None,
) -> "ImageTextToTextPipeline | TextGenerationPipeline":
    """A pipeline.

    Args:
        task: "image-text-to-text" or "text-generation".
        model: a checkpoint, or a model that has been read from one.
        assistant_model: proposes tokens; a checkpoint or what has been read from one.
        processor: the model's own if it is None; needed where the model is none that is read here.
        dtype, device_map, revision: as for ``from_pretrained``; the revision is the model's.

    Raises:
        InputError: another task, a checkpoint that does not fit it, an assistant of another target.
    """
    kinds: dict[str, type[ImageTextToTextPipeline | TextGenerationPipeline]] = {
        each.task: each for each in (ImageTextToTextPipeline, TextGenerationPipeline)
    }
    if task not in kinds:
        raise InputError(f"task is {task!r}, expected {' or '.join(kinds)}")
    check_device(device_map, "device_map")
    where = {"dtype": dtype, "device_map": device_map}
    if isinstance(model, str | os.PathLike):
        read = kinds[task].models.from_pretrained(model, revision=revision, **where)
        if processor is None:
            processor = AutoProcessor.from_pretrained(model, revision=revision)
    else:
        read = model
        if processor is None:
            raise InputError("a model that has been read already needs its processor beside it")
        if revision is not None or (dtype is not None and not _is_name(assistant_model)):
            raise InputError("dtype and revision are for checkpoints, and these have been read already")
    if isinstance(processor, str | os.PathLike):
        processor = AutoProcessor.from_pretrained(processor)
    if isinstance(assistant_model, str | os.PathLike):
        assistant_model = Gemma4AssistantForCausalLM.from_pretrained(assistant_model, **where)
    if not isinstance(read, Gemma4ForCausalLM):
        raise InputError(f"model is {type(read).__name__}, expected a target, or where to read one")
    return kinds[task](read, processor, assistant_model)


class _Pipeline:
    """What the tasks have in common: options sorted, one prompt at a time generated from.

    Attributes:
        defaults: of generation, where neither the call nor the checkpoint says anything.
    """

    task: ClassVar[str]
    models: ClassVar[Any]
    defaults: ClassVar[Values]

    def __init__(
        self,
        model: Gemma4ForCausalLM,
        processor: Gemma4Processor,
        assistant_model: Gemma4AssistantForCausalLM | None = None,
    ):
        network = assistant_network(assistant_model)
        if network is not None:
            check_pair(model.config, network.config)
        self.model = model
        self.processor = processor
        self.assistant_model = assistant_model

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take what ``generate`` is told out of a call's options, and add the task's defaults."""
        chosen = dict(options.pop("generate_kwargs", None) or {})
        twice = sorted(set(chosen) & set(options))
        if twice:
            raise InputError(f"{', '.join(twice)} is given twice, in generate_kwargs, too")
        chosen |= {name: options.pop(name) for name in GENERATION if name in options}
        chosen = {name: value for name, value in chosen.items() if name != "max_new_tokens" or value is not None}
        asked = {name: value for name, value in chosen.items() if name in DEFAULTS}
        there = said(asked, chosen.get("generation_config"), self.model.generation_config)
        added = {name: value for name, value in self.defaults.items() if name not in there}
        if "max_length" in there:
            added.pop("max_new_tokens", None)
        if not {**there, **added}.get("do_sample"):
            added = {name: value for name, value in added.items() if name not in NEUTRAL}
        return {**added, **chosen}

    def _continue(self, prompt: "str | Chat", sources: Any, options: Values, form: "_Form") -> Any:
        """The text that follows one prompt, or all token ids; errors as for ``generate`` and the processor."""
        options = dict(options)
        settings = self._settings(options)
        if isinstance(prompt, str):
            arrays = self.processor(sources, prompt, return_tensors="np", **options)
        else:
            goes_on = form.goes_on(prompt)
            arrays = self.processor.apply_chat_template(
                prompt,
                tokenize=True,
                return_dict=True,
                return_tensors="np",
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
                **options,
            )
        output = self.model.generate(**arrays, **settings, assistant_model=self.assistant_model)[0]
        if form.return_tensors:
            return output
        return form.text(prompt, self._decode(output, arrays["input_ids"].shape[1], form.skip_special_tokens))

    def _decode(self, ids: mx.array, prompt_length: int, skip_special_tokens: bool) -> str:
        """The text that follows the prompt's."""
        whole, before = (self._text(each, skip_special_tokens) for each in (ids, ids[:prompt_length]))
        return whole.removeprefix(before)

    def _text(self, ids: mx.array, skip_special_tokens: bool) -> str:
        """ids: (L,); of one text the processor gives one."""
        return cast(str, self.processor.decode(ids, skip_special_tokens))


@dataclass(frozen=True)
class _Form:
    """How results are written.

    Attributes:
        return_full_text: with the prompt before them: text, or a conversation.
        return_tensors: as token ids instead.
        skip_special_tokens: without special tokens.
        continue_final_message: whether a conversation's last message is gone on with; None does so with an assistant's.
    """

    return_full_text: bool | None = None
    return_tensors: bool = False
    skip_special_tokens: bool = True
    continue_final_message: bool | None = None

    def __post_init__(self) -> None:
        if self.return_tensors and self.return_full_text is not None:
            raise InputError("return_full_text and return_tensors exclude each other")

    def goes_on(self, chat: "Chat") -> bool:
        if self.continue_final_message is None:
            return bool(chat) and isinstance(chat[-1], Mapping) and chat[-1].get("role") == "assistant"
        return self.continue_final_message

    def text(self, prompt: "str | Chat", new: str) -> Any:
        if self.return_full_text is False:
            return new
        if isinstance(prompt, str):
            return prompt + new
        if not self.goes_on(prompt):
            return [*prompt, {"role": "assistant", "content": new}]
        last = prompt[-1]
        if isinstance(last["content"], str):
            content: Any = last["content"] + new
        else:
            *parts, part = last["content"]
            content = [*parts, {**part, "text": part["text"] + new}]
        return [*prompt[:-1], {**last, "content": content}]


class ImageTextToTextPipeline(_Pipeline):
    """transformers' class of that name."""

    task = "image-text-to-text"
    models = AutoModelForImageTextToText
    defaults: ClassVar[Values] = {"max_new_tokens": 256}

    def __call__(
        self,
        images: Any = None,
        text: str | Chat | Sequence[Chat] | None = None,
        *,
        return_full_text: bool | None = None,
        return_tensors: bool = False,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
        **options: Any,
    ) -> list[Any]:
        """Continue text with pictures, or a conversation.

        Args:
            images: a picture or a list of them, of which the text has as many placeholders; or a conversation.
            text: a string; messages, whose parts may be media; a list of strings, without ``images``; a list of
                conversations.
            return_full_text: whether ``generated_text`` is all of the text or conversation; True if None.
            return_tensors: whether there are ``generated_token_ids`` (T,), the prompt's too, in its place.
            skip_special_tokens: whether the text is without them.
            continue_final_message: whether the last message is gone on with; None does so with an assistant's.
            **options: ``generate``'s, also as ``generate_kwargs``; what the processor and the chat template take.

        Returns:
            A list of one dict with ``input_text`` and ``generated_text``; for a list of prompts a list of such lists.

        Raises:
            TypeError, InputError: see ``generate`` and ``Gemma4Processor``.
        """
        form = _Form(return_full_text, return_tensors, skip_special_tokens, continue_final_message)
        if text is None and _is_chat(images):
            images, text = None, images
        if text is None:
            raise InputError("text is missing" if images is not None else "there are neither images nor text")
        if images is not None and not isinstance(text, str):
            raise InputError("a conversation names its pictures itself, and with images there is one text")
        prompts, several = _prompts(text)
        name = "generated_token_ids" if return_tensors else "generated_text"
        made = [[{"input_text": each, name: self._continue(each, images, options, form)}] for each in prompts]
        return made if several else made[0]


class TextGenerationPipeline(_Pipeline):
    """transformers' class of that name."""

    task = "text-generation"
    models = AutoModelForCausalLM
    defaults: ClassVar[Values] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def __call__(
        self,
        text_inputs: str | Chat | Sequence[str] | Sequence[Chat],
        *,
        return_full_text: bool | None = None,
        return_tensors: bool = False,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
        **options: Any,
    ) -> list[Any]:
        """Continue text or a conversation. Arguments and errors as for ``ImageTextToTextPipeline``.

        Returns:
            A list of one dict with ``generated_text``; for a list of prompts a list of such lists.
        """
        form = _Form(return_full_text, return_tensors, skip_special_tokens, continue_final_message)
        prompts, several = _prompts(text_inputs)
        name = "generated_token_ids" if return_tensors else "generated_text"
        made = [[{name: self._continue(each, None, options, form)}] for each in prompts]
        return made if several else made[0]

    def _decode(self, ids: mx.array, prompt_length: int, skip_special_tokens: bool) -> str:
        """The new tokens on their own, as in transformers."""
        return self._text(ids[prompt_length:], skip_special_tokens)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_chat(value: Any) -> bool:
    """Messages, or a list of conversations."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple | Mapping)


def _prompts(given: Any) -> tuple[list[Any], bool]:
    """Each prompt, and whether there was a list of them."""
    if isinstance(given, str) or (_is_chat(given) and isinstance(given[0], Mapping)):
        return [given], False
    if not isinstance(given, list | tuple) or not given or not (_is_chat(given) or isinstance(given[0], str)):
        raise InputError(f"the prompt is {type(given).__name__}, expected text, messages, or a list of either")
    return list(given), True
