"""The file of a saved chat: JSON with what a list of chats tells first, and the session behind it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parse_json, read_json

FORMAT = "mlx_gemma4_assist chat"
VERSION = 1
SUFFIX = ".json"

_LAST = 2**37  # seconds: well before the year 9999, the last that calendars have
_TEXTS = dict.fromkeys(("revision", "title", "model"), (str,))
_KINDS: dict[str, tuple[type, ...]] = {**_TEXTS, "updated": (int, float), "turns": (int,), "session": (dict,)}


@dataclass(frozen=True)
class ChatFile:
    """What a file holds.

    Attributes:
        revision: another one for each time that the chat was saved, by whomever.
        title: what it is about, in one line.
        model: the id of the one that answered last.
        updated: seconds since 1970.
        turns: answered messages on the current branch.
        session: as ``Session.saved`` has it, with references in place of media.
    """

    revision: str
    title: str
    model: str
    updated: float
    turns: int
    session: dict[str, Any]

    def encoded(self, name: str) -> bytes:
        """The bytes of the file.

        Raises:
            InputError: it would not be read again, such as where a call's arguments are nested too deep.
        """
        content = {"format": FORMAT, "version": VERSION, **vars(self)}
        try:
            text = json.dumps(content, ensure_ascii=False, indent=1)
        except RecursionError:
            raise InputError(f"the chat {name} is nested too deep to be saved") from None
        parse_json(text, f"the chat {name}")
        return text.encode("utf-8", "backslashreplace")  # halves of surrogate pairs, escaped as JSON has them


def read_chat(path: Path) -> ChatFile:
    """A saved chat.

    Raises:
        InputError: it cannot be read, is no chat, a later version's, or damaged.
    """
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        raise InputError(f"{path} holds no chat")
    version = content.pop("version", None)
    if type(version) is int and version > VERSION:
        raise InputError(f"the chat {path.stem} was saved by a later version of this program")
    known = {name: value for name, value in content.items() if name in _KINDS}
    if version != VERSION or not _is_whole(known):
        raise InputError(f"{path} is damaged: it holds no whole chat")
    return ChatFile(**known)


def _is_whole(content: dict[str, Any]) -> bool:
    right = (isinstance(content[name], kind) and type(content[name]) is not bool for name, kind in _KINDS.items())
    return content.keys() == _KINDS.keys() and all(right) and 0 <= content["updated"] < _LAST
