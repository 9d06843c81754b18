"""transformers' model classes: each holds a network of ``models`` that was read from a checkpoint."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import mlx.core as mx
import numpy as np

from ..cache.soft_tokens import MediaPrompt
from ..checkpoints.hub import resolve
from ..checkpoints.loading import load_assistant, load_model, load_towers
from ..engine.engine import Engine
from ..engine.pair import Pair
from ..engine.request import Request
from ..errors import InputError
from ..files import read_json, read_json_if_there
from ..media.reader import encode_media
from ..models import config as configs
from ..models import gemma4_assistant, gemma4_text
from ..models.towers import Towers
from .arrays import check_device, read_dtype
from .options import DEFAULTS, GenerationConfig, Values, read_options
from .prompts import NAMES, TYPES, ReadPrompt, read_prompt

PathOrRepo = str | os.PathLike[str]
# MLX computes attention in one way; transformers calls the like of it so.
ATTENTION = (None, "sdpa")


class Streamer(Protocol):
    """transformers' ``BaseStreamer``."""

    def put(self, value: np.ndarray) -> None:
        """The prompt (1, L), then each new token (1,); int64."""

    def end(self) -> None:
        """There are no more."""


class Gemma4AssistantConfig(configs.Gemma4AssistantConfig):
    """The configuration of an assistant: ``models.config.Gemma4AssistantConfig``, and where to get it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathOrRepo, *, revision: str | None = None) -> Self:
        """Read an assistant's ``config.json``; of a repo on the Hub the weights are fetched, too.

        Raises:
            InputError: no such checkpoint, or not an assistant.
        """
        values = read_json(resolve(pretrained_model_name_or_path, revision=revision) / "config.json")
        configs.read_assistant_config(values)
        return cls.from_dict(values)


class _Pretrained(ABC):
    """What targets and assistants have in common.

    Attributes:
        network: the one of ``models`` that does the work.
        generation_config: the checkpoint's ``generation_config.json``.
    """

    model_types: ClassVar[tuple[str, ...]]

    def __init__(self, network: Any, generation_config: Values):
        self.network = network
        self.generation_config = generation_config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: PathOrRepo,
        *,
        dtype: Any = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Read a checkpoint, quantized by MLX or not.

        Args:
            pretrained_model_name_or_path: a folder, a repo on the Hub, or ``tiny`` (``tiny-assistant``) for what comes
                with the package.
            dtype: float32, bfloat16 or float16, MLX's or PyTorch's or its name; "auto" and None follow config.json.
            device_map: "auto", "mps" or "cpu", which all mean this machine: MLX computes on ``mx.default_device()``,
                and its CPU and GPU share their memory.
            attn_implementation: "sdpa", the only one.
            revision: a branch, tag or commit of the repo.

        Raises:
            InputError: no such checkpoint, one of another class, damaged weights; any other value of these arguments.
        """
        check_device(device_map, "device_map")
        if attn_implementation not in ATTENTION:
            raise InputError(f"attn_implementation is {attn_implementation!r}, expected 'sdpa'")
        wanted = read_dtype(dtype)
        folder = resolve(pretrained_model_name_or_path, revision=revision)
        model_type = read_json(folder / "config.json").get("model_type")
        if model_type not in cls.model_types:
            expected = " or ".join(cls.model_types)
            raise InputError(f"{cls.__name__} reads model_type {expected}, but {folder} has {model_type!r}")
        return cls._read(folder, wanted)

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, dtype: mx.Dtype | None) -> Self:
        """From a folder that holds one of ``model_types``."""

    @property
    def config(self) -> Any:
        """The network's configuration, see ``models.config``."""
        return self.network.config

    @property
    def dtype(self) -> mx.Dtype:
        """What the network computes in."""
        found: mx.Dtype = self.network.model.norm.weight.dtype
        return found

    @property
    def device(self) -> mx.Device:
        return mx.default_device()

    def to(self, device: Any) -> Self:
        """Itself: it is there already.

        Raises:
            InputError: another machine's device, or a data type, which ``from_pretrained`` takes.
        """
        check_device(device)
        return self

    def eval(self) -> Self:
        """Itself: networks here only infer."""
        return self


class Gemma4AssistantForCausalLM(_Pretrained):
    """An assistant: what ``generate`` takes as ``assistant_model``. Its network is of the same name in ``models``."""

    model_types = configs.ASSISTANT_MODEL_TYPES

    @classmethod
    def _read(cls, folder: Path, dtype: mx.Dtype | None) -> Self:
        return cls(load_assistant(folder, dtype=dtype), read_json_if_there(folder / "generation_config.json"))


class Gemma4ForCausalLM(_Pretrained):
    """A target that reads text, whatever else its checkpoint can: networks for pictures and sound are left aside.

    Its network is of the same name in ``models``.

    Attributes:
        towers: what sees and hears; None here.
        placeholders: token ids that stand for soft tokens, and the type of each.
    """

    model_types = tuple(configs.TARGET_MODEL_TYPES)

    def __init__(
        self,
        network: gemma4_text.Gemma4ForCausalLM,
        generation_config: Values,
        towers: Towers | None = None,
        placeholders: Mapping[int, int] = {},
    ):
        super().__init__(network, generation_config)
        self.towers = towers
        self.placeholders = placeholders

    @classmethod
    def _read(cls, folder: Path, dtype: mx.Dtype | None) -> Self:
        return cls(load_model(folder, dtype=dtype), read_json_if_there(folder / "generation_config.json"))

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | Values | None = None,
        *,
        assistant_model: Gemma4AssistantForCausalLM | None = None,
        streamer: Streamer | None = None,
        seed: int | None = None,
        **arguments: Any,
    ) -> mx.array:
        """Continue one prompt.

        Args:
            inputs: ``input_ids``, where these are not among the arguments.
            generation_config: transformers' object or a dict of the options below. What neither it nor the arguments
                say is as in the checkpoint's ``generation_config.json``, and failing that as in transformers.
            assistant_model: proposes tokens; the text is the same without it.
            streamer: transformers' ``TextStreamer``, ``TextIteratorStreamer`` or the like.
            seed: makes sampling repeatable.
            **arguments: what the processor returns, as arrays of NumPy, MLX or PyTorch, and any of
                ``max_new_tokens``, ``max_length`` (the prompt's tokens included), ``do_sample`` (False is greedy),
                ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``, ``num_assistant_tokens``
                (drafts per round; None learns how many are worth their time), ``eos_token_id`` (an id or a list, an
                empty one never stops) and ``suppress_tokens``.

        Returns:
            (1, L + new) int32: the prompt as given, and the new tokens, a stop token included.

        Raises:
            TypeError: another argument.
            InputError: before any work is done: a value out of range, more than one prompt, arrays that do not fit
                together or to this model, an assistant of another target.
        """
        arrays = _arrays(inputs, arguments)
        prompt = read_prompt(arrays, self.placeholders)
        said = {name: value for name, value in arguments.items() if name in DEFAULTS}
        generation, stops, suppressed = read_options(
            said, generation_config, self.generation_config, prompt.ids.shape[1], seed
        )
        assistant = assistant_network(assistant_model)
        if assistant is None and "num_assistant_tokens" not in said:
            generation = replace(generation, num_assistant_tokens=None)  # a configuration may say how many it had
        request = Request(self._with_media(prompt), generation, stops, suppressed)
        run = Engine(Pair(self.network, assistant), prefix_cache_bytes=0).run(request)
        return _collect(prompt.ids, (token for event in run for token in event.tokens), streamer)

    def _with_media(self, prompt: ReadPrompt) -> MediaPrompt:
        if self.towers is not None:
            return encode_media(self.towers, prompt.prepared(), self.network.config)
        if prompt.media:
            raise InputError(
                "the model was read for text only: for pictures and sound use AutoModelForImageTextToText, if the "
                "checkpoint has networks for them"
            )
        return MediaPrompt(prompt.tokens)


class Gemma4ForConditionalGeneration(Gemma4ForCausalLM):
    """E2B, E4B, 26B-A4B and 31B, with their networks for pictures, video and (E2B, E4B) sound."""

    model_types = ("gemma4",)

    @classmethod
    def _read(cls, folder: Path, dtype: mx.Dtype | None) -> Self:
        config = read_json(folder / "config.json")
        ids = {id: type for kind, type in TYPES.items() if (id := config.get(f"{kind}_token_id")) is not None}
        text = load_model(folder, dtype=dtype)
        generation_config = read_json_if_there(folder / "generation_config.json")
        return cls(text, generation_config, load_towers(folder, dtype=dtype), ids)


class Gemma4UnifiedForConditionalGeneration(Gemma4ForConditionalGeneration):
    """The 12B, with its embedders for pictures, video and sound."""

    model_types = ("gemma4_unified",)


def _arrays(inputs: Any, arguments: Values) -> dict[str, Any]:
    """The model's inputs among the arguments of ``generate``, all of which are known ones."""
    unknown = sorted(set(arguments) - set(DEFAULTS) - set(NAMES))
    if unknown:
        raise TypeError(f"generate() does not take {', '.join(unknown)}; it takes {', '.join((*NAMES, *DEFAULTS))}")
    arrays = {name: arguments[name] for name in NAMES if name in arguments}
    if inputs is not None and arrays.get("input_ids") is not None:
        raise TypeError("generate() was given both inputs and input_ids")
    return {"input_ids": inputs, **arrays}


def assistant_network(assistant: Any) -> gemma4_assistant.Gemma4AssistantForCausalLM | None:
    """What the engine takes; None without an assistant.

    Raises:
        InputError: it is no assistant that has been read.
    """
    if assistant is None:
        return None
    if isinstance(assistant, Gemma4AssistantForCausalLM):
        network: gemma4_assistant.Gemma4AssistantForCausalLM = assistant.network
        return network
    expected = "what AutoModelForCausalLM reads from an assistant's checkpoint"
    raise InputError(f"assistant_model is {type(assistant).__name__}, expected {expected}")


def _collect(ids: np.ndarray, tokens: Iterable[int], streamer: Streamer | None) -> mx.array:
    """The prompt (1, L) and all new tokens, which the streamer gets one by one."""
    new: list[int] = []
    if streamer is not None:
        streamer.put(ids)
    for token in tokens:
        new.append(token)
        if streamer is not None:
            streamer.put(np.array([token]))
    if streamer is not None:
        streamer.end()
    return mx.array(np.concatenate([ids, [new]], axis=1).astype(np.int32))
