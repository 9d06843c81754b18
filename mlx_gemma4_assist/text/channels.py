"""Channels of a model's turn: what it answers, what it thinks, which tools it calls."""

OPEN, CLOSE = "<|channel>", "<channel|>"


def without_channels(text: str) -> str:
    """An earlier turn as Gemma's chat template shows it: thoughts are left out, and what is not closed."""
    return "".join(part.partition(OPEN)[0] for part in text.split(CLOSE))
