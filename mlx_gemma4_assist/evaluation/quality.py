"""What a conversion cost: the converted pair against the original one, over the same texts.

Over a given text: how far the distributions of the next token are apart, how often their likeliest token is the same,
and how well either predicts the text. Over what the original target writes by itself: how many of an assistant's drafts
are accepted, which is what speed depends on.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from importlib import resources
from typing import cast

import mlx.core as mx

from ..api import make_prompt_cache
from ..backend import wired_limit
from ..cache.block import Block
from ..drafts.fixed import DEFAULT_DRAFTS
from ..engine.pair import Pair
from ..engine.prefill import Progress, no_progress
from ..errors import InputError
from ..models.gemma4_text import Gemma4ForCausalLM
from .acceptance import Acceptance, continuations, drafts_are_numbers, measure_acceptance

LOGITS = 2**23  # logits held at once, for each of the two models: 32 MB in float32
TEXT = ("assets", "tiny", "heldout.txt")
EVERY = 3  # passages of that file, to have all novels and not all of it


@dataclass(frozen=True)
class QualityOptions:
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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}, expected a positive integer")


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
            ("perplexity", f"{self.perplexity[0]:.2f}", f"{self.perplexity[1]:.2f}"),
        ]
        for place in range(max((len(one.accepted_at) for one in self.acceptance if one), default=0)):
            original, converted = (f"{one.rates[place]:.1%}" if one else "" for one in self.acceptance)
            found.append((f"draft {place + 1} accepted", original, converted))
        if any(self.acceptance):
            original, converted = (f"{one.tokens_per_round:.2f}" if one else "" for one in self.acceptance)
            found.append(("tokens per round", original, converted))
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
    options: QualityOptions = QualityOptions(),
    progress: Progress = no_progress,
) -> Quality:
    """Compare two pairs over a text.

    Memory: hidden states of one window, logits of a few of its positions.

    Args:
        original, converted: the pairs. Acceptance is measured for those that have an assistant.
        tokens: the text, BOS first: ``processor.encode(text, chat=False)``.
        max_drafts: drafts per round.
        prompts: what the original continues, to measure acceptance; None takes pieces of the text.
        eos_token_ids: what ends a continuation.
        options: how much is measured.
        progress: called with (pieces done, pieces in all); a piece is a window of the text, a prompt continued, or a
            continuation drafted.

    Raises:
        InputError: a text of one token; an empty prompt; ids that a target does not have; two vocabularies; no drafts;
            weights with which a network computes NaN.
    """
    _check(original, converted, tokens, prompts)
    windows = list(_windows(tokens, min(options.window, original.target.config.max_position_embeddings - 1)))
    assisted = sum(pair.assistant is not None for pair in (original, converted))
    prompts = [] if not assisted else _prompts(tokens, options) if prompts is None else prompts
    finish = _counter(len(windows) + len(prompts) * (1 + assisted), progress)
    sums = [0.0] * 4
    with wired_limit():
        for window in windows:
            sums = _added(sums, _compare(original.target, converted.target, window))
            finish()
    _check_numbers(sums)
    _check_drafts(original, converted, prompts)
    passages = continuations(original, prompts, options.new_tokens, eos_token_ids, finish)
    acceptance = (
        measure_acceptance(original, passages, max_drafts, finish),
        measure_acceptance(converted, passages, max_drafts, finish),
    )
    kl, same, *losses = (value / (len(tokens) - 1) for value in sums)
    return Quality(len(tokens) - 1, max(kl, 0.0), same, (_exp(losses[0]), _exp(losses[1])), acceptance)


def _check_numbers(sums: Sequence[float]) -> None:
    """Refuse what ``_compare`` found where it is no number: all tokens would count as equally likely.

    Raises:
        InputError: with the target that computes NaN.
    """
    for name, loss in zip(("original", "converted"), sums[2:], strict=True):
        if math.isnan(loss):
            raise InputError(f"the {name} target's logits are NaN: its weights are damaged or overflow")


def _check_drafts(original: Pair, converted: Pair, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse assistants whose acceptance says nothing of a format.

    Raises:
        InputError: with the assistant that computes NaN.
    """
    for name, pair in (("original", original), ("converted", converted)):
        if prompts and not drafts_are_numbers(pair, prompts[0]):
            raise InputError(f"the {name} assistant's logits are NaN: its weights are damaged or overflow")


def _exp(loss: float) -> float:
    """The perplexity that belongs to a loss, infinite where no float is as large."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else math.inf


def _counter(total: int, progress: Progress) -> Callable[[], None]:
    """What to call whenever a piece is finished, to tell a progress callback."""
    done = 0
    progress(0, total)

    def finish() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return finish


def _check(original: Pair, converted: Pair, tokens: Sequence[int], prompts: Sequence[Sequence[int]] | None) -> None:
    sizes = [pair.target.config.vocab_size for pair in (original, converted)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the targets have vocabularies of {sizes[0]} and {sizes[1]} tokens: not the same model")
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


def _prompts(tokens: Sequence[int], options: QualityOptions) -> list[list[int]]:
    """Pieces of the text at even distances, its first token before each; fewer where the text has not so many."""
    rest = len(tokens) - 1
    count = max(1, min(options.prompts, rest // options.prompt_tokens))
    begins = (1 + rest * place // count for place in range(count))
    return [[tokens[0], *tokens[begin : begin + options.prompt_tokens]] for begin in begins]


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
        sums = _added(sums, cast(list[float], mx.stack(found).tolist()))
    return sums


def _added(sums: Sequence[float], more: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(sums, more, strict=True)]


def _hidden(target: Gemma4ForCausalLM, tokens: Sequence[int]) -> mx.array:
    """Hidden states after the final norm, (1, L, H), of L tokens at the beginning of a text."""
    cache = make_prompt_cache(target)
    cache.reserve(len(tokens))
    block = Block(cache.layout, cache.buffers, mx.array([0], mx.int32), len(tokens), 0, exact=True)
    return target(mx.array([tokens], mx.int32), block)


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
