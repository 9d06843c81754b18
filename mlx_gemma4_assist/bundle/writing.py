"""A pair as a bundle: traced, written, and checked before it takes its place."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..backend import branches, dtype_name
from ..cache.layout import CacheLayout
from ..checkpoints.sampling import sampling_of
from ..conversion.staging import staged
from ..drafts.costs import unknown_costs
from ..drafts.learned import AUTO_LONGEST
from ..engine.engine import slack_for
from ..engine.pair import Checkpoint
from ..errors import InputError
from ..models.gemma4_text import Gemma4ForCausalLM
from ..rounds.accept import accept
from ..rounds.sampling import CANDIDATES, Sampling, in_use
from ..rounds.state import Decoder
from . import manifest
from .assembling import Constants, numbered
from .building import Builder, pieces
from .program import Program
from .tensor_files import write_tensors
from .weights import Networks, Weights, write_weights

GREEDY, SAMPLED, READ = "greedy", "sampled", "read"
MOST_DRAFTS = AUTO_LONGEST
SMALL_FILES = 64 << 20  # bytes of all that is not weights, at most

Check = Callable[[Path], None]
Progress = Callable[[int, int], None]
"""Called with how many programs are traced, and how many there are to be."""


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is to be.

    Attributes:
        copy_weights: whether it has all weights, rather than the names of the checkpoint's files.
        drafts: the most of a round.
        top_k: of how many of the likeliest tokens sampled rounds can draw; None is what the checkpoint asks for, and 64
            at least.
    """

    copy_weights: bool = False
    drafts: int = MOST_DRAFTS
    top_k: int | None = None


@dataclass(frozen=True)
class Programs:
    """All programs of a bundle, and their constants.

    Attributes:
        rounds: by the manner of drawing, one for each number of drafts from 0 on.
        reads: each with the lengths of a prompt's pieces that it is for.
    """

    rounds: dict[str, list[Program]]
    reads: list[tuple[int, int, Program]]
    constants: list[mx.array]

    @property
    def all(self) -> list[Program]:
        return [program for each in self.rounds.values() for program in each] + [read for *_, read in self.reads]


def export(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    check: Check | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write a bundle.

    Args:
        checkpoint: the target, and its assistant if it is to draft; their weights are not read, unless copied.
        out: a folder that is not there yet.
        options: what the bundle is to be.
        check: is called with the finished folder before it takes its place, and refuses it by an error.
        progress: see there.

    Returns:
        The folder.

    Raises:
        InputError: an adapter; damaged weights, a folder that cannot be written, or what ``check`` raises.
    """
    if checkpoint.source.adapter_path is not None:
        raise InputError("a bundle reads its checkpoint's own files, which an adapter is not in: fuse it first")
    check_out(out)
    networks = Networks.unread(checkpoint)
    weights = sum(array.nbytes for array in Weights(networks.named).named.values())
    with staged([out], weights if options.copy_weights else SMALL_FILES) as (folder,):
        write(folder, checkpoint, networks, options, progress)
        if check is not None:
            check(folder)
    return out


def check_out(out: Path) -> None:
    """Refuse a place that is taken, before anything is read.

    Raises:
        InputError: something is there.
    """
    if out.exists() or out.is_symlink():  # to something or nothing
        raise InputError(f"{out} exists already: name another folder, or remove it")


def write(folder: Path, checkpoint: Checkpoint, networks: Networks, options: ExportOptions, progress: Progress) -> None:
    """Write a bundle's files to a folder that is there."""
    layout = layout_of(networks.target, 0 if networks.assistant is None else options.drafts)
    decoder = Decoder(networks.target, networks.assistant, layout, Sampling(), accept)
    options = replace(options, top_k=options.top_k or asked_top_k(checkpoint.folder))
    never = checkpoint.processor.suppress_tokens
    programs = traced_programs(Weights(networks.named), decoder, options, never, progress)
    content = _told(checkpoint, networks.target, layout, programs)
    content |= {"most_top_k": options.top_k, "programs": _write_programs(folder, programs)}
    constants = {str(number): array for number, array in enumerate(programs.constants)}
    content["constants"] = len(constants)
    write_tensors(folder / manifest.CONSTANTS, constants)
    _write_tokenizer(folder, checkpoint)
    files, weights = write_weights(folder, networks, options.copy_weights)
    _add_digests(folder, files)
    content |= {"files": _digests(folder), "weight_files": files, "weights": manifest.of_weights(weights)}
    (folder / manifest.MANIFEST).write_text(manifest.written(content), encoding="utf-8")


def _told(checkpoint: Checkpoint, target: Gemma4ForCausalLM, layout: CacheLayout, programs: Programs) -> dict[str, Any]:
    """What the manifest says of the model."""
    config, drafts = layout.config, len(programs.rounds[GREEDY]) - 1
    return manifest.header() | {
        "name": Path(checkpoint.source.path_or_repo).name,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "hidden": {"size": config.hidden_size, "dtype": dtype_name(target.hidden_dtype)},
        "layout": manifest.of_layout(layout),
        "text": manifest.of_text(checkpoint.processor, checkpoint.folder),
        "drafts": drafts,
        "first_costs": [round(exp(cost), 4) for cost in unknown_costs(drafts, 1).mean],
    }


def asked_top_k(folder: Path) -> int:
    """Enough for what a checkpoint's generation_config.json asks for."""
    asked = sampling_of(folder).get("top_k", 0)
    return next((size for size in CANDIDATES if asked <= size), CANDIDATES[-1])


def layout_of(target: Gemma4ForCausalLM, drafts: int) -> CacheLayout:
    """The layout of the cache that programs work on."""
    return CacheLayout(target.config, slack_for(drafts), target.embed(mx.array([[0]])).dtype)


def traced_programs(
    weights: Weights, decoder: Decoder, options: ExportOptions, never: Sequence[int], progress: Progress
) -> Programs:
    """All programs of a pair.

    Args:
        weights: of its networks.
        decoder: its networks and layout.
        options: how many drafts there are.
        never: ids that are never drawn.
        progress: see there.
    """
    constants = Constants()
    builder = Builder(weights, constants)
    ways = {
        GREEDY: Sampling(suppress_tokens=tuple(never)),
        SAMPLED: drawn(options.top_k or CANDIDATES[0], tuple(never)),
    }
    longest = 0 if decoder.assistant is None else options.drafts
    with branches("gpu"):
        ranges = pieces(decoder.layout)
        total, done = len(ways) * (longest + 1) + len(ranges), 0
        rounds: dict[str, list[Program]] = {way: [] for way in ways}
        reads = []
        for way, sampling in ways.items():
            for count in range(longest + 1):
                made = builder.round(
                    f"{way}-{count}", decoder._replace(sampling=sampling), count, confirmed=count in (0, longest)
                )
                rounds[way].append(made)
                progress(done := done + 1, total)
        for piece in ranges:
            name = f"{READ}-{piece.least}-{piece.most}"
            reads.append((*piece, builder.read(name, decoder.target, decoder.layout, piece)))
            progress(done := done + 1, total)
    known = len(constants.arrays)
    return Programs(
        {way: [numbered(each, known) for each in made] for way, made in rounds.items()},
        [(least, most, numbered(each, known)) for least, most, each in reads],
        constants.arrays,
    )


def drawn(top_k: int, never: tuple[int, ...] = ()) -> Sampling:
    """What sampled rounds can do: all filters, drafts that are drawn or not; up to so many of the likeliest tokens."""
    return in_use([Sampling(1.0, top_k, 0.5, 0.5, 1.0, never)])


def _write_programs(folder: Path, programs: Programs) -> dict[str, Any]:
    """The files of all programs, and what the manifest says of them."""
    (folder / "programs").mkdir()
    for program in programs.all:
        (folder / _file(program)).write_text(program.text(), encoding="utf-8")
    said: dict[str, Any] = {way: [_file(each) for each in made] for way, made in programs.rounds.items()}
    reads = [{"file": _file(each), "least": least, "most": most} for least, most, each in programs.reads]
    return said | {READ: reads}


def _file(program: Program) -> str:
    return f"programs/{program.name}.json"


def _write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    own = checkpoint.folder / manifest.TOKENIZER
    if own.is_file():
        shutil.copyfile(own, folder / manifest.TOKENIZER)
    else:
        checkpoint.processor.tokenizer.backend_tokenizer.save(str(folder / manifest.TOKENIZER))


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Of all files that the bundle has, but its copied weights."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest_of(path)}
        for path in sorted(_files(folder))
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.name != manifest.WEIGHTS:
            yield path


def _add_digests(folder: Path, files: Sequence[dict[str, Any]]) -> None:
    """Tell of files of weights that are the bundle's own what who downloads them compares."""
    for said in files:
        path = folder / said["path"]
        if path.parent == folder:
            said["sha256"] = digest_of(path)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
