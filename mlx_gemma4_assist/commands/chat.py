"""``chat``: talk with a model in the terminal."""

import io
import sys
from contextlib import suppress
from typing import Annotated

import typer

from .loading import check_choice, checkpoint_sampling, draft_memory, introduce, load_pair, note
from .options import DRAFTED, DRAWN, EMBEDDED, FILTERS, Learned, ModelChoice, Only, Said, grouped
from .streams import check_standard_input

UNLIMITED = 1 << 30
OF_CHECKPOINT = "Without it as in the checkpoint's generation_config.json."
UNSAID = {"max_tokens": "Without it until the context is full."} | dict.fromkeys(FILTERS, OF_CHECKPOINT)


@grouped
def chat(
    choice: ModelChoice,
    said: Annotated[Said, Only(*DRAWN, *DRAFTED, "prefill_step_size", **UNSAID)],
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", help="Goes before the first message.")] = None,
    learned: Learned = True,
) -> int:
    """Chat with a model in the terminal.

    It keeps in mind what was said, and earlier turns are not computed again; q leaves, h shows the commands. Answers go
    to standard output as they are made, everything else to standard error. Without a terminal, each line of standard
    input is a message.
    """
    check_standard_input()
    said.over({"temperature": 1.0})  # what no checkpoint can mend
    options = said.over({"max_tokens": UNLIMITED, **checkpoint_sampling(choice.model)})
    check_choice(choice, options)
    pair = load_pair(choice)
    if choice.model == EMBEDDED:
        note("The embedded tiny pair answers, from Jane Austen's novels; --model google/gemma-4-E2B-it is a real one.")
    introduce(pair, choice, options)
    from .repl import Chat

    _prepare_input()
    Chat(pair, options, system_prompt, memory=draft_memory(learned)).run()
    return 0


def _prepare_input() -> None:
    """Line editing and history where there are any, and no failure at bytes that are no UTF-8."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input uses it once it is imported)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
