"""A chunk or a restore point on disk, in a file of its own: it loads whole, as it was written, and by its name only.

``docs/prefix_cache.md`` describes the format, which is that of ``file.py`` but for what it says of the arrays: they may
be of any type and number.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from operator import index
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..backend import dtype_name
from ..errors import InputError
from ..files import parse_json, replacing
from .chain import FORMAT_VERSION, link
from .file import array_of, opened, read_hashed, write_hashed
from .file_header import ALIGNMENT, damaged, read_raw_header

FORMAT = "mlx_gemma4_assist prefix cache"

_DTYPES = {
    "F32": mx.float32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "U32": mx.uint32,
    "U16": mx.uint16,
    "U8": mx.uint8,
}
_CODES = {dtype_name(dtype): code for code, dtype in _DTYPES.items()}


class NotOurs(InputError):
    """A file of another model, format or version: nothing is wrong with it."""


@dataclass(frozen=True)
class Piece:
    """What a file says of itself.

    Attributes:
        fingerprint: of the target whose keys and values it holds.
        parent: the name of the chunk before it, or of the root.
        position: how many tokens there are up to its end.
        tokens: the last of them, those behind its parent, whose keys and values it holds.
    """

    fingerprint: str
    parent: str
    position: int
    tokens: tuple[int, ...]

    @property
    def name(self) -> str:
        return link(self.parent, self.tokens)


def write_piece(path: Path, piece: Piece, arrays: Mapping[str, mx.array]) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
        write_hashed(file, _header(piece, arrays), arrays.values())


def piece_bytes(piece: Piece, arrays: Mapping[str, mx.array]) -> int:
    """How long its file is."""
    return 8 + len(_header(piece, arrays)) + sum(array.nbytes for array in arrays.values())


def read_piece(path: Path, fingerprint: str) -> Piece:
    """What a file says of itself, by its header.

    Raises:
        NotOurs: it is of another format, version or target.
        InputError: it cannot be read, or is damaged as far as can be seen.
    """
    with opened(path) as file:
        _, about, entries, data_bytes = read_raw_header(file, path)
        piece = _parsed(about, fingerprint, path)
        _check_entries(entries, data_bytes, path)
        return piece


def load_piece(path: Path, fingerprint: str) -> tuple[Piece, dict[str, mx.array]]:
    """A file's arrays, by their names. Errors as for :func:`read_piece`."""
    with opened(path) as file:
        raw, about, entries, data_bytes = read_raw_header(file, path)
        piece = _parsed(about, fingerprint, path)
        sizes = _check_entries(entries, data_bytes, path)
        contents = zip(entries.items(), read_hashed(file, raw, sizes, path), strict=True)
        arrays = {
            name: array_of(content, _DTYPES[entry["dtype"]], entry["shape"]) for (name, entry), content in contents
        }
    return piece, arrays


def _header(piece: Piece, arrays: Mapping[str, mx.array]) -> bytes:
    about = {"sha256": "0" * 64, "format": FORMAT, "format_version": str(FORMAT_VERSION), "version": __version__}
    about |= {"fingerprint": piece.fingerprint, "parent": piece.parent}
    about["position"] = str(piece.position)
    about["tokens"] = json.dumps(piece.tokens, separators=(",", ":"))
    entries: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        code = _CODES[dtype_name(array.dtype)]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % ALIGNMENT)


def _parsed(about: Any, fingerprint: str, path: Path) -> Piece:
    """Raises:
    InputError: as :func:`read_piece`.
    """
    expected = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "version": __version__}
    names = {"sha256", *expected, *(each.name for each in fields(Piece))}
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise damaged(path, "its header does not say what it is")
    if any(about.get(name) != text for name, text in expected.items()):
        raise NotOurs(f"{path} is of another format or version than {FORMAT_VERSION} and {__version__}")
    if about.keys() != names:
        raise damaged(path, f"its header is not made of {', '.join(sorted(names))}")
    if about["fingerprint"] != fingerprint:
        raise NotOurs(f"{path} was made with another model, or another conversion of it")
    try:
        position, tokens = (parse_json(about[name], name) for name in ("position", "tokens"))
        piece = Piece(about["fingerprint"], about["parent"], index(position), tuple(tokens))
        named = piece.name
    except (ValueError, TypeError, OverflowError):
        raise damaged(path, "its tokens are no list of ids") from None
    if not path.name.startswith(named):
        raise damaged(path, "it has another's name")
    return piece


def _check_entries(entries: Mapping[str, Any], data_bytes: int, path: Path) -> list[int]:
    """The bytes of each array.

    Raises:
        InputError: arrays that are not one behind the other, of a type that nothing is stored in, or not all there.
    """
    sizes, end = [], 0
    try:
        for entry in entries.values():
            sizes.append(prod(entry["shape"]) * _DTYPES[entry["dtype"]].size)
            if entry["data_offsets"] != [end, end + sizes[-1]]:
                raise damaged(path, "its arrays do not lie one behind the other")
            end += sizes[-1]
    except (KeyError, TypeError):
        raise damaged(path, "its header does not describe its arrays") from None
    if end != data_bytes:
        raise damaged(path, f"{data_bytes} bytes of keys and values are there, and there should be {end}")
    return sizes
