"""Rounds, one after the other: the next is submitted before the last is read, so that the device never waits.

Only this loop and the prefill touch a cache, and only :func:`read` and :func:`read_drafts` wait for the device.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import mlx.core as mx

from ..cache.layout import Bound
from ..cache.rows import KVCache
from ..drafts.clock import RoundClock
from ..drafts.protocol import DraftLength
from ..rounds.sampling import row_keys
from ..rounds.state import Decoder, Proposal, Round, RoundState
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
    log-probabilities; and whether all drafts were known without the assistant."""

    tokens: list[list[int]]
    accepted: list[int]
    drafted: int
    log_probs: list[list[LogProbs]]
    known: bool = False


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


def read_drafts(half: Proposal) -> list[list[int]]:
    """Wait for the drafts of a round, which the target may still be verifying."""
    return cast(list[list[int]], half.drafts.tokens.tolist())


def _log_probs(emitted: Round, kept: list[list[int]]) -> list[list[LogProbs]]:
    """Of the tokens of each row that are kept."""
    own, ids, values = (cast(list[Any], array.tolist()) for array in emitted.log_probs)
    return [
        [LogProbs(own[row][i], list(zip(ids[row][i], values[row][i], strict=True))) for i in range(len(tokens))]
        for row, tokens in enumerate(kept)
    ]


@dataclass(eq=False)
class _Flying:
    """A round in flight: whom its rows belong to, how many positions it writes, whether all its drafts were known, and
    what it emits, once the device has its second half too."""

    holders: list[object | None]
    count: int
    known: bool = False
    emitted: Round | None = None


class Guide(Protocol):
    """What the host says between the two halves of a round: :class:`guiding.Guide`."""

    def known(self, count: int, unread: Sequence[bool]) -> tuple[mx.array, bool]:
        """(B, count) int32, drafts of the next round that are known without the assistant, negative where they are not;
        and whether all that count are.

        ``unread``: for each row, whether it has a part in a round in flight.
        """

    def masks(self, drafts: Sequence[Sequence[int]]) -> mx.array:
        """``round.settle``'s masks for these drafts; all that was emitted before them is known."""


class Flight:
    """The rounds that were submitted and not read, and the state after the last of them.

    Args:
        decoder, steps, cache: what rounds are made with. Between two rounds the owner may put others in their places.
        state: before the first round.
        newest: the newest token of each row.
        holders: for each row whom its tokens belong to, None if to nobody. A round that was submitted for another
            holder says nothing of the row.

    Attributes:
        guide: if there is one, rounds are submitted in halves, and the second, ``settle``, when all rounds before have
            been read. The device verifies meanwhile.
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
        self.guide: Guide | None = None
        self._rounds: deque[_Flying] = deque()
        self._half: Proposal | None = None

    def __len__(self) -> int:
        return len(self._rounds)

    def submit(self, drafts: int) -> None:
        """Hand the device a round of so many drafts; of a guided one the first half, if others are in flight."""
        cache, count = self.cache, drafts + 1
        ends = [self.end(row) + count for row in range(len(self.holders))]
        cache.reserve_each(
            [0 if holder is None else self.steps.reach(end) for end, holder in zip(ends, self.holders, strict=True)]
        )
        if self.state.places is not cache.places:
            self.state = self.state._replace(places=cache.places)
        bound = cache.bound([end - count for end in ends])
        if self.guide is not None:
            self._propose(self.guide, drafts, ends, bound)
            return
        emitted, self.state, buffers = self.steps.round(self.decoder, self.state, cache.buffers, drafts, bound)
        cache.store(buffers, ends)
        mx.async_eval(emitted, self.state[:3], self.state.counts, buffers)
        self._rounds.append(_Flying(list(self.holders), count, emitted=emitted))

    def _propose(self, guide: Guide, drafts: int, ends: Sequence[int], bound: Bound) -> None:
        known, all_known = guide.known(drafts, [self.in_flight_for(holder) > 0 for holder in self.holders])
        decoder = self.decoder._replace(assistant=None) if all_known else self.decoder
        self._half = self.steps.propose(decoder, self.state, self.cache.buffers, known, bound)
        self.cache.store(self._half.buffers, ends)
        mx.async_eval(self._half.drafts.tokens)  # apart: they can be read while the rest is computed
        mx.async_eval(self._half.hidden, self._half.logits, self._half.buffers)
        self._rounds.append(_Flying(list(self.holders), drafts + 1, all_known))
        if len(self._rounds) == 1:
            self.settle()

    def settle(self) -> None:
        """Hand the device the second half of the last round, if it has not got it: all before have been read."""
        if self._half is None or self.guide is None:
            return
        half, self._half = self._half, None
        emitted, self.state = self.steps.settle(self.decoder, self.state, half, self.guide.masks(read_drafts(half)))
        mx.async_eval(emitted, self.state[:3], self.state.counts)
        self._rounds[-1].emitted = emitted

    def in_flight_for(self, holder: object) -> int:
        """How many of the rounds in flight have a row of this holder."""
        count = 0
        for flying in self._rounds:
            count += holder in flying.holders
        return count

    def extend(self, rows: int) -> None:
        """More rows, without holders; the cache and the state have them already."""
        self.holders += [None] * rows
        self.newest += [0] * rows

    def keep(self, kept: Sequence[int], rows: int) -> None:
        """So many rows, first these of the ones there were; the cache and the state have only those already. No round
        is in flight."""
        self.holders = [self.holders[row] for row in kept]
        self.newest = [self.newest[row] for row in kept]
        self.extend(rows - len(kept))

    def end(self, row: int) -> int:
        """An upper bound of a row's length after the rounds in flight."""
        end, holder = len(self.cache.tokens[row]), self.holders[row]
        if holder is not None:
            for flying in self._rounds:
                if holder in flying.holders:
                    end += flying.count
        return end

    def land(self) -> Emitted:
        """Wait for the first of the rounds; the keys and values of all but its last tokens are in the cache now.

        Rows that had another holder, or none, when it was submitted have no tokens in it.
        """
        flying = self._rounds.popleft()
        assert flying.emitted is not None
        result = read(flying.emitted)._replace(known=flying.known)
        for row, (tokens, holder) in enumerate(zip(result.tokens, flying.holders, strict=True)):
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
