"""Commands on how answers are made and shown, and on what they took."""

from collections.abc import Sequence

from ..errors import InputError, OptionError, counted
from ..server.endpoint import Health
from ..server.exchange import RequestError
from .setting import as_typed, check_grammar_of, listed, option_named, shown, spelled, value_of
from .statistics import legend
from .talk import NUMBER_OF_DRAFTS, Talk
from .thinking import thinking_of, thinking_words

SHOWN_PLACES = 4
GIGABYTE = 1e9
OF_DRAFTS = (NUMBER_OF_DRAFTS, "draft_temperature")
"""Options that only drafts heed."""


def set_option(talk: Talk, argument: str) -> None:
    """List options, or set one."""
    name, _, value = argument.partition(" ")
    if not name:
        talk.say(listed(talk.session.options, talk.settable))
        return
    option = option_named(name, talk.settable)
    if not value.strip():
        raise InputError(f"/set {name} needs a value; /set {name} default takes it back")
    found = value_of(option, value.strip())
    try:
        if found is not None:
            check_grammar_of(option, found)
        talk.session.set_option(option, found)
    except OptionError as error:
        raise as_typed(error) from None
    called = spelled(option)
    talk.say(f"{called} is as without it." if found is None else f"{called} is {shown(value)} from now on.")


def names(talk: Talk) -> Sequence[str]:
    """Of all options, as the command line spells them."""
    return [spelled(name) for name in talk.settable]


def thinking(talk: Talk, argument: str) -> None:
    """Whether the model thinks first."""
    if not argument:
        talk.say(f"Thinking is {thinking_words(talk.session.thinking, talk.session.thinking_budget)}.")
        return
    thinks, budget = thinking_of(argument)
    if thinks and not talk.backend.model.thinking:
        raise InputError("the checkpoint's chat template knows no thinking")
    talk.session.thinking, talk.session.thinking_budget = thinks, budget
    talk.say(f"Thinking is {thinking_words(thinks, budget)} from now on.")


def drafts(talk: Talk, argument: str) -> None:
    """Whether tokens are coloured by which draft they were."""
    talk.look.drafts = _switched(argument, not talk.look.drafts)
    if not talk.look.drafts:
        talk.say("Drafts are not coloured any longer.")
    elif not talk.terminal.colour:
        talk.say("There are no colours here to show drafts with.")
    else:
        talk.say(legend(SHOWN_PLACES))


def assistant(talk: Talk, argument: str) -> None:
    """Whether the assistant drafts."""
    if talk.backend.model.assistant is None:
        raise InputError("there is no assistant: every token is the target's own")
    session = talk.session
    drafts = session.options.get(NUMBER_OF_DRAFTS) != 0
    on = _switched(argument, not drafts)
    if drafts and not on:
        talk.drafting = {name: value for name in OF_DRAFTS if (value := session.options.get(name)) is not None}
        for name in OF_DRAFTS:
            session.set_option(name, None)
        session.set_option(NUMBER_OF_DRAFTS, 0)
    if on and not drafts:
        session.set_option(NUMBER_OF_DRAFTS, None)
        for name, value in talk.drafting.items():
            session.set_option(name, value)
    talk.say("The assistant drafts from now on." if on else "There are no drafts from now on.")


def _switched(argument: str, otherwise: bool) -> bool:
    switch = argument.lower()
    if switch not in ("", "on", "off"):
        raise InputError(f"it is switched on or off, not {argument!r:.40}")
    return switch == "on" if switch else otherwise


def stats(talk: Talk, argument: str) -> None:
    """What the answers took so far."""
    totals, health = talk.totals, _health(talk)
    used = totals.usage
    parts = [f"{counted(totals.answers, 'answer')}, {counted(used.completion_tokens, 'token')}"]
    if used.drafted and used.rounds:
        parts.append(f"{used.completion_tokens / used.rounds:.2f} per round")
        parts.append(f"{used.accepted / used.drafted:.0%} of drafts accepted")
    if totals.seconds:
        parts.append(f"{used.completion_tokens / totals.seconds:.1f} per second")
    lines = [", ".join(parts), _context(talk)]
    if health.active_memory:
        most = max(health.peak_memory, health.active_memory) / GIGABYTE
        lines.append(f"Memory: {health.active_memory / GIGABYTE:.2f} GB, at most {most:.2f} GB")
    talk.say("\n".join(lines))


def _health(talk: Talk) -> Health:
    """Raises:
    InputError: the server is gone.
    """
    try:
        return talk.backend.health()
    except RequestError as error:
        raise InputError(error.message) from None


def context(talk: Talk, argument: str) -> None:
    """How much of the context is used."""
    talk.say(_context(talk))


def _context(talk: Talk) -> str:
    longest, used = talk.backend.model.context, talk.counted()
    return f"Context: {used:,} of {longest:,} tokens ({used / longest:.0%})" if longest else f"Context: {used:,} tokens"
