"""Files: their text and JSON, checked; and files that appear whole or not at all."""

import errno
import fcntl
import glob
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, first_line

DEEPEST = 100
"""Objects and lists within one another, of which the files of a checkpoint have five or so."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_UNFINISHED = ".unfinished"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, which may begin with a byte order mark.

    Raises:
        InputError: the file is missing, unreadable, no JSON, nested too deep, or holds something else than an object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    except ValueError:
        raise InputError(f"cannot read {str(path)!r}: there can be no such file") from None
    content = parse_json(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As ``read_json``; a missing file counts as an empty object."""
    return read_json(path) if path.exists() else {}


def read_part(values: Mapping[str, Any], name: str, *, file: str = "config.json") -> Mapping[str, Any]:
    """The object of a name within another one; null or none at all counts as an empty one.

    Raises:
        InputError: there is something else by that name.
    """
    part = values.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise InputError(f"{file}: {name} is {part!r:.100}, expected an object")
    return part


def _is_deep(content: object) -> bool:
    """Whether a JSON value is nested deeper than what messages can quote without recursion being exhausted."""
    level = [content]
    for _ in range(DEEPEST):
        lists = [part for part in level if isinstance(part, list)]
        objects = [part for part in level if isinstance(part, dict)]
        level = [each for part in lists for each in part] + [each for part in objects for each in part.values()]
        if not level:
            return False
    return True


def read_text(path: Path) -> str:
    """The text of a file. A byte order mark is not part of it, and every line ends with a line feed.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return decode_text(content, str(path))


def decode_text(content: bytes, name: str) -> str:
    """The text of bytes that were read from what the caller calls ``name``; as ``read_text``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, name: str) -> Any:
    """What JSON says, of whatever kind.

    Raises:
        InputError: it is no JSON, or nested deeper than what messages can quote.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deep") from None
    if _is_deep(content):
        raise InputError(f"{name} is nested too deep: more than {DEEPEST} objects and lists within one another")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends without an error.

    Only its owner can read it. An error or an interrupt leaves what was there before, and nothing beside it. A process
    that was killed leaves a hidden file, which the next one that writes to ``path`` removes. Of several processes that
    write at the same time the last one wins.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    prefix = f".{path.name}-"
    remove_unfinished(path.parent, prefix)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())  # here, where a full disk can still be told
            os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def remove_unfinished(folder: Path, prefix: str) -> None:
    """Remove what killed processes have left: what nobody holds locked."""
    for left in folder.glob(f"{glob.escape(prefix)}*{_UNFINISHED}"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def why_not_written(error: OSError) -> str:
    """The reason, for a sentence that says what cannot be written."""
    return "the disk is full" if error.errno in _NO_SPACE else error.strerror or first_line(error)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as ``replacing`` has the files' content; where a file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def held(path: Path, patience: float = 10) -> Iterator[None]:
    """Hold a file locked, which is made if it is not there: blocks that hold the same one run one by one.

    A file system without locks lets them run side by side.

    Args:
        path: of the file, which stays.
        patience: seconds.

    Raises:
        InputError: another process has held it for all that time.
        OSError: it cannot be made.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
        _lock(file, path, time.monotonic() + patience)
        yield


def _lock(file: BinaryIO, path: Path, end: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise InputError(f"another process holds {path}") from None
            time.sleep(0.01)
        except OSError:
            return
        else:
            return
