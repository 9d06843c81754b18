"""``chat``: talk with a model in the terminal."""

import sys
from contextlib import suppress
from typing import Annotated

import typer

from ..commands import options
from ..errors import InputError
from .loading import EMBEDDED, load_pair, note


def chat(
    model: options.Model = EMBEDDED,
    assistant_model: options.AssistantModel = None,
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", help="Goes before the first message.")] = None,
    max_tokens: options.MaxTokens = 256,
    temp: options.Temp = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = None,
    num_assistant_tokens: options.NumAssistantTokens = None,
    draft_temperature: options.DraftTemperature = None,
    prefill_step_size: options.PrefillStepSize = 2048,
    dtype: options.Dtype = None,
) -> int:
    """Chat with a model in the terminal.

    It keeps in mind what was said, and earlier turns are not computed again; q leaves, h shows the commands. Answers go
    to standard output as they are made, everything else to standard error. Without a terminal, each line of standard
    input is a message.
    """
    from ..rounds.sampling import Sampling

    Sampling(temp, top_k, top_p, min_p, draft_temperature or 0)  # nonsense is refused before anything is loaded
    for name, value in (("--max-tokens", max_tokens), ("--prefill-step-size", prefill_step_size)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected a positive integer")
    if temp == 0 and draft_temperature:
        raise InputError("--draft-temperature needs a --temp above 0: greedy decoding drafts greedily")
    target, processor, assistant = load_pair(model, assistant_model, dtype)
    if model == EMBEDDED:
        note("The embedded tiny pair answers, from Jane Austen's novels; --model google/gemma-4-E2B-it is a real one.")
    from .repl import Chat, ChatOptions

    _prepare_input()
    settings = ChatOptions(
        max_tokens=max_tokens,
        temperature=temp,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        draft_temperature=draft_temperature,
        seed=seed,
        num_assistant_tokens=num_assistant_tokens,
        prefill_step_size=prefill_step_size,
    )
    Chat(target, processor, assistant, settings, system_prompt).run()
    return 0


def _prepare_input() -> None:
    """Line editing and history where there are any, and no failure at bytes that are no UTF-8."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input uses it once it is imported)
    sys.stdin.reconfigure(errors="surrogateescape")
