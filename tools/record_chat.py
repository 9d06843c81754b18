"""Record a chat with the embedded pair, as an SVG of what its window has shown: docs/chat.svg.

The chat is the real command in a pseudo-terminal. Its text is the same each time, since it is greedy; speeds are those
of the machine that it runs on.

    python tools/record_chat.py --out docs/chat.svg
"""

import argparse
import tempfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte
from chat_screen import Screen
from command_line import parser_for, run_tool

OPTIONS = ("--max-tokens", "60", "--num-assistant-tokens", "3", "--show-drafts", "--no-learned", "--no-history")
SAID = ("What did Elizabeth say to Mr. Darcy?", "Was he glad to hear it?", "/compare", "/context")
COLUMNS, LINES = 92, 30
WIDE, HIGH, EDGE, BAR = 8.43, 19, 16, 30  # pixels of a character, of a row, around all, above
PAPER, INK, FAINT = "#16181d", "#d7dae0", "#8a919e"
COLOURS = {
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": INK,
}
FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
Row = list[pyte.screens.Char]


def record(said: Iterable[str]) -> list[Row]:
    """All rows of a chat in which so much was said, up to its last prompt."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Screen(*OPTIONS, data=Path(folder), columns=COLUMNS, lines=LINES) as screen,
    ):
        for line in said:
            screen.say(line)
            screen.wait(lambda: not screen.at_prompt, "the line being sent")
            screen.wait_for_answer(120)
        rows = screen.cells
        screen.type("\x04")
        screen.ended()
    return _without_end(rows)


def _without_end(rows: list[Row]) -> list[Row]:
    """Rows up to the last that shows something, the toolbar apart."""
    texts = ["".join(cell.data for cell in row).strip() for row in rows]
    last = max(i for i, text in enumerate(texts) if text.startswith(">>"))
    first = next(i for i, text in enumerate(texts) if text)
    return rows[first : last + 1]


def svg(rows: list[Row]) -> str:
    """The rows as a picture of a window."""
    width, height = round(COLUMNS * WIDE) + 2 * EDGE, BAR + HIGH * len(rows) + EDGE
    dots = "".join(
        f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    lines = "\n".join(_line(row, BAR + HIGH * (i + 1) - 5) for i, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>{dots}\n'
        f'<g font-family="{FONTS}" font-size="14" fill="{INK}" xml:space="preserve">\n{lines}\n</g>\n</svg>\n'
    )


def _line(row: Row, baseline: int) -> str:
    """A row: a piece of text for each run of one style, in its place."""
    pieces, at = [], 0
    for style, cells in groupby(row, key=_style):
        text = "".join(cell.data for cell in cells)
        length = len(text)
        if text.strip():
            begin = len(text) - len(text.lstrip())
            shown = text.strip()
            place = f'x="{EDGE + (at + begin) * WIDE:.1f}" textLength="{len(shown) * WIDE:.1f}"'
            pieces.append(f"<tspan {place}{style}>{escape(shown)}</tspan>")
        at += length
    return f'<text y="{baseline}">{"".join(pieces)}</text>' if pieces else ""


def _style(cell: pyte.screens.Char) -> str:
    plain = FAINT if cell.blink else ""  # which stands for dim
    colour = plain if cell.fg == "default" else COLOURS.get(cell.fg, f"#{cell.fg}")
    found = f' fill="{colour}"' if colour else ""
    if cell.bold:
        found += ' font-weight="bold"'
    if cell.italics:
        found += ' font-style="italic"'
    return found + (' text-decoration="underline"' if cell.underscore else "")


def main(args: argparse.Namespace) -> None:
    """Record, and write."""
    args.out.write_text(svg(record(SAID)), encoding="utf-8")


def arguments() -> argparse.ArgumentParser:
    """Of the command."""
    parser = parser_for(__doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("docs/chat.svg"), help="the file")
    return parser


if __name__ == "__main__":
    run_tool(arguments(), main)
