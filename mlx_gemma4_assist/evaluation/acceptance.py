"""How many drafts of an assistant its target accepts, in rounds that begin at every token of given texts.

The texts are given so that two pairs draft in the very same ones: in texts of their own, acceptance would differ more
by what each happens to write than by how well it drafts.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, TypeVar, cast

import mlx.core as mx

from ..backend import wired_limit
from ..cache.layout import GROWTH
from ..cache.quantization import KVQuantization
from ..cache.rows import KVCache, join
from ..cache.shared import shared_kv_states
from ..drafts.fixed import DEFAULT_DRAFTS, FixedDraftLength
from ..engine.engine import Engine
from ..engine.loop import Plan, rounds, start
from ..engine.pair import Pair
from ..engine.prefill import prefill
from ..engine.responses import SpeculationStats
from ..errors import InputError
from ..rounds.accept import accept
from ..rounds.round import draft_position, propose, settle
from ..rounds.sampling import Sampling
from ..rounds.state import Decoder, RoundState

CACHE_BYTES = 2**28  # of texts that are drafted in together
MOST_ROWS = 16

Item = TypeVar("Item")


@dataclass(frozen=True)
class Acceptance:
    """How many drafts were accepted.

    Attributes:
        rounds: how many were made, all of the same number of drafts.
        accepted_at: for each place in a round, in how many of them the draft there, and so all before it, was accepted.
    """

    rounds: int
    accepted_at: tuple[int, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """For each place, the share of all rounds in which the draft there was accepted. Falls from place to place."""
        return tuple(accepted / self.rounds for accepted in self.accepted_at)

    @property
    def given(self) -> tuple[float | None, ...]:
        """For each place, the share among rounds whose earlier drafts were all accepted; None where there were none."""
        tried = (self.rounds, *self.accepted_at)
        return tuple(a / t if t else None for a, t in zip(self.accepted_at, tried, strict=False))

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a forward of the target gives, on average over rounds from everywhere."""
        return 1 + sum(self.rates)


class Passage(NamedTuple):
    """A text to draft in: a prompt, and its continuation from token ``begin`` on."""

    tokens: list[int]
    begin: int


def continuations(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    eos_token_ids: Set[int] = frozenset(),
    finished: Callable[[], None] = lambda: None,
) -> list[Passage]:
    """What a pair's target writes after prompts, greedily, without the token that ends it.

    Args:
        prompts: token ids, none of them empty.
        new_tokens: the most tokens to continue each by.
        eos_token_ids: what ends a continuation.
        finished: called after each prompt.
    """
    drafts = 0 if pair.assistant is None else DEFAULT_DRAFTS
    passages = []
    for group in _groups(pair, drafts, prompts):
        with wired_limit():
            made = _written(pair, drafts, group, new_tokens)
        for prompt, tokens in zip(group, made, strict=True):
            kept = takewhile(lambda token: token not in eos_token_ids, tokens[:new_tokens])
            passages.append(Passage([*prompt, *kept], len(prompt)))
            finished()
    return passages


def _written(pair: Pair, drafts: int, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """At least so many tokens after each prompt, in a batch."""
    decoder, cache = _start_of(pair, drafts, [prompt[:-1] for prompt in prompts])
    made: list[list[int]] = [[] for _ in prompts]
    plan = Plan(new_tokens, FixedDraftLength(drafts))
    for emitted in rounds(decoder, cache, [prompt[-1] for prompt in prompts], plan):
        for row, tokens in zip(made, emitted.tokens, strict=True):
            row += tokens
    return made


def measure_acceptance(
    pair: Pair,
    passages: Sequence[Passage],
    max_drafts: int = DEFAULT_DRAFTS,
    finished: Callable[[], None] = lambda: None,
    quantization: KVQuantization | None = None,
) -> Acceptance | None:
    """Make one round from each token of each continuation: a draft is accepted if the target would choose it greedily.

    Args:
        passages: the same for all pairs that are to be compared, see :func:`continuations`.
        max_drafts: drafts per round.
        finished: called after each passage.
        quantization: of keys and values; None where they are dense.

    Returns:
        None for a pair without assistant, and where all continuations are empty.

    Raises:
        InputError: a number of drafts that no round can have.
    """
    if pair.assistant is None:
        return None
    drafts = FixedDraftLength(max_drafts).longest
    if drafts < 1:
        raise InputError("max_drafts is 0: without drafts there is no acceptance to measure")
    stats = SpeculationStats()
    for group in _groups(pair, drafts, passages):
        with wired_limit():
            counts = accepted_from_each(pair, group, drafts, quantization)
        for row in counts:
            for accepted in row:
                stats.add(drafts, accepted)
            finished()
    return Acceptance(stats.rounds, tuple(stats.accepted_at)) if stats.rounds else None


def drafts_are_numbers(pair: Pair, prompt: Sequence[int]) -> bool:
    """Whether an assistant computes numbers where it drafts first, behind the first token after a prompt.

    With NaN it drafts what is hardly ever accepted: texts are right and nothing is gained. True where there is none.
    """
    if pair.assistant is None:
        return True
    decoder, cache = _start_of(pair, 1, [prompt[:-1]])
    bound = len(prompt)
    cache.reserve(bound + 1)
    state = start(decoder, cache, prompt[-1:], seed=0)
    proposal = propose(decoder, state, cache.buffers, 0, bound - 1)
    _, state = settle(decoder, state, proposal)
    states, masks = shared_kv_states(decoder.layout, proposal.buffers, state.length, bound)
    inputs_embeds = mx.concatenate([pair.target.embed(state.token), state.hidden], axis=-1)
    last, projected = pair.assistant(inputs_embeds, draft_position(state), states, masks)
    found = mx.isnan(pair.assistant.logits(last)).any() | mx.isnan(projected).any()
    return not found.item()


def accepted_from_each(
    pair: Pair, passages: Sequence[Passage], drafts: int, quantization: KVQuantization | None = None
) -> list[list[int]]:
    """For each passage, from each token of its continuation: how many of a round's drafts are accepted.

    The passages are the rows of a batch.
    """
    decoder, cache = _start_of(pair, drafts, [tokens[: begin - 1] for tokens, begin in passages], quantization)
    texts = [tokens[begin - 1 :] for tokens, begin in passages]
    longest = max(map(len, texts))
    # Rows that have ended go on with any token; what comes of it is not counted.
    padded = [[*text, *[0] * (longest - len(text))] for text in texts]
    counts = _accepted_along(decoder, cache, padded, drafts)
    return [row[1 : len(text)] for row, text in zip(counts, texts, strict=True)]


def _accepted_along(decoder: Decoder, cache: KVCache, texts: list[list[int]], drafts: int) -> list[list[int]]:
    """How many drafts are accepted in rounds from each token of texts of one length, which begin where the cache ends.

    A round writes its drafts' keys beyond the length, and the next one, a token further, overwrites them. The first has
    no drafts: it gives the hidden state that the second makes its drafts from.
    """
    rows, bound = mx.array(texts, mx.int32), max(cache.lengths)
    steps = rows.shape[1]
    cache.reserve(bound + steps + drafts)
    state, buffers = start(decoder, cache, [text[0] for text in texts], seed=0), cache.buffers
    accepted = []
    for step in range(steps):
        proposal = propose(decoder, state, buffers, drafts if step else 0, bound + step)
        accepted.append(accept(decoder.sampling, state, proposal.drafts, proposal.logits).accepted)
        token = rows[:, step + 1 : step + 2] if step + 1 < steps else state.token
        state, buffers = RoundState(state.length + 1, token, proposal.hidden[:, :1], state.keys), proposal.buffers
        mx.async_eval(accepted[-1], state, buffers)
    return cast(list[list[int]], mx.stack(accepted, axis=1).tolist())


def _groups(pair: Pair, drafts: int, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """As many at a time as there is memory for; a cache has whole sliding windows even for short texts."""
    rows = CACHE_BYTES // Engine(pair).new_cache(drafts).layout.row_bytes(GROWTH)
    rows = min(max(rows, 1), MOST_ROWS)
    for begin in range(0, len(items), rows):
        yield items[begin : begin + rows]


def _start_of(
    pair: Pair, drafts: int, prefixes: Sequence[Sequence[int]], quantization: KVQuantization | None = None
) -> tuple[Decoder, KVCache]:
    """A greedy decoder, and a cache that holds each prefix in a row of its own."""
    caches = []
    for prefix in prefixes:
        caches.append(Engine(pair).new_cache(drafts, quantization))
        prefill(pair.target, caches[-1], prefix)
    return Decoder(pair.target, pair.assistant, caches[0].layout, Sampling(), accept), join(caches)
