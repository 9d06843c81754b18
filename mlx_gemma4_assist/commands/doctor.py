"""``doctor``: what this machine is, what fits on it, what suits it, and whether a checkpoint and its assistant do."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..commands import options
from ..errors import InputError

if TYPE_CHECKING:
    from ..machine.doctor import Checkpoint, FamilyNeeds, Machine


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

    Exit code 1 if something has to be mended. Needs no network, no GPU and no weights: of a checkpoint only config.json
    is read.
    """
    if context is not None and context < 1:
        raise InputError(f"--context is {context}, expected a positive integer")
    if assistant_model is not None and model is None:
        raise InputError("--assistant-model belongs to a --model")
    from ..machine.doctor import DEFAULT_CONTEXT, examine, family_needs, package_problems, this_machine, versions

    machine = this_machine()
    checkpoint = None if model is None else examine(machine, model, assistant_model, context)
    found = versions()
    problems = [*package_problems(found), *(() if checkpoint is None else checkpoint.problems)]
    tokens = DEFAULT_CONTEXT if context is None else context
    needs = family_needs(machine, tokens)
    if as_json:
        print(json.dumps(_summary(machine, found, needs, checkpoint, tokens, problems)))
        return 1 if problems else 0
    lines = [*_machine_lines(machine, found), "", *_family_lines(needs, tokens)]
    if checkpoint is not None:
        lines += ["", *_checkpoint_lines(checkpoint)]
    lines += ["", *(f"Problem: {problem}." for problem in problems)] if problems else []
    print("\n".join(lines))
    return 1 if problems else 0


def _machine_lines(machine: "Machine", versions: dict[str, str]) -> list[str]:
    from ..machine.chip import has_small_batch_kernel, recommended_format
    from ..machine.doctor import readable

    if machine.metal:
        generation = "unknown" if machine.generation is None else machine.generation
        chip = f"{machine.name}, Metal ({machine.architecture}, GPU generation {generation})"
        memory = f"{readable(machine.memory)}, of which Metal recommends {readable(machine.usable)} for computing"
        modes = ("affine", "mxfp4", "mxfp8", "nvfp4")
        kernels = {mode: has_small_batch_kernel(mode, machine.generation) for mode in modes}
        blocks = ", ".join(f"{mode} {'once' if kernel else 'per token'}" for mode, kernel in kernels.items())
    else:
        chip = f"{machine.name} ({machine.architecture}). CPU backend: correctness only; what is fast is Apple silicon"
        memory, blocks = readable(machine.memory), "a matter of Metal"
    choice = recommended_format(machine.generation)
    return [
        f"Chip: {chip}",
        f"Memory: {memory}",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"How often a block of drafts reads quantized weights: {blocks}",
        f"Recommended: {choice.mode}, {choice.bits} bits in groups of {choice.group_size}: {choice.reason}",
    ]


def _family_lines(needs: "list[FamilyNeeds]", context: int) -> list[str]:
    from ..machine.doctor import readable

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
    from ..machine.doctor import readable

    lines = [f"Model: {checkpoint.name}"]
    if checkpoint.folder is None:
        return [*lines, "It is not in the Hub's cache: loading it downloads it, and nothing more is known here."]
    cost = checkpoint.context
    most = checkpoint.fused_drafts
    fused = (
        f"fused in sliding layers with at most {most} drafts, in full ones never" if most else "not fused with drafts"
    )
    kernel = {None: "", True: " (read once per block)", False: " (read once per token of a block)"}
    lines += [
        f"Folder: {checkpoint.folder}",
        f"Weights: {checkpoint.format}{kernel[checkpoint.small_batch_kernel]}",
        f"Assistant: {checkpoint.assistant}",
        f"Memory: {readable(checkpoint.weights)} of files, {readable(cost.keys_values)} of keys and values and "
        f"{readable(cost.scores)} of scores at {checkpoint.tokens:,} tokens: {checkpoint.fit or 'unknown'}",
        f"Attention on Metal: {fused}",
    ]
    return [*lines, *(f"Advice: {advice}." for advice in checkpoint.advice)]


def _summary(
    machine: "Machine",
    versions: dict[str, str],
    needs: "list[FamilyNeeds]",
    checkpoint: "Checkpoint | None",
    context: int,
    problems: list[str],
) -> dict[str, Any]:
    from ..machine.chip import recommended_format

    def plain(finding: Any) -> dict[str, Any]:
        values = asdict(finding)
        return values | {"context": values["context"] and values["context"]._asdict()}

    examined = None if checkpoint is None else plain(checkpoint)
    if examined is not None:
        examined["folder"] = checkpoint.folder and str(checkpoint.folder)
    return {
        "machine": asdict(machine),
        "versions": versions,
        "recommended": recommended_format(machine.generation)._asdict(),
        "context": context,
        "sizes": [plain(size) for size in needs],
        "checkpoint": examined,
        "problems": problems,
    }
