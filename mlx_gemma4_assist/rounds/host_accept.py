"""The user's logits processors, together with drafts: acceptance on the host, one token at a time.

A processor is called once for every token that is emitted, with exactly the tokens before it, drafts or not: the same
calls in the same order as in plain decoding. Grammars and counters that keep state therefore work unchanged.
"""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx

from ..options import MAX_DRAFTS, LogitsProcessor
from .accept import accept
from .sampling import Sampling, Settings
from .state import Accept, Drafts, Round, RoundState


class HostAcceptor:
    """Takes the place of ``accept.accept`` in a round of one row; such rounds run without look-ahead.

    Args:
        processors: applied one after the other.
        tokens: all ids so far, the newest one included.
    """

    def __init__(self, processors: Sequence[LogitsProcessor], tokens: Sequence[int]):
        self._processors = tuple(processors)
        self._tokens = list(tokens)

    def __call__(self, sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array) -> Round:
        """Walk along the drafts until one falls; logits: (1, K + 1, V)."""
        count = drafts.tokens.shape[1]
        # Read back, as each decision is: the user's processors run here, and nothing is submitted ahead of them.
        counted = _first(drafts, count if state.rows is None else cast(int, state.rows.limit.item()))
        emitted: list[int] = []
        for i in range(counted.tokens.shape[1] + 1):
            token, stands = self._one(sampling, state, counted, logits, i)
            emitted.append(token)
            self._tokens.append(token)
            if not stands:
                break
        padded = emitted + [0] * (count + 1 - len(emitted))
        return Round(mx.array([padded], mx.int32), mx.array([len(emitted) - 1], mx.int32))

    def _one(self, sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array, i: int) -> tuple[int, bool]:
        """The token at place i of the block, and whether it is the draft proposed there."""
        so_far, row = mx.array(self._tokens, mx.int32), logits[:, i]
        for processor in self._processors:
            row = processor(so_far, row)
        # A round of its own, of one draft or, past the last, of none; the row after a draft that stands is not used.
        proposed = Drafts(drafts.tokens[:, i : i + 1], None if drafts.log_q is None else drafts.log_q[:, i : i + 1])
        repeated = mx.repeat(row[:, None], proposed.tokens.shape[1] + 1, axis=1)
        decided = accept(sampling, _at(state, i), proposed, repeated)
        return cast(int, decided.tokens[0, 0].item()), bool(decided.accepted.item())


def _first(drafts: Drafts, count: int) -> Drafts:
    """The first ``count`` drafts, as if no others had been made."""
    tokens = drafts.tokens[:, :count]
    return Drafts(tokens, None if drafts.log_q is None or count == 0 else drafts.log_q[:, :count])


def _at(state: RoundState, place: int) -> RoundState:
    """The state of a round that begins ``place`` tokens later, and counts all of its drafts."""
    rows = state.rows
    later = None if rows is None else rows._replace(limit=mx.full(rows.limit.shape, MAX_DRAFTS, mx.int32))
    return state._replace(length=state.length + place, rows=later)


def accept_in_rows(acceptors: Sequence[HostAcceptor | None]) -> Accept:
    """Acceptance of a batch some of whose rows need the host; the others are decided on the device as ever."""

    def decide(sampling: Sampling, state: RoundState, drafts: Drafts, logits: mx.array) -> Round:
        decided = accept(sampling, state, drafts, logits)
        rows = range(len(acceptors))
        tokens = [decided.tokens[row : row + 1] for row in rows]
        accepted = [decided.accepted[row : row + 1] for row in rows]
        for row, acceptor in enumerate(acceptors):
            if acceptor is not None:
                one = acceptor(sampling, _row(state, row), _drafts_of(drafts, row), logits[row : row + 1])
                tokens[row], accepted[row] = one.tokens, one.accepted
        return Round(mx.concatenate(tokens), mx.concatenate(accepted))

    return decide


def _row(state: RoundState, row: int) -> RoundState:
    """One row of a state."""
    here = slice(row, row + 1)
    rows = None if state.rows is None else Settings(*(each[here] for each in state.rows))
    return RoundState(state.length[here], state.token[here], state.hidden[here], state.keys[here], rows)


def _drafts_of(drafts: Drafts, row: int) -> Drafts:
    here = slice(row, row + 1)
    return Drafts(drafts.tokens[here], None if drafts.log_q is None else drafts.log_q[here])
