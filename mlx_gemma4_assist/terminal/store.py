"""Saved chats, in the user's data folder.

``sessions/NAME.json`` is a chat, ``media/`` holds what chats show, ``cache/`` an engine's prefix cache, and ``history``
the lines that were typed. Only their owner can read them. Files are whole or not there, whatever ends a process, and
one process at a time changes them: who saves a chat that another process has changed meanwhile saves it beside it.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from ..engine.session import Session
from ..errors import InputError
from ..files import held, remove_unfinished, replacing, sync_folder, why_not_written
from .store_file import SUFFIX, ChatFile, read_chat
from .store_media import DIGEST, MediaFolder
from .store_names import alike, checked_name, free_name, is_name, made_name, printable, title

FOLDER_VARIABLE = "MLX_GEMMA4_ASSIST_DATA"
CACHE_BYTES = 4 * 2**30
"""Of keys and values on disk, unless told otherwise."""

PATIENCE = 10.0
"""Seconds for another process to end what it does to the chats."""

_APP = "mlx_gemma4_assist"
_NAMED = 3  # of the chats that share a beginning
_log = logging.getLogger(__name__)


def data_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where chats are kept: ``MLX_GEMMA4_ASSIST_DATA``, else below Application Support or ``XDG_DATA_HOME``.

    Raises:
        InputError: there is no home folder.
    """
    try:
        if own := environ.get(FOLDER_VARIABLE):
            return Path(own).expanduser()
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError:
        raise InputError(f"there is no home folder to keep chats in: {FOLDER_VARIABLE} names another one") from None
    if platform == "darwin":
        return home / "Library" / "Application Support" / _APP
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    # The XDG specification asks for relative paths to be ignored.
    return (shared if shared.is_absolute() else home / ".local" / "share") / _APP


class SavedChat(NamedTuple):
    """A line of the list of chats.

    Attributes:
        name: by which it is opened.
        title: what it is about, in one line.
        model: the id of the one that answered last.
        updated: when it was saved, in seconds since 1970.
        turns: answered messages.
    """

    name: str
    title: str
    model: str
    updated: float
    turns: int


Chats = list[SavedChat]


class Store:
    """All saved chats of a user.

    Args:
        folder: where they are; None is ``data_folder``. It is made when something is written.
        cache_bytes: the most that the files in ``cache_folder`` take; for the engine, which keeps to it.
        notes: takes lines for the person, on what was left out or saved elsewhere.

    Raises:
        InputError: there is no home folder.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        notes: Callable[[str], None] = _log.warning,
    ):
        self.folder = data_folder() if folder is None else folder
        self.cache_bytes = cache_bytes
        self._notes = notes
        self._sessions = self.folder / "sessions"
        self._media_folder = self.folder / "media"
        self._media = MediaFolder(self._media_folder)
        self._looked_at: dict[Path, tuple[tuple[int, ...], SavedChat | None]] = {}

    @property
    def cache_folder(self) -> Path:
        """For the engine's prefix cache, within ``cache_bytes``; it makes it. InputError: the data folder cannot be."""
        with self._told():
            _own(self.folder)
        return self.folder / "cache"

    @property
    def history(self) -> Path:
        """A file for the lines that were typed, which is there. InputError: it cannot be made."""
        path = self.folder / "history"
        with self._told():
            _own(self.folder)
            handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(handle)
            path.chmod(0o600)
        return path

    def begin(self, model: str) -> "Entry":
        """A chat that nothing has been said in; nothing is written before it is saved. ``model``: who answers."""
        return Entry(self, model)

    def open(self, name: str | None = None, *, model: str | None = None) -> tuple["Entry", Session]:
        """A saved chat.

        Args:
            name: its name or an unambiguous beginning of it, in upper or lower case; None is the latest.
            model: who goes on with it; None is the one that it was with.

        Raises:
            InputError: there is none of that name or there are several; it cannot be read, is damaged, or a later
                version's.
        """
        path = self._latest() if name is None else self._found(name)
        file = read_chat(path)
        content, missing = self._media.restored(file.session)
        session = Session.restored(content, str(path))
        if missing:
            self._notes(f"{path.stem} has lost {missing} of its pictures, sounds or videos; it goes on without.")
        if model is not None and model != file.model:
            self._notes(f"{path.stem} was a chat with {printable(file.model, 80)}; {model} reads it again and goes on.")
        return Entry(self, model or file.model, path.stem, file.revision), session

    def list(self) -> Chats:
        """The latest first. What cannot be read is left out, with one line the first time."""
        found = [chat for path in self._paths().values() if (chat := self._look_at(path)) is not None]
        return sorted(found, key=lambda chat: (chat.updated, chat.name), reverse=True)

    def _paths(self) -> dict[str, Path]:
        """The files of chats by their names."""
        try:
            with os.scandir(self._sessions) as entries:
                paths = [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX)]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(f"cannot read the chats in {self._sessions}: {error.strerror}") from None
        return {path.stem: path for path in sorted(paths, key=lambda each: alike(each.stem)) if is_name(path.stem)}

    def _look_at(self, path: Path) -> SavedChat | None:
        """A file's line, read again when the file is another one."""
        try:
            about = path.stat()
        except OSError:  # another process has removed it
            return None
        mark = (about.st_ino, about.st_mtime_ns, about.st_size)
        if path not in self._looked_at or self._looked_at[path][0] != mark:
            self._looked_at[path] = mark, self._line(path)
        return self._looked_at[path][1]

    def _line(self, path: Path) -> SavedChat | None:
        try:
            file = read_chat(path)
        except InputError as error:
            self._notes(f"{error}; it is left out.")
            return None
        shown = printable(file.title, 60), printable(file.model, 80)
        return SavedChat(path.stem, *shown, float(file.updated), file.turns)

    def _latest(self) -> Path:
        chats = self.list()
        if not chats:
            damaged = len(self._paths())
            raise InputError(
                f"none of the chats in {self._sessions} can be read: {damaged} are damaged or another version's"
                if damaged
                else "there is no saved chat yet"
            )
        return self._path(chats[0].name)

    def _found(self, name: str) -> Path:
        paths, wanted = self._paths(), alike(name)
        found = [each for each in paths if each == name] or [each for each in paths if alike(each) == wanted]
        found = found or [each for each in paths if alike(each).startswith(wanted)]
        if not found:
            raise InputError(f"there is no saved chat whose name begins with {name!r:.80}")
        if len(found) > 1:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise InputError(f"{name!r:.80} may be {', '.join(found[:_NAMED])}{more}: say more of the name")
        return paths[found[0]]

    def _path(self, name: str) -> Path:
        return self._sessions / f"{name}{SUFFIX}"

    def _taken(self) -> set[str]:
        return {alike(path.stem) for path in self._sessions.iterdir() if path.name.endswith(SUFFIX)}

    def _sweep(self) -> None:
        """Remove the media that no chat names any more; none of them as long as a chat cannot be read."""
        with suppress(OSError):
            remove_unfinished(self._sessions, ".")
            texts = [path.read_bytes() for path in self._sessions.iterdir() if path.name.endswith(SUFFIX)]
            self._media.sweep({digest.decode() for text in texts for digest in DIGEST.findall(text)})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes chats meanwhile. InputError: nothing can be written, or another process does not end."""
        with self._told():
            for folder in (self.folder, self._sessions, self._media_folder):
                _own(folder)
            with held(self.folder / "lock", PATIENCE):
                yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot keep chats in {self.folder}: {why_not_written(error)}") from None


class Entry:
    """A chat's place in the store.

    Attributes:
        name: under which it is saved; empty until it is saved or named.
        model: the id of who answers.
    """

    def __init__(self, store: Store, model: str, name: str = "", revision: str | None = None):
        self.name = name
        self.model = model
        self._store = store
        self._revisions = set() if revision is None else {revision}  # of which the file may be
        self._media: set[bytes] | None = None  # what the file names; None if there may be others that nothing names

    def save(self, session: Session) -> None:
        """Write the chat: on the disk when this returns, and as it was before if it raises.

        A chat that another process has changed since stays as that has left it, and this one gets a new name.
        Where nothing was said and no name was given, nothing is written.

        Raises:
            InputError: it cannot be written.
        """
        store = self._store
        if not self.name and all(message["role"] == "system" for message in session.messages):
            return
        with store._alone():
            self._settle_name(session)
            before, self._media = self._media, None
            content = self._content(session)
            self._write(content)
            media = set(DIGEST.findall(content))
            if before is None or before - media:
                store._sweep()
            self._media = media

    def rename(self, name: str) -> None:
        """Give it a name; if it is not saved yet, it will be by that one.

        Raises:
            InputError: it is no name, another chat has it, or the file cannot be renamed.
        """
        name, store = checked_name(name), self._store
        with store._alone():
            if alike(name) in store._taken() - {alike(self.name)}:
                raise InputError(f"there is a saved chat {name} already")
            if self.name and store._path(self.name).exists() and not self._is_anothers():
                os.rename(store._path(self.name), store._path(name))
                sync_folder(store._sessions)
            self.name = name

    def delete(self) -> None:
        """Remove it, and the media that no other chat has.

        Raises:
            InputError: another process has changed it since, or it cannot be removed.
        """
        store = self._store
        with store._alone():
            if self._is_anothers():
                raise InputError(f"{self.name} was changed by another chat since it was opened here: it stays")
            store._path(self.name).unlink(missing_ok=True)
            sync_folder(store._sessions)
            store._sweep()

    def _settle_name(self, session: Session) -> None:
        if not self.name:
            self.name = free_name(made_name(session.messages), self._store._taken())
        elif self._is_anothers():
            before, self.name = self.name, free_name(self.name, self._store._taken())
            self._store._notes(f"Another chat has changed {before} meanwhile; this one is saved as {self.name}.")

    def _is_anothers(self) -> bool:
        """Whether the file holds what was not read or written here; what cannot be read was not."""
        path = self._store._path(self.name)
        if not path.exists():
            return alike(self.name) in self._store._taken()
        try:
            return read_chat(path).revision not in self._revisions
        except InputError:
            return True

    def _content(self, session: Session) -> bytes:
        revision = uuid4().hex
        self._revisions.add(revision)  # an error may come when the file is there already
        stored = self._store._media.stored(session.saved())
        about = revision, title(session.messages), self.model, time.time(), session.turns
        return ChatFile(*about, stored).encoded(self.name)

    def _write(self, content: bytes) -> None:
        with replacing(self._store._path(self.name)) as file:
            file.write(content)
        sync_folder(self._store._sessions)


def _own(folder: Path) -> None:
    """Make a folder that only its owner can read.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
