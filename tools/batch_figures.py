"""What is compared of batches: columns, scenarios, the figures of a turn, and which ratios are wanted."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from peers import AUTO, MLX_LM, MLX_VLM, OURS

from mlx_gemma4_assist.evaluation.benchmark import Spread

EMBEDDED, LARGE = "embedded", "large"
EQUAL, MIXED, POISSON = "equal", "mixed", "poisson"
DRAFTS = 3
TAIL = 0.95
WELL_ABOVE_CHANCE = 0.8  # an oracle that is right so often has to make rounds faster


class Column(NamedTuple):
    """Who answers, and with how many drafts in a round: 0, a number, or ``auto`` where they are learned."""

    engine: str
    drafts: int | str

    @property
    def label(self) -> str:
        return f"{self.engine}, {'undrafted' if self.drafts == 0 else f'{self.drafts} drafts'}"


UNDRAFTED, FIXED, LEARNED = Column(OURS, 0), Column(OURS, DRAFTS), Column(OURS, AUTO)
COLUMNS = (UNDRAFTED, FIXED, LEARNED, Column(MLX_LM, 0), Column(MLX_VLM, 0), Column(MLX_VLM, DRAFTS))


class Scenario(NamedTuple):
    """What is asked: by which pair, how many texts, and whether their prompts are of equal or mixed lengths, all there
    at once, or (``poisson``) of mixed lengths and arriving at random."""

    pair: str
    rows: int
    kind: str

    @property
    def label(self) -> str:
        kind = {EQUAL: "equal lengths", MIXED: "mixed lengths", POISSON: "mixed lengths, Poisson"}[self.kind]
        return f"{self.pair} pair, {self.rows} row{'s' if self.rows > 1 else ''}" + (
            f", {kind}" if self.rows > 1 else ""
        )


class Figures(NamedTuple):
    """Of one answer.

    Attributes:
        total: tokens per second of all rows together, from the first arrival to the last token: prompts included.
        row: tokens per second of a row after its first, the median.
        first, slowest: seconds from a prompt's arrival to its first token, the median and the longest.
        gap: seconds between a row's tokens, the 95th percentile; tokens that come together have none between them.
        memory: MLX's peak in bytes.
    """

    total: float
    row: float
    first: float
    slowest: float
    gap: float
    memory: float

    @classmethod
    def of(cls, answer: dict[str, Any], arrivals: Sequence[float]) -> "Figures":
        seconds = answer["seconds"]
        first = [row[0] - arrival for row, arrival in zip(seconds, arrivals, strict=True)]
        gaps = sorted(later - earlier for row in seconds for earlier, later in pairwise(row))
        return cls(
            total=sum(map(len, seconds)) / max(row[-1] for row in seconds),
            row=statistics.median(_speed(row) for row in seconds),
            first=statistics.median(first),
            slowest=max(first),
            gap=gaps[int(TAIL * (len(gaps) - 1))],
            memory=answer["peak_memory"],
        )

    @classmethod
    def middle(cls, several: Sequence["Figures"]) -> "Figures":
        """The median of each."""
        return cls(*map(statistics.median, zip(*several, strict=True)))


def _speed(seconds: Sequence[float]) -> float:
    """Tokens per second after those that came with the first."""
    later = sum(second > seconds[0] for second in seconds)
    return later / (seconds[-1] - seconds[0]) if later else 0.0


class Turn(NamedTuple):
    """What the columns answered one right after the other: figures and tokens; and the machine's load average then."""

    figures: dict[Column, Figures]
    tokens: dict[Column, list[list[int]]]
    load: float


class Rule(NamedTuple):
    """Tokens per second of one column over another's.

    Attributes:
        least: what the ratio has to be, from so many rows on; None where it is shown only.
    """

    ours: Column
    other: Column
    least: float | None = None
    from_rows: int = 1

    def wanted(self, scenario: Scenario) -> float | None:
        """What the ratio has to be; None where it is not judged: where prompts arrive at random, their arrival bounds
        everybody's tokens per second."""
        return None if scenario.kind == POISSON or scenario.rows < self.from_rows else self.least

    def ratio(self, turns: Sequence[Turn]) -> Spread | None:
        """Within a turn; None where one of the two has no figures."""
        pairs = [(turn.figures.get(self.ours), turn.figures.get(self.other)) for turn in turns]
        found = [ours.total / other.total for ours, other in pairs if ours is not None and other is not None]
        return Spread.of(found) if found else None


OVER_MLX_LM = Rule(UNDRAFTED, Column(MLX_LM, 0), 1.3, from_rows=4)
OVER_MLX_VLM = Rule(LEARNED, Column(MLX_VLM, DRAFTS), 2.0, from_rows=4)
NEVER_BELOW = Rule(LEARNED, UNDRAFTED, 0.98)
WORTH_IT = Rule(LEARNED, UNDRAFTED, 1.0)
SHOWN = (Rule(FIXED, UNDRAFTED), Rule(UNDRAFTED, Column(MLX_VLM, 0)), Rule(FIXED, Column(MLX_VLM, DRAFTS)))


def rules(scenario: Scenario, acceptance: float) -> Iterator[Rule]:
    """The ratios to show, those to judge first."""
    good = scenario.pair == LARGE and acceptance >= WELL_ABOVE_CHANCE
    yield from (OVER_MLX_LM, OVER_MLX_VLM, WORTH_IT if good else NEVER_BELOW, *SHOWN)


def differences(turns: Sequence[Turn]) -> list[Column]:
    """Who wrote another text than this package without drafts."""
    found = [
        column
        for turn in turns
        for column, tokens in turn.tokens.items()
        if tokens != turn.tokens.get(UNDRAFTED, tokens)
    ]
    return list(dict.fromkeys(found))
