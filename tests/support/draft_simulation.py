"""A machine that decodes in rounds, as a draft length sees it: counts and times, with one round in flight.

Costs are in plain steps. The times that a draft length sees are noisy; what it is judged by are the costs themselves.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlx_gemma4_assist.drafts.protocol import DraftLength

LONGEST = 8
NOISE = 0.05
PLAIN_SECONDS = 0.02

# A forward over 1 + k tokens relative to one token. Published: blocks of 4 on M1 Ultra, M3 Ultra and M5 Max (mlxcel),
# M4 Pro (mlx #3839); of 26B-A4B only that 3 drafts gave 0.74 to 0.94 of plain speed. Straight lines between and
# beyond.
_M4_PRO = [1, 1.03, 1.22, 1.47, 1.77, 2.07, 2.38, 2.69, 3.0]
FORWARD: dict[str, Callable[[int], float]] = {
    "M1 Ultra": lambda k: 1 + (2.7 - 1) / 3 * k,
    "M3 Ultra": lambda k: 1 + (1.5 - 1) / 3 * k,
    "M5 Max": lambda k: 1 + (1.27 - 1) / 3 * k,
    "M4 Pro": lambda k: _M4_PRO[k],
    "MoE": lambda k: 1 + 0.55 * k,
}


def round_costs(machine: str, draft_step: float) -> list[float]:
    """Of rounds with 0 to LONGEST drafts."""
    return [FORWARD[machine](k) + draft_step * k for k in range(LONGEST + 1)]


@dataclass(frozen=True)
class Setting:
    """A machine, a text and a drafter.

    Attributes:
        name: for people.
        costs: of rounds with 0, 1, ... drafts.
        chances: for each place of the text, that a first draft there stands.
        decay: what this is multiplied by from one draft of a round to the next.
        luck: for each place of the text a number in 0..1: the same places are hard whatever the draft length.
        seed: of the noise of times.
    """

    name: str
    costs: list[float]
    chances: list[float]
    decay: float
    luck: list[float]
    seed: int

    def accepted(self, place: int, drafted: int) -> int:
        chance, count = self.chances[place], 0
        while count < drafted and self.luck[place + count] < chance:
            chance *= self.decay
            count += 1
        return count


def setting(name: str, costs: list[float], chances: list[float], seed: int, decay: float = 1.0) -> Setting:
    rng = random.Random(seed)
    luck = [rng.random() for _ in range(len(chances) + LONGEST)]
    return Setting(name, costs, chances, decay, luck, rng.getrandbits(32))


def random_settings(count: int, tokens: int, seed: int = 0) -> list[Setting]:
    """All machines with all kinds of text: acceptance from 0.05 to 0.98 that stays, drifts, or switches."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        machine = list(FORWARD)[number % len(FORWARD)]
        kind = list(KINDS)[number // len(FORWARD) % len(KINDS)]
        costs = round_costs(machine, rng.uniform(0.03, 0.08))
        chances = KINDS[kind](rng, tokens)
        decay = rng.choice([1.0, rng.uniform(0.8, 1)])
        made.append(setting(f"{machine}, {kind}", costs, chances, rng.getrandbits(32), decay))
    return made


def _draw(rng: random.Random) -> float:
    return rng.uniform(0.05, 0.98)


def _constant(rng: random.Random, tokens: int) -> list[float]:
    return [_draw(rng)] * tokens


def _drifting(rng: random.Random, tokens: int) -> list[float]:
    low, high, period, phase = _draw(rng), _draw(rng), rng.uniform(400, 2000), rng.uniform(0, 2 * math.pi)
    return [low + (high - low) * (1 + math.sin(phase + 2 * math.pi * t / period)) / 2 for t in range(tokens)]


def _switching(rng: random.Random, tokens: int) -> list[float]:
    now, other = _draw(rng), _draw(rng)
    made: list[float] = []
    while len(made) < tokens:
        made += [now] * rng.randint(150, 800)
        now, other = other, now
    return made[:tokens]


KINDS = {"constant": _constant, "drifting": _drifting, "switching": _switching}


@dataclass(frozen=True)
class Run:
    """What a run took, in plain steps, and its rounds: (place in the text, drafts, of these accepted)."""

    spent: float
    rounds: list[tuple[int, int, int]]


Disturbance = Callable[[random.Random, int], float]


def run(
    draft_length: DraftLength,
    setting: Setting,
    tokens: int | None = None,
    *,
    noise: float = NOISE,
    disturbance: Disturbance = lambda rng, place: 1.0,
    first_use: float = 1.0,
    overlap: float = 0.0,
    change: float = 0.0,
) -> Run:
    """Decode, as ``engine.loop.rounds`` does it: a round is submitted before the one in front of it is read.

    Args:
        draft_length: is asked and told as there: the first round has no drafts and no time, the last ones have fewer.
        setting: where.
        tokens: how many, all of the text unless told.
        noise: relative deviation of a time.
        disturbance: multiplies the time of a round at this place of the text.
        first_use: multiplies the time in which a round of a new length is submitted, and its own.
        overlap: how much of the time between two reads belongs to the round that was submitted meanwhile. MLX limits
            the work in flight, so that submitting a round may wait until it is nearly done: then this is 1.
        change: what a round costs besides if the one before it had another length, in plain steps.
    """
    rng = random.Random(setting.seed)
    budget = len(setting.chances) if tokens is None else tokens
    flight: deque[tuple[int, int, int, float, float]] = deque()
    rounds: list[tuple[int, int, int]] = []
    used: set[int] = set()
    place = done = 0
    spent = 0.0
    last = 0
    while done < budget:
        delay = 1.0
        while len(flight) < 2 and place < budget and (left := budget - done - len(flight)) > 0:
            drafted = min(draft_length.choose(), left - 1) if place > 0 else 0
            own = 1.0 if drafted in used else first_use
            used.add(drafted)
            delay = max(delay, own)
            count = setting.accepted(place, drafted)
            cost = setting.costs[drafted] + (change if drafted != last else 0.0)
            last = drafted
            flight.append((place, drafted, count, own, cost))
            spent += cost
            place += count + 1
        at, drafted, count, own, cost = flight.popleft()
        ahead = flight[-1][-1] if flight else cost
        cost = (1 - overlap) * cost + overlap * ahead
        seconds = PLAIN_SECONDS * cost * max(0.2, rng.gauss(1, noise))
        seconds *= disturbance(rng, at) * max(own, delay)
        draft_length.observe(drafted, [count], seconds if rounds else None)
        rounds.append((at, drafted, count))
        done += count + 1
    return Run(spent, rounds)


def spent_on_first(tokens: int, made: Run, setting: Setting) -> float:
    """What the first tokens of a run took, in plain steps; of the round that exceeds them its share."""
    spent = 0.0
    for place, drafted, count in made.rounds:
        spent += setting.costs[drafted]
        if place + count + 1 >= tokens:
            return spent * tokens / (place + count + 1)
    raise ValueError(f"the run has no {tokens} tokens")


def fixed_cost(setting: Setting, drafts: int, tokens: int) -> float:
    """What a run with a fixed number of drafts takes, in plain steps."""
    place, spent = 0, 0.0
    while place < tokens:
        drafted = min(drafts, tokens - place - 1) if place > 0 else 0
        spent += setting.costs[drafted]
        place += setting.accepted(place, drafted) + 1
    return spent


def best_fixed_cost(setting: Setting, tokens: int) -> float:
    """Of the best fixed number of drafts, in hindsight."""
    return min(fixed_cost(setting, drafts, tokens) for drafts in range(LONGEST + 1))
