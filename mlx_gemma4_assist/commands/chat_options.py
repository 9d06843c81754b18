"""Options of ``chat``: how a conversation begins, where it is kept, who answers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..server.remote_wire import OF_SERVERS
from ..terminal.thinking import thinking_of
from .options import (
    EMBEDDED,
    WHICH_MODEL,
    AdapterPath,
    AssistantModel,
    Dtype,
    EnableThinking,
    Learned,
    ModelChoice,
    Said,
)
from .prompt_cache import PromptCacheFile

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Networks:
    """Which networks answer, as far as they were named."""

    model: Annotated[
        str | None,
        typer.Option("--model", help=f"{WHICH_MODEL} Without it that of the resumed conversation, else tiny."),
    ] = None
    assistant_model: AssistantModel = None
    dtype: Dtype = None
    adapter_path: AdapterPath = None

    def choice(self, otherwise: str = EMBEDDED) -> ModelChoice:
        """The networks; ``otherwise`` is the model where none was named."""
        model = otherwise if self.model is None else self.model
        return ModelChoice(model, self.assistant_model, self.dtype, self.adapter_path)


@dataclass(frozen=True)
class Beginning:
    """How a conversation begins, and where it is kept."""

    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="Answer this message, and leave; - reads all of standard input."),
    ] = None
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", help="Goes before the first message.")] = None
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Go on with the saved conversation of this name; without one, with the latest."),
    ] = None
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep neither conversations nor typed lines, unless /save asks for it.")
    ] = False
    learned: Learned = True
    prompt_cache_file: PromptCacheFile = None


@dataclass(frozen=True)
class Thinking:
    """Whether the model thinks, and what is shown of it and of drafts.

    Raises:
        OptionError: no budget, or two answers to one question.
    """

    thinking: Annotated[
        str | None, typer.Option("--thinking", help="off, on, or the most tokens of a thought: think before answering.")
    ] = None
    enable_thinking: EnableThinking = False
    show_thinking: Annotated[
        bool,
        typer.Option(
            "--show-thinking", help="Write thoughts to standard error, without a terminal and with --prompt too."
        ),
    ] = False
    show_drafts: Annotated[
        bool, typer.Option("--show-drafts", help="Colour each token by which draft of a round it was.")
    ] = False

    def __post_init__(self) -> None:
        if self.thinking is not None and self.enable_thinking:
            raise OptionError("{thinking} and {enable_thinking} say the same: give one of them")
        _ = self.asked

    @property
    def option(self) -> str | None:
        """The option that lets the model think; None if none does."""
        if self.enable_thinking:
            return "enable_thinking"
        return "thinking" if self.asked[0] else None

    @property
    def asked(self) -> tuple[bool | None, int | None]:
        """Whether the model thinks, None where nobody has said, and the most tokens of a thought."""
        if self.thinking is None:
            return self.enable_thinking or None, None
        try:
            return thinking_of(self.thinking)
        except ValueError:
            expected = "expected off, on, or the most tokens of a thought"
            raise OptionError(f"{{thinking}} is {{value!r}}, {expected}", value=self.thinking) from None


@dataclass(frozen=True)
class Remote:
    """A server that answers in the place of a model in this process."""

    server: Annotated[
        str | None,
        typer.Option("--server", help="Let this OpenAI-compatible server answer, such as http://127.0.0.1:8080."),
    ] = None
    api_key: Annotated[
        str | None, typer.Option("--api-key", help=f"The server's key. Default: {KEY_VARIABLE}, if that is set.")
    ] = None

    @property
    def key(self) -> str | None:
        """The server's; None sends none."""
        return (os.environ.get(KEY_VARIABLE) or None) if self.api_key is None else self.api_key

    def check(self, networks: Networks, said: Said, others: Mapping[str, Any]) -> None:
        """Refuse what only a model in this process could heed, where a server answers.

        Args:
            networks: as typed.
            said: options of generation that were typed.
            others: further such options by their names, None or False where they were not typed.

        Raises:
            OptionError: with the first of them.
        """
        if self.server is None:
            if self.api_key is not None:
                raise OptionError("{api_key} is for a {server}, and there is none")
            return
        local = {name: vars(networks)[name] for name in ("assistant_model", "dtype", "adapter_path")}
        local |= {name: value or None for name, value in others.items()}
        local |= {name: value for name, value in said.values.items() if name not in OF_SERVERS}
        for name, value in local.items():
            if value is not None:
                raise OptionError(f"{{{name}}} is for a model in this process, but {{server}} lets a server answer")
