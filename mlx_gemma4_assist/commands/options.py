"""Options that several commands share, named as in mlx-lm where it has them.

A command takes related options as one parameter, an instance of a dataclass; ``grouped`` shows the command line an
option for each of its fields. Those of generation come from ``GenerationOptions``, which knows their ranges and what
they are for.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ..options import FILTERS, GenerationOptions, flags

EMBEDDED = "tiny"

Learned = Annotated[
    bool,
    typer.Option(
        "--learned/--no-learned",
        help="Begin with what was learned of draft lengths here, and keep what this run learns, in the cache folder.",
    ),
]
EnableThinking = Annotated[bool, typer.Option("--enable-thinking", help="Let the model think before it answers.")]
ShowThinking = Annotated[
    bool, typer.Option("--show-thinking", help="Print thoughts and calls of tools, too, not the answer alone.")
]
AssistantModel = Annotated[
    str | None,
    typer.Option("--assistant-model", help="The drafter; the matching one unless told, none to go without."),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16 instead of what the checkpoint says.")
]
AdapterPath = Annotated[
    str | None, typer.Option("--adapter-path", help="A folder of mlx-lm's with what fine-tuning learned for it.")
]
MaxSoftTokens = Annotated[
    int | None, typer.Option("--max-soft-tokens", help="The most a picture takes: 70, 140, 280, 560 or 1120.")
]
WHICH_MODEL = f"A Hub repo, a local folder, or {EMBEDDED}: the embedded pair, which needs no network."


@dataclass(frozen=True)
class ModelChoice:
    """Which networks a command works with."""

    model: Annotated[str, typer.Option("--model", help=WHICH_MODEL)] = EMBEDDED
    assistant_model: AssistantModel = None
    dtype: Dtype = None
    adapter_path: AdapterPath = None


class Only:
    """Which fields of a dataclass a command has as options, and its own defaults: ``Annotated[Options, Only(...)]``.

    For ``Said``, what stands for a default is a sentence on what happens without the option.
    """

    def __init__(self, *names: str, **defaults: Any):
        self.names = names
        self.defaults = defaults


@dataclass(frozen=True)
class Said:
    """Options of generation that were typed; what a checkpoint says goes before the package's defaults for the others.

    As a parameter of a command: ``Annotated[Said, Only(...)]`` has options of ``GenerationOptions``, without defaults.
    """

    values: Mapping[str, Any]

    def over(self, defaults: Mapping[str, Any]) -> GenerationOptions:
        """All options.

        Raises:
            OptionError: a value of another kind or out of its range.
        """
        return GenerationOptions(**{**defaults, **self.values})


Command = Callable[..., Any]


def grouped(command: Command) -> Command:
    """The command with an option for each field of its parameters that are dataclasses.

    They are made, and so checked, before the command begins; a call may name any of the fields.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: group for name, hint in hints.items() if (group := _Group.of(hint)) is not None}

    @wraps(command)
    def run(**values: Any) -> Any:
        made = {name: group.make(values) for name, group in groups.items()}
        return command(**made, **values)

    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(command).parameters.values():
        if each.name in groups:
            parameters += groups[each.name].parameters()
        else:
            parameters.append(each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


class _Group:
    """A dataclass as options.

    Args:
        kind: the dataclass.
        only: which of its fields, and their defaults here.
    """

    def __init__(self, kind: type, only: Only):
        self._kind = kind
        self._defaults = only.defaults
        self._said = kind is Said
        options = fields(GenerationOptions if self._said else kind)
        self._fields = [each for each in options if each.name in only.names or not only.names]

    @classmethod
    def of(cls, hint: Any) -> "_Group | None":
        """None for what is an option by itself."""
        kind, *extras = get_args(hint) if get_args(hint) else (hint,)
        only = next((extra for extra in extras if isinstance(extra, Only)), Only())
        return cls(kind, only) if isinstance(kind, type) and is_dataclass(kind) else None

    def make(self, values: dict[str, Any]) -> Any:
        """The dataclass from a command's values, which are taken out."""
        found = {each.name: values.pop(each.name) for each in self._fields if each.name in values}
        if self._said:
            return Said({name: value for name, value in found.items() if value is not None})
        return self._kind(**{**self._defaults, **found})

    def parameters(self) -> list[inspect.Parameter]:
        """The fields as parameters of a command."""
        if self._said:
            unsaid = dict.fromkeys(self._defaults)
            return [_parameter(each, unsaid, self._defaults.get(each.name)) for each in self._fields]
        return [_parameter(each, self._defaults) for each in self._fields]


def _parameter(field: "Field[Any]", defaults: Mapping[str, Any], otherwise: str | None = None) -> inspect.Parameter:
    """A field as a parameter; ``otherwise`` says what happens if the option is not given."""
    hint: Any = field.type
    default = defaults.get(field.name, field.default if field.default is not MISSING else inspect.Parameter.empty)
    if "help" in field.metadata:  # of GenerationOptions
        if field.name in REPEATED:
            hint, default = list[str] | None, None
        if default is None:
            hint = hint | None
        help = field.metadata["help"] if otherwise is None else f"{field.metadata['help']} {otherwise}"
        hint = Annotated[hint, typer.Option(*flags(field.name), help=help)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def default_words(name: str) -> str | None:
    """What help says of an option of generation whose default it does not show by itself: a value, if there is one."""
    default = GenerationOptions.__dataclass_fields__[name].default
    return None if default is None or default == () else f"Default: {default}."


REPEATED = ("stop", "logit_bias")
"""What is typed once for each of several values."""
DRAWN = ("max_tokens", *FILTERS, "seed")
"""How a text is drawn: what all commands that generate have."""
ADJUSTED = ("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias")
"""What changes a distribution before that."""
DRAFTED = ("num_assistant_tokens", "draft_temperature")
QUANTIZED = ("kv_bits", "kv_group_size", "quantized_kv_start")
"""How keys and values are held."""
