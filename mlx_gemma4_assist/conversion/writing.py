"""Carrying out a plan: two folders that appear together, when both are finished."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..machine.chip import FormatChoice
from .pair import Job, PairPlan
from .shards import write_shards
from .staging import staged

CARRIED_OVER = ("*.json", "*.jinja", "*.model", "*.tiktoken", "LICENSE*", "additional_chat_templates")
"""Tokenizer, templates, generation and processor settings: copied byte for byte."""
_WRITTEN_ANEW = ("config.json", "*.index.json")
_FOR_TOWERS = ("processor_config.json", "*preprocessor_config.json")

Progress = Callable[[int, int], None]
"""Called with the number of bytes read so far, and in all."""


@dataclass(frozen=True)
class Converted:
    """One checkpoint as it has been written.

    Attributes:
        name: as the user, or ``assistant_for``, gave it.
        source, folder: where it was read and is now.
        source_bytes, bytes: of the tensors read and written.
        parameters: how many numbers they stand for.
    """

    name: str
    source: Path
    folder: Path
    source_bytes: int
    bytes: int
    parameters: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.parameters


@dataclass(frozen=True)
class Conversion:
    """What has been written.

    Attributes:
        target, assistant: either may be None, not both.
        choice: the general format, and why; None without quantization.
        notes: what a user should know, one sentence each.
    """

    target: Converted | None
    assistant: Converted | None
    choice: FormatChoice | None
    notes: Sequence[str]


def write_pair(pair: PairPlan, progress: Progress = lambda done, total: None) -> Conversion:
    """Write all checkpoints of a plan; until all are finished nothing that loads is there.

    Raises:
        InputError: the source cannot be read, or the destination cannot be written: one sentence that says why.
    """
    total, done = pair.read_bytes, 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        progress(done, total)

    with staged([job.destination for job in pair.jobs], pair.written_bytes) as folders:
        for job, folder in zip(pair.jobs, folders, strict=True):
            write_shards(folder, job.plan, pair.max_shard_bytes, count)
        # Last, because without a config.json nothing loads.
        for job, folder in zip(pair.jobs, folders, strict=True):
            _carry_over(job, folder)
            _write_config(job, folder)
    written = {job.is_assistant: _converted(job) for job in pair.jobs}
    return Conversion(written.get(False), written.get(True), pair.choice, pair.notes)


def _carry_over(job: Job, folder: Path) -> None:
    for path in sorted(job.source.iterdir()):
        left_out = (*_WRITTEN_ANEW, *_FOR_TOWERS) if job.wishes.text_only else _WRITTEN_ANEW
        if not any(path.match(pattern) for pattern in CARRIED_OVER) or any(path.match(name) for name in left_out):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)


def _write_config(job: Job, folder: Path) -> None:
    config = dict(sorted(job.plan.config.items()))
    text = json.dumps(config, indent=4, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _converted(job: Job) -> Converted:
    plan = job.plan
    return Converted(job.name, job.source, job.destination, plan.read_bytes, plan.written_bytes, plan.parameters)
