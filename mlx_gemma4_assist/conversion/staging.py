"""Folders that appear whole or not at all: written beside their destination, and renamed when all are finished."""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from ..files import why_not_written

_UNFINISHED = ".{}.unfinished"
_REPLACED = ".{}.replaced"
_LOCK = ".lock"


def check_destination(destination: Path, force: bool, sources: Sequence[Path] = ()) -> None:
    """Refuse a destination that holds something, or one of the sources.

    Raises:
        InputError: it exists and ``force`` is not set; it is no folder of a checkpoint; it is a source.
    """
    for source in sources:
        if destination.resolve() in (source.resolve(), *source.resolve().parents):
            raise InputError(f"{destination} holds what is to be converted: write to another folder")
    _recover(destination)
    if not destination.exists():
        return
    if not destination.is_dir():
        raise InputError(f"{destination} is a file, expected a folder to write to")
    if not force:
        raise InputError(f"{destination} exists already: name another folder, or replace it with --force")
    if any(destination.iterdir()) and not (destination / "config.json").is_file():
        raise InputError(f"{destination} holds no checkpoint, and is not replaced even with --force")


@contextmanager
def staged(destinations: Sequence[Path], needed_bytes: int) -> Iterator[list[Path]]:
    """Folders to write to; they take the place of their destinations when the block ends without an error.

    An error leaves destinations as they were, and nothing beside or above them. A process that was killed leaves hidden
    folders without a config.json, which the next run removes. One process at a time may write to a destination.

    Args:
        needed_bytes: to be free on the first one's disk.

    Raises:
        InputError: a full disk, a folder that cannot be written, a destination that another process writes to.
    """
    with ExitStack() as stack:
        try:
            for destination in destinations:
                stack.enter_context(_parents(destination.absolute()))
            folders = [stack.enter_context(_unfinished(destination)) for destination in destinations]
            _check_space(destinations[0], needed_bytes)
            yield folders
            for folder, destination in zip(folders, destinations, strict=True):
                _publish(folder, destination)
        except OSError as error:
            raise InputError(f"cannot write {destinations[0]}: {why_not_written(error)}") from error


def _check_space(destination: Path, needed: int) -> None:
    free = shutil.disk_usage(destination.absolute().parent).free
    if free < needed:
        raise InputError(
            f"{destination.absolute().parent} has {free / 1e9:.1f} GB left, and {needed / 1e9:.1f} GB are to be written"
        )


@contextmanager
def _parents(destination: Path) -> Iterator[None]:
    """The folders above a destination are there meanwhile; those that were made for it go again if it never comes."""
    made = [folder for folder in destination.parents if not folder.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


@contextmanager
def _unfinished(destination: Path) -> Iterator[Path]:
    destination = destination.absolute()
    folder = destination.with_name(_UNFINISHED.format(destination.name))
    folder.mkdir(exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing {destination}") from None
        for stale in folder.iterdir():
            if stale.name != _LOCK:
                stale.unlink() if stale.is_file() else shutil.rmtree(stale)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, destination: Path) -> None:
    destination = destination.absolute()
    replaced = destination.with_name(_REPLACED.format(destination.name))
    (folder / _LOCK).unlink()
    if destination.exists():
        destination.rename(replaced)
    folder.rename(destination)
    shutil.rmtree(replaced, ignore_errors=True)


def _recover(destination: Path) -> None:
    """Finish a replacement in which a process was killed: between its two renames, or before it had cleaned up."""
    replaced = destination.absolute().with_name(_REPLACED.format(destination.name))
    if not replaced.is_dir():
        return
    if destination.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(destination)
