"""The one exception for bad input, and how it quotes others."""


class InputError(ValueError):
    """Bad input; ``str(error)`` is one clear sentence for the user. Commands print it and exit with code 2."""


def first_line(error: BaseException) -> str:
    """Another library's message, fit to be quoted in one sentence."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
