"""Drafters that are right where a test wants it: the oracle of ``tools/oracle.py``, around no assistant."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import oracle


class OracleAssistant(oracle.OracleAssistant):
    """Drafts what a script says, and something else at each position that ``wrong`` names."""

    def __init__(self, script: Sequence[int], vocabulary: int, wrong: Callable[[int], bool]):
        answers = [(token + 1) % vocabulary if wrong(p) else token for p, token in enumerate(script)]
        super().__init__(Undecided(vocabulary), mx.array([*answers, *[0] * oracle.MARGIN], mx.int32))


class Undecided:
    """Stands in for an assistant whose forward costs nothing: all ids are equally likely."""

    config = None

    def __init__(self, vocabulary: int):
        self._vocabulary = vocabulary

    def __call__(self, inputs_embeds, position_ids, shared_kv_states, masks):
        batch, length, width = inputs_embeds.shape
        hidden = mx.zeros((batch, length, width // 2), inputs_embeds.dtype)
        return hidden, hidden

    def argmax(self, hidden):
        return mx.zeros(hidden.shape[:2], mx.int32)

    def logits(self, hidden):
        return mx.zeros((*hidden.shape[:2], self._vocabulary), hidden.dtype)
