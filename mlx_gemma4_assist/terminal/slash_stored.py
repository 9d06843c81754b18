"""Commands on what messages show, and on where conversations go: the store, files, the clipboard."""

import shlex
import time
from collections.abc import Callable, Sequence

from ..engine.session import Session
from ..errors import InputError
from ..text.messages import Kind
from .attached import check_taken, named, text_of
from .clipboard import copy
from .export import export
from .paths import written_path
from .talk import Talk

MOST_LISTED = 20


def image(talk: Talk, argument: str) -> None:
    """Show a picture with the next message."""
    _attach(talk, Kind.PICTURE, argument)


def audio(talk: Talk, argument: str) -> None:
    """Let a sound be heard with the next message."""
    _attach(talk, Kind.SOUND, argument)


def video(talk: Talk, argument: str) -> None:
    """Show a video with the next message."""
    _attach(talk, Kind.VIDEO, argument)


def _attach(talk: Talk, kind: Kind, argument: str) -> None:
    check_taken(talk.backend.model, kind)
    if not argument:
        raise InputError(f"/{kind.value} takes the path of a {kind.noun}")
    talk.attach(named(kind, argument, talk.counts()))


def save(talk: Talk, argument: str) -> None:
    """Keep the conversation, under a name of its own if there is one."""
    _check_said(talk)
    entry = talk.keeping.entry or talk.keeping.begin()
    if argument:
        entry.rename(argument)
    entry.save(talk.session.session)
    talk.say(f"Saved as {entry.name}: --resume {shlex.quote(entry.name)} goes on with it.")


def _check_said(talk: Talk) -> None:
    if all(message["role"] == "system" for message in talk.session.messages):
        raise InputError("nothing has been said yet")


def load(talk: Talk, argument: str) -> None:
    """Go on with a stored conversation."""
    if not argument:
        raise InputError("/load takes a name: /sessions lists them")
    talk.keeping.save(talk.session)
    session = talk.keeping.open(argument)
    talk.session.load_session(session)
    talk.forget()
    entry = talk.keeping.entry
    greet(talk.say, argument if entry is None else entry.name, session)


def greet(say: Callable[[str], None], name: str, session: Session) -> None:
    """Say where a conversation that goes on has come to."""
    say(f"{name}: {session.turns} {'turn' if session.turns == 1 else 'turns'} so far.")
    for message in session.messages[-2:]:
        sign = ">> " if message["role"] == "user" else ""
        lines = text_of(message).strip().splitlines() or [""]
        say(sign + lines[0] + (" ..." if len(lines) > 1 else ""))
    if session.messages and session.messages[-1]["role"] == "user":
        say("That was not answered: /retry does it.")


def names(talk: Talk) -> Sequence[str]:
    """Of stored conversations."""
    try:
        return [saved.name for saved in talk.keeping.store.list()]
    except InputError:  # which who types /sessions is told
        return []


def sessions(talk: Talk, argument: str) -> None:
    """List stored conversations, the latest first."""
    saved = talk.keeping.store.list()
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(each.updated))}  {each.name}  ({each.turns})  {each.title}"
        for each in saved[:MOST_LISTED]
    ]
    if len(saved) > MOST_LISTED:
        lines.append(f"and {len(saved) - MOST_LISTED} more in {talk.keeping.store.folder}")
    talk.say("\n".join(lines) if lines else "No conversation is saved.")


def export_to(talk: Talk, argument: str) -> None:
    """Write the conversation to a file."""
    if not argument:
        raise InputError("/export takes a file that ends in .md or .json")
    _check_said(talk)
    path = written_path(argument)
    export(talk.session.session, path)
    talk.say(f"Written: {path}")


def copy_answer(talk: Talk, argument: str) -> None:
    """Put the last answer on the clipboard."""
    answers = [message for message in talk.session.messages if message["role"] == "assistant"]
    if not answers:
        raise InputError("there is no answer yet")
    where = copy(text_of(answers[-1]))
    if where is None:
        raise InputError("no clipboard was found: pbcopy, wl-copy, xclip, or a terminal that takes OSC 52")
    talk.say(f"Copied, by {where}.")
