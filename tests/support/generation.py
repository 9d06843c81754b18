"""Runs of ``stream_generate`` that tests share: a random pair's text, sampled at temperature 1."""

from typing import Any

from mlx_gemma4_assist import GenerationResponse, stream_generate
from support.stand_ins import LetterProcessor

PROMPT = [int(digit) for digit in "3141592653589793238"]
BUDGET = 28
SEED = 0


def sampled(pair, assistant, **options: Any) -> list[GenerationResponse]:
    """All responses to ``PROMPT``; three drafts in each round unless the options say otherwise."""
    drafts = {"num_assistant_tokens": 3} if assistant is not None else {}
    defaults = {"processor": LetterProcessor(), "max_tokens": BUDGET, "temperature": 1.0, "seed": SEED} | drafts
    options = defaults | options
    processor = options.pop("processor")
    prompt = options.pop("prompt", PROMPT)
    return list(stream_generate(pair[0], processor, prompt, assistant, **options))
