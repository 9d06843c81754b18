"""Safetensors files of a bundle: where a network's tensors lie, and files of one's own, written tensor by tensor."""

import hashlib
import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..checkpoints.weights import checked_files, lazy_tensors
from ..errors import InputError, first_line
from ..files import parse_json
from ..models.network import Network, named_parameters

_LENGTH = 8  # bytes before a header, which say how long it is
MOST_HEADER = 100 << 20  # bytes; safetensors' own limit
_STORED: dict[str, mx.Dtype] = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "I64": mx.int64,
    "I32": mx.int32,
    "U32": mx.uint32,
    "U16": mx.uint16,
    "U8": mx.uint8,
    "BOOL": mx.bool_,
}
_NAMES = {dtype: name for name, dtype in _STORED.items()}


class Tensor(NamedTuple):
    """What a file says of an array."""

    dtype: mx.Dtype | None
    shape: tuple[int, ...]


class Header(NamedTuple):
    """What a file has: tensors by name, bytes in all, and a digest of the part that says so."""

    tensors: dict[str, Tensor]
    size: int
    digest: str


def read_header(path: Path) -> Header:
    """The header of a safetensors file.

    Raises:
        InputError: the file is missing, cut off or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 2 <= length <= min(size, MOST_HEADER):
                raise InputError(f"{path} is no safetensors file, or cut off")
            text = file.read(length)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
    try:
        content = parse_json(text.decode(), str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path} is damaged: its header is no text") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: its header is no object")
    entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
    room = size - _LENGTH - length
    tensors = {name: _tensor(path, name, entry, room) for name, entry in entries.items()}
    return Header(tensors, size, hashlib.sha256(text).hexdigest())


def _tensor(path: Path, name: str, entry: Any, room: int) -> Tensor:
    """One entry of a header; its bytes have to be there, and as many as its shape says."""
    try:
        dtype, shape = _STORED.get(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        fits = all(isinstance(each, int) and each >= 0 for each in (*shape, begin, end)) and begin <= end <= room
        whole = fits and (dtype is None or end - begin == prod(shape) * dtype.size)
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{path} is damaged: {name:.100} is {entry!r:.100}") from None
    if not whole:
        raise InputError(f"{path} is cut off or damaged: {name:.100} is not all there")
    return Tensor(dtype, shape)


def tensors_as_they_lie(folder: Path, network: Network) -> dict[str, tuple[Path, str]]:
    """The parameters of a network that a checkpoint's file has just so: by name, the file and the tensor's name.

    Raises:
        InputError: a file that is missing or damaged.
    """
    parameters = {name: Tensor(array.dtype, array.shape) for name, array in named_parameters(network).items()}
    found = {}
    for path in checked_files(folder):
        for name, array in lazy_tensors(path).items():
            for own, made in network.sanitize({name: array}).items():
                same = made.shape == array.shape and made.dtype == array.dtype
                if same and parameters.get(own) == Tensor(array.dtype, array.shape):
                    found[own] = path, name
    return found


def write_tensors(path: Path, tensors: dict[str, mx.array]) -> None:
    """Write arrays to a safetensors file, one after the other; each is let go of once it is written.

    Args:
        tensors: empty afterwards.

    Raises:
        OSError: the file cannot be written.
    """
    header = _header(tensors)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _LENGTH)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(_LENGTH, "little") + encoded)
        for name in header:
            if name != "__metadata__":
                file.write(bytes_of(tensors.pop(name)))
                mx.clear_cache()
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """Widest types first: every tensor then begins at a multiple of its element's size, without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].dtype.size):
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    return header


def bytes_of(array: mx.array) -> memoryview:
    """An array's content, as it lies in a file."""
    flat = mx.contiguous(array).reshape(-1)
    return memoryview(flat.view(mx.uint8) if flat.size else mx.zeros((0,), mx.uint8))  # type: ignore[arg-type]  # the stubs lack the buffer protocol
