"""``chat``: talk with a model in the terminal."""

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import FILTERS
from .loading import check_choice, checkpoint_sampling, draft_memory, introduce, load_pair, open_checkpoint
from .options import (
    ADJUSTED,
    DRAFTED,
    DRAWN,
    EMBEDDED,
    QUANTIZED,
    EnableThinking,
    Learned,
    ModelChoice,
    Only,
    Said,
    ShowThinking,
    grouped,
)
from .streams import check_standard_input, note

if TYPE_CHECKING:
    from ..engine.pair import Checkpoint
    from ..engine.session import Conversation

UNLIMITED = 1 << 30
OF_CHECKPOINT = "Without it as in the checkpoint's generation_config.json."
UNSAID = {"max_tokens": "Without it until the context is full."} | dict.fromkeys(FILTERS, OF_CHECKPOINT)


@grouped
def chat(
    choice: ModelChoice,
    said: Annotated[Said, Only(*DRAWN, *DRAFTED, *ADJUSTED, *QUANTIZED, "prefill_step_size", **UNSAID)],
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", help="Goes before the first message.")] = None,
    learned: Learned = True,
    enable_thinking: EnableThinking = False,
    show_thinking: ShowThinking = False,
) -> int:
    """Chat with a model in the terminal.

    It keeps in mind what was said, and earlier turns are not computed again; q leaves, h shows the commands. Answers go
    to standard output as they are made, everything else to standard error. Without a terminal, each line of standard
    input is a message.
    """
    check_standard_input()
    check_choice(choice, said.over({"temperature": 1.0}))  # what no checkpoint can mend
    options = said.over({"max_tokens": UNLIMITED, **checkpoint_sampling(choice.model)})
    check_choice(choice, said.over({"temperature": options.temperature}))
    checkpoint = open_checkpoint(choice, options)
    conversation = _conversation(checkpoint, system_prompt, enable_thinking)
    pair = load_pair(checkpoint, options)
    if choice.model == EMBEDDED:
        note("The embedded tiny pair answers, from Jane Austen's novels; --model google/gemma-4-E2B-it is a real one.")
    introduce(pair, choice, options)
    from .repl import Chat

    talk = Chat(pair, options, conversation, show_thinking=show_thinking, memory=draft_memory(learned))
    _prepare_input(talk.work_ahead)
    talk.run()
    return 0


def _conversation(checkpoint: "Checkpoint", system_prompt: str | None, enable_thinking: bool) -> "Conversation":
    """A conversation that leaves room in the context for a message."""
    from ..engine.request import check_tokens
    from ..engine.session import Conversation

    conversation = Conversation(checkpoint.processor, system_prompt, enable_thinking=enable_thinking)
    check_tokens(conversation.prompt("?"), checkpoint.config)
    return conversation


def _prepare_input(when_asked: Callable[[], None]) -> None:
    """Line editing and history where there are any, and no failure at bytes that are no UTF-8.

    With line editing ``when_asked`` is called when the prompt is shown, before the first letter is read.
    """
    with suppress(ImportError):
        from readline import set_pre_input_hook  # input uses the module once it is imported

        set_pre_input_hook(when_asked)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
