"""Gemma 4 with its assistant: exact speculative decoding in MLX."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoints.loading import load, load_assistant
    from .checkpoints.pairing import assistant_for
    from .conversion.convert import convert
    from .decoding.cache import KVCache
    from .decoding.media import MediaPrompt
    from .errors import InputError
    from .generate import GenerationResponse, SpeculationStats, generate, make_prompt_cache, stream_generate
    from .models.config import Gemma4AssistantConfig, Gemma4TextConfig
    from .models.gemma4_assistant import Gemma4AssistantForCausalLM
    from .models.gemma4_text import Gemma4ForCausalLM
    from .multimodal import load_media
    from .processing.media_config import MediaOptions
    from .processing.messages import Media
    from .processing.processor import Processor

# Loaded when first asked for, so that a command's --help answers at once.
_PUBLIC = {
    "load": "checkpoints.loading",
    "load_assistant": "checkpoints.loading",
    "assistant_for": "checkpoints.pairing",
    "convert": "conversion.convert",
    "KVCache": "decoding.cache",
    "InputError": "errors",
    "GenerationResponse": "generate",
    "SpeculationStats": "generate",
    "generate": "generate",
    "make_prompt_cache": "generate",
    "stream_generate": "generate",
    "load_media": "multimodal",
    "Media": "processing.messages",
    "MediaOptions": "processing.media_config",
    "MediaPrompt": "decoding.media",
    "Gemma4AssistantConfig": "models.config",
    "Gemma4TextConfig": "models.config",
    "Gemma4AssistantForCausalLM": "models.gemma4_assistant",
    "Gemma4ForCausalLM": "models.gemma4_text",
    "Processor": "processing.processor",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = vars(import_module(f".{_PUBLIC[name]}", __name__))[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """``generate`` is a public function and the submodule that ``python -m`` runs; the package's name is the function.

    Importing a submodule sets it as an attribute of its package; this one attribute is left to the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "generate" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
