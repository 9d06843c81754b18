"""Options of generation in a conversation: by the names that the command line has for them, from text."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import InputError, OptionError
from ..files import read_text
from ..options import GenerationOptions, flags
from .paths import written_path

TEXTS = ("regex", "logit_bias")
"""Options that read text as it was typed."""
FILES = ("json_schema", "lark")
"""Options that a file may hold, as with ``generate``."""
ELSEWHERE = ("logits_processors", "top_logprobs", "skip_special_tokens", "compile")
"""Options that make no sense in a conversation, or are settled before it begins."""
NOTHING = ("none", "default")
"""What takes an option back."""

UNLIMITED = ("max_tokens",)
"""Options that a conversation does without unless they are set."""
SETTABLE = tuple(each.name for each in fields(GenerationOptions) if each.name not in ELSEWHERE)
GRAMMARS = ("json_schema", "regex", "lark")
"""Options that another library reads, which knows what it can."""


def spelled(name: str) -> str:
    """An option as it is typed here: as on the command line, without dashes before it."""
    return flags(name)[0].partition("/")[0].lstrip("-")


NAMES = {name: spelled(name) for name in GenerationOptions.__dataclass_fields__} | {"enable_thinking": "thinking"}
"""What a person calls what can be set, by Python names."""


def as_typed(error: OptionError) -> InputError:
    """An error in the words that are typed here."""
    return InputError(error.spelled(NAMES))


def names() -> Mapping[str, str]:
    """Every name that an option may be called by, and the option."""
    found = {}
    for name in SETTABLE:
        for called in (name, *(flag.lstrip("-") for flag in flags(name))):
            found[called.replace("-", "_")] = name
    return found


def option_named(name: str, settable: Sequence[str] = SETTABLE) -> str:
    """The option of a name, with dashes or underscores.

    Args:
        name: as it was typed.
        settable: options that can be set.

    Raises:
        InputError: there is none, or it cannot be set.
    """
    found = names().get(name.lstrip("-").replace("-", "_"))
    if found is None:
        raise InputError(f"there is no option {name!r:.40}: /set lists them")
    if found not in settable:
        raise InputError(f"{name} is for a model in this process, not for one behind a server")
    return found


def value_of(name: str, text: str) -> Any:
    """What was typed for an option, for ``GenerationOptions`` to read; None takes the option back.

    Raises:
        InputError: a file that cannot be read.
    """
    if text.lower() in NOTHING:
        return None
    if name in FILES:
        path = written_path(text)
        return read_text(path) if os.path.isfile(path) else text  # no name may be as long as a schema
    if name in TEXTS or (name == "stop" and not text.startswith("[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_grammar_of(name: str, value: Any) -> None:
    """Refuse a grammar that cannot be read; other values are checked as they are set.

    Raises:
        OptionError: with the reason.
        InputError: llguidance, which reads grammars, is not installed.
    """
    if name in GRAMMARS:
        from ..text.grammar import check_grammar

        check_grammar(GenerationOptions(**{name: value}))


def listed(options: Mapping[str, Any], settable: Sequence[str]) -> str:
    """Options, a line each. What is so without them is told where all can be set, of a model in this process.

    Args:
        options: those that were set.
        settable: options that can be.
    """
    lines, known = [], len(settable) == len(SETTABLE)
    for name in settable:
        default = GenerationOptions.__dataclass_fields__[name].default if known and name not in UNLIMITED else None
        mark, value = ("*", options[name]) if name in options else (" ", default)
        lines.append(f"{mark} {spelled(name):<22}{shown(value)}")
    return "\n".join([*lines, "* was set, here or by the checkpoint; /set NAME default takes it back"])


def shown(value: Any) -> str:
    """A value in one line, of which the beginning is enough."""
    if value is None or value == ():
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split())[:60]
