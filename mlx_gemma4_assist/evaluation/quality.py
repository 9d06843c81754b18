"""What a conversion cost: the converted pair against the original one, over the same texts.

Over a given text: how far the distributions of the next token are apart, how often their likeliest token is the same,
and how well either predicts the text. Over what the original target writes by itself: how many of an assistant's drafts
would stand, which is what speed depends on. Both pairs draft from every token of the very same texts; counted in texts
of their own, acceptance would change more by what they happen to write than by the conversion.
"""

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import takewhile
from typing import NamedTuple, TypeVar

import mlx.core as mx

from ..api import SpeculationStats, make_prompt_cache
from ..backend import wired_limit
from ..cache.layout import Block, KVCache, stack
from ..drafts.draft_length import DEFAULT_DRAFTS, FixedDraftLength
from ..engine.prefill import Progress, prefill
from ..errors import InputError
from ..models.config import check_pair
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..rounds.round import Engine, Plan, RoundState, accept, propose, rounds, start
from ..rounds.sampling import Sampling

CACHE_BYTES = 2**28  # of texts that are drafted in together
MOST_ROWS = 16
LOGITS = 2**23  # logits held at once, for each of the two models: 32 MB in float32
TEXT = ("assets", "tiny", "heldout.txt")
EVERY = 3  # passages of that file, to have all novels and not all of it

Item = TypeVar("Item")


class Pair(NamedTuple):
    """A target and its assistant, if there is one."""

    target: Gemma4ForCausalLM
    assistant: Gemma4AssistantForCausalLM | None = None


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        window: tokens of the text that are read together; each window begins anew, with the text's first token.
        prompts: how many prompts are taken from the text, at even distances.
        prompt_tokens: the length of each, the text's first token not counted.
        new_tokens: how many tokens each is continued by; a round of drafts is made from each of these.
    """

    window: int = 512
    prompts: int = 12
    prompt_tokens: int = 48
    new_tokens: int = 48

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}, expected a positive integer")


@dataclass(frozen=True)
class Acceptance:
    """How many drafts stood.

    Attributes:
        rounds: how many were made, all of the same number of drafts.
        accepted_at: for each place in a round, in how many of them the draft there stood, and so all before it.
    """

    rounds: int
    accepted_at: tuple[int, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """For each place, the share of all rounds in which the draft there stood. Falls from place to place."""
        return tuple(accepted / self.rounds for accepted in self.accepted_at)

    @property
    def given(self) -> tuple[float | None, ...]:
        """For each place, the share of the rounds whose earlier drafts all stood; None where there was no such one."""
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


@dataclass(frozen=True)
class Quality:
    """The figures.

    Attributes:
        tokens: of the text, without its first; the three kinds of figures below are means over them.
        kl: KL(original || converted) of the next token, in nats.
        top1: the share of tokens before which both targets think the same token likeliest.
        perplexity: of the text, by the original and by the converted target.
        acceptance: by the original and by the converted pair; None where there is no assistant, or was no text.
    """

    tokens: int
    kl: float
    top1: float
    perplexity: tuple[float, float]
    acceptance: tuple[Acceptance | None, Acceptance | None] = (None, None)

    def table(self) -> list[tuple[str, str, str]]:
        """Rows to print: what, of the original, of the converted."""
        found = [
            ("KL divergence, nats per token", "", f"{self.kl:.4f}" if self.kl >= 0.001 else f"{self.kl:.2g}"),
            ("same likeliest token", "", f"{self.top1:.1%}"),
            ("perplexity", *(f"{value:.2f}" for value in self.perplexity)),
        ]
        both = self.acceptance
        for place in range(max((len(one.accepted_at) for one in both if one), default=0)):
            found.append((f"draft {place + 1} accepted", *(f"{one.rates[place]:.1%}" if one else "" for one in both)))
        if any(both):
            found.append(("tokens per round", *(f"{one.tokens_per_round:.2f}" if one else "" for one in both)))
        return found


def bundled_text() -> str:
    """8 KB of Jane Austen's novels (public domain), which the embedded pair was not trained on."""
    passages = resources.files("mlx_gemma4_assist").joinpath(*TEXT).read_text(encoding="utf-8").strip().split("\n\n")
    return "\n\n".join(passages[::EVERY])


def measure_quality(
    original: Pair,
    converted: Pair,
    tokens: Sequence[int],
    max_drafts: int = DEFAULT_DRAFTS,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    eos_token_ids: Set[int] = frozenset(),
    effort: Effort = Effort(),
    progress: Progress = lambda done, total: None,
) -> Quality:
    """Compare two pairs over a text.

    Memory: hidden states of one window, logits of a few of its positions.

    Args:
        original, converted: the pairs. Acceptance is measured for those that have an assistant.
        tokens: the text, BOS first: ``processor.encode(text, chat=False)``.
        max_drafts: drafts per round.
        prompts: what the original continues, to measure acceptance; None takes pieces of the text.
        eos_token_ids: what ends a continuation.
        effort: how much is measured.
        progress: called with (pieces done, pieces in all); a piece is a window of the text, a prompt continued, or a
            continuation drafted.

    Raises:
        InputError: a text of one token; an empty prompt; ids that a target does not have; two vocabularies; an
            assistant of another target; no drafts.
    """
    _check(original, converted, tokens, prompts)
    window = min(effort.window, original.target.config.max_position_embeddings - 1)
    windows = list(_windows(tokens, window))
    pairs = (original, converted)
    assisted = sum(pair.assistant is not None for pair in pairs)
    prompts = [] if not assisted else _prompts(tokens, effort) if prompts is None else prompts
    pieces = _Pieces(len(windows) + len(prompts) * (1 + assisted), progress)
    sums = [0.0] * 4
    with wired_limit():
        for piece in windows:
            sums = [a + b for a, b in zip(sums, _compare(original.target, converted.target, piece), strict=True)]
            pieces.finish()
    passages = continuations(original, prompts, effort.new_tokens, eos_token_ids, pieces.finish)
    acceptance = tuple(measure_acceptance(pair, passages, max_drafts, pieces.finish) for pair in pairs)
    kl, same, *losses = (value / (len(tokens) - 1) for value in sums)
    return Quality(len(tokens) - 1, max(kl, 0.0), same, tuple(math.exp(loss) for loss in losses), acceptance)


def continuations(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    new_tokens: int = Effort.new_tokens,
    eos_token_ids: Set[int] = frozenset(),
    finished: Callable[[], None] = lambda: None,
) -> list[Passage]:
    """What a pair's target writes after prompts, greedily, without the token that ends it.

    Args as for :func:`measure_quality`; ``finished`` is called after each.
    """
    drafts = 0 if pair.assistant is None else DEFAULT_DRAFTS
    passages = []
    for group in _groups(pair, drafts, prompts):
        made: list[list[int]] = [[] for _ in group]
        with wired_limit():
            engine, cache = _start_of(pair, drafts, [prompt[:-1] for prompt in group])
            plan = Plan(new_tokens, FixedDraftLength(drafts))
            for emitted in rounds(engine, cache, [prompt[-1] for prompt in group], plan):
                for row, tokens in zip(made, emitted.tokens, strict=True):
                    row += tokens
        for prompt, row in zip(group, made, strict=True):
            kept = takewhile(lambda token: token not in eos_token_ids, row[:new_tokens])
            passages.append(Passage([*prompt, *kept], len(prompt)))
            finished()
    return passages


def measure_acceptance(
    pair: Pair,
    passages: Sequence[Passage],
    max_drafts: int = DEFAULT_DRAFTS,
    finished: Callable[[], None] = lambda: None,
) -> Acceptance | None:
    """One round from each token of each continuation: a draft stands if it is this target's own greedy choice there.

    Args as for :func:`measure_quality`; ``finished`` is called after each passage.

    Returns:
        None for a pair without assistant, and where all continuations are empty.

    Raises:
        InputError: a number of drafts that no round can have.
    """
    if pair.assistant is None:
        return None
    count = FixedDraftLength(max_drafts).longest
    if count < 1:
        raise InputError("max_drafts is 0: without drafts there is no acceptance to measure")
    stats = SpeculationStats()
    for group in _groups(pair, count, passages):
        with wired_limit():
            counts = accepted_from_each(pair, group, count)
        for row in counts:
            for accepted in row:
                stats.add(count, accepted)
            finished()
    return Acceptance(stats.rounds, tuple(stats.accepted_at)) if stats.rounds else None


def accepted_from_each(pair: Pair, passages: Sequence[Passage], drafts: int) -> list[list[int]]:
    """For each passage, from each token of its continuation: how many of a round's drafts stand.

    A round writes its drafts' keys beyond the length, and the next one, a token further, overwrites them. The passages
    are the rows of a batch.
    """
    engine, cache = _start_of(pair, drafts, [tokens[: begin - 1] for tokens, begin in passages])
    sizes = [len(tokens) - begin for tokens, begin in passages]
    steps, bound = max(sizes), max(cache.lengths)
    cache.reserve(bound + steps + drafts + 1)
    # Rows that have ended go on with any token; what comes of it is not counted.
    padded = [
        [*tokens[begin - 1 :], *[0] * (steps - size)] for (tokens, begin), size in zip(passages, sizes, strict=True)
    ]
    texts = mx.array(padded, mx.int32)
    state = start(engine, cache, [row[0] for row in padded], seed=0)
    accepted = []
    for step in range(steps + 1):
        # The prompt's last token, without drafts, gives the hidden state that the first ones are made from.
        proposal = propose(engine, state, drafts if step else 0, bound + step)
        accepted.append(accept(engine.sampling, state, proposal.drafts, proposal.logits).accepted)
        token = texts[:, step + 1 : step + 2] if step < steps else state.token
        state = RoundState(state.length + 1, token, proposal.hidden[:, :1], state.keys, proposal.buffers)
        mx.async_eval(accepted[-1], state)
    counts = mx.stack(accepted, axis=1).tolist()
    return [row[1 : size + 1] for row, size in zip(counts, sizes, strict=True)]


def _groups(pair: Pair, drafts: int, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """As many at a time as there is memory for; a cache has whole sliding windows even for short texts."""
    rows = CACHE_BYTES // make_prompt_cache(pair.target, pair.assistant, drafts).nbytes
    rows = min(max(rows, 1), MOST_ROWS)
    for begin in range(0, len(items), rows):
        yield items[begin : begin + rows]


def _start_of(pair: Pair, drafts: int, prefixes: Sequence[Sequence[int]]) -> tuple[Engine, KVCache]:
    """A greedy engine, and a cache that holds each prefix in a row of its own."""
    caches = []
    for prefix in prefixes:
        caches.append(make_prompt_cache(pair.target, pair.assistant, drafts))
        prefill(pair.target, caches[-1], prefix)
    return Engine(pair.target, pair.assistant, caches[0].layout, Sampling(), accept), stack(caches)


class _Pieces:
    """Counts what is finished, for a progress callback."""

    def __init__(self, total: int, progress: Progress):
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    def finish(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _check(original: Pair, converted: Pair, tokens: Sequence[int], prompts: Sequence[Sequence[int]] | None) -> None:
    sizes = [pair.target.config.vocab_size for pair in (original, converted)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the targets have vocabularies of {sizes[0]} and {sizes[1]} tokens: not the same model")
    for pair in (original, converted):
        if pair.assistant is not None:
            check_pair(pair.target.config, pair.assistant.config)
    if prompts is not None and not all(prompts):
        raise InputError("a prompt to continue is empty")
    if len(tokens) < 2:
        raise InputError("the text to compare over is empty")
    if max(tokens) >= sizes[0]:
        raise InputError(f"the text has the token id {max(tokens)}, but the vocabulary ends at {sizes[0] - 1}")


def _windows(tokens: Sequence[int], size: int) -> Iterator[list[int]]:
    """The text in pieces of ``size`` tokens, its first token before each."""
    for begin in range(1, len(tokens), size):
        yield [tokens[0], *tokens[begin : begin + size]]


def _prompts(tokens: Sequence[int], effort: Effort) -> list[list[int]]:
    """Pieces of the text at even distances, its first token before each; fewer where the text has not so many."""
    rest = len(tokens) - 1
    count = max(1, min(effort.prompts, rest // effort.prompt_tokens))
    begins = (1 + rest * place // count for place in range(count))
    return [[tokens[0], *tokens[begin : begin + effort.prompt_tokens]] for begin in begins]


def _compare(original: Gemma4ForCausalLM, converted: Gemma4ForCausalLM, tokens: Sequence[int]) -> list[float]:
    """Sums over a window's tokens but the first: KL, equal choices, and both targets' loss in nats."""
    states = [_hidden(target, tokens[:-1]) for target in (original, converted)]
    mx.eval(states)
    following = mx.array([tokens[1:]], mx.int32)[..., None]
    sums = [0.0] * 4
    step = max(1, LOGITS // original.config.vocab_size)
    for begin in range(0, len(tokens) - 1, step):
        here = slice(begin, begin + step)
        log_p, log_q = (
            _log_softmax(target.logits(hidden[:, here]))
            for target, hidden in zip((original, converted), states, strict=True)
        )
        chosen = following[:, here]
        found = [
            (mx.exp(log_p) * (log_p - log_q)).sum(),
            (mx.argmax(log_p, axis=-1) == mx.argmax(log_q, axis=-1)).astype(mx.float32).sum(),
            -mx.take_along_axis(log_p, chosen, axis=-1).sum(),
            -mx.take_along_axis(log_q, chosen, axis=-1).sum(),
        ]
        sums = [a + b for a, b in zip(sums, mx.stack(found).tolist(), strict=True)]
    return sums


def _hidden(target: Gemma4ForCausalLM, tokens: Sequence[int]) -> mx.array:
    """Hidden states after the final norm, (1, L, H), of L tokens at the beginning of a text."""
    cache = make_prompt_cache(target)
    cache.reserve(len(tokens))
    block = Block(cache.layout, cache.buffers, mx.array([0], mx.int32), len(tokens), 0, exact=True)
    return target(mx.array([tokens], mx.int32), block)


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
