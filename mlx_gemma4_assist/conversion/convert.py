"""The whole of a conversion: plan, write, compare with the original, write the cards, upload."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import mlx.core as mx

from ..checkpoints.loading import load_assistant, load_model
from ..errors import InputError
from ..evaluation.quality import Pair, Quality, bundled_text, measure_quality
from ..machine.chip import chip_generation
from ..text.processor import Processor
from .card import CardFacts, read_source, write_card
from .formats import AFFINE
from .options import Precision, described
from .pair import Job, PairPlan, Places, plan_pair
from .recipes import Predicate
from .shards import DEFAULT_SHARD_SIZE
from .upload import Upload, check_repo_id, upload_folder
from .writing import Conversion, Converted, write_pair

SMALL = 4e9  # bytes; up to here the comparison is worth its time and memory unasked
_COMMAND = "python -m mlx_gemma4_assist convert"


@dataclass(frozen=True)
class Request:
    """All that a user can ask for.

    Attributes:
        check: whether to compare with the original; None does so for small models, see ``SMALL``.
        text: the file over which to compare; None is a bundled text.
        upload_repo: where to upload the target; its assistant goes to the same with "-assistant".
    """

    places: Places
    precision: Precision
    check: bool | None = None
    text: str | os.PathLike[str] | None = None
    upload_repo: str | None = None


@dataclass(frozen=True)
class Result:
    """What has been done.

    Attributes:
        conversion: the folders.
        quality: what it cost; None if that was not measured.
        uploads: what went to the Hub, or would have without a token.
    """

    conversion: Conversion
    quality: Quality | None = None
    uploads: Sequence[Upload] = field(default_factory=list)


class Listener(Protocol):
    """Told what happens, to show it."""

    def planned(self, plan: PairPlan) -> None:
        """Everything is decided; nothing is written yet."""

    def converting(self, done: int, total: int) -> None:
        """So many bytes have been read, converted and written."""

    def comparing(self, done: int, total: int) -> None:
        """So many pieces of the text have been compared."""


class Silent:
    """A listener that shows nothing."""

    def planned(self, plan: PairPlan) -> None:
        pass

    def converting(self, done: int, total: int) -> None:
        pass

    def comparing(self, done: int, total: int) -> None:
        pass


SILENT = Silent()


def convert(
    hf_path: str | os.PathLike[str],
    mlx_path: str | os.PathLike[str] = "mlx_model",
    quantize: bool = False,
    q_group_size: int | None = None,
    q_bits: int | None = None,
    q_mode: str = AFFINE,
    dtype: str | None = None,
    upload_repo: str | None = None,
    revision: str | None = None,
    dequantize: bool = False,
    quant_predicate: str | Predicate | None = None,
    *,
    assistant_model: str | os.PathLike[str] | None = None,
    assistant_path: str | os.PathLike[str] | None = None,
    text_only: bool = False,
    force: bool = False,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    check: bool | None = None,
    text: str | os.PathLike[str] | None = None,
) -> Result:
    """Convert a target and its assistant to MLX folders, quantized or not; mlx-lm's ``convert`` for pairs.

    Memory stays at a few hundred MB whatever the size of the model, but for the comparison with the original.

    Args:
        hf_path: a repo on the Hub, a folder or an alias.
        mlx_path: the folder to write.
        quantize, q_group_size, q_bits, q_mode, dtype, dequantize, quant_predicate: see ``Precision``.
        upload_repo: where on the Hub the target goes; its assistant goes to the same with "-assistant".
        revision: of the target's repo.
        assistant_model, assistant_path, text_only, force, max_shard_size: see ``Places``.
        check: whether to compare with the original; None does so for models below 4 GB.
        text: the file over which to compare; None is a bundled text.

    Raises:
        InputError: one sentence on what is missing, damaged, in the way, or cannot be written.
    """
    places = Places(hf_path, mlx_path, assistant_model, assistant_path, revision, force, text_only, max_shard_size)
    precision = Precision(quantize, q_bits, q_group_size, q_mode, dtype, dequantize, quant_predicate)
    return run(Request(places, precision, check, text, upload_repo))


def run(request: Request, listener: Listener = SILENT) -> Result:
    """Carry out a request.

    Raises:
        InputError: as ``convert``.
    """
    if request.upload_repo is not None:
        check_repo_id(request.upload_repo)
    if request.text is not None and request.check is False:
        raise InputError("a text was given to compare over, but no comparison is wanted")
    plan = plan_pair(request.places, request.precision, _generation())
    tokens = _tokens(request, plan)
    listener.planned(plan)
    conversion = write_pair(plan, listener.converting)
    quality = None if tokens is None else _compare(conversion, tokens, listener)
    folders = [one for one in (conversion.target, conversion.assistant) if one is not None]
    for one, job in zip(folders, plan.jobs, strict=True):
        write_card(one.folder, _facts(request, conversion, job, one, quality))
    if request.upload_repo is None:
        return Result(conversion, quality)
    names = [_repo(request, one is conversion.assistant) for one in folders]
    uploads = [upload_folder(one.folder, name) for one, name in zip(folders, names, strict=True)]
    return Result(conversion, quality, uploads)


def _generation() -> int | None:
    """Of this machine's GPU."""
    if not mx.metal.is_available():
        return None
    info = mx.device_info()
    return chip_generation(str(info.get("architecture"))) or chip_generation(str(info.get("device_name")))


def _tokens(request: Request, plan: PairPlan) -> list[int] | None:
    """The text to compare over; None if nothing is to be compared."""
    target = plan.jobs[0]
    if target.is_assistant:
        if request.check or request.text is not None:
            raise InputError("there is no target to compare with: the assistant is converted alone")
        return None
    wanted = plan.read_bytes < SMALL if request.check is None else request.check
    if not wanted and request.text is None:
        return None
    try:
        processor = Processor.from_pretrained(target.source)
    except InputError:
        if request.check is None and request.text is None:
            return None
        raise
    return processor.encode(_text(request.text), chat=False)


def _text(file: str | os.PathLike[str] | None) -> str:
    if file is None:
        return bundled_text()
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8") from None


def _compare(conversion: Conversion, tokens: list[int], listener: Listener) -> Quality:
    target, assistant = conversion.target, conversion.assistant
    folders = [(target.source, assistant and assistant.source), (target.folder, assistant and assistant.folder)]
    pairs = [Pair(load_model(one), None if beside is None else load_assistant(beside)) for one, beside in folders]
    eos = Processor.from_pretrained(target.folder).eos_token_ids
    return measure_quality(*pairs, tokens, eos_token_ids=eos, progress=listener.comparing)


def _repo(request: Request, is_assistant: bool) -> str:
    alone = request.upload_repo.endswith("-assistant")
    return f"{request.upload_repo}-assistant" if is_assistant and not alone else request.upload_repo


def _facts(
    request: Request, conversion: Conversion, job: Job, converted: Converted, quality: Quality | None
) -> CardFacts:
    def name(one: Converted) -> str:
        return one.folder.name if request.upload_repo is None else _repo(request, one is conversion.assistant)

    other = conversion.target if job.is_assistant else conversion.assistant
    facts = {} if request.text is None else {"text": f"of {Path(request.text).name}"}
    return CardFacts(
        name=name(converted),
        source=read_source(job.name, job.source, text_only=job.wishes.text_only),
        recipe=_recipe(job),
        bytes=converted.bytes,
        bits_per_weight=converted.bits_per_weight,
        command=command_line(request),
        companion=None if other is None else name(other),
        is_assistant=job.is_assistant,
        quantized=job.wishes.recipe is not None,
        quality=quality,
        **facts,
    )


def _recipe(job: Job) -> str:
    """The formats in words."""
    recipe = job.wishes.recipe
    if recipe is None:
        return str(job.plan.config.get("dtype", "as it was"))
    text = described(recipe.general)
    if callable(recipe.rule):
        return f"{text}; some layers by a predicate"
    return text if recipe.rule is None else f"{text}; the recipe {recipe.rule}"


def command_line(request: Request) -> str:
    """The command that asks for the same; a predicate in Python is named only."""
    places, precision = request.places, request.precision
    rule = precision.quant_predicate
    options = {
        "--hf-path": places.hf_path,
        "--mlx-path": places.mlx_path,
        "--revision": places.revision,
        "--assistant-model": places.assistant_model,
        "--assistant-path": places.assistant_path,
        "--q-mode": None if precision.q_mode == AFFINE else precision.q_mode,
        "--q-bits": precision.q_bits,
        "--q-group-size": precision.q_group_size,
        "--quant-predicate": rule.__name__ if callable(rule) else rule,
        "--dtype": precision.dtype,
        "--text": request.text,
    }
    flags = {"--quantize": precision.quantize, "--dequantize": precision.dequantize, "--text-only": places.text_only}
    flags["--check"] = request.check is True
    given = [word for name, value in options.items() if value is not None for word in (name, os.fspath(str(value)))]
    return f"{_COMMAND} {shlex.join([*given, *(name for name, on in flags.items() if on)])}"
