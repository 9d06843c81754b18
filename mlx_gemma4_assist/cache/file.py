"""Rows on disk: a safetensors file that loads only where it belongs, whole, and as it was written.

``docs/prompt_cache.md`` describes the format. A file is read in three steps, each of which refuses what it can: its
header, which says what it holds; the header against a model, from which the size of every array follows; the arrays,
whose bytes must have the hash that the header names. Nothing is allocated before the file is known to be long enough.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..backend import dtype_name
from ..errors import InputError
from ..files import replacing, why_not_written
from ..models.config import FULL, Gemma4TextConfig
from .file_header import (
    DIGITS,
    Contents,
    Header,
    Tensor,
    check_belongs,
    check_rows,
    check_tensors,
    damaged,
    digest_of,
    header_of,
    read_header,
    tensors_of,
)
from .layout import CacheLayout, grown_size
from .rows import KVCache
from .store import Buffers, Layer, moved_to_ring, padded

PathLike = str | os.PathLike[str]


def save_prompt_cache(file_name: PathLike, cache: KVCache, metadata: Mapping[str, str] | None = None) -> None:
    """Write a cache to a file, from which ``load_prompt_cache`` makes an equal one; the name is mlx-lm's.

    What was there before is replaced when all is written, and only the owner may read the file: it holds what was said.
    Memory is needed for one more layer's keys and values.

    Args:
        file_name: by custom ends with .safetensors.
        cache: of any number of rows. It can be used further.
        metadata: to be kept with it.

    Raises:
        InputError: an empty cache, one without a target's fingerprint, metadata that is no text, a file that cannot be
            written.
    """
    path = Path(file_name)
    contents = _contents(cache, dict(metadata or {}))
    tensors = tensors_of(contents, cache.layout.config)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    try:
        with replacing(path) as file:
            write_hashed(file, header_of(contents, tensors), _stored(cache.buffers, tensors))
    except OSError as error:
        raise InputError(f"cannot write {path}: {why_not_written(error)}") from error


def read_contents(path: Path) -> Contents:
    """What a file holds, by its header.

    Raises:
        InputError: it cannot be read, is none of this format and version, or is damaged as far as can be seen.
    """
    with opened(path) as file:
        return read_header(file, path).contents


def read_cache(
    path: Path, config: Gemma4TextConfig, dtype: mx.Dtype, fingerprint: str, slack: int = 0
) -> tuple[KVCache, dict[str, str]]:
    """A cache as it was written, and the metadata that was kept with it.

    Args:
        path: of the file.
        config: of the target.
        dtype: what the target computes in.
        fingerprint: of the target.
        slack: what the rings are to have at least; they are never made smaller.

    Raises:
        InputError: as :func:`read_contents`; a file of another target or dtype; a damaged one.
    """
    with opened(path) as file:
        header = read_header(file, path)
        contents = header.contents
        check_belongs(contents, dtype, fingerprint, path)
        check_rows(contents, config, path)
        tensors = tensors_of(contents, config)
        check_tensors(header, tensors, path)
        arrays = _read_arrays(file, header, tensors, path)
    layout = CacheLayout(config, max(slack, contents.slack), dtype, contents.quantization)
    buffers = _restored(layout, contents, arrays)
    return KVCache.of(layout, fingerprint, buffers, contents.tokens, _bounds(layout, contents)), contents.metadata


# Writing


def _contents(cache: KVCache, metadata: dict[str, str]) -> Contents:
    """Raises:
    InputError: what :func:`save_prompt_cache` does not write.
    """
    if not any(cache.lengths):
        raise InputError("the prompt cache is empty: there is nothing to save")
    if cache.fingerprint is None:
        raise InputError("the prompt cache names no model, whose keys and values it would hold")
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise InputError("the metadata of a prompt cache must be strings by strings")
    layout, tokens = cache.layout, [list(row) for row in cache.tokens]
    dtype = dtype_name(layout.dtype)
    return Contents(cache.fingerprint, dtype, layout.slack, layout.quantization, tokens, cache.written, metadata)


def _stored(buffers: Buffers, tensors: Sequence[Tensor]) -> Iterator[mx.array]:
    """The part of each buffer that is written, one after the other."""
    arrays = [array for layer in buffers for array in layer]
    for array, tensor in zip(arrays, tensors, strict=True):
        yield array[:, :, : tensor.shape[2]]


def write_hashed(file: BinaryIO, header: bytes, arrays: Iterable[mx.array]) -> None:
    """A header with zeros for its hash, the arrays one behind the other, and then the hash of all."""
    file.write(len(header).to_bytes(8, "little") + header)
    digest = digest_of(header)
    for array in arrays:
        if not array.size:
            continue
        content = memoryview(array.reshape(-1).view(mx.uint8))  # type: ignore[arg-type]  # the stubs lack the protocol
        digest.update(content)
        file.write(content)
    file.seek(8 + DIGITS.start)
    file.write(digest.hexdigest().encode())


# Reading


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Raises:
    InputError: a file that is not there, is none, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for who writes to it
            raise InputError(f"cannot read the prompt cache {path}: it is no file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read the prompt cache {path}: {error.strerror}") from None


def _read_arrays(file: BinaryIO, header: Header, tensors: Sequence[Tensor], path: Path) -> list[mx.array]:
    """All arrays, once their bytes are those that were written.

    Raises:
        InputError: they are not.
    """
    sizes = [each.nbytes for each in tensors]
    contents = zip(tensors, read_hashed(file, header.raw, sizes, path), strict=True)
    return [array_of(content, each.dtype, each.shape) for each, content in contents]


def array_of(content: NDArray[np.uint8], dtype: mx.Dtype, shape: Sequence[int]) -> mx.array:
    """An array from its bytes, of which there may be none."""
    return mx.array(content).view(dtype).reshape(shape) if content.size else mx.zeros(shape, dtype)


def read_hashed(file: BinaryIO, header: bytes, sizes: Iterable[int], path: Path) -> Iterator[NDArray[np.uint8]]:
    """The bytes of one array after the other; only where all were taken are they known to be those that were written.

    Raises:
        InputError: they are not.
    """
    digest = digest_of(header)
    for size in sizes:
        content = np.empty(size, np.uint8)
        if size and file.readinto(content.data) != size:  # type: ignore[attr-defined]  # typeshed knows some files' only
            raise damaged(path, "it has become shorter")
        digest.update(content.data)
        yield content
    if digest.hexdigest().encode() != header[DIGITS]:
        raise damaged(path, "it does not hold what was written")


def _restored(layout: CacheLayout, contents: Contents, arrays: list[mx.array]) -> Buffers:
    """A cache's buffers, with the slots that are not stored; one layer after the other, so that memory suffices."""
    made: list[Layer] = []
    arrays.reverse()
    for layer, kind in enumerate(layout.kinds):
        parts = layout.parts(layer, len(contents.tokens), grown_size(contents.size))
        restored = tuple(
            padded(arrays.pop(), part.shape[2]) if kind == FULL else _restored_ring(layout, contents, arrays.pop())
            for part in parts
        )
        mx.eval(restored)  # no host read: the file's bytes can go, and any thread may use what is made
        made.append(restored)
    return tuple(made)


def _restored_ring(layout: CacheLayout, contents: Contents, array: mx.array) -> mx.array:
    array = padded(array, layout.window + contents.slack)
    return array if layout.slack == contents.slack else moved_to_ring(array, contents.lengths, layout.ring)


def _bounds(layout: CacheLayout, contents: Contents) -> list[int]:
    """``written`` of each row: a ring that was smaller holds no more positions than before."""
    ring = layout.window + contents.slack
    return [end + layout.ring - ring if end > ring else end for end in contents.written]
