"""The exceptions for bad input, and how they quote others."""

import os
from collections.abc import Mapping
from string import Formatter

LONGEST = 1500
"""Characters of a message."""


class InputError(ValueError):
    """Bad input; ``str(error)`` is one clear sentence for the user. Commands print it and exit with code 2.

    Args:
        sentence: may quote what was given, however long that is: the middle of a long one is left out.
    """

    def __init__(self, sentence: str):
        super().__init__(_shortened(sentence))


class OptionError(InputError):
    """A value that an option does not take.

    Args:
        template: the sentence, with Python names of options in braces: ``"{top_k} is {value!r}"``.
        **words: what else the template names.
    """

    def __init__(self, template: str, **words: object):
        self._template = template
        self._words = words
        super().__init__(self.spelled({}))

    @property
    def option(self) -> str | None:
        """The first option that the sentence names; None if it names none."""
        names = (name for _, name, _, _ in Formatter().parse(self._template) if name)
        return next((name for name in names if name not in self._words), None)

    def spelled(self, names: Mapping[str, str]) -> str:
        """The sentence with options as ``names`` has them, such as ``--top-k``; what it lacks keeps its Python name."""
        return _shortened(self._template.format_map(_Words(names, self._words)))


class _Words(dict[str, object]):
    """What a template may name: its own words first, then options."""

    def __init__(self, names: Mapping[str, str], words: Mapping[str, object]):
        super().__init__(words)
        self._names = names

    def __missing__(self, name: str) -> str:
        try:
            return self._names[name]
        except KeyError:
            return name


def described(value: object) -> str:
    """A value of a wrong type, fit to be quoted in one sentence: short ones as they are, of others the type."""
    if isinstance(value, str | int | float | os.PathLike) or value is None:
        return f"{value!r:.100}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def counted(count: int, noun: str) -> str:
    """A number of things, of which one is no several."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _shortened(sentence: str) -> str:
    if len(sentence) <= LONGEST:
        return sentence
    half = LONGEST // 2
    return f"{sentence[:half]} ... {sentence[-half:]}"


def first_line(error: BaseException) -> str:
    """Another library's message, fit to be quoted in one sentence."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
