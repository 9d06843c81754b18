"""What a session can be set to, refused where it is of another kind."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError, described
from ..options import GenerationOptions


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``GenerationOptions``, a copy.

    Raises:
        OptionError: an option of another kind or out of its range.
        InputError: there is no such option.
    """
    check_names(options)
    GenerationOptions(**options)
    return dict(options)


def check_names(names: Iterable[str]) -> None:
    """Names of options; raises ``InputError`` over others."""
    known = GenerationOptions.__dataclass_fields__
    if unknown := [name for name in names if not isinstance(name, str) or name not in known]:
        raise InputError(f"there is no option {unknown[0]!r}")


def checked_budget(tokens: int | None) -> int | None:
    """A budget of thoughts; raises ``InputError`` over what is none."""
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
        raise InputError(f"thinking_budget is {described(tokens)}, expected a number of tokens")
    return tokens


def checked_thinking(thinking: bool | None) -> bool | None:
    """Whether a model thinks; raises ``InputError`` over what says neither."""
    if thinking is not None and not isinstance(thinking, bool):
        raise InputError(f"thinking is {described(thinking)}, expected True, False or None")
    return thinking
