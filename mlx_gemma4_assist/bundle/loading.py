"""Opening a bundle: everything that it names is looked at before anything is run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx

from ..checkpoints.weights import lazy_tensors
from ..errors import InputError, first_line
from ..files import decode_text
from .manifest import CONSTANTS, MANIFEST, Kept, read_manifest
from .operations import TYPES
from .program import Program, read_program
from .tensor_files import Header, Tensor, read_header

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """A program for pieces of a prompt of these lengths."""

    least: int
    most: int
    program: Program


class Bundle:
    """A bundle that is whole. Weights are read when they are evaluated.

    Args:
        folder: of the bundle.

    Attributes:
        manifest: what it says of itself.
        rounds: by the manner of drawing, the program for each number of drafts from 0 on.
        reads: the programs for pieces of a prompt, shortest first.
        kept: the weights, in their order.

    Raises:
        InputError: it is no bundle, of another version, damaged, or a file of weights is not the one that it was made
            for; one sentence.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._texts = self._checked_files()
        self._headers = self._checked_weight_files()
        self.kept = [self._kept(entry) for entry in self._field("weights", list)]
        self._check_tensors()
        programs = self._field("programs", dict)
        self.rounds = {
            way: [self._program(each) for each in self._in(programs, way, list)] for way in programs if way != "read"
        }
        self.reads = [
            Reading(
                self._in(each, "least", int), self._in(each, "most", int), self._program(self._in(each, "file", str))
            )
            for each in self._in(programs, "read", list)
        ]

    def _field(self, name: str, kind: type[T]) -> T:
        return self._in(self.manifest, name, kind)

    def _in(self, values: Any, name: str, kind: type[T]) -> T:
        found = values.get(name) if isinstance(values, dict) else None
        if not isinstance(found, kind):
            raise self._damaged(f"{name} is {found!r:.50}")
        return found

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.folder / MANIFEST} is damaged: {why}")

    def _path(self, name: str) -> Path:
        """A file that the manifest names."""
        if "\0" in name or name.encode(errors="replace").decode() != name:
            raise self._damaged(f"{name!r:.100} can be no file's name")
        return self.folder / name

    def _inside(self, name: str) -> Path:
        """A file of the bundle's own."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise self._damaged(f"{name:.100} is not in the bundle")
        return self._path(name)

    def _checked_files(self) -> dict[str, bytes]:
        """The content of the small files, which are what the manifest says."""
        found = {}
        for name, said in self._field("files", dict).items():
            path = self._inside(name)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
            if len(content) != self._in(said, "bytes", int):
                raise InputError(f"{path} has {len(content)} bytes, and {said['bytes']} are expected: it is cut off")
            if hashlib.sha256(content).hexdigest() != self._in(said, "sha256", str):
                raise InputError(f"{path} is not the file that the bundle was written with")
            found[name] = content
        return found

    def _checked_weight_files(self) -> list[tuple[Path, Header]]:
        found = []
        for said in self._field("weight_files", list):
            path = self._path(self._in(said, "path", str))
            header = read_header(path)
            if header.size != self._in(said, "bytes", int) or header.digest != self._in(said, "header_sha256", str):
                raise InputError(f"{path} is not the file of weights that the bundle was made for")
            found.append((path, header))
        return found

    def _kept(self, entry: Any) -> Kept:
        match entry:
            case [str(name), int(file), str(tensor), str(dtype), [*shape]] if (
                0 <= file < len(self._headers) and dtype in TYPES and all(isinstance(size, int) for size in shape)
            ):
                return Kept(name, file, tensor, TYPES[dtype], tuple(shape))
        raise self._damaged(f"{entry!r:.100} is no weight")

    def _check_tensors(self) -> None:
        for each in self.kept:
            path, header = self._headers[each.file]
            if header.tensors.get(each.tensor) != Tensor(each.dtype, each.shape):
                raise InputError(
                    f"{path} has no {each.tensor:.100} of {each.dtype} {each.shape}, which the bundle needs"
                )

    def _program(self, name: Any) -> Program:
        if not isinstance(name, str) or name not in self._texts:
            raise self._damaged(f"{name!r:.100} is no file of the bundle")
        program = read_program(decode_text(self._texts[name], str(self.folder / name)), str(self.folder / name))
        if program.weights != len(self.kept) or program.constants != self._field("constants", int):
            raise InputError(f"{self.folder / name} belongs to another bundle")
        return program

    @cached_property
    def constants(self) -> list[mx.array]:
        """In their order.

        Raises:
            InputError: one is not there.
        """
        path = self.folder / CONSTANTS
        arrays = lazy_tensors(path)
        names = [str(number) for number in range(self._field("constants", int))]
        if arrays.keys() != {*names}:
            raise InputError(f"{path} does not have the constants that the bundle needs")
        return [arrays[name] for name in names]

    def weights(self) -> list[mx.array]:
        """In their order; read when they are evaluated, in this thread."""
        files = [lazy_tensors(path) for path, _ in self._headers]
        return [files[each.file][each.tensor] for each in self.kept]


def fitting(reads: Sequence[Reading], count: int) -> Reading:
    """The program that reads so many tokens at once, as many as the longest can."""
    return next(each for each in reads if count <= each.most)
