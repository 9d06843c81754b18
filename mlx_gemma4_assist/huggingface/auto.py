"""transformers' ``Auto`` classes: the class that a checkpoint's ``model_type`` asks for."""

import os
from typing import Any

from ..checkpoints.hub import resolve
from ..errors import InputError
from ..files import read_json
from ..models.config import ASSISTANT_MODEL_TYPES
from .model import (
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedForConditionalGeneration,
)
from .processor import Gemma4Processor

PathOrRepo = str | os.PathLike[str]
CLASSES = (Gemma4ForConditionalGeneration, Gemma4UnifiedForConditionalGeneration)


class AutoModelForImageTextToText:
    """Targets that see and, E2B, E4B and 12B, hear."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: PathOrRepo, *, revision: str | None = None, **arguments: Any
    ) -> Gemma4ForConditionalGeneration:
        """Arguments and errors as for ``Gemma4ForConditionalGeneration.from_pretrained``."""
        folder = resolve(pretrained_model_name_or_path, revision=revision)
        model_type = read_json(folder / "config.json").get("model_type")
        found = next((each for each in CLASSES if model_type in each.model_types), None)
        if found is None:
            raise InputError(
                f"{folder} has model_type {model_type!r}, which sees nothing: expected gemma4 or gemma4_unified; "
                "AutoModelForCausalLM reads text-only models and assistants"
            )
        return found.from_pretrained(folder, **arguments)


AutoModelForMultimodalLM = AutoModelForImageTextToText


class AutoModelForCausalLM:
    """Targets for text, and assistants. Networks for pictures and sound are never read."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: PathOrRepo, *, revision: str | None = None, **arguments: Any
    ) -> Gemma4ForCausalLM | Gemma4AssistantForCausalLM:
        """Arguments and errors as for ``Gemma4ForCausalLM.from_pretrained``."""
        folder = resolve(pretrained_model_name_or_path, revision=revision)
        model_type = read_json(folder / "config.json").get("model_type")
        found = Gemma4AssistantForCausalLM if model_type in ASSISTANT_MODEL_TYPES else Gemma4ForCausalLM
        return found.from_pretrained(folder, **arguments)


AutoProcessor = Gemma4Processor
