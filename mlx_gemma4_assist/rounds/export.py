"""Whole rounds and pieces of prompts as functions from named arrays to named arrays, to be traced as programs.

They are the very ``propose``, ``settle`` and ``fill`` that the engine runs, for one row. A bundle's programs are traced
from them; whoever runs these names arrays as here.

Names, with shapes for a target of hidden size H, a vocabulary of V and K drafts:

    length           (1,) int32, how many entries of the cache are valid
    token            (1, 1) int32, the newest token, at position ``length``
    hidden           (1, 1, H), the target's hidden state, after its final norm, at position ``length - 1``
    noise            (1, 2) uint32, the text's random key
    temperature ...  (1,) each, how tokens are drawn: ``DRAWN``
    keys.i values.i  (1, G, S, D), of the i-th layer that owns keys and values
    tokens accepted  (1, K + 1) and (1,) int32, what a round emits: the first ``accepted + 1`` of the tokens
    logits           (1, K + 1, V), what the target says before its tokens are chosen; suppressed ids at -inf
    ids              (1, L) int32, a piece of a prompt
"""

from collections.abc import Callable, Mapping

import mlx.core as mx

from ..cache.layout import BUCKET, CacheLayout, round_up
from ..cache.store import Buffers, empty
from .chunk import Chunk, fill
from .round import propose, settle
from .sampling import Settings, settings_of
from .state import Decoder, RoundState, Target

Named = Mapping[str, mx.array]
Function = Callable[[Named], dict[str, mx.array]]

DRAWN = Settings._fields[: Settings._fields.index("draft_temperature") + 1]
"""The settings that are inputs of a sampled round. Penalties and biases are none: they change nothing."""


def buffer_names(layout: CacheLayout) -> list[tuple[str, str]]:
    """The names of each owning layer's keys and values."""
    return [(f"keys.{layer}", f"values.{layer}") for layer in range(len(layout.kinds))]


def least_end(layout: CacheLayout) -> int:
    """Where attention ends at least: rounds attend to whole rings, which a shorter linear buffer would not fill."""
    return round_up(layout.ring, BUCKET)


def round_inputs(decoder: Decoder, size: int) -> dict[str, mx.array]:
    """Zeros in the shapes of a round's inputs, not evaluated; linear buffers have ``size`` slots."""
    hidden = decoder.layout.config.hidden_size
    state = {
        "length": mx.zeros((1,), mx.int32),
        "token": mx.zeros((1, 1), mx.int32),
        "hidden": mx.zeros((1, 1, hidden), decoder.target.hidden_dtype),
    }
    if not decoder.sampling.greedy:
        settings = settings_of([decoder.sampling])._asdict()
        state |= {"noise": mx.zeros((1, 2), mx.uint32)} | {name: settings[name] for name in DRAWN}
    return state | _named(decoder.layout, empty(decoder.layout, 1, size))


def round_function(decoder: Decoder, count: int, end: int) -> Function:
    """A round of ``count`` drafts whose attention over linear buffers ends at slot ``end``."""

    def run(given: Named) -> dict[str, mx.array]:
        bound = end - (count + 1)
        state, buffers = _state(decoder, given), _buffers(decoder.layout, given)
        proposal = propose(decoder, state, buffers, count, bound)
        emitted, after = settle(decoder, state, proposal)
        made = {"tokens": emitted.tokens, "accepted": emitted.accepted}
        made |= {"length": after.length, "token": after.token, "hidden": after.hidden, "logits": proposal.logits}
        return made | _named(decoder.layout, proposal.buffers)

    return run


def _state(decoder: Decoder, given: Named) -> RoundState:
    start = given["length"], given["token"], given["hidden"]
    if decoder.sampling.greedy:
        return RoundState(*start, mx.zeros((1, 2), mx.uint32))
    rows = settings_of([decoder.sampling])._replace(**{name: given[name] for name in DRAWN})
    return RoundState(*start, given["noise"], rows)


def read_inputs(layout: CacheLayout, count: int, size: int) -> dict[str, mx.array]:
    """Zeros in the shapes of the inputs of a piece of ``count`` tokens, not evaluated."""
    state = {"length": mx.zeros((1,), mx.int32), "ids": mx.zeros((1, count), mx.int32)}
    return state | _named(layout, empty(layout, 1, size))


def read_function(target: Target, layout: CacheLayout, begin: int) -> Function:
    """A piece of a prompt into a cache that holds ``begin`` entries."""

    def run(given: Named) -> dict[str, mx.array]:
        chunk = Chunk(given["ids"], given["length"], _buffers(layout, given), begin)
        return _named(layout, fill(target, layout, chunk))

    return run


def _buffers(layout: CacheLayout, given: Named) -> Buffers:
    return tuple((given[keys], given[values]) for keys, values in buffer_names(layout))


def _named(layout: CacheLayout, buffers: Buffers) -> dict[str, mx.array]:
    named: dict[str, mx.array] = {}
    for names, layer in zip(buffer_names(layout), buffers, strict=True):
        named |= zip(names, layer, strict=True)
    return named
