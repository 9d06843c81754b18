"""What ``measure_gpu.py`` wrote, as tables in Markdown: a row for each case, a column for each pair.

python tools/gpu_table.py gpu.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from command_line import parser_for, run_tool

from mlx_gemma4_assist import InputError


def heading(found: dict[str, Any]) -> str:
    """Machine, versions and command: what figures mean nothing without."""
    facts = next(iter(found["pairs"].values()), None)
    if facts is None:
        return f"Nothing was measured by `{found['command']}`."
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['device']} ({facts['backend']}), {versions}, `{found['command']}`:"


def speeds(found: dict[str, Any]) -> list[str]:
    """Ratios within a turn, medians, with what was measured beside them."""
    cases = [case for case in found["cases"] if "ratio" in case]
    pairs = list(dict.fromkeys(case["pair"] for case in cases))
    names = dict.fromkeys((case["case"], case["against"]) for case in cases)
    cells = {(case["case"], case["pair"]): cell(case) for case in cases}
    rows = [["of", *pairs], *[["---"] * (len(pairs) + 1)]]
    for name, against in names:
        rows.append([f"{name}, against {against}", *(cells.get((name, pair), "-") for pair in pairs)])
    return [f"| {' | '.join(row)} |" for row in rows] if cases else []


def cell(case: dict[str, Any]) -> str:
    value, ratio = case["value"][0], case["ratio"][0]
    shown = f"{1e3 * value:.0f} ms" if case["unit"] == "first" else f"{value:.0f} tokens/s"
    same = all(answer["same_text"] for turn in case["turns"] for answer in turn)
    return f"{ratio:.2f} ({shown}){'' if same else ', another text'}"


def exactness(found: dict[str, Any]) -> list[str]:
    """Of each float32 pair, in how many settings the text was the plain one."""
    cases = [case for case in found["cases"] if "equal" in case]
    lines = []
    for pair in dict.fromkeys(case["pair"] for case in cases):
        equal = [case["equal"] for case in cases if case["pair"] == pair]
        lines.append(f"* {pair}: the plain text in {sum(equal)} of {len(equal)} settings.")
    return lines


def show(args: argparse.Namespace) -> None:
    try:
        found = json.loads(args.file.read_text())
        parts = [[heading(found)], speeds(found), exactness(found)]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{args.file} was not written by measure_gpu.py") from None
    print("\n\n".join("\n".join(part) for part in parts if part))


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("file", type=Path)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), show)
