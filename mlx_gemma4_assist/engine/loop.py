"""Rounds, one after the other: the next is submitted before the last is read, so that the device never waits.

Only this loop and the prefill touch a cache, and only :func:`read` waits for the device.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import mlx.core as mx

from ..cache.rows import KVCache
from ..drafts.clock import RoundClock
from ..drafts.protocol import DraftLength
from ..rounds.sampling import row_keys
from ..rounds.state import Decoder, Round, RoundState
from ..rounds.steps import EAGER, Steps


class LogProbs(NamedTuple):
    """What the target said in one place of a text.

    Attributes:
        own: the log-probability of the token that came there.
        likeliest: (id, log-probability) of the likeliest, in falling order.
    """

    own: float
    likeliest: list[tuple[int, float]]


class Emitted(NamedTuple):
    """A round as the host reads it: for each row its tokens, how many of them were drafts, and, where asked for, their
    log-probabilities."""

    tokens: list[list[int]]
    accepted: list[int]
    drafted: int
    log_probs: list[list[LogProbs]]


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
    log_probs = _log_probs(emitted, kept) if emitted.log_probs else [[]] * len(kept)
    return Emitted(kept, accepted, emitted.tokens.shape[1] - 1, log_probs)


def _log_probs(emitted: Round, kept: list[list[int]]) -> list[list[LogProbs]]:
    """Of the tokens of each row that are kept."""
    own, ids, values = (cast(list[Any], array.tolist()) for array in emitted.log_probs)
    return [
        [LogProbs(own[row][i], list(zip(ids[row][i], values[row][i], strict=True))) for i in range(len(tokens))]
        for row, tokens in enumerate(kept)
    ]


class Flight:
    """The rounds that were submitted and not read, and the state after the last of them.

    Args:
        decoder, steps, cache: what rounds are made with. Between two rounds the owner may put others in their places.
        state: before the first round.
        newest: the newest token of each row.
        holders: for each row whom its tokens belong to, None if to nobody. A round that was submitted for another
            holder says nothing of the row.
    """

    def __init__(
        self,
        decoder: Decoder,
        steps: Steps,
        cache: KVCache,
        state: RoundState,
        newest: Sequence[int],
        holders: Sequence[object],
    ):
        self.decoder, self.steps, self.cache, self.state = decoder, steps, cache, state
        self.newest = list(newest)
        self.holders: list[object | None] = list(holders)
        self._rounds: deque[tuple[Round, list[object | None]]] = deque()

    def __len__(self) -> int:
        return len(self._rounds)

    def submit(self, drafts: int) -> None:
        """Hand the device a round of so many drafts."""
        cache, count = self.cache, drafts + 1
        ends = [self.end(row) + count for row in range(len(self.holders))]
        cache.reserve(self.steps.reach(max(ends)))
        emitted, self.state, buffers = self.steps.round(
            self.decoder, self.state, cache.buffers, drafts, max(ends) - count
        )
        cache.store(buffers, ends)
        mx.async_eval(emitted, self.state[:3], self.state.counts, buffers)
        self._rounds.append((emitted, list(self.holders)))

    def in_flight_for(self, holder: object) -> int:
        """How many of the rounds in flight have a row of this holder."""
        return sum(holder in holders for _, holders in self._rounds)

    def extend(self, rows: int) -> None:
        """More rows, without holders; the cache and the state have them already."""
        self.holders += [None] * rows
        self.newest += [0] * rows

    def end(self, row: int) -> int:
        """An upper bound of a row's length after the rounds in flight."""
        return len(self.cache.tokens[row]) + self._flying(self.holders[row])

    def _flying(self, holder: object | None) -> int:
        """How many positions the rounds in flight write for a holder."""
        if holder is None:
            return 0
        return sum(emitted.tokens.shape[1] for emitted, holders in self._rounds if holder in holders)

    def land(self) -> Emitted:
        """Wait for the first of the rounds; the keys and values of all but its last tokens are in the cache now.

        Rows that had another holder, or none, when it was submitted have no tokens in it.
        """
        emitted, holders = self._rounds.popleft()
        result = read(emitted)
        for row, (tokens, holder) in enumerate(zip(result.tokens, holders, strict=True)):
            if holder is None or holder is not self.holders[row]:
                tokens.clear()
                continue
            self.cache.append(row, [self.newest[row], *tokens[:-1]])
            self.newest[row] = tokens[-1]
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
    flight = Flight(decoder, plan.steps, cache, start(decoder, cache, tokens, plan.seed), tokens, range(len(tokens)))
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
