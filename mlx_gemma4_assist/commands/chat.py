"""``chat``: talk with a model in the terminal."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import InputError, OptionError
from ..media.fetch import check_sources
from ..options import FILTERS
from .chat_options import Beginning, Networks, Remote, Thinking
from .grammar import GrammarChoice
from .media import MediaChoice
from .options import ADJUSTED, DRAFTED, DRAWN, QUANTIZED, Only, Said, default_words, grouped
from .streams import STANDARD_INPUT, check_standard_input, read_input

if TYPE_CHECKING:
    from ..terminal.chat import Chat

OF_CHECKPOINT = "Without it as in the checkpoint's generation_config.json."
HERE = (*DRAWN, *DRAFTED, *ADJUSTED, *QUANTIZED, "prefill_step_size", "stop", "compile")
UNSAID = (
    {name: default_words(name) for name in HERE}
    | {"max_tokens": "Without it until the context is full."}
    | dict.fromkeys(FILTERS, OF_CHECKPOINT)
)
PATIENCE = 1.0  # seconds that who leaves waits for a model that is still being read


@grouped
def chat(
    networks: Networks,
    said: Annotated[Said, Only(*HERE, **UNSAID)],
    beginning: Beginning,
    media: MediaChoice,
    grammar: GrammarChoice,
    thinking: Thinking,
    remote: Remote,
) -> int:
    """Chat with a model in the terminal.

    It keeps in mind what was said, and earlier turns are not computed again; /help shows the commands, q leaves.
    Answers go to standard output as they are made, everything else to standard error. Without a terminal, each line of
    standard input is a message.
    """
    _check_input(beginning, grammar)
    held = _held(grammar, said)
    remote.check(networks, said, _of_this_process(beginning, media))
    _ = media.options
    check_sources(media.media)
    text = _prompt(beginning)
    from .chat_start import Start

    start = Start(networks, said, held, beginning, media, thinking, remote)
    return _run(start.chat(), text, None if text is not None or not start.terminal.interactive else PATIENCE)


def _of_this_process(beginning: Beginning, media: MediaChoice) -> dict[str, Any]:
    """Options besides those of generation that only a model in this process heeds."""
    return {
        "no_learned": not beginning.learned,
        "prompt_cache_file": beginning.prompt_cache_file,
        "max_soft_tokens": media.max_soft_tokens,
    }


def _check_input(beginning: Beginning, grammar: GrammarChoice) -> None:
    """Refuse two readers of standard input, of which the second would find nothing.

    Raises:
        OptionError: with both.
    """
    piped = beginning.prompt is None and sys.stdin is not None and not sys.stdin.isatty()
    if not (piped or beginning.prompt == STANDARD_INPUT):
        return
    for name, path in (("json_schema", grammar.json_schema), ("lark", grammar.lark)):
        if str(path) == STANDARD_INPUT:
            raise OptionError(f"{{{name}}} and messages cannot both be read from standard input")


def _held(grammar: GrammarChoice, said: Said) -> dict[str, Any]:
    """What holds the answers, as options; what was typed is in range."""
    options = grammar.over(said.over({"temperature": 1.0}))
    return {} if options.grammar is None else dict([options.grammar])


def _prompt(beginning: Beginning) -> str | None:
    """The one message that is to be answered, None where a conversation is wanted."""
    if beginning.prompt is None:
        check_standard_input()
        return None
    text = read_input(STANDARD_INPUT) if beginning.prompt == STANDARD_INPUT else beginning.prompt
    if not text.strip():
        raise InputError("the prompt is empty")
    return text


def _run(talking: "Chat", text: str | None, patience: float | None) -> int:
    """Talk, or have one message answered; the exit code.

    Who leaves does not wait longer than ``patience`` for a model that is being read in another thread: the process ends
    without it, as there is nothing to finish.
    """
    closed = True
    try:
        code = talking.run() if text is None else talking.once(text)
    finally:
        closed = talking.close(patience)
    if not closed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
