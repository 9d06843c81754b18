"""Gemma 4 with its assistant: exact speculative decoding in MLX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import (
        BatchResponse,
        BatchStats,
        batch_generate,
        generate,
        load_prompt_cache,
        make_prompt_cache,
        stream_generate,
    )
    from .cache.file import save_prompt_cache
    from .cache.rows import KVCache
    from .cache.soft_tokens import MediaPrompt
    from .checkpoints.loading import load_assistant
    from .checkpoints.pairing import assistant_for
    from .conversion.convert import convert
    from .drafts.memory import DraftMemory
    from .engine.pair import Pair, load
    from .engine.responses import GenerationResponse, SpeculationStats
    from .errors import InputError
    from .media.config import MediaOptions
    from .media.reader import load_media
    from .models.config import Gemma4AssistantConfig, Gemma4TextConfig
    from .models.gemma4_assistant import Gemma4AssistantForCausalLM
    from .models.gemma4_text import Gemma4ForCausalLM
    from .options import GenerationOptions
    from .server.chat_session import ChatSession
    from .text.messages import Media
    from .text.processor import Processor

# Loaded when first asked for, so that a command's --help answers at once.
_PUBLIC = {
    "load": "engine.pair",
    "load_assistant": "checkpoints.loading",
    "assistant_for": "checkpoints.pairing",
    "convert": "conversion.convert",
    "KVCache": "cache.rows",
    "InputError": "errors",
    "GenerationOptions": "options",
    "GenerationResponse": "engine.responses",
    "SpeculationStats": "engine.responses",
    "Pair": "engine.pair",
    "DraftMemory": "drafts.memory",
    "BatchResponse": "api",
    "BatchStats": "api",
    "batch_generate": "api",
    "generate": "api",
    "make_prompt_cache": "api",
    "load_prompt_cache": "api",
    "save_prompt_cache": "cache.file",
    "stream_generate": "api",
    "load_media": "media.reader",
    "Media": "text.messages",
    "MediaOptions": "media.config",
    "MediaPrompt": "cache.soft_tokens",
    "Gemma4AssistantConfig": "models.config",
    "Gemma4TextConfig": "models.config",
    "Gemma4AssistantForCausalLM": "models.gemma4_assistant",
    "Gemma4ForCausalLM": "models.gemma4_text",
    "Processor": "text.processor",
    "ChatSession": "server.chat_session",
}
__all__ = ["__version__", *_PUBLIC]

# Doors that have a function's name. Importing a module puts it into its package, but the first time only: so that it
# is not in the function's place later, that has happened before. They are folders, for runpy warns of files.
for _door in ("convert", "generate"):
    import_module(f".{_door}", __name__)
    del globals()[_door]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = vars(import_module(f".{_PUBLIC[name]}", __name__))[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
