"""What a session can be set to, refused where it is of another kind."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, described
from ..options import GenerationOptions


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of ``GenerationOptions``, a copy; None has none.

    Raises:
        OptionError: an option of another kind or out of its range.
        InputError: there is no such option, or it is no mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InputError(f"options is {described(options)}, expected a mapping such as {{'temperature': 0.7}}")
    check_names(options)
    GenerationOptions(**options)
    return dict(options)


def check_names(names: Iterable[str]) -> None:
    """Names of options; raises ``InputError`` over others."""
    known = GenerationOptions.__dataclass_fields__
    if unknown := [name for name in names if not isinstance(name, str) or name not in known]:
        raise InputError(f"there is no option {unknown[0]!r:.100}")


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Where a file is; raises ``InputError`` over what is no path."""
    try:
        return Path(path)
    except TypeError:
        raise InputError(f"the file is {described(path)}, expected a path") from None


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
