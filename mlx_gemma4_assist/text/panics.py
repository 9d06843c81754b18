"""What the tokenizers library ends in where a tokenizer is damaged."""

from types import TracebackType

from ..errors import InputError, first_line


class refused:
    """Turns what the tokenizers library raises within a ``with`` into an InputError; to be used again and again.

    It raises ``Exception`` itself, and where its Rust side panics what is no ``Exception`` at all.

    Args:
        what: has gone wrong; the library's words follow a colon.

    Raises:
        InputError: the library has raised something.
    """

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, InputError):
            return
        if isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime":
            raise InputError(f"{self._what}: {first_line(error)}") from None
