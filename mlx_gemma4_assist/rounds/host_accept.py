"""The user's logits processors, together with drafts: acceptance on the host, one token at a time.

A processor is called once for every token that is emitted, with exactly the tokens before it, drafts or not: the same
calls in the same order as in plain decoding. Grammars and counters that keep state therefore work unchanged.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..options import LogitsProcessor
from .accept import accept
from .sampling import Sampling
from .state import Drafts, Round, RoundState


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
        emitted: list[int] = []
        for i in range(count + 1):
            token, stands = self._one(sampling, state, drafts, logits, i)
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
        rows = mx.repeat(row[:, None], proposed.tokens.shape[1] + 1, axis=1)
        decided = accept(sampling, state._replace(length=state.length + i), proposed, rows)
        return decided.tokens[0, 0].item(), bool(decided.accepted.item())
