"""A target and its assistant to convert: where both are and where they go, decided before anything is written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.hub import resolve
from ..checkpoints.pairing import assistant_for
from ..errors import InputError, OptionError
from ..files import read_json, read_json_if_there
from ..machine.chip import FormatChoice
from ..models.config import ASSISTANT_MODEL_TYPES, check_pair, read_assistant_config, read_target_config
from .formats import AFFINE, ASSISTANT_BITS, Recipe, advice
from .options import NONE, ConversionOptions, PathOrRepo
from .plan import Plan, make_plan
from .staging import check_destination


@dataclass(frozen=True)
class Conversion:
    """All that is going to be written, and once ``write_pair`` has returned, all that has been.

    Attributes:
        options: what was asked for.
        target, assistant: either may be None, not both.
        choice: the general format, and why; None without quantization.
        notes: what a user should know, one sentence each.
    """

    options: ConversionOptions
    target: Plan | None
    assistant: Plan | None
    choice: FormatChoice | None
    notes: Sequence[str]

    @property
    def plans(self) -> list[Plan]:
        """The target's first."""
        return [plan for plan in (self.target, self.assistant) if plan is not None]

    @property
    def source_bytes(self) -> int:
        return sum(plan.source_bytes for plan in self.plans)

    @property
    def bytes(self) -> int:
        return sum(plan.bytes for plan in self.plans)


def plan_pair(options: ConversionOptions, generation: int | None) -> Conversion:
    """Find and examine what is to be converted; what is on the Hub only is downloaded.

    Args:
        generation: of the Apple GPU that ``q_mode`` auto chooses for, from ``chip_generation``; None is a CPU.

    Raises:
        InputError: one sentence on what is missing, damaged, does not belong together, or is in the way.
    """
    choice = options.choose_format(generation)
    recipe = None if choice is None else Recipe(choice.quantization, options.quant_predicate)
    plans = []
    sources = _sources(options)
    for name, source, folder in sources:
        check_destination(folder, options.force, [source for _, source, _ in sources])
        plans.append(make_plan(name, source, folder, options, recipe))
    target = next((plan for plan in plans if not plan.is_assistant), None)
    assistant = next((plan for plan in plans if plan.is_assistant), None)
    notes = [note for plan in plans for note in plan.notes]
    if assistant is None and options.assistant_model is None:
        notes.append(f"no assistant is known for {options.hf_path}: --assistant-model names one")
    if assistant is not None and assistant.recipe and recipe and assistant.recipe.general.bits != recipe.general.bits:
        notes.append(f"the assistant has {ASSISTANT_BITS} bits: with fewer, fewer of its drafts are accepted")
    if options.quantize and options.q_mode == AFFINE and (word := advice(AFFINE, generation)):
        notes.append(f"{word}: --q-mode auto chooses them")
    return Conversion(options, target, assistant, choice, notes)


def _is_assistant(folder: Path) -> bool:
    """Whether there is a checkpoint of an assistant by that name on this disk."""
    return read_json_if_there(folder / "config.json").get("model_type") in ASSISTANT_MODEL_TYPES


def _sources(options: ConversionOptions) -> list[tuple[str, Path, Path]]:
    """(name, folder to read, folder to write) of the target and its assistant, or of an assistant alone.

    Wrong destinations are refused before anything is downloaded.
    """
    assistant = _assistant_name(options)
    check_destination(options.folder, options.force)
    if assistant is not None:
        check_destination(options.assistant_folder, options.force)
        if options.assistant_folder == options.folder:
            raise InputError(f"target and assistant would both be written to {options.folder}")
    elif options.assistant_path is not None and not _is_assistant(Path(options.hf_path)):
        sentence = "{assistant_path} was given, but no assistant is known for {named}: {assistant_model} names one"
        raise OptionError(sentence, named=options.hf_path)
    source = resolve(options.hf_path, revision=options.revision)
    sources = [(os.fspath(options.hf_path), source, options.folder)]
    if _is_assistant(source):
        if options.assistant_model not in (None, NONE):
            raise InputError(f"{options.hf_path} is an assistant itself: it is converted without another one")
        if options.assistant_path is not None:
            sentence = "{hf_path} {named} is an assistant itself: {mlx_path} is where it goes, not {assistant_path}"
            raise OptionError(sentence, named=options.hf_path)
    elif assistant is not None:
        sources.append((os.fspath(assistant), resolve(assistant), options.assistant_folder))
        _check_pair(source, sources[1][1])
    return sources


def _assistant_name(options: ConversionOptions) -> PathOrRepo | None:
    if options.assistant_model == NONE:
        return None
    return assistant_for(options.hf_path) if options.assistant_model is None else options.assistant_model


def _check_pair(target: Path, assistant: Path) -> None:
    target_config = read_target_config(read_json(target / "config.json"))
    check_pair(target_config, read_assistant_config(read_json(assistant / "config.json")))
