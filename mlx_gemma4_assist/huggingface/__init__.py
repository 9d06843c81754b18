"""transformers' names for the same engine: code written for Gemma 4 there runs here with other import lines.

A thin layer. ``AutoModelForImageTextToText``, ``AutoModelForCausalLM``, ``AutoProcessor`` and ``pipeline`` read the
same checkpoints; ``generate`` takes the arrays that the processor returns (NumPy's, MLX's or PyTorch's) and gives
MLX's. One prompt at a time; what would do nothing is refused, not ignored.

The classes here hold networks; those of the same names in ``models`` are networks.
"""

from .arrays import ModelArrays
from .auto import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
from .model import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4UnifiedForConditionalGeneration,
)
from .processor import Gemma4Processor
from .tasks import ImageTextToTextPipeline, TextGenerationPipeline, pipeline

__all__ = [
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoProcessor",
    "Gemma4AssistantConfig",
    "Gemma4AssistantForCausalLM",
    "Gemma4ForCausalLM",
    "Gemma4ForConditionalGeneration",
    "Gemma4Processor",
    "Gemma4UnifiedForConditionalGeneration",
    "ImageTextToTextPipeline",
    "ModelArrays",
    "TextGenerationPipeline",
    "pipeline",
]
