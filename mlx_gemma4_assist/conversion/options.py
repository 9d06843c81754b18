"""What a conversion is asked for: every option in one place, checked before anything is read or downloaded."""

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..backend import DTYPES
from ..checkpoints.hub import public_name
from ..errors import OptionError
from ..machine.chip import FormatChoice
from .formats import AFFINE, Predicate, choose_format
from .upload import check_repo_id

PathOrRepo = str | os.PathLike[str]

NONE = "none"
"""The assistant of a target that is converted alone."""
DEFAULT_SHARD_SIZE = "5GB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_M1 = 13  # the chip on which auto chooses among the most formats
_SUFFIX = "-assistant"

COMMAND = "python -m mlx_gemma4_assist convert"
_CHECKPOINTS = ("hf_path", "assistant_model")
_PATHS = ("mlx_path", "assistant_path", "text")
_NOT_IN_COMMAND = ("force", "max_shard_size", "upload_repo")


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """How a target and its assistant are converted; mlx-lm's options of ``convert`` have mlx-lm's names.

    Attributes:
        hf_path: the target: a repo on the Hub, a folder, or an alias; or an assistant to be converted alone.
        mlx_path: the folder to write.
        revision: of the target's repo.
        assistant_model: the assistant; None looks for the one that belongs to the target, "none" leaves it out.
        assistant_path: the folder to write it to; None is ``mlx_path`` + "-assistant", where ``assistant_for``
            finds it.
        q_mode: affine, mxfp4, mxfp8, nvfp4, or auto: what suits the chip.
        q_bits, q_group_size: None leaves them to the mode or the recipe.
        quant_predicate: a name out of ``RECIPES``, or a function of path, layer and config.json, see ``Predicate``.
        dtype: float32, bfloat16 or float16 of all that is not packed; None leaves it to the checkpoint.
        text: a file; the conversion is compared with the original over it. None is a bundled text.
        quantize: whether to quantize, in the format of the ``q_`` options; ``dequantize``: whether to unpack.
        text_only: whether towers are left out.
        check: whether to compare with the original; None does so for small models, see ``convert.SMALL``.
        force: whether checkpoints that are there already are replaced.
        max_shard_size: of the files written, such as "5GB".
        upload_repo: where on the Hub the target goes; its assistant goes to the same with "-assistant".

    Raises:
        OptionError: a value out of its range, a format that MLX does not have, or options that do not go together.
    """

    hf_path: PathOrRepo
    mlx_path: PathOrRepo = "mlx_model"
    revision: str | None = None
    assistant_model: PathOrRepo | None = None
    assistant_path: PathOrRepo | None = None
    q_mode: str = AFFINE
    q_bits: int | None = None
    q_group_size: int | None = None
    quant_predicate: str | Predicate | None = None
    dtype: str | None = None
    text: PathOrRepo | None = None
    quantize: bool = False
    dequantize: bool = False
    text_only: bool = False
    check: bool | None = None
    force: bool = False
    max_shard_size: str = DEFAULT_SHARD_SIZE
    upload_repo: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise OptionError("{dtype} is {value!r}, expected " + ", ".join(DTYPES), value=self.dtype)
        if self.text is not None and self.check is False:
            raise OptionError("{text} was given to compare over, but no comparison is wanted")
        if self.assistant_path is not None and self.assistant_model == NONE:
            raise OptionError("{assistant_path} is for an assistant, but {assistant_model} is none")
        parse_size(self.max_shard_size)
        if self.upload_repo is not None:
            check_repo_id(self.upload_repo)
        self._check_format()

    def _check_format(self) -> None:
        if self.quantize and self.dequantize:
            raise OptionError("either {quantize} or {dequantize}, not both")
        if self.quantize:
            self.choose_format(_M1)
            return
        given = {"q_bits": self.q_bits, "q_group_size": self.q_group_size, "quant_predicate": self.quant_predicate}
        given["q_mode"] = None if self.q_mode == AFFINE else self.q_mode
        for name, value in given.items():
            if value is not None:
                raise OptionError(f"{{{name}}} says how to quantize, which takes {{quantize}}")

    def choose_format(self, generation: int | None) -> FormatChoice | None:
        """The general format, and why; None without quantization.

        Args:
            generation: of the Apple GPU that ``q_mode`` auto chooses for, from ``chip_generation``; None is a CPU.

        Raises:
            OptionError: a format that MLX does not have.
        """
        if not self.quantize:
            return None
        recipe = self.quant_predicate if isinstance(self.quant_predicate, str) else None
        return choose_format(self.q_mode, self.q_bits, self.q_group_size, generation, recipe)

    @property
    def folder(self) -> Path:
        """Where the target is written."""
        return Path(self.mlx_path).expanduser().absolute()

    @property
    def assistant_folder(self) -> Path:
        """Where its assistant is written."""
        if self.assistant_path is not None:
            return Path(self.assistant_path).expanduser().absolute()
        return self.folder.with_name(self.folder.name + _SUFFIX)

    @property
    def assistant_repo(self) -> str | None:
        """Where the assistant is uploaded to, the target to ``upload_repo``."""
        repo = self.upload_repo
        return repo if repo is None or repo.endswith(_SUFFIX) else repo + _SUFFIX

    @property
    def max_shard_bytes(self) -> int:
        return parse_size(self.max_shard_size)

    def command(self) -> str:
        """The command that converts so, for others to read: of paths their last names, of a predicate its name."""
        words: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in _NOT_IN_COMMAND or value in (None, False) or (option.name, value) == ("q_mode", AFFINE):
                continue
            words.append(f"--{option.name.replace('_', '-')}")
            if value is not True:
                words.append(_shown(option.name, value))
        return f"{COMMAND} {shlex.join(words)}"


def _shown(option: str, value: Any) -> str:
    """A value as a card may show it: without the folders of whoever converted."""
    if option in _CHECKPOINTS and value != NONE:
        return public_name(value)
    if option in _PATHS:
        return Path(value).expanduser().absolute().name
    return value.__name__ if callable(value) else str(value)


def parse_size(size: str) -> int:
    """Bytes of a size such as 5GB or 500MB, as in transformers' ``max_shard_size``.

    Raises:
        OptionError: no such size.
    """
    text = size.strip().upper()
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit).strip()
        if text.endswith(unit) and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            return int(float(number) * factor)
    expected = f"expected a number and a unit, such as {DEFAULT_SHARD_SIZE}"
    raise OptionError(f"{{max_shard_size}} is {{value!r}}, {expected}", value=size)
