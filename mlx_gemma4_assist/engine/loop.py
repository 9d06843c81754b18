"""Rounds, one after the other: the next is submitted before the last is read, so that the device never waits.

Only this loop and the prefill touch a cache, and only :func:`read` waits for the device.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import mlx.core as mx

from ..cache.rows import KVCache
from ..drafts.clock import RoundClock
from ..drafts.protocol import DraftLength
from ..rounds.sampling import row_keys
from ..rounds.state import Decoder, Round, RoundState
from ..rounds.steps import EAGER, Steps


class Emitted(NamedTuple):
    """A round as the host reads it: for each row its tokens, and how many of them were drafts."""

    tokens: list[list[int]]
    accepted: list[int]
    drafted: int


@dataclass(frozen=True)
class Plan:
    """How a run proceeds.

    Attributes:
        budget: tokens to emit per row; the last round may emit more.
        draft_length: how many drafts the next round makes.
        ahead: rounds submitted beyond the one that is read; 0 to wait for each, as acceptance on the host must.
        seed: of all noise.
        steps: how rounds are made, eager or compiled.
    """

    budget: int
    draft_length: DraftLength
    ahead: int = 1
    seed: int = 0
    steps: Steps = EAGER


def start(decoder: Decoder, cache: KVCache, tokens: Sequence[int], seed: int) -> RoundState:
    """The state before the first round, from each row's newest token. It has no hidden state to draft from."""
    token = mx.array(list(tokens), mx.int32)[:, None]
    hidden = mx.zeros(decoder.target.embed(token).shape, decoder.target.hidden_dtype)
    return RoundState(mx.array(cache.lengths, mx.int32), token, hidden, row_keys(seed, len(tokens)))


def read(emitted: Round) -> Emitted:
    """Wait for a round."""
    accepted = cast(list[int], emitted.accepted.tolist())
    tokens = cast(list[list[int]], emitted.tokens.tolist())
    kept = [row[: n + 1] for row, n in zip(tokens, accepted, strict=True)]
    return Emitted(kept, accepted, emitted.tokens.shape[1] - 1)


class _Flight:
    """The rounds of a run that were submitted and not read, and the state after the last of them.

    Attributes:
        positions: how many positions they write in each row.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, tokens: Sequence[int], plan: Plan):
        self.positions = 0
        self._decoder, self._cache, self._steps = decoder, cache, plan.steps
        self._state = start(decoder, cache, tokens, plan.seed)
        self._newest = list(tokens)
        self._rounds: deque[Round] = deque()

    def __len__(self) -> int:
        return len(self._rounds)

    def submit(self, drafts: int) -> None:
        """Hand the device a round of so many drafts."""
        cache, count = self._cache, drafts + 1
        ends = [length + self.positions + count for length in cache.lengths]
        cache.reserve(self._steps.reach(max(ends)))
        emitted, self._state, buffers = self._steps.round(
            self._decoder, self._state, cache.buffers, drafts, max(ends) - count
        )
        cache.store(buffers, ends)
        mx.async_eval(emitted, self._state, buffers)
        self._rounds.append(emitted)
        self.positions += count

    def land(self) -> Emitted:
        """Wait for the first of the rounds; the keys and values of all but its last token are in the cache now."""
        result = read(self._rounds.popleft())
        self.positions -= result.drafted + 1
        for row, tokens in enumerate(result.tokens):
            self._cache.append(row, [self._newest[row], *tokens[:-1]])
            self._newest[row] = tokens[-1]
        return result


def rounds(decoder: Decoder, cache: KVCache, tokens: Sequence[int], plan: Plan) -> Iterator[Emitted]:
    """Run rounds until every row has emitted its budget, yielding each as soon as the next one is under way.

    Only the first is yielded before: it gives the first token, and has no drafts to wait for.

    Args:
        decoder: networks and settings.
        cache: filled up to, not including, ``tokens``; kept up to date as rounds are read.
        tokens: the newest token of each row.
        plan: how far, and how.
    """
    flight = _Flight(decoder, cache, tokens, plan)
    clock = RoundClock()
    done = 0  # tokens that every row has emitted, as far as the host has read
    while done < plan.budget:
        ahead, drafts = (plan.ahead, decoder.assistant is not None) if done else (0, False)
        while len(flight) <= ahead and (left := plan.budget - done - len(flight)) > 0:
            flight.submit(min(plan.draft_length.choose(), left - 1) if drafts else 0)
        result = flight.land()
        plan.draft_length.observe(result.drafted, result.accepted, clock.round_was_read())
        done += min(len(row) for row in result.tokens)
        clock.leave()
        yield result
        clock.come_back()
