"""The model card's figures, computed by this package: what is accepted when generating, and agreement on real text.

python measure.py --target target --assistant assistant --heldout work/heldout.txt
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from agreement import agreement
from mlx_gemma4_assist import SpeculationStats, load, load_assistant, stream_generate

sys.path.append(str(Path(__file__).parents[1]))
from command_line import parser_for, positive, run_tool

ASSETS = Path(__file__).parents[2] / "mlx_gemma4_assist" / "assets"
OPENING = 100  # characters of a passage that a chat asks to continue


def generated(pair: tuple, prompts: list[str], chat: bool, drafts: int, temperature: float) -> tuple[str, str, str]:
    """A row of the table: acceptance at each place of a round, and tokens per round, over all prompts."""
    target, processor, assistant = pair
    total, tokens = SpeculationStats(), 0
    drafted, accepted = [0] * drafts, [0] * drafts
    for prompt in prompts:
        options = {"max_tokens": 128, "num_assistant_tokens": drafts, "temperature": temperature, "seed": 0}
        *_, last = stream_generate(target, processor, prompt, assistant, chat=chat, **options)
        total.rounds += last.stats.rounds
        tokens += last.generation_tokens
        for place, (made, stood) in enumerate(zip(last.stats.drafted_at, last.stats.accepted_at, strict=True)):
            drafted[place] += made
            accepted[place] += stood
    given = percentages(accepted, [drafted[0], *accepted])
    return percentages(accepted, drafted), given, f"{tokens / total.rounds:.2f}"


def percentages(parts: list[int], wholes: list[int]) -> str:
    return ", ".join(f"{100 * part / whole:.0f}" if whole else "-" for part, whole in zip(parts, wholes, strict=False))


def rows(pair: tuple, passages: list[str], drafts: int) -> Iterator[str]:
    openings = [f"Continue: {passage[:OPENING].rsplit(' ', 1)[0]}" for passage in passages]
    for name, prompts, chat in (("plain text", passages, False), ("chat", openings, True)):
        for temperature in (0.0, 0.8):
            figures = generated(pair, prompts, chat, drafts, temperature)
            kind = f"{name}, temperature {temperature}" if temperature else f"{name}, greedy"
            yield f"| {kind} | {' | '.join(figures)} |"


def measure(args: argparse.Namespace) -> None:
    target, processor = load(args.target)
    assistant = load_assistant(args.assistant)
    passages = args.heldout.read_text(encoding="utf-8").strip().split("\n\n")

    print(f"Generated text, {len(passages)} held-out prompts, {args.drafts} drafts:\n")
    print("| | accepted at place 1, 2, ... (%) | of those whose earlier drafts stood (%) | tokens per round |")
    print("|---|---|---|---|")
    for row in rows((target, processor, assistant), passages, args.drafts):
        print(row, flush=True)

    counted, agreed = [0] * args.drafts, [0] * args.drafts
    for passage in passages:
        more_counted, more_agreed = agreement(target, assistant, processor.encode(passage, chat=False), args.drafts)
        counted = [a + b for a, b in zip(counted, more_counted, strict=True)]
        agreed = [a + b for a, b in zip(agreed, more_agreed, strict=True)]
    print(f"\nReal held-out text, {counted[0]} positions, agreement with the target's choice at draft 1, 2, ... (%):")
    print(percentages(agreed, counted), f"(of {', '.join(map(str, counted))})")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--target", type=Path, default=ASSETS / "tiny")
    parser.add_argument("--assistant", type=Path, default=ASSETS / "tiny-assistant")
    parser.add_argument("--heldout", type=Path, default=ASSETS / "tiny" / "heldout.txt")
    parser.add_argument("--drafts", type=positive, default=3)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
