"""What belongs to a conversion: a target, its assistant, where both are and where they go; decided before writing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.hub import resolve
from ..checkpoints.pairing import assistant_for
from ..errors import InputError
from ..files import read_json
from ..machine.chip import FormatChoice
from ..models.config import ASSISTANT_MODEL_TYPES, check_pair, read_assistant_config, read_target_config
from .formats import AFFINE, advice
from .options import ASSISTANT_BITS, Precision
from .plan import Plan, Wishes, make_plan
from .shards import DEFAULT_SHARD_SIZE, parse_size
from .staging import check_destination

NONE = "none"
PathOrRepo = str | os.PathLike[str]


@dataclass(frozen=True)
class Places:
    """From where to where.

    Attributes:
        hf_path: the target: a repo on the Hub, a folder, or an alias; or an assistant to be converted alone.
        mlx_path: the folder to write.
        assistant_model: the assistant; None looks for the one that belongs to the target, "none" leaves it out.
        assistant_path: the folder to write it to; None is ``mlx_path`` + "-assistant", where ``assistant_for``
            finds it.
        revision: of the target's repo.
        force: whether checkpoints that are there already are replaced.
        text_only: whether towers are left out.
        max_shard_size: of the files written, such as "5GB".
    """

    hf_path: PathOrRepo
    mlx_path: PathOrRepo = "mlx_model"
    assistant_model: PathOrRepo | None = None
    assistant_path: PathOrRepo | None = None
    revision: str | None = None
    force: bool = False
    text_only: bool = False
    max_shard_size: str = DEFAULT_SHARD_SIZE

    @property
    def folder(self) -> Path:
        return Path(self.mlx_path).expanduser().absolute()

    @property
    def assistant_folder(self) -> Path:
        if self.assistant_path is not None:
            return Path(self.assistant_path).expanduser().absolute()
        return self.folder.with_name(f"{self.folder.name}-assistant")


@dataclass(frozen=True)
class Job:
    """One checkpoint to convert.

    Attributes:
        name: as the user, or ``assistant_for``, gave it.
        source, destination: folders.
    """

    name: str
    source: Path
    destination: Path
    wishes: Wishes
    plan: Plan
    is_assistant: bool


@dataclass(frozen=True)
class PairPlan:
    """All that is going to happen.

    Attributes:
        jobs: a target, an assistant, or both in this order.
        choice: the general format, and why; None without quantization.
        notes: what a user should know, one sentence each.
        max_shard_bytes: of the files written.
    """

    jobs: Sequence[Job]
    choice: FormatChoice | None
    notes: Sequence[str]
    max_shard_bytes: int

    @property
    def read_bytes(self) -> int:
        return sum(job.plan.read_bytes for job in self.jobs)

    @property
    def written_bytes(self) -> int:
        return sum(job.plan.written_bytes for job in self.jobs)


def plan_pair(places: Places, precision: Precision, generation: int | None) -> PairPlan:
    """Find and examine what is to be converted; what is on the Hub only is downloaded.

    Args:
        generation: of the Apple GPU that ``q_mode`` auto chooses for, from ``metal.chip_generation``; None is a CPU.

    Raises:
        InputError: one sentence on what is missing, damaged, does not belong together, or is in the way.
    """
    choice = precision.choose(generation)
    max_shard_bytes = parse_size(places.max_shard_size)
    check_destination(places.folder, places.force)
    name = _assistant_name(places)
    if name is not None:  # refused before anything is downloaded
        check_destination(places.assistant_folder, places.force)
        if places.assistant_folder == places.folder:
            raise InputError(f"target and assistant would both be written to {places.folder}")
    sources = [(places.hf_path, resolve(places.hf_path, revision=places.revision), places.folder)]
    alone = _is_assistant(sources[0][1])
    if alone and places.assistant_model not in (None, NONE):
        raise InputError(f"{places.hf_path} is an assistant itself: it is converted without another one")
    if name is not None and not alone:
        sources.append((name, resolve(name), places.assistant_folder))
        _check_pair(sources[0][1], sources[1][1])
    jobs = []
    for given, source, destination in sources:
        check_destination(destination, places.force, [folder for _, folder, _ in sources])
        is_assistant = alone or len(jobs) > 0
        text_only = places.text_only and not is_assistant
        wishes = precision.wishes(choice, text_only=text_only, is_assistant=is_assistant)
        jobs.append(Job(os.fspath(given), source, destination, wishes, make_plan(source, wishes), is_assistant))
    notes = [note for job in jobs for note in job.plan.notes] + _notes(places, precision, jobs, choice, generation)
    return PairPlan(jobs, choice, notes, max_shard_bytes)


def _assistant_name(places: Places) -> PathOrRepo | None:
    if places.assistant_model == NONE:
        return None
    return assistant_for(places.hf_path) if places.assistant_model is None else places.assistant_model


def _is_assistant(folder: Path) -> bool:
    return read_json(folder / "config.json").get("model_type") in ASSISTANT_MODEL_TYPES


def _check_pair(target: Path, assistant: Path) -> None:
    target_config = read_target_config(read_json(target / "config.json"))
    check_pair(target_config, read_assistant_config(read_json(assistant / "config.json")))


def _notes(
    places: Places, precision: Precision, jobs: Sequence[Job], choice: FormatChoice | None, generation: int | None
) -> list[str]:
    notes = []
    if len(jobs) == 1 and not jobs[0].is_assistant and places.assistant_model is None:
        notes.append(f"no assistant is known for {places.hf_path}: --assistant-model names one")
    if any(job.is_assistant and job.wishes.recipe and job.wishes.recipe.general.bits != choice.bits for job in jobs):
        notes.append(f"the assistant has {ASSISTANT_BITS} bits: with fewer, fewer of its drafts are accepted")
    if precision.quantize and precision.q_mode == AFFINE and (word := advice(AFFINE, generation)):
        notes.append(f"{word}: --q-mode auto chooses them")
    return notes
