"""What begins with a slash: commands, told from text, and run."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import InputError
from . import slash_options as options
from . import slash_stored as stored
from . import slash_turns as turns
from .compare import compare
from .completion import PATH, Completions
from .dropped import dropped
from .setting import SETTABLE, spelled
from .style import Terminal
from .talk import Talk

Run = Callable[[Talk, str], None]
Values = Callable[[Talk], Sequence[str]]


class Command(NamedTuple):
    """A command.

    Attributes:
        run: does it, with what was typed behind its name. It raises InputError over what cannot be done.
        usage: its arguments, for the help.
        help: what it does.
        values: that may follow it, for completion.
    """

    run: Run
    usage: str
    help: str
    values: Values | None = None


class Typed(NamedTuple):
    """A command that was typed: its name, without the slash, and what is behind it."""

    name: str
    argument: str


def _needs_no_talk(talk: Talk, argument: str) -> None:
    """What ``at_once`` does instead."""


def _paths(talk: Talk) -> Sequence[str]:
    return (PATH,)


def _switch(talk: Talk) -> Sequence[str]:
    return ("on", "off")


AT_ONCE = ("help", "quit")
"""Commands that need nobody who answers."""
GOING_ON = ("image", "audio", "video", "set", "thinking", "context", "stats", "sessions")
"""Commands that leave a message that is being edited as it is."""
COMMANDS: Mapping[str, Command] = {
    "help": Command(_needs_no_talk, "[COMMAND]", "show this, or the line of one command", lambda _: tuple(COMMANDS)),
    "reset": Command(turns.reset, "", "begin a new conversation; this one stays saved"),
    "undo": Command(turns.undo, "", "take back files that wait, else the last exchange"),
    "retry": Command(turns.retry, "", "answer the last message once more"),
    "edit": Command(turns.edit, "[N]", "change the last message, or the N-th"),
    "branches": Command(turns.branches, "", "list what /undo, /retry and /edit have left behind"),
    "switch": Command(turns.switch, "N", "go on with another branch", turns.branch_numbers),
    "system": Command(turns.system, "[TEXT|none]", "show the system prompt, or set another one"),
    "set": Command(options.set_option, "[NAME VALUE]", "list the options of generation, or set one", options.names),
    "thinking": Command(
        options.thinking, "off|on|N", "whether the model thinks first, N tokens at most", lambda _: ("off", "on")
    ),
    "image": Command(stored.image, "PATH", "show a picture with the next message", _paths),
    "audio": Command(stored.audio, "PATH", "let a sound be heard with the next message", _paths),
    "video": Command(stored.video, "PATH", "show a video with the next message", _paths),
    "drafts": Command(options.drafts, "[on|off]", "colour tokens by which draft of a round they were", _switch),
    "assistant": Command(options.assistant, "on|off", "decode with drafts, or without", _switch),
    "compare": Command(compare, "", "the last answer without drafts: same text? slower?"),
    "save": Command(stored.save, "[NAME]", "keep the conversation, under a name of its own"),
    "load": Command(stored.load, "NAME", "go on with a saved conversation", stored.names),
    "sessions": Command(stored.sessions, "", "list saved conversations"),
    "export": Command(stored.export_to, "FILE", "write it to a new file, .md or .json", _paths),
    "copy": Command(stored.copy_answer, "", "put the last answer on the clipboard"),
    "stats": Command(options.stats, "", "what the answers took so far"),
    "context": Command(options.context, "", "how much of the model's context is used"),
    "quit": Command(_needs_no_talk, "", "leave"),
}
LETTERS = {"q": "quit", "r": "reset", "h": "help"}
"""As in mlx-lm, alone on a line."""
KEYS = """\
q, r, h alone on a line: /quit, /reset, /help
Alt-Enter, or a \\ at a line's end, begins another line; \""" encloses several
Ctrl-C ends an answer and keeps it, Ctrl-T ends a thought, Ctrl-D leaves
A picture, sound or video that is dropped here goes with the message
What begins with // or with the path of a file is text"""


def help_text() -> str:
    """All commands, a line each, and keys."""
    longest = max(len(_call(name)) for name in COMMANDS)
    return "\n".join([*(f"{_call(name):<{longest}}  {each.help}" for name, each in COMMANDS.items()), KEYS])


def _help_of(argument: str) -> str:
    """Of what was typed behind /help.

    Raises:
        InputError: that is no command.
    """
    if not argument:
        return help_text()
    name = argument.removeprefix("/").lower()
    if name not in COMMANDS:
        raise _no_command(f"/{name}")
    return f"{_call(name)}  {COMMANDS[name].help}"


def _call(name: str) -> str:
    return f"/{name} {COMMANDS[name].usage}".rstrip()


def typed(text: str) -> Typed | None:
    """The command that a message is; None if it is text.

    Raises:
        InputError: it looks like a command, and there is none of that name.
    """
    line = text.strip()
    if line in LETTERS:
        return Typed(LETTERS[line], "")
    if not line.startswith("/") or line.startswith("//"):
        return None
    first = line.split(maxsplit=1)[0]
    name = first[1:].lower()
    if name in COMMANDS:
        return Typed(name, line[len(first) :].strip())
    if name and _is_path(line):
        return None
    raise _no_command(first)


def _no_command(typed: str) -> InputError:
    nearest = difflib.get_close_matches(typed[1:].lower(), COMMANDS, 1, 0.5)
    meant = f", perhaps /{nearest[0]}" if nearest else ""
    return InputError(f"there is no command {typed:.40}{meant}: /help lists them, // begins text with a slash")


def at_once(terminal: Terminal, command: Typed) -> bool:
    """Do what needs nobody who answers; whether the person leaves.

    Raises:
        InputError: it cannot be done.
    """
    _check_argument(command)
    if command.name == "help":
        terminal.note(_help_of(command.argument))
    return command.name == "quit"


def _check_argument(command: Typed) -> None:
    if command.argument and not COMMANDS[command.name].usage:
        raise InputError(f"/{command.name} takes nothing behind it, // begins text with a slash")


def run(talk: Talk, command: Typed) -> None:
    """Do what was typed.

    Raises:
        InputError: it cannot be done.
        KeyboardInterrupt: Ctrl-C was pressed twice while an answer was made.
    """
    _check_argument(command)
    talk.stopped = False
    if command.name not in GOING_ON:
        talk.edited = None
    COMMANDS[command.name].run(talk, command.argument)


def completions(talk: Callable[[], Talk | None]) -> Completions:
    """What is completed behind a slash; what takes a conversation to know, once there is one."""
    helps = {f"/{name}": command.help for name, command in COMMANDS.items()}
    arguments: dict[str, Callable[[], Sequence[str]]] = {}
    for name, command in COMMANDS.items():
        if command.values is not None:
            arguments[f"/{name}"] = _values_of(command.values, talk)
    for name in SETTABLE:
        arguments[f"/set {spelled(name)}"] = lambda: (PATH, "default")
    return Completions(helps, arguments)


def _values_of(values: Values, talk: Callable[[], Talk | None]) -> Callable[[], Sequence[str]]:
    def found() -> Sequence[str]:
        there = talk()
        return () if there is None else values(there)

    return found


def _is_path(line: str) -> bool:
    """Whether a line begins with the path of something that is there."""
    if "\0" in line:
        return False
    return bool(dropped(line, {})[1]) or os.path.exists(line) or os.path.exists(line.split()[0])
