"""Libraries that only some uses need, and the extras of this package that bring them."""

from importlib import import_module
from types import ModuleType

from .errors import InputError, first_line


def library(name: str, purpose: str, extra: str) -> ModuleType:
    """A library that is imported only when it is needed.

    Args:
        name: what is imported.
        purpose: what it is needed for, the subject of the error message.
        extra: of this package, which brings it.

    Raises:
        InputError: it is not installed, or does not work here.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
    except (ImportError, OSError) as error:  # a shared library that it stands on
        raise InputError(f"{purpose} needs {name}, which does not work here: {first_line(error)}") from None
    raise InputError(f'{purpose} needs {missing}: pip install ".[{extra}]" in the folder of this package')


def media_library(name: str, purpose: str) -> ModuleType:
    """As ``library``, of the extra ``media``."""
    return library(name, purpose, "media")
