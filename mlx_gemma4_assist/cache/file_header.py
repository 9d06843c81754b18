"""The header of a file of rows: what it says of them, and what of that is believed.

A safetensors header, whose metadata hold everything that a cache is but its keys and values. From them and a target's
configuration the name, type, size and place of every array follow, and a header that says otherwise is refused.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import mlx.core as mx

from .. import __version__
from ..backend import DTYPES, dtype_name
from ..errors import InputError
from ..files import parse_json
from ..models.config import FULL, Gemma4TextConfig
from ..options import KV_BITS, KV_GROUP_SIZES, MAX_KV_START
from .layout import CacheLayout
from .quantization import KVQuantization

FORMAT = "mlx_gemma4_assist prompt cache"
FORMAT_VERSION = 2  # to be raised when files written before must not be read any more
LARGEST_SLACK = 4096  # slots; what 32 drafts per round take is 96
LARGEST_HEADER = 100_000_000  # bytes, as for all safetensors

_BEGIN = b'{"__metadata__":{"sha256":"'  # of every header; 64 digits follow
DIGITS = slice(len(_BEGIN), len(_BEGIN) + 64)
ALIGNMENT = 8
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "uint32": "U32"}


@dataclass(frozen=True)
class Contents:
    """What a file says of the rows that it holds.

    Attributes:
        fingerprint: of the target whose keys and values they are.
        dtype: of these, by its name; where they are quantized, before that.
        slack: slots of the rings beyond the window.
        quantization: of layers with full attention; None where they are dense.
        tokens: for each row, the ids whose keys and values are valid.
        written: for each row, an upper bound of the positions ever written.
        metadata: whatever the caller wanted to be kept.
    """

    fingerprint: str
    dtype: str
    slack: int
    quantization: KVQuantization | None
    tokens: list[list[int]]
    written: list[int]
    metadata: dict[str, str]

    @property
    def lengths(self) -> list[int]:
        """For each row, its committed length."""
        return [len(row) for row in self.tokens]

    @property
    def size(self) -> int:
        """Slots of linear buffers that are stored: those of the longest row."""
        return max(self.lengths)

    def ring(self, config: Gemma4TextConfig) -> int:
        """Slots of rings that are stored: those that were ever written."""
        return min(config.sliding_window + self.slack, max(self.written))


class Tensor(NamedTuple):
    """An array's entry in a header."""

    name: str
    shape: tuple[int, int, int, int]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size


# Writing


def tensors_of(contents: Contents, config: Gemma4TextConfig) -> list[Tensor]:
    """The arrays of a file, in their order."""
    layout = CacheLayout(config, contents.slack, DTYPES[contents.dtype], contents.quantization)
    found = []
    for layer, kind in enumerate(layout.kinds):
        for name, (rows, heads, slots, width), dtype in layout.parts(layer, len(contents.tokens), contents.size):
            kept = slots if kind == FULL else contents.ring(config)
            found.append(Tensor(f"layers.{layer}.{name}", (rows, heads, kept, width), dtype))
    return found


def header_of(contents: Contents, tensors: Sequence[Tensor]) -> bytes:
    """A header with zeros for its hash."""
    values = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=vars)
        for name, value in vars(contents).items()
    }
    about = {"sha256": "0" * 64, "format": FORMAT, "format_version": str(FORMAT_VERSION), "version": __version__}
    encoded = json.dumps({"__metadata__": about | values} | _entries(tensors), separators=(",", ":"))
    return encoded.encode() + b" " * (-len(encoded) % ALIGNMENT)


def _entries(tensors: Sequence[Tensor]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    end = 0
    for each in tensors:
        begin, end = end, end + each.nbytes
        stored = _STORED[dtype_name(each.dtype)]
        entries[each.name] = {"dtype": stored, "shape": list(each.shape), "data_offsets": [begin, end]}
    return entries


def digest_of(header: bytes) -> "hashlib._Hash":
    """The hash of a header without its digits; to be continued with what follows it."""
    digest = hashlib.sha256(len(header).to_bytes(8, "little"))
    digest.update(header[: DIGITS.start])
    digest.update(header[DIGITS.stop :])
    return digest


# Reading


class Header(NamedTuple):
    """A file's header.

    Attributes:
        raw: its bytes.
        contents: what it says of the rows.
        entries: what it says of the arrays.
        data_bytes: how long the file is behind it.
    """

    raw: bytes
    contents: Contents
    entries: dict[str, Any]
    data_bytes: int


def damaged(path: Path, why: str) -> InputError:
    return InputError(f"the prompt cache {path} is damaged: {why}")


def read_header(file: BinaryIO, path: Path) -> Header:
    raw, about, entries, data_bytes = read_raw_header(file, path)
    return Header(raw, _parse(about, path), entries, data_bytes)


def read_raw_header(file: BinaryIO, path: Path) -> tuple[bytes, Any, dict[str, Any], int]:
    """A header's bytes, its metadata, its entries of arrays, and how long the file is behind it.

    Raises:
        InputError: it does not begin as what this package writes, or is no JSON.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    begin = file.read(len(_BEGIN))
    if begin != _BEGIN:
        raise InputError(f"{path} is no prompt cache that this package has written, or is damaged")
    if not len(_BEGIN) < length <= min(size - 8, LARGEST_HEADER):
        raise damaged(path, "it ends within its header")
    raw = begin + file.read(length - len(begin))
    try:
        content = parse_json(raw.decode(), "its header")
    except (InputError, UnicodeDecodeError):
        raise damaged(path, "its header is not valid JSON") from None
    about = content.pop("__metadata__")  # which it begins with
    return raw, about, content, size - 8 - length


def _parse(about: Any, path: Path) -> Contents:
    """What a header's metadata say, each value of its kind.

    Raises:
        InputError: another format or version; something missing, or of another kind.
    """
    expected = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "version": __version__}
    names = [each.name for each in fields(Contents)]
    if not isinstance(about, dict) or not all(isinstance(about.get(name), str) for name in expected):
        raise damaged(path, "its header does not say what wrote it")
    found = {name: about[name] for name in expected}
    if found != expected:
        raise InputError(
            f"the prompt cache {path} was written by version {found['version']:.20} of this package in format "
            f"{found['format_version']:.20}, and this is version {__version__} with format {FORMAT_VERSION}: "
            "it must be made anew"
        )
    if about.keys() != {"sha256", *expected, *names} or not all(isinstance(about[name], str) for name in names):
        raise damaged(path, f"its header is not made of {', '.join(names)}")
    try:
        parsed = {name: parse_json(about[name], name) for name in names if name not in ("fingerprint", "dtype")}
    except InputError as error:
        raise damaged(path, str(error)) from None
    parsed["quantization"] = _quantization(parsed["quantization"], path)
    contents = Contents(about["fingerprint"], about["dtype"], **parsed)
    _check_kinds(contents, path)
    return contents


def _quantization(value: Any, path: Path) -> KVQuantization | None:
    """Raises:
    InputError: it is none that this package makes.
    """
    if value is None:
        return None
    names = [each.name for each in fields(KVQuantization)]
    if isinstance(value, dict) and list(value) == names and all(map(_is_number, value.values())):
        found = KVQuantization(**value)
        if found.bits in KV_BITS and found.group_size in KV_GROUP_SIZES and 0 <= found.start <= MAX_KV_START:
            return found
    raise damaged(path, "its keys and values are quantized in no way that is known")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_kinds(contents: Contents, path: Path) -> None:
    """Raises:
    InputError: a value that is of another kind than ``Contents`` says, or in no range that any model has.
    """
    tokens, written, metadata = contents.tokens, contents.written, contents.metadata
    if not isinstance(tokens, list) or not all(isinstance(row, list) for row in tokens) or not any(tokens):
        raise damaged(path, "its tokens are no lists of ids")
    if not all(_is_number(token) for row in tokens for token in row):
        raise damaged(path, "its tokens are no lists of ids")
    if not isinstance(written, list) or len(written) != len(tokens) or not all(map(_is_number, written)):
        raise damaged(path, "what was written is no list with a number for each row")
    if not _is_number(contents.slack) or not 0 <= contents.slack <= LARGEST_SLACK:
        raise damaged(path, f"its slack is no number from 0 to {LARGEST_SLACK}")
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise damaged(path, "its metadata are not strings by strings")
    if contents.dtype not in DTYPES:
        raise damaged(path, f"its dtype is none of {', '.join(DTYPES)}")


def check_belongs(contents: Contents, dtype: mx.Dtype, fingerprint: str, path: Path) -> None:
    """Raises:
    InputError: the rows are another target's.
    """
    if contents.dtype != dtype_name(dtype):
        raise InputError(f"the prompt cache {path} is in {contents.dtype}, but the model is in {dtype_name(dtype)}")
    if contents.fingerprint != fingerprint:
        raise InputError(f"the prompt cache {path} was made with another model, or another conversion of it")


def check_rows(contents: Contents, config: Gemma4TextConfig, path: Path) -> None:
    """Raises:
    InputError: rows that the target cannot have.
    """
    if contents.quantization is not None:
        try:
            contents.quantization.check(config)
        except InputError as error:
            raise damaged(path, str(error)) from None
    context = config.max_position_embeddings
    for row, written in zip(contents.tokens, contents.written, strict=True):
        if row and max(row) >= config.vocab_size:
            raise damaged(path, f"the token id {max(row)} is beyond the vocabulary")
        if not len(row) <= min(written, context) or written > context + contents.slack:
            raise damaged(
                path, f"a row has {len(row)} tokens and {written} written positions in a context of {context}"
            )


def check_tensors(header: Header, tensors: Sequence[Tensor], path: Path) -> None:
    """Raises:
    InputError: other arrays than those that follow from the rows, or a file of another length.
    """
    if header.entries != _entries(tensors):
        raise damaged(path, "its arrays do not fit its tokens")
    expected = sum(each.nbytes for each in tensors)
    if header.data_bytes != expected:
        raise damaged(path, f"{header.data_bytes} bytes of keys and values are there, and there should be {expected}")
