"""Which names of models the loaded one answers to."""

from collections.abc import Iterable

from .exchange import Model, RequestError

FOREIGN = ("gpt-", "claude-", "gemini-")
"""How the names of models begin that apps ask for without being told to: the loaded one answers in their place."""
ANY = ("", "default")
LATEST = ":latest"
"""What Ollama's clients put behind names."""


def check_name(name: str, model: Model, aliases: Iterable[str] = ()) -> None:
    """Refuse a name that is not the model's. Nothing is ever downloaded for a name.

    Args:
        name: as asked for; upper and lower case are alike.
        model: that is loaded; its own aliases count.
        aliases: further ones.

    Raises:
        RequestError: 404, which says what there is.
    """
    if not is_known(name, model, aliases):
        there = ", ".join(dict.fromkeys([model.id, *model.aliases, *aliases]))
        raise RequestError(
            404,
            f"The model {name[:200]!r} does not exist here; there is {there}.",
            "not_found_error",
            param="model",
            code="model_not_found",
        )


def is_known(name: str, model: Model, aliases: Iterable[str] = ()) -> bool:
    """Whether the model answers to a name: its id, the last part of it, an alias, ``default``, ``gpt-*`` and others."""
    asked = name.strip().lower().removesuffix(LATEST)
    own = {model.id, model.id.rstrip("/").rpartition("/")[2], *model.aliases, *aliases, *ANY}
    return asked in {each.lower().removesuffix(LATEST) for each in own} or asked.startswith(FOREIGN)
