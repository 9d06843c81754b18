"""This package, mlx-lm, mlx-vlm and transformers on the same weights, in one run, taking turns.

    python tools/compare_peers.py --model tiny --dtype float32
    python tools/compare_peers.py --synthetic e2b --scale 0.25 --acceptance 0.8
    python tools/compare_peers.py --synthetic e2b --scale 0.04 --plain --prompt-tokens 2048 --max-tokens 2

Each program is a process of its own (``peers.py``), with its own copy of the weights, that answers one request at a
time: A B C D, B C D A, ..., medians, and ratios within a turn. The first turn of a prompt warms up. All get token ids
and give token ids, all decode greedily, and all texts are compared token for token. ``--python transformers=PATH`` runs
one in another environment; one that is not installed is left out, and said to be. ``--acceptance`` wraps the assistant
in an oracle (``oracle.py``) that is right with that probability, here and in mlx-vlm; ``--synthetic`` writes a random
checkpoint of a family's shape (``synthetic.py``). Besides this package it takes ``pip install mlx-lm mlx-vlm``, and
PyTorch for transformers.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import peers
from command_line import parser_for, positive, run_tool, share
from peers import AUTO, ENGINES, MLX_LM, MLX_VLM, OURS, TRANSFORMERS, Request, Settings
from synthetic import FAMILIES, copy_pair, write_pair
from workers import Failed, Worker

from mlx_gemma4_assist import GenerationOptions, InputError, assistant_for, load, load_assistant
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.evaluation.benchmark import Spread, bundled_prompts, environment

WARM_UP = 0


class Case(NamedTuple):
    """What takes a turn: a program, its drafts per round (0: plain), and whether its rounds are compiled (ours)."""

    engine: str
    drafts: int | str
    compiled: bool = False

    @property
    def label(self) -> str:
        how = "plain" if self.drafts == 0 else f"assisted, {self.drafts} drafts"
        return f"{self.engine}{' compiled' if self.compiled else ''} {how}"


def cases(args: argparse.Namespace) -> list[Case]:
    """What takes turns, each program's plain decoding first: oracles learn their script from it."""
    kinds = {"on": (True,), "off": (False,), "both": (False, True)}[args.compile]
    drafts = args.num_assistant_tokens
    found = [Case(OURS, count, compiled) for count in (0, drafts, AUTO) for compiled in kinds]
    found += [Case(MLX_LM, 0), Case(MLX_VLM, 0), Case(MLX_VLM, drafts), Case(TRANSFORMERS, 0)]
    if args.acceptance is None:
        found.append(Case(TRANSFORMERS, drafts))
    return [case for case in found if case.engine in args.engines.split(",") and (case.drafts == 0 or not args.plain)]


def prepare(args: argparse.Namespace, folder: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Write the pair that all programs load; return prompts by name, and facts about machine and weights."""
    if args.synthetic:
        write_pair(folder, args.synthetic, args.scale, args.layers, args.dtype or "bfloat16")
        target, processor = load(folder)
    else:
        target, processor = load(args.model, dtype=args.dtype)
        assistant = load_assistant(args.assistant_model or assistant_for(args.model), dtype=args.dtype)
        copy_pair(folder, target, assistant)
    facts = environment(target, GenerationOptions())
    del facts["compiled"]
    facts["model"] = f"synthetic {args.synthetic}, scale {args.scale}" if args.synthetic else args.model
    facts["megabytes"] = round((folder / "model.safetensors").stat().st_size / 1e6)
    texts = {name: processor.encode(prompt) for name, prompt in bundled_prompts().items()}
    if args.prompt_tokens is not None:
        return {f"{args.prompt_tokens} tokens": long_prompt(list(texts.values()), args.prompt_tokens)}, facts
    return {name: texts[name] for name in args.prompts.split(",")}, facts


def long_prompt(texts: list[list[int]], count: int) -> list[int]:
    """All prompts one after the other, again and again, cut in the middle: it ends as a prompt does."""
    end = 8
    whole = [token for text in texts for token in text]
    return (whole * (count // len(whole) + 1))[: count - end] + texts[-1][-end:]


Results = dict[Case, dict[tuple[str, int], dict[str, Any]]]


def take_turns(
    workers: dict[str, Worker], todo: list[Case], prompts: dict[str, list[int]], args: argparse.Namespace
) -> tuple[Results, dict[str, str]]:
    """All cases on all prompts; results by (prompt, turn), and what failed."""
    results: Results = {case: {} for case in todo}
    failed: dict[str, str] = {}
    for name, tokens in prompts.items():
        for turn in range(args.turns + 1):
            first = turn % len(todo)  # warming up is in the order given: plain decoding is an oracle's script
            for case in todo[first:] + todo[:first]:
                if case.label in failed:
                    continue
                note(f"{name}, {'warming up' if turn == WARM_UP else f'turn {turn} of {args.turns}'}: {case.label}")
                try:
                    request = Request(name, tokens, args.max_tokens, case.drafts, case.compiled)
                    reply = workers[case.engine].ask(asdict(request))
                except Failed as error:
                    failed[case.label] = str(error)
                    continue
                if turn != WARM_UP:
                    results[case][name, turn] = reply
    note("")
    return {case: result for case, result in results.items() if case.label not in failed}, failed


def note(text: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def ratio(results: Results, ours: Case, other: Case, key: str) -> Spread:
    """Ours over the other's within each turn; of seconds the other way round: above 1 ours is better."""
    pairs = [(results[ours][at][key], results[other][at][key]) for at in results[ours]]
    return Spread.of(theirs / mine if key == "first" else mine / theirs for mine, theirs in pairs)


def comparisons(found: list[Case]) -> Iterator[tuple[Case, Case]]:
    """Which pairs to hold beside each other: like with like, and assisted with plain."""
    others = [case for case in found if case.engine != OURS]
    for ours in (case for case in found if case.engine == OURS):
        yield from ((ours, other) for other in others if (other.drafts == 0) == (ours.drafts == 0))
        plain = Case(OURS, 0, ours.compiled)
        if ours != plain and plain in found:
            yield ours, plain


def first_difference(a: list[int], b: list[int]) -> int | None:
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def differences(results: Results) -> list[str]:
    """Every text that is not the one of the first case."""
    reference = next(iter(results))
    found = []
    for case, runs in results.items():
        for (name, turn), run in runs.items():
            at = first_difference(run["tokens"], results[reference][name, turn]["tokens"])
            if at is not None:
                found.append(f"{case.label} differs from {reference.label} on {name} at token {at}")
    return list(dict.fromkeys(found))


def shown(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def report(results: Results, failed: dict[str, str]) -> dict[str, Any]:
    """Print tables; return them."""
    width = max(len(case.label) for case in results)
    rows, ratios = [], []
    print(f"{'':{width}}  {'tokens per second':24}  {'first token, ms':24}  tokens per round  peak GB")
    for case, runs in results.items():
        speed, first = (Spread.of(run[key] for run in runs.values()) for key in ("tokens_per_second", "first"))
        per_round = [run["tokens_per_round"] for run in runs.values() if run["tokens_per_round"] is not None]
        peak = max(run["peak_memory"] for run in runs.values()) / 1e9
        each = f"{statistics.mean(per_round):.2f}" if per_round else "-"
        milliseconds = Spread(*(1e3 * seconds for seconds in first))
        print(
            f"{case.label:{width}}  {shown(speed, 1):24}  {shown(milliseconds, 1):24}  {each:>16}  "
            f"{f'{peak:.3f}' if peak else '-':>7}"
        )
        rows.append({"case": case.label, "tokens_per_second": speed, "first": first, "tokens_per_round": per_round})
    print("\nRatios within a turn, median (quartiles); above 1 the first of two is faster.")
    for ours, other in comparisons(list(results)):
        speed, first = (ratio(results, ours, other, key) for key in ("tokens_per_second", "first"))
        both = f"{ours.label} : {other.label}"
        print(f"{both:{2 * width + 3}}  speed {shown(speed, 2):21}  first token {shown(first, 2)}")
        ratios.append({"ours": ours.label, "other": other.label, "speed": speed, "first": first})
    different = differences(results)
    print("\n" + ("\n".join(different) or f"All {len(results)} wrote the same tokens."))
    for what, why in failed.items():
        print(f"Left out: {what}: {why}")
    return {"cases": rows, "ratios": ratios, "differences": different, "left_out": failed}


def check(args: argparse.Namespace) -> None:
    """Refuse nonsense before any work is done."""
    unknown = set(args.engines.split(",")) - set(ENGINES) | {
        entry for entry in args.python if entry.partition("=")[0] not in ENGINES
    }
    if unknown:
        raise InputError(f"no engine is named {sorted(unknown)[0]!r}: expected {', '.join(ENGINES)}")
    missing = set(args.prompts.split(",")) - set(bundled_prompts())
    if missing:
        raise InputError(f"no prompt is named {sorted(missing)[0]!r}: expected {', '.join(bundled_prompts())}")
    for name, value, low, high in (
        ("--prompt-tokens", args.prompt_tokens, 16, 10**6),
        ("--num-assistant-tokens", args.num_assistant_tokens, 1, 32),
        ("--max-tokens", args.max_tokens, 2, 10**6),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}, expected {low} to {high}")


def compare(args: argparse.Namespace, folder: Path) -> None:
    check(args)
    prompts, facts = prepare(args, folder)
    settings = Settings(str(folder), facts["dtype"], args.acceptance, args.seed)
    pythons = dict(entry.split("=", 1) for entry in args.python)
    todo = cases(args)
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    try:
        for name in dict.fromkeys(case.engine for case in todo):
            note(f"starting {name}")
            try:
                command = [pythons.get(name, sys.executable), peers.__file__, name, json.dumps(asdict(settings))]
                workers[name] = Worker(command, verbose=args.verbose)
                facts["versions"] |= workers[name].started["versions"]
            except Failed as error:
                failed[name] = str(error)
        todo = [case for case in todo if case.engine in workers]
        results, failed_cases = take_turns(workers, todo, prompts, args)
    finally:
        for worker in workers.values():
            worker.close()
    facts |= {
        "prompts": {name: len(tokens) for name, tokens in prompts.items()},
        "max_tokens": args.max_tokens,
        "turns": args.turns,
        "acceptance": "the assistant's own" if args.acceptance is None else f"oracle, {args.acceptance} for each draft",
        "command": shlex.join(["python", *sys.argv]),
    }
    for name, value in facts.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
    print()
    if not results:
        raise InputError("; ".join(f"{what}: {why}" for what, why in (failed | failed_cases).items()))
    tables = report(results, failed | failed_cases)
    if args.json:
        runs = [
            {"case": case.label, "prompt": name, "turn": turn} | run
            for case, by_turn in results.items()
            for (name, turn), run in by_turn.items()
        ]
        args.json.write_text(json.dumps(facts | tables | {"runs": runs}, indent=2) + "\n")


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny", help="not quantized; any that this package loads")
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--synthetic", choices=FAMILIES, help="instead of a model")
    parser.add_argument("--scale", type=float, default=0.25, help="of a synthetic checkpoint's widths")
    parser.add_argument("--layers", type=int, help="of a synthetic checkpoint, instead of its family's")
    parser.add_argument("--acceptance", type=share, help="chance of a draft to be right: an oracle assistant")
    parser.add_argument("--num-assistant-tokens", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="plain decoding only")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--compile", choices=("on", "off", "both"), default="both", help="of this package's rounds")
    parser.add_argument("--prompts", default="code,prose,list,json,chat", help="of the bundled ones")
    parser.add_argument("--prompt-tokens", type=int, help="one prompt of this length instead")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the oracle's luck")
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--work", type=Path, help="keep the checkpoint in this folder")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the programs print")
    return parser


def compare_in_folder(args: argparse.Namespace) -> None:
    if args.work is not None:
        compare(args, args.work / "pair")
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder) / "pair")


if __name__ == "__main__":
    run_tool(arguments(), compare_in_folder)
