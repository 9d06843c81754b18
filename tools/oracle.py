"""Drafters whose acceptance is an input: as costly as the assistant that they wrap, right as often as they are told.

The real assistant runs in every draft step, its token is then replaced: by what the target says at that position, or by
something else where the oracle is to be wrong. Which positions those are is drawn once, so that this package and
mlx-vlm meet the same luck. ``mx.where`` keeps the real forward from being left out as unused.

``OracleAssistant`` knows one text by its positions. ``ChainOracle`` knows what follows each token, whichever row of a
batch has it, and so drafts for all texts of a target that goes on from its last token alone (``synthetic.py``).
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

MARK = 1e4  # no normed hidden state is as large
MARGIN = 64  # positions that rounds in flight may ask for beyond the script
FINGERPRINT = 32  # entries of an embedding by which tokens are told apart


def answers(script: Sequence[int], vocabulary: int, acceptance: float, seed: int = 0) -> mx.array:
    """What to draft for each position.

    Args:
        script: the target's own tokens by position, the prompt's first.
        vocabulary: ids end below it.
        acceptance: the chance of each draft to be right, whatever became of those before it.
        seed: of the positions where drafts are wrong.
    """
    luck = random.Random(seed)
    drafts = [token if luck.random() < acceptance else (token + 1) % vocabulary for token in script]
    return mx.array([*drafts, *[0] * MARGIN], mx.int32)


def followers(chain: Sequence[int], vocabulary: int, acceptance: float, seed: int = 0) -> mx.array:
    """What to draft after each id, (vocabulary,) int32; 0 after those that are not in the chain.

    Args:
        chain: different ids, each followed by the next, the last by the first.
        vocabulary, acceptance: as for :func:`answers`.
        seed: of the ids after which drafts are wrong.
    """
    following = answers([*chain[1:], chain[0]], vocabulary, acceptance, seed)[: len(chain)]
    drafts = mx.zeros((vocabulary,), mx.int32)
    drafts[mx.array(list(chain))] = following
    return drafts


class Oracle(nn.Module):
    """Implements ``rounds.round.Assistant`` around a real one. A subclass says what is drafted."""

    def __init__(self, assistant: Any):
        super().__init__()
        self.config = assistant.config
        self._assistant = assistant

    def argmax(self, hidden):
        hidden, token = hidden
        return mx.where(self._assistant.argmax(hidden) < 0, 0, token)

    def logits(self, hidden):
        """All of the probability on the scripted token."""
        hidden, token = hidden
        logits = self._assistant.logits(hidden)
        return mx.where(mx.arange(logits.shape[-1]) == token[..., None], 1e4, mx.minimum(logits, 0))


class OracleAssistant(Oracle):
    """Drafts what :func:`answers` says for a position.

    A round's drafts share one position, so that each has to know which one it is: the step before leaves the number in
    the last entry of the hidden state, as a multiple of ``-MARK``. No host reads, and no state between calls.
    """

    def __init__(self, assistant: Any, drafts: mx.array):
        super().__init__(assistant)
        self._drafts = drafts

    def __call__(self, inputs_embeds, position_ids, *cache):
        """As the real one's, whatever that takes of the cache; hidden states that go to ``argmax`` have the scripted
        token beside them."""
        step = mx.maximum(mx.round(inputs_embeds[:, :, -1].astype(mx.float32) / -MARK), 0)
        hidden, projected = self._assistant(inputs_embeds, position_ids, *cache)
        token = self._drafts[position_ids[:, None] + 1 + step.astype(mx.int32)]
        mark = ((step + 1) * -MARK)[..., None].astype(projected.dtype)
        return (hidden, token), mx.concatenate([projected[..., :-1], mark], axis=-1)


class ChainOracle(Oracle):
    """Drafts what :func:`followers` says after a token, in every row of a batch.

    Each step finds its token by the first entries of the embedding that it is given: a row needs no number, and may lie
    in any slot. What follows a token that is not in the chain, such as a wrong draft, does not matter.

    Args:
        assistant: the real one.
        embed: the target's, as rounds call it.
        chain: the ids of the chain.
        drafts: (V,) int32, from :func:`followers`.
    """

    def __init__(self, assistant: Any, embed: Callable[[mx.array], mx.array], chain: Sequence[int], drafts: mx.array):
        super().__init__(assistant)
        ids = mx.array(list(chain), mx.int32)
        known = embed(ids[None])[0, :, :FINGERPRINT].astype(mx.float32)
        self._known, self._half_squares = mx.contiguous(known.T), 0.5 * mx.square(known).sum(axis=-1)
        self._following = drafts[ids]
        mx.eval(self._known, self._half_squares, self._following)

    def __call__(self, inputs_embeds, position_ids, *cache):
        """As ``OracleAssistant``'s."""
        hidden, projected = self._assistant(inputs_embeds, position_ids, *cache)
        token = inputs_embeds[..., :FINGERPRINT].astype(mx.float32)
        place = mx.argmax(token @ self._known - self._half_squares, axis=-1)  # the nearest
        return (hidden, self._following[place]), projected


def draft_as_told(drafter: Any, drafts: mx.array) -> None:
    """Make mlx-vlm's drafter an oracle: its ``draft_block`` runs, and the tokens are replaced.

    With ``n`` verified positions, the newest token is at position n and the first draft is for position n + 1.
    """
    real = type(drafter).draft_block

    def draft_block(*args, **options):
        tokens = real(drafter, *args, **options)
        begin = drafter._kv_offset + 1
        told = drafts[begin : begin + tokens.shape[1]][None]
        return mx.where(tokens < 0, 0, told).astype(tokens.dtype)

    drafter.draft_block = draft_block


def draft_along_chain(drafter: Any, drafts: mx.array) -> None:
    """Make mlx-vlm's drafter a ``ChainOracle``, whose rows are told apart by their newest tokens."""
    real = type(drafter).draft_block

    def draft_block(newest, *args, **options):
        tokens = real(drafter, newest, *args, **options)
        last, told = mx.array(newest).reshape(-1), []
        for _ in range(tokens.shape[1]):
            last = drafts[last]
            told.append(last)
        return mx.where(tokens < 0, 0, mx.stack(told, axis=1)).astype(tokens.dtype)

    drafter.draft_block = draft_block
