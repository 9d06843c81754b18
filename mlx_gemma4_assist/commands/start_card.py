"""What is shown when a server has begun: what answers, what fits, and where apps find it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .streams import has_styles

TITLE = "Gemma 4 answers"


@dataclass(frozen=True)
class Card:
    """What a person wants to know of a server.

    Attributes:
        model: its name.
        weights: their format, in words.
        assistant: the drafter's name; None for plain decoding.
        keys: how keys and values are held, in words.
        context: the model's, in tokens.
        fits: how many of these a conversation may have in the memory that there is.
        url: under which this machine reaches it.
        asks_for_key: whether it does.
        local: whether only this machine can ask.
    """

    model: str
    weights: str
    assistant: str | None
    keys: str
    context: int
    fits: int
    url: str
    asks_for_key: bool
    local: bool

    def rows(self) -> list[tuple[str, str]]:
        """A label and what it says, each."""
        key = "asked for" if self.asks_for_key else "none: only this machine can ask"
        if self.asks_for_key and not self.local:
            key += ", of this machine and others"
        fits = f"{self.context:,} tokens, all of which fit"
        if self.fits < self.context:
            fits = f"{self.context:,} tokens, of which about {self.fits:,} fit in memory"
        given = "KEY" if self.asks_for_key else "local"
        return [
            ("Model", f"{self.model}; {self.weights}"),
            ("Drafts", "none: plain decoding" if self.assistant is None else f"by {self.assistant}"),
            ("Context", f"{fits}; keys and values {self.keys}"),
            ("Address", f"{self.url} (a page to chat, /health, /metrics)"),
            ("API key", key),
            ("Paste", f"export OPENAI_BASE_URL={self.url}/v1 OPENAI_API_KEY={given}"),
            ("Apps", f"python -m mlx_gemma4_assist connect APP --url {self.url}"),
        ]


def show(card: Card, apps: Sequence[str]) -> None:
    """Print it: in a frame for a terminal, as plain lines elsewhere."""
    rows = [*card.rows(), ("", f"APP is one of {', '.join(apps)}")]
    if not has_styles(sys.stdout):
        print("\n".join(f"{label + ':' if label else '':9}{text}" for label, text in rows), flush=True)
        return
    from rich import box
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    Console(highlight=False).print(Panel(table, title=TITLE, box=box.ROUNDED, expand=False))
