"""What a chat template makes of plain conversations, for runners that have no templates: a manifest's ``text.chat``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import InputError
from ..text.channels import CLOSE, OPEN
from ..text.processor import Processor
from ..text.renderer import Renderer

_SAID = ("\ue000one\ue001", "\ue000two\ue001", "\ue000three\ue001")  # characters that no template writes
SYSTEM, USER, MODEL = "system", "user", "assistant"

Form = dict[str, Any]


class Said(NamedTuple):
    """A message.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        text: what it says.
    """

    role: str
    text: str


def chat_form(processor: Processor) -> Form | None:
    """How plain conversations are written, special tokens spelled; docs/bundle.md describes each entry.

    None without a chat template, or where it makes of some conversation what these rules do not.
    """
    if not processor.has_chat_template:
        return None
    try:
        return _Probe(processor).form()
    except InputError:  # a template of another kind
        return None


def written(form: Form, messages: Sequence[Said], *, thinking: bool = False) -> str:
    """A conversation by the rules of a form."""
    parts, rest = [form["begin"]], list(messages)
    if thinking:
        lead = rest.pop(0) if rest and rest[0].role == SYSTEM else Said(SYSTEM, "")
        asked = form["thinking"]["ask"] + _kept(form, lead)
        parts.append(form[SYSTEM]["open"] + asked + form[SYSTEM]["close"])
    for place, message in enumerate(rest):
        turn = form["model" if message.role == MODEL else message.role]
        before, behind = (form["joined"] and message.role == MODEL == _role(rest, place + step) for step in (-1, 1))
        parts += ["" if before else turn["open"], _kept(form, message), "" if behind else turn["close"]]
    return "".join([*parts, form["thinking"]["prompt"] if thinking else form["prompt"]])


def _role(messages: Sequence[Said], place: int) -> str | None:
    return messages[place].role if 0 <= place < len(messages) else None


def _kept(form: Form, message: Said) -> str:
    """What is left of a message's text."""
    text, thoughts = message.text, form["thoughts"]
    if message.role == MODEL and thoughts is not None:
        text = "".join(part.partition(thoughts["open"])[0] for part in text.split(thoughts["close"]))
    return text.strip() if form["trimmed"] else text


class _Probe:
    """Finds a form by rendering conversations.

    Raises:
        InputError: the template refuses what it must take, or does not write messages one behind the other.
    """

    def __init__(self, processor: Processor):
        self._processor, self._renderer = processor, Renderer(processor)

    def form(self) -> Form | None:
        one, two, three = _SAID
        begin_user, user_prompt = self._around(Said(USER, one))
        _, user_model, model_user, _ = self._around(Said(USER, one), Said(MODEL, two), Said(USER, three))
        _, user_user, _ = self._around(Said(USER, one), Said(USER, two))
        begin = str(self._processor.tokenizer.bos_token)
        user = {"open": _behind(begin_user, begin)}
        user["close"] = _before(user_user, user["open"])
        model = {"open": _behind(user_model, user["close"]), "close": _before(model_user, user["open"])}
        form: Form = {"begin": begin, "user": user, "model": model, "prompt": _behind(user_prompt, user["close"])}
        form |= {"trimmed": self._trims(), "joined": self._joins(), "thoughts": self._thoughts()}
        form["control"] = sorted(self._processor.control.ids.keys() - self._special())
        if not self._holds(form, False, [Said(USER, f" {one}"), Said(MODEL, f"{two}\n"), Said(USER, three)]):
            return None
        form |= self._system(form)
        return form | self._thinking(form)

    def _system(self, form: Form) -> Form:
        """The system's turn, if there is any."""
        try:
            begin, between, _ = self._around(Said(SYSTEM, _SAID[0]), Said(USER, _SAID[1]))
            found = {"open": _behind(begin, form["begin"]), "close": _before(between, form["user"]["open"])}
        except InputError:
            return {}
        asked = [Said(SYSTEM, ""), Said(USER, _SAID[0]), Said(SYSTEM, _SAID[1])]
        return {SYSTEM: found} if self._holds(form | {SYSTEM: found}, False, asked) else {}

    def _thinking(self, form: Form) -> Form:
        """How thoughts are asked for, if they can be and this is known to be right."""
        if SYSTEM not in form or not self._renderer.thinks:
            return {}
        try:
            begin, prompt = self._around(Said(USER, _SAID[0]), thinking=True)
            opened = _behind(begin, form["begin"] + form[SYSTEM]["open"])
            found = {
                "ask": _before(opened, form[SYSTEM]["close"] + form["user"]["open"]),
                "prompt": _behind(prompt, form["user"]["close"]),
            }
        except InputError:
            return {}
        talk = [Said(USER, _SAID[0]), Said(MODEL, _SAID[1]), Said(USER, _SAID[2])]
        tried = ([Said(SYSTEM, "\ue000lead\ue001"), *talk], talk)
        return {"thinking": found} if all(self._holds(form | {"thinking": found}, True, each) for each in tried) else {}

    def _trims(self) -> bool:
        """Whether white space around a user's text is left out."""
        said = f" {_SAID[0]}\n"
        return said not in self._made([Said(USER, said)])

    def _joins(self) -> bool:
        """Whether messages of the model that follow one another are one turn."""
        one, two, three = _SAID
        _, _, between, _ = self._around(Said(USER, one), Said(MODEL, two), Said(MODEL, three))
        return between == ""

    def _thoughts(self) -> dict[str, str] | None:
        """What is around thoughts that are left out."""
        one, two, three = _SAID
        made = self._made([Said(USER, one), Said(MODEL, f"{OPEN}{two}{CLOSE}{three}"), Said(USER, one)])
        return None if two in made else {"open": OPEN, "close": CLOSE}

    def _special(self) -> set[str]:
        tokenizer = self._processor.tokenizer.backend_tokenizer
        return {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}

    def _holds(self, form: Form, thinking: bool, messages: Sequence[Said]) -> bool:
        """Whether a form writes what the template does."""
        return self._made(messages, thinking) == written(form, messages, thinking=thinking)

    def _made(self, messages: Sequence[Said], thinking: bool = False) -> str:
        said = [{"role": message.role, "content": message.text} for message in messages]
        return self._renderer.shown(self._renderer.render(said, thinking=thinking).text)

    def _around(self, *messages: Said, thinking: bool = False) -> list[str]:
        return _around(self._made(messages, thinking), [message.text for message in messages])


def _around(text: str, said: Sequence[str]) -> list[str]:
    """What surrounds messages in a text.

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


def _behind(text: str, begin: str) -> str:
    """Raises: InputError: the text does not begin so."""
    if not text.startswith(begin):
        raise InputError("the chat template writes turns otherwise at times")
    return text.removeprefix(begin)


def _before(text: str, end: str) -> str:
    """Raises: InputError: the text does not end so."""
    if not text.endswith(end):
        raise InputError("the chat template writes turns otherwise at times")
    return text.removesuffix(end)
