"""``parity``: is assisted output the target's own? Progress to standard error, the findings to standard output."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, OptionError
from ..options import MAX_DRAFTS, GenerationOptions
from .interrupts import ending_at_once
from .loading import EMBEDDED_ANSWERS, check_choice, load_pair, open_checkpoint
from .options import EMBEDDED, ModelChoice, Only, grouped
from .streams import moves_cursor, note, read_input

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..evaluation.frequencies import Frequencies
    from ..evaluation.parity import Divergence, TextComparison

IDENTICAL, NEAR_TIES, DIFFERENT = "identical", "near ties only (gap below {:.3g})", "DIFFERENT"
SAMPLED_PROMPTS = 4
NO_NUMBERS = (
    "the assistant's logits are NaN: its weights are damaged or overflow, and its drafts are hardly ever accepted"
)


@dataclass(frozen=True)
class Trial:
    """What is compared."""

    num_prompts: Annotated[int, typer.Option("--num-prompts", "-n", help="The most prompts to compare.")] = 8
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="Short sampled runs per draft temperature; 0 tests no frequencies.")
    ] = 200
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", help="Prompts of your own, separated by empty lines.")
    ] = None
    ignore_chat_template: Annotated[
        bool, typer.Option("--ignore-chat-template", help="The prompts of --prompt-file are raw text to continue.")
    ] = False
    num_assistant_tokens: Annotated[int, typer.Option("--num-assistant-tokens", help="Drafts per round.")] = 3

    def __post_init__(self) -> None:
        ranges = (
            ("--num-prompts", self.num_prompts, 1, inf),
            ("--num-samples", self.num_samples, 0, inf),
            ("--num-assistant-tokens", self.num_assistant_tokens, 1, MAX_DRAFTS),
        )
        for name, value, least, most in ranges:
            if not least <= value <= most:
                expected = f"{least} or more" if most == inf else f"{least} to {most}"
                raise InputError(f"{name} is {value}, expected {expected}")


@grouped
def parity(
    choice: ModelChoice,
    trial: Trial,
    options: Annotated[GenerationOptions, Only("max_tokens", "compile", max_tokens=128)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> int:
    """Check that assisted output is plain decoding's own.

    Exit code 1 if they differ by more than rounding. Greedy and seeded texts are compared token for token. In bfloat16
    and float16 they may part where the two best logits are close: forwards over one and over several tokens round
    differently there. In float32 they may not. Sampling is tested on the frequencies of first tokens too.
    """
    if options.max_tokens < 2:
        raise OptionError("{max_tokens} is {value}, but the first token never has drafts", value=options.max_tokens)
    options = replace(options, num_assistant_tokens=trial.num_assistant_tokens)
    texts, chat = _prompts(choice.model, trial)
    check_choice(choice, options, compares=True)
    checkpoint = open_checkpoint(choice, options, compares=True)
    prompts = [checkpoint.prepare(text, chat=chat).tokens for text in texts[: trial.num_prompts]]
    pair = load_pair(checkpoint, options, max(map(len, prompts)) + options.max_tokens)
    if choice.model == EMBEDDED:
        note(EMBEDDED_ANSWERS)
    compared = _compare(pair, prompts, options)
    frequencies = _frequencies(pair, prompts, trial.num_samples, options)
    problems = _problems(pair, prompts)
    verdict, failed = _verdict([text for texts in compared.values() for text in texts], frequencies)
    if as_json:
        print(json.dumps(_summary(pair, compared, frequencies, verdict) | {"problems": problems}, ensure_ascii=False))
    else:
        found = [*_report(pair, compared, frequencies), *(f"Problem: {each}." for each in problems)]
        print("\n".join([*found, verdict]))
    return 1 if failed else 0


def _prompts(model: str, trial: Trial) -> tuple[list[str], bool]:
    """Texts, and whether they are messages for the chat template."""
    file = trial.prompt_file
    if file is not None:
        text = read_input(file)
    elif trial.ignore_chat_template:
        raise InputError("--ignore-chat-template belongs to --prompt-file")
    elif model == EMBEDDED:
        return _passages(), False
    else:
        with ending_at_once():
            from ..evaluation.parity import PROMPTS

        return list(PROMPTS), True
    texts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if not texts:
        raise InputError(f"{file} has no prompts")
    return texts, not trial.ignore_chat_template


def _passages() -> list[str]:
    """For the embedded pair, which was trained on novels: unseen text, cut off where much may follow."""
    file = resources.files("mlx_gemma4_assist") / "assets" / EMBEDDED / "heldout.txt"
    passages = (text.split() for text in file.read_text(encoding="utf-8").split("\n\n"))
    return [" ".join(words[: len(words) * 3 // 4]) for words in passages]


def _compare(
    pair: "Pair", prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> "dict[str, list[TextComparison]]":
    from ..evaluation.parity import compare_texts

    compared: dict[str, list[TextComparison]] = {"greedy": [], "sampled": []}
    for way, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        for number, prompt in enumerate(prompts, start=1):
            text = compare_texts(pair, prompt, replace(options, temperature=temperature, seed=number))
            compared[way].append(text)
            note(f"{way} {number} of {len(prompts)}: {_text_line(text)}")
    return compared


def _frequencies(
    pair: "Pair", prompts: Sequence[Sequence[int]], samples: int, options: GenerationOptions
) -> "list[Frequencies]":
    from ..evaluation.frequencies import first_tokens

    def progress(done: int, total: int) -> None:
        if moves_cursor(sys.stderr):
            print(f"\r{done} of {total} runs" + ("\r\033[K" if done == total else ""), end="", file=sys.stderr)

    found: list[Frequencies] = []
    for draft_temperature in (0.0, 1.0) if samples else ():
        sampled = replace(options, temperature=1.0, draft_temperature=draft_temperature)
        shortest = sorted(prompts, key=len)[:SAMPLED_PROMPTS]
        here = first_tokens(pair, shortest, sampled, samples=samples, progress=progress)
        found += here
        for frequencies in here:
            note(_frequencies_line(frequencies))
    return found


def _problems(pair: "Pair", prompts: Sequence[Sequence[int]]) -> list[str]:
    """What is wrong although texts may be right."""
    from ..evaluation.acceptance import drafts_are_numbers

    return [] if all(drafts_are_numbers(pair, prompt) for prompt in prompts) else [NO_NUMBERS]


def _verdict(texts: "Sequence[TextComparison]", frequencies: "Sequence[Frequencies]") -> tuple[str, bool]:
    """The last line, and whether the test has failed."""
    from ..evaluation.parity import Verdict

    worst = max([text.verdict for text in texts] + [each.verdict for each in frequencies])
    if worst is Verdict.IDENTICAL:
        return IDENTICAL, False
    if worst is Verdict.DIFFERENT:
        return DIFFERENT, True
    return NEAR_TIES.format(max(text.divergence.tolerance for text in texts if text.divergence)), False


def _text_line(text: "TextComparison") -> str:
    stats = text.stats
    drafts = f"{stats.accepted} of {stats.drafted} drafts accepted"
    parting = text.divergence
    if parting is None:
        return f"{text.compared} tokens identical, {drafts}"
    return (
        f"parts after {text.compared} tokens: {parting.plain} plain, {parting.assisted} assisted, "
        f"gap {parting.gap:.3g} ({'below' if parting.near_tie else 'not below'} {parting.tolerance:.3g}), {drafts}"
    )


def _frequencies_line(found: "Frequencies") -> str:
    return (
        f"draft temperature {found.draft_temperature:g}, token {found.place} of {found.samples} runs "
        f"({found.from_draft} drafted): chi-square p = {found.p_value:.2g}"
    )


def _report(
    pair: "Pair", compared: "dict[str, list[TextComparison]]", frequencies: "Sequence[Frequencies]"
) -> list[str]:
    from ..backend import dtype_name
    from ..evaluation.frequencies import P_THRESHOLD

    lines = [f"computed in {dtype_name(pair.dtype)}"]
    for way, texts in compared.items():
        parted = [text for text in texts if text.divergence]
        drafted = sum(text.stats.drafted for text in texts)
        accepted = sum(text.stats.accepted for text in texts)
        lines.append(
            f"{way}: {len(texts) - len(parted)} of {len(texts)} texts identical, "
            f"{sum(text.compared for text in texts)} tokens compared, {accepted} of {drafted} drafts accepted"
        )
        lines += [f"  {_text_line(text)}" for text in parted]
    lines += [f"{_frequencies_line(found)} (wrong below {P_THRESHOLD:g})" for found in frequencies]
    return lines


def _plain(parting: "Divergence") -> dict[str, Any]:
    """Without the infinite gap of a text that ended early, which JSON does not have."""
    values = asdict(parting)
    return values | {"gap": values["gap"] if isfinite(values["gap"]) else None}


def _summary(
    pair: "Pair", compared: "dict[str, list[TextComparison]]", frequencies: "Sequence[Frequencies]", verdict: str
) -> dict[str, Any]:
    from ..backend import dtype_name

    return {
        "verdict": verdict,
        "dtype": dtype_name(pair.dtype),
        **{
            way: [
                {
                    "prompt_tokens": text.prompt_tokens,
                    "compared": text.compared,
                    "divergence": text.divergence and _plain(text.divergence),
                    "drafted": text.stats.drafted,
                    "accepted": text.stats.accepted,
                }
                for text in texts
            ]
            for way, texts in compared.items()
        },
        "frequencies": [
            {
                "draft_temperature": found.draft_temperature,
                "place": found.place,
                "samples": found.samples,
                "from_draft": found.from_draft,
                "favourites": found.favourites,
                "favourites_expected": sum(found.probabilities),
                "p_value": found.p_value,
            }
            for found in frequencies
        ],
    }
