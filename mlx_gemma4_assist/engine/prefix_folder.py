"""A folder of restore points, with a limit in bytes: what one process has read, the next need not read again.

A file for each chunk and each point, named by what precedes: two processes that write the same name write the same
content, and files are whole or not there. What was not used for longest goes first, whoever wrote it. Files that do not
load are left out with one line; nothing that is wrong with the folder keeps an engine from working.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import mlx.core as mx

from ..cache.chain import CHUNK
from ..cache.piece_file import NotOurs, Piece, load_piece, piece_bytes, read_piece, write_piece
from ..cache.points import Part
from ..errors import InputError
from ..files import remove_unfinished, why_not_written

_NAME = re.compile(r"[0-9a-f]{32}\.(chunk|point)\.safetensors")
_log = logging.getLogger(__name__)

PointParts = tuple[Part, Part, mx.array | None]
"""The tail of full layers, the windows of sliding layers, and a hidden state: ``prefix.State``."""


class PrefixFolder:
    """Points and chunks in files.

    Args:
        folder: made if it is not there, readable by its owner only.
        limit: bytes that its files of points and chunks take at most; files of other names are left alone.
        fingerprint: of the target whose files these are; those of others only count.

    Raises:
        InputError: there is something else by that name, or it cannot be made.
    """

    def __init__(self, folder: Path, limit: int, fingerprint: str):
        self._folder, self._limit, self._fingerprint = folder, limit, fingerprint
        self._writes = True
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep a prefix cache in {folder}: {error.strerror}") from None
        remove_unfinished(folder, ".")

    def scan(self) -> Iterator[Piece]:
        """The points that there are, by their headers; one line on the files that are left out."""
        foreign = 0
        for path, _ in self._files():
            try:
                piece = read_piece(path, self._fingerprint)
            except NotOurs:
                foreign += 1
                continue
            except InputError as error:
                _remove(path, error)
                continue
            if path.name.endswith(".point.safetensors"):
                yield piece
        if foreign:
            _log.warning("%s: %d files of another model, format or version are left out", self._folder, foreign)

    def has_point(self, name: str) -> bool:
        return self._point(name).exists()

    def load_chunk(self, name: str) -> Part | None:
        """What a chunk holds; None if it is not there, or damaged."""
        arrays = self._load(self._chunk(name))
        return None if arrays is None else _part(arrays, "full")

    def load_point(self, name: str) -> PointParts | None:
        """What a point holds; None if it is not there, or damaged."""
        arrays = self._load(self._point(name))
        if arrays is None:
            return None
        return _part(arrays, "full"), _part(arrays, "sliding"), arrays.get("hidden")

    def save(self, chain: Sequence[str], parts: Sequence[Part], tokens: Sequence[int], point: PointParts) -> bool:
        """Write a point, and the chunks before it that are not there: whether all is there now.

        Args:
            chain: the names of the root and of the chunks.
            parts: what these hold.
            tokens: all before the point.
            point: what it holds besides.
        """
        tail, window, hidden = point
        arrays = _named(tail, "full") | _named(window, "sliding") | ({} if hidden is None else {"hidden": hidden})
        pieces = [
            (self._chunk(name), self._piece(parent, tokens, CHUNK * i, CHUNK * (i + 1)), _named(part, "full"))
            for i, (parent, name, part) in enumerate(zip(chain, chain[1:], parts, strict=False))
        ]
        last = self._piece(chain[-1], tokens, CHUNK * len(parts), len(tokens))
        pieces.append((self._point(last.name), last, arrays))
        if sum(piece_bytes(piece, arrays) for _, piece, arrays in pieces) > self._limit:
            return False
        return all(self._write(*each) for each in pieces)

    def _piece(self, parent: str, tokens: Sequence[int], begin: int, end: int) -> Piece:
        return Piece(self._fingerprint, parent, end, tuple(tokens[begin:end]))

    def _chunk(self, name: str) -> Path:
        return self._folder / f"{name}.chunk.safetensors"

    def _point(self, name: str) -> Path:
        return self._folder / f"{name}.point.safetensors"

    def _load(self, path: Path) -> dict[str, mx.array] | None:
        if not path.exists():  # another process needed the room
            return None
        try:
            _, arrays = load_piece(path, self._fingerprint)
        except InputError as error:
            _remove(path, error)
            return None
        _touch(path)
        return arrays

    def _write(self, path: Path, piece: Piece, arrays: Mapping[str, mx.array]) -> bool:
        """Write a file if it is not there; after an error no more are written."""
        if path.exists():
            return _touch(path)
        if not self._writes:
            return False
        self._make_room(piece_bytes(piece, arrays))
        try:
            write_piece(path, piece, arrays)
        except OSError as error:
            self._writes = False
            _log.warning("cannot write to the prefix cache %s: %s", self._folder, why_not_written(error))
        return self._writes

    def _make_room(self, needed: int) -> None:
        """Remove the files that were not used for longest, until there is room."""
        files = sorted(self._files(), key=lambda each: each[1].st_mtime_ns)
        total = sum(about.st_size for _, about in files)
        for path, about in files:
            if total + needed <= self._limit:
                return
            with suppress(OSError):
                path.unlink()
                total -= about.st_size

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Those that are points or chunks, of whichever model."""
        found = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process may have removed it
                    if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat()))
        return found


def _remove(path: Path, error: InputError) -> None:
    """A file that does not load goes, so that it can be written anew."""
    _log.warning("%s; it is left out", error)
    with suppress(OSError):
        path.unlink()


def _touch(path: Path) -> bool:
    """A file was used now; False if it is no longer there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # nobody may write to it
    return True


def _named(part: Part, kind: str) -> dict[str, mx.array]:
    """A part's arrays by names from which ``_part`` makes it again."""
    return {f"{kind}.{i}.{j}": array for i, layer in enumerate(part) for j, array in enumerate(layer)}


def _part(arrays: Mapping[str, mx.array], kind: str) -> Part:
    layers: dict[int, list[mx.array]] = {}
    for name, array in arrays.items():  # in the order in which they were written
        prefix, _, rest = name.partition(".")
        if prefix == kind:
            layers.setdefault(int(rest.partition(".")[0]), []).append(array)
    return tuple(map(tuple, layers.values()))
