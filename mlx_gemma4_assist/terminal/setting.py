"""Options of generation in a conversation: by the names that the command line has for them, from text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import InputError
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


def names() -> Mapping[str, str]:
    """Every name that an option may be called by, and the option."""
    found = {}
    for name in SETTABLE:
        for spelled in (name, *(flag.lstrip("-") for flag in flags(name))):
            found[spelled.replace("-", "_")] = name
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
        raise InputError(f"there is no option {name!r}: /set lists them")
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
        return read_text(path) if path.is_file() else text
    if name in TEXTS or (name == "stop" and not text.startswith("[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


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
        lines.append(f"{mark} {flags(name)[0].lstrip('-'):<22}{_shown(value)}")
    return "\n".join([*lines, "* was set, here or by the checkpoint; /set NAME default takes it back"])


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split())[:60]
