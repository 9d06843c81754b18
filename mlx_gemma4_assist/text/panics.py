"""What the tokenizers library ends in where a tokenizer is damaged."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError, first_line


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into an InputError.

    It raises ``Exception`` itself, and where its Rust side panics what is no ``Exception`` at all.

    Args:
        what: has gone wrong; the library's words follow a colon.

    Raises:
        InputError: the library has raised something.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise InputError(f"{what}: {first_line(error)}") from None
