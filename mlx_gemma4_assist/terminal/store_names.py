"""Names of saved chats: file names on every file system, made from what was said or given by a person."""

import re
import time
import unicodedata
from collections.abc import Collection, Sequence

from ..errors import InputError
from ..text.messages import SOURCES, Kind, Message

MOST_BYTES = 120
"""Of a name in UTF-8; file systems take 255 with what is put around it."""

_NUMBER_BYTES = 12  # of what free_name puts behind it
_WORDS = 5
_MADE_BYTES = 80
_TITLE = 60  # characters
_SIGNS = " -_."


def checked_name(name: str) -> str:
    """A person's name for a chat, composed (NFC) and without blanks around it.

    Raises:
        InputError: it is no name that a file can have everywhere.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not is_name(name) or len(name.encode()) > MOST_BYTES:
        raise InputError(
            f"{name!r:.80} is no name for a chat: it begins with a letter or a digit, "
            f"has letters, digits, blanks and -_. in it, and takes at most {MOST_BYTES} bytes"
        )
    return name


def is_name(name: str) -> bool:
    """Whether a chat may be called so."""
    fits = 0 < len(name.encode("utf-8", "replace")) <= MOST_BYTES + _NUMBER_BYTES
    return fits and name[0].isalnum() and name[-1] not in " ." and all(map(_may_stand, name))


def made_name(messages: Sequence[Message]) -> str:
    """A name from today's date and the first words that a person has said."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", _first_text(messages).lower()))[:_WORDS]
    text = "-".join(words).encode("utf-8", "ignore")[:_MADE_BYTES].decode("utf-8", "ignore")
    text = "".join(filter(_may_stand, text)).rstrip("-")
    return f"{time.strftime('%Y-%m-%d')}-{text or 'chat'}"


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or the first of name-2, name-3 and so on that is not taken. ``taken``: names as ``alike`` has them."""
    found, number = name, 1
    while alike(found) in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def alike(name: str) -> str:
    """What two names have in common that some file system takes for the same one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def title(messages: Sequence[Message]) -> str:
    """One line on what a chat is about: what a person has said first."""
    return printable(_first_text(messages), _TITLE) or "(nothing said yet)"


def printable(text: str, most: int) -> str:
    """A text from a file or a person in one line of at most so many characters, fit for any terminal."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text[: 20 * most]).split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def _may_stand(character: str) -> bool:
    """Letters, their marks, and digits of every script."""
    return character in _SIGNS or unicodedata.category(character)[0] in "LMN"


def _first_text(messages: Sequence[Message]) -> str:
    """Of the first message of a person's; the kind of what it shows if it says nothing."""
    content = next((message.get("content") for message in messages if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    parts = content or ()
    text = " ".join(part["text"] for part in parts if part["type"] == "text").strip()
    return text or next((Kind(part["type"]).noun for part in parts if part["type"] in SOURCES), "")
