"""What stands between the messages of a plain chat, for runners without the checkpoint's template."""

from ..errors import InputError
from ..text.processor import Processor

_SAID = ("\ue000one\ue001", "\ue000two\ue001", "\ue000three\ue001")  # characters that no template writes
ROLES = ("user", "assistant", "user")


def chat_form(processor: Processor) -> dict[str, str] | None:
    """Text before, between and after messages, with the special tokens that it spells; None without a chat template.

    ``begin`` the first user's message ``to_model`` the model's ``to_user`` the next user's ``to_model``, and so on. A
    system prompt, where the template has a place for it, stands between ``system`` and ``after_system``, which replace
    ``begin``.
    """
    if not processor.has_chat_template:
        return None
    messages = [{"role": role, "content": said} for role, said in zip(ROLES, _SAID, strict=True)]
    try:
        begin, to_model, to_user, again = _between(processor.render(messages), _SAID)
    except InputError:  # a template of another kind
        return None
    if again != to_model:
        return None
    form = {"begin": begin, "to_model": to_model, "to_user": to_user}
    try:
        first = [{"role": "system", "content": _SAID[0]}, {"role": "user", "content": _SAID[1]}]
        before, after, _ = _between(processor.render(first), _SAID[:2])
    except InputError:  # it refuses system prompts
        return form
    return form | {"system": before, "after_system": after}


def _between(text: str, said: tuple[str, ...]) -> list[str]:
    """What surrounds these messages in a text.

    Raises:
        InputError: they are not all there, in order.
    """
    parts = []
    for each in said:
        before, found, text = text.partition(each)
        if not found:
            raise InputError("the chat template does not hand messages on as they are")
        parts.append(before)
    return [*parts, text]
