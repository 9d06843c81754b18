"""``doctor``: what this machine is, what fits on it, what suits it, and whether a checkpoint and its assistant do."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options
from .interrupts import ending_at_once

if TYPE_CHECKING:
    from ..machine.doctor import Checkpoint, FamilyNeeds, Machine, Report


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", help="A checkpoint to examine: a Hub repo, a local folder, or tiny.")
    ] = None,
    assistant_model: options.AssistantModel = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens of a conversation that must fit; 8,192 unless told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> int:
    """Say what fits on this machine and what suits it.

    Exit code 1 if something has to be mended. Needs no network and no GPU: of a checkpoint config.json, the tokenizer's
    files and the headers of the weight files are read, of an assistant the weights too.
    """
    if context is not None and context < 1:
        raise InputError(f"--context is {context}, expected a positive integer")
    if assistant_model is not None and model is None:
        raise InputError("--assistant-model belongs to a --model")
    with ending_at_once():
        from ..machine.doctor import report

    found = report(model, assistant_model, context)
    print(json.dumps(_summary(found)) if as_json else _text(found))
    return 1 if found.problems else 0


def _text(report: "Report") -> str:
    parts = [_machine_lines(report.machine, report.versions), _family_lines(report.sizes, report.context)]
    if report.checkpoint is not None:
        parts.append(_checkpoint_lines(report.checkpoint))
    if report.problems:
        parts.append([f"Problem: {problem}." for problem in report.problems])
    return "\n\n".join("\n".join(part) for part in parts)


def _machine_lines(machine: "Machine", versions: dict[str, str]) -> list[str]:
    from ..machine.chip import recommended_format

    chip, memory, reads = _on_metal(machine) if machine.metal else _on_a_cpu(machine)
    choice = recommended_format(machine.generation)
    return [
        f"Chip: {chip}",
        f"Memory: {memory}",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"How often a block of drafts reads quantized weights: {reads}",
        f"Recommended: {choice.mode}, {choice.bits} bits in groups of {choice.group_size}: {choice.reason}",
    ]


def _on_metal(machine: "Machine") -> tuple[str, str, str]:
    from ..backend import readable
    from ..machine.chip import has_small_batch_kernel

    generation = "unknown" if machine.generation is None else machine.generation
    modes = ("affine", "mxfp4", "mxfp8", "nvfp4")
    kernels = {mode: has_small_batch_kernel(mode, machine.generation) for mode in modes}
    return (
        f"{machine.name}, Metal ({machine.architecture}, GPU generation {generation})",
        f"{readable(machine.memory)}, of which Metal recommends {readable(machine.usable)} for computing",
        ", ".join(f"{mode} {'once' if kernel else 'per token'}" for mode, kernel in kernels.items()),
    )


def _on_a_cpu(machine: "Machine") -> tuple[str, str, str]:
    from ..backend import readable

    chip = f"{machine.name} ({machine.architecture}). CPU backend: correctness only; what is fast is Apple silicon"
    return chip, readable(machine.memory), "a matter of Metal"


def _family_lines(needs: "list[FamilyNeeds]", context: int) -> list[str]:
    from ..backend import readable

    formats = list(needs[0].weights)
    lines = [
        f"What fits with a context of {context:,} tokens: weights of target and assistant, keys and values, and the",
        "attention scores of a layer while a prompt is read, which a smaller --prefill-step-size lowers.",
        f"{'':9}" + "".join(f"{form:>16}" for form in formats) + f"{'keys, values':>15}{'per 1,000':>11}{'scores':>9}",
    ]
    for size in needs:
        cells = "".join(f"{readable(size.weights[form]) + ' ' + size.fits[form]:>16}" for form in formats)
        cost = size.context
        per_thousand = f"{cost.per_token / 1e3:.1f} MB"
        lines.append(
            f"{size.name:9}{cells}{readable(cost.keys_values):>15}{per_thousand:>11}{readable(cost.scores):>9}"
        )
    return lines


def _checkpoint_lines(checkpoint: "Checkpoint") -> list[str]:
    from ..backend import readable

    lines = [f"Model: {checkpoint.name}"]
    cost = checkpoint.context
    if cost is None:
        return [*lines, "It is not in the Hub's cache: loading it downloads it, and nothing more is known here."]
    kernel = {None: "", True: " (read once per block)", False: " (read once per token of a block)"}
    return [
        *lines,
        f"Folder: {checkpoint.folder}",
        f"Weights: {checkpoint.format}{kernel[checkpoint.small_batch_kernel]}",
        f"Assistant: {checkpoint.assistant}",
        f"Memory: {readable(checkpoint.weights)} of files, {readable(cost.keys_values)} of keys and values and "
        f"{readable(cost.scores)} of scores at {checkpoint.tokens:,} tokens: {checkpoint.fit or 'unknown'}",
        f"Attention on Metal: {_fused(checkpoint.fused_drafts)}",
        *(f"Advice: {advice}." for advice in checkpoint.advice),
    ]


def _fused(drafts: int) -> str:
    if drafts:
        return f"fused in sliding layers with at most {drafts} drafts, in full ones never"
    return "not fused with drafts"


def _summary(report: "Report") -> dict[str, Any]:
    from ..machine.chip import recommended_format

    checkpoint = report.checkpoint
    return {
        "machine": asdict(report.machine),
        "versions": report.versions,
        "recommended": recommended_format(report.machine.generation)._asdict(),
        "context": report.context,
        "sizes": [_plain(size) for size in report.sizes],
        "checkpoint": None if checkpoint is None else _plain(checkpoint),
        "problems": report.problems,
    }


def _plain(finding: "FamilyNeeds | Checkpoint") -> dict[str, Any]:
    values = asdict(finding)
    values["context"] = finding.context and finding.context._asdict()
    if values.get("folder") is not None:
        values["folder"] = str(values["folder"])
    return values
