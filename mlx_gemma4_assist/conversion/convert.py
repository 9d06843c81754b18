"""The whole of a conversion: plan, write, compare with the original, write the cards, upload."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from ..checkpoints.loading import load_assistant, load_model
from ..engine.pair import Pair
from ..errors import InputError
from ..evaluation.quality import Quality, bundled_text, measure_quality
from ..files import read_text
from ..machine.chip import chip_generation
from ..text.processor import Processor
from .card import BUNDLED_TEXT, CardFacts, read_source, write_card
from .formats import AFFINE, Predicate
from .options import DEFAULT_SHARD_SIZE, ConversionOptions, PathOrRepo
from .pair import Conversion, plan_pair
from .plan import Plan
from .upload import Upload, upload_folder
from .writing import Progress, no_progress, write_pair

SMALL = 4e9  # bytes; up to here the comparison is worth its time and memory unasked


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


def convert(
    hf_path: PathOrRepo,
    mlx_path: PathOrRepo = "mlx_model",
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
    assistant_model: PathOrRepo | None = None,
    assistant_path: PathOrRepo | None = None,
    text_only: bool = False,
    force: bool = False,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    check: bool | None = None,
    text: PathOrRepo | None = None,
) -> Result:
    """Convert a target and its assistant to MLX folders, quantized or not; mlx-lm's ``convert`` for pairs.

    Memory stays at a few hundred MB whatever the size of the model, but for the comparison with the original.

    Args:
        hf_path: a repo on the Hub, a folder or an alias.
        mlx_path: the folder to write.
        quantize, q_group_size, q_bits, q_mode, dtype, upload_repo, revision, dequantize, quant_predicate: as mlx-lm
            has them. These and all others: see ``ConversionOptions``.

    Raises:
        InputError: one sentence on what is missing, damaged, in the way, or cannot be written; an ``OptionError``
            before anything is read where it is an option's fault.
    """
    options = ConversionOptions(
        hf_path=hf_path,
        mlx_path=mlx_path,
        revision=revision,
        assistant_model=assistant_model,
        assistant_path=assistant_path,
        q_mode=q_mode,
        q_bits=q_bits,
        q_group_size=q_group_size,
        quant_predicate=quant_predicate,
        dtype=dtype,
        text=text,
        quantize=quantize,
        dequantize=dequantize,
        text_only=text_only,
        check=check,
        force=force,
        max_shard_size=max_shard_size,
        upload_repo=upload_repo,
    )
    return run(options)


def run(
    options: ConversionOptions,
    *,
    planned: Callable[[Conversion], None] = lambda conversion: None,
    converting: Progress = no_progress,
    comparing: Progress = no_progress,
) -> Result:
    """Convert, and tell what happens meanwhile.

    Args:
        planned: called once everything is decided, before anything is written.
        converting: called with (bytes read, bytes to read).
        comparing: called with (pieces of the text compared, pieces in all).

    Raises:
        InputError: as ``convert``.
    """
    text = bundled_text() if options.text is None else _read(options.text)
    conversion = plan_pair(options, _generation())
    tokens = _tokens(conversion, text)
    planned(conversion)
    write_pair(conversion, converting)
    quality = None if tokens is None else _compare(conversion, tokens, comparing)
    for plan in conversion.plans:
        write_card(plan.folder, _facts(conversion, plan, quality))
    return Result(conversion, quality, _upload(conversion))


def _generation() -> int | None:
    """The generation of this machine's GPU; None without Metal."""
    if not mx.metal.is_available():
        return None
    info = mx.device_info()
    return chip_generation(str(info.get("architecture"))) or chip_generation(str(info.get("device_name")))


def _read(file: PathOrRepo) -> str:
    """The text to compare over that a user gave."""
    return read_text(Path(file).expanduser())


def _tokens(conversion: Conversion, text: str) -> list[int] | None:
    """The ids of the text to compare over; None if nothing is to be compared."""
    options, target = conversion.options, conversion.target
    asked = options.check or options.text is not None
    if target is None:
        if asked:
            raise InputError("there is no target to compare with: the assistant is converted alone")
        return None
    if not asked and (options.check is False or conversion.source_bytes >= SMALL):
        return None
    try:
        processor = Processor.from_pretrained(target.source)
    except InputError:
        if asked:
            raise
        return None
    return processor.encode(text, chat=False)


def _compare(conversion: Conversion, tokens: list[int], progress: Progress) -> Quality:
    plans = conversion.plans
    original, converted = _load(*(plan.source for plan in plans)), _load(*(plan.folder for plan in plans))
    eos = Processor.from_pretrained(plans[0].folder).eos_token_ids
    return measure_quality(original, converted, tokens, eos_token_ids=eos, progress=progress)


def _load(target: Path, assistant: Path | None = None) -> Pair:
    return Pair(load_model(target), None if assistant is None else load_assistant(assistant))


def _upload(conversion: Conversion) -> list[Upload]:
    repos = [_repo(conversion, plan) for plan in conversion.plans]
    return [upload_folder(plan.folder, repo) for plan, repo in zip(conversion.plans, repos, strict=True) if repo]


def _repo(conversion: Conversion, plan: Plan) -> str | None:
    options = conversion.options
    return options.assistant_repo if plan.is_assistant else options.upload_repo


def _facts(conversion: Conversion, plan: Plan, quality: Quality | None) -> CardFacts:
    options = conversion.options
    names = {each.is_assistant: _repo(conversion, each) or each.folder.name for each in conversion.plans}
    return CardFacts(
        name=names[plan.is_assistant],
        source=read_source(plan.name, plan.source, text_only=plan.text_only),
        recipe=plan.recipe.describe() if plan.recipe else str(plan.config.get("dtype", "as it was")),
        bytes=plan.bytes,
        bits_per_weight=plan.bits_per_weight,
        command=options.command(),
        companion=names.get(not plan.is_assistant),
        is_assistant=plan.is_assistant,
        quantized=plan.recipe is not None,
        quality=quality,
        text=BUNDLED_TEXT if options.text is None else f"of {Path(options.text).name}",
    )
