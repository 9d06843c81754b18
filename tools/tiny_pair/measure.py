"""The figures of the model card and of docs/measurements.md: what is accepted when generating, one text at a time and
in batches, by draft temperature and in 4 bits, and agreement on real text.

python measure.py --target target --assistant assistant --heldout work/heldout.txt
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.nn as nn

from agreement import agreement
from mlx_gemma4_assist import Processor, SpeculationStats, load, load_assistant, stream_generate
from mlx_gemma4_assist.rounds.sampling import Sampling

sys.path.append(str(Path(__file__).parents[1]))
from accepted import GREEDY, Networks, accepted_by, prompts_of
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


def by_place(networks: Networks, starts: list[list[int]], drafts: int) -> str:
    """Greedy, 64 tokens of each prompt."""
    found = accepted_by(networks, starts, 64, drafts, GREEDY)
    return f"{percentages(found.accepted, found.drafted)}; {1 + found.per_round:.2f} tokens per round"


def by_draft_temperature(networks: Networks, starts: list[list[int]], drafts: int) -> Iterator[str]:
    """The table behind the default: argmax drafts against sampled ones, token by token and as a block."""
    for temperature in (0.7, 1.0):
        cells = []
        for drawn in (0.0, 0.35, 0.7, 1.0):
            sampling = Sampling(temperature=temperature, draft_temperature=drawn)
            ways = [sampling._replace(block_verification=block) for block in ((False, True) if drawn else (False,))]
            cells.append("/".join(f"{accepted_by(networks, starts, 28, drafts, way, 5).per_round:.2f}" for way in ways))
        yield f"| {temperature} | {' | '.join(cells)} |"


def in_four_bits(
    networks: Networks, quantized: Networks, starts: list[list[int]], drafts: int
) -> Iterator[tuple[str, float, float]]:
    """Shares of drafts that either pair accepts: greedy, and sampled, where text does not loop and flatter one."""
    for name, sampling in (("greedy", GREEDY), ("temperature 0.8", Sampling(temperature=0.8))):
        yield name, *(accepted_by(pair, starts, 40, drafts, sampling).share for pair in (networks, quantized))


def batches(args: argparse.Namespace, networks: Networks, processor: Processor, passages: list[str]) -> None:
    starts = prompts_of(processor, passages[:12])
    print(f"\nIn batches, {args.drafts} drafts: greedy, 12 prompts, accepted at place 1, 2, ... (%):")
    print(by_place(networks, starts, args.drafts), flush=True)
    print("\nDrafts accepted per round, 8 prompts, by draft temperature, one by one/as a block:\n")
    print("| temperature | argmax | 0.35 | 0.7 | 1.0 |\n|---|---|---|---|---|")
    for row in by_draft_temperature(networks, starts[:8], args.drafts):
        print(row, flush=True)
    quantized = load(args.target)[0], load_assistant(args.assistant)
    for network in quantized:
        nn.quantize(network, group_size=32, bits=4)
    print("\nDrafts accepted, 16 prompts, in float32 and in 4 bits:")
    starts = starts[:8] + [processor.encode(text[:OPENING]) for text in passages[20:28]]
    for name, whole, small in in_four_bits(networks, quantized, starts, args.drafts):
        print(f"{name}: {whole:.1%}, {small:.1%}", flush=True)


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
    batches(args, (target, assistant), processor, passages)


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--target", type=Path, default=ASSETS / "tiny")
    parser.add_argument("--assistant", type=Path, default=ASSETS / "tiny-assistant")
    parser.add_argument("--heldout", type=Path, default=ASSETS / "tiny" / "heldout.txt")
    parser.add_argument("--drafts", type=positive, default=3)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
