"""What a round takes and gives: the networks, the state between rounds, drafts, and what is emitted.

Shapes: B rows, K drafts, V vocabulary, H the target's hidden size. All token ids are int32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from ..cache.layout import CacheLayout
from ..cache.shelves import Places
from ..cache.store import Buffers
from ..models.attention import KeysValues
from ..models.layers import BlockCache
from .sampling import Sampling, Settings


class Target(Protocol):
    """What a round needs of a target: ``models.gemma4_text.Gemma4ForCausalLM``."""

    @property
    def hidden_dtype(self) -> mx.Dtype: ...
    def embed(self, tokens: mx.array) -> mx.array: ...
    def __call__(self, tokens: mx.array, cache: BlockCache, inputs_embeds: mx.array | None = None) -> mx.array: ...
    def logits(self, hidden: mx.array) -> mx.array: ...


class Assistant(Protocol):
    """What a round needs of a drafter: ``models.gemma4_assistant.Gemma4AssistantForCausalLM``."""

    def __call__(
        self,
        inputs_embeds: mx.array,
        position_ids: mx.array,
        shared_kv_states: dict[str, KeysValues],
        masks: dict[str, mx.array | None],
    ) -> tuple[mx.array, mx.array]: ...
    def argmax(self, hidden: mx.array) -> mx.array: ...
    def logits(self, hidden: mx.array) -> mx.array: ...


class Counts(NamedTuple):
    """Which ids a row has, (B, V) bool, and how often each has been generated, (B, V) int32; the newest included."""

    seen: mx.array
    made: mx.array


class RoundState(NamedTuple):
    """What one round hands to the next.

    Attributes:
        length: (B,) int32, verified positions: entries of the cache that are valid.
        token: (B, 1) int32, the newest token, at position ``length``.
        hidden: (B, 1, H), the target's hidden state, after its final norm, at position ``length - 1``.
        keys: (B, 2) uint32, random keys; constant, since noise depends on the position.
        rows: how each row's tokens are drawn; constant within a round. None where all rows are drawn as the decoder's
            sampling says, with all their drafts.
        counts: of each row's ids, where a penalty needs them.
        places: on which shelves rows lie in full layers; constant within a round. None where these have one buffer.
    """

    length: mx.array
    token: mx.array
    hidden: mx.array
    keys: mx.array
    rows: Settings | None = None
    counts: Counts | None = None
    places: Places | None = None

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> "RoundState":
        """A state from the plain tuples that ``mx.compile`` makes of it."""
        length, token, hidden, keys, rows, counts, places = arrays
        settings = None if rows is None else Settings(*rows)
        counts = None if counts is None else Counts(*counts)
        return cls(length, token, hidden, keys, settings, counts, None if places is None else Places(*places))


class Round(NamedTuple):
    """What one round emits: row b's tokens are ``tokens[b, : accepted[b] + 1]``.

    Attributes:
        tokens: (B, K + 1) int32.
        accepted: (B,) int32, how many of them were drafted.
        log_probs: where asked for, log-probabilities of the tokens (B, K + 1) float32, ids of the n likeliest in each
            place (B, K + 1, n) in falling order, and their log-probabilities.
    """

    tokens: mx.array
    accepted: mx.array
    log_probs: tuple[mx.array, ...] = ()


class Drafts(NamedTuple):
    """K drafted tokens (B, K), and the distributions they were drawn from, (B, K, V) float32; None for point masses."""

    tokens: mx.array
    log_q: mx.array | None


class Decoder(NamedTuple):
    """The networks and settings that a round computes with; what is compiled of it is fixed by these.

    Attributes:
        target, assistant: the networks; no assistant is plain decoding.
        layout: of the cache that the rounds work on.
        sampling: how tokens are drawn: of all rows, or, where these have settings of their own, what is in use in any.
        accept: ``accept.accept``, or what stands in for it where acceptance needs the host.
    """

    target: Target
    assistant: Assistant | None
    layout: CacheLayout
    sampling: Sampling
    accept: "Accept"


class Proposal(NamedTuple):
    """Drafts and what the target says to them: hidden (B, K + 1, H), logits (B, K + 1, V), and the buffers after it."""

    drafts: Drafts
    hidden: mx.array
    logits: mx.array
    buffers: Buffers


Accept = Callable[[Sampling, RoundState, Drafts, mx.array], Round]
"""(sampling, state, drafts, the target's logits (B, K + 1, V)) -> what stands, and what follows it."""
