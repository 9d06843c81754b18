"""Is a bundle's text the package's? Both make the same rounds after the same prompt, and are compared round by round.

The prompt is read in pieces of all lengths that programs differ for, and is so long that rings wrap; rounds go on to
where buffers grow and a bucket ends. In float32 all tokens have to be equal. Elsewhere two of them may part where
logits are as close as rounding goes: what is compared of that text ends there.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import mlx.core as mx

from ..cache.layout import GROWTH, CacheLayout, round_up
from ..cache.rows import KVCache
from ..engine.loop import start
from ..engine.pair import Pair
from ..engine.prefill import prefill
from ..errors import InputError
from ..evaluation.parity import tie_tolerance
from ..rounds.accept import accept
from ..rounds.export import DRAWN
from ..rounds.round import propose, settle
from ..rounds.sampling import Sampling, in_use, settings_of
from ..rounds.state import Decoder
from .loading import Bundle
from .runner import Made, Runner
from .weights import Weights, named_networks

TOKENS = 80  # of a text, which is more than a bucket
SEED = 7
EXACT = 2e-3  # of the largest logit, between two ways to sum in float32
GREEDY, SAMPLED = "greedy", "sampled"


@dataclass(frozen=True)
class Trial:
    """A text to compare.

    Attributes:
        sampling: how its tokens are drawn.
        drafts: of its rounds, again and again.
    """

    sampling: Sampling
    drafts: tuple[int, ...]

    def __str__(self) -> str:
        return f"{GREEDY if self.sampling.greedy else SAMPLED}, drafts {', '.join(map(str, self.drafts))}"


@dataclass
class Findings:
    """What was compared.

    Attributes:
        rounds, tokens: in all.
        difference: the largest between two logits, in parts of the largest logit.
        ties: texts that parted at a near tie.
    """

    rounds: int = 0
    tokens: int = 0
    difference: float = 0.0
    ties: list[str] = field(default_factory=list)


def trials(longest: int, top_k: int) -> list[Trial]:
    """Texts for all numbers of drafts, likeliest tokens and drawn ones, drafts that are drawn and the likeliest."""
    mixed = tuple(sorted(range(longest + 1), key=lambda count: (count * 5 + 3) % (longest + 1)))
    some = min(3, longest)
    drawn = Sampling(0.9, top_k, 0.95, 0.02, 1.0)
    each = [Trial(Sampling(), (0,)), Trial(Sampling(), (some,)), Trial(Sampling(), mixed)]
    each += [Trial(drawn, mixed), Trial(drawn._replace(draft_temperature=0.0, temperature=0.7), (some,))]
    return list(dict.fromkeys(each))


def check(folder: Path, pair: Pair, tokens: int = TOKENS) -> Findings:
    """Compare a bundle with the pair that it was made of.

    Args:
        folder: of the bundle.
        pair: loaded by itself.
        tokens: of each text.

    Raises:
        InputError: they differ; one sentence says where.
    """
    bundle = Bundle(folder)
    weights = _same_weights(bundle, pair)
    findings = Findings()
    layout = CacheLayout(pair.target.config, bundle.manifest["layout"]["slack"], pair.dtype)
    pieces = piece_lengths(bundle)
    enough = round_up(max(layout.ring, sum(pieces) + 1), GROWTH)
    prompt = prompt_for(pair, enough - tokens // 2)  # buffers grow in the middle of each text
    runner = Runner(bundle, weights, SEED)
    runner.read(prompt, pieces)
    cache = KVCache(layout)
    prefill(pair.target, cache, prompt[:-1], bundle.reads[-1].most)
    for trial in trials(bundle.manifest["drafts"], bundle.manifest["most_top_k"]):
        _compare(trial, copy(runner), _rounds(pair, cache.take(0), prompt[-1], trial), pair.dtype, tokens, findings)
    return findings


def piece_lengths(bundle: Bundle) -> list[int]:
    """The shortest and the longest piece of each program that reads, and a single token."""
    return [length for each in reversed(bundle.reads) for length in (each.most, each.least)] + [1]


def prompt_for(pair: Pair, count: int) -> list[int]:
    """Token ids of some text, so many."""
    said = "The wall was high, and nobody had told the boy why it stood there. He counted the stones, one by one. "
    ids = pair.encode(said, chat=False)
    return list(islice(cycle(ids), count))


def _same_weights(bundle: Bundle, pair: Pair) -> Sequence[mx.array]:
    """The pair's own weights in the bundle's order, once each has been found to be the bundle's."""
    own = Weights(named_networks(pair.target, pair.assistant)).named
    if [*own] != [each.name for each in bundle.kept]:
        raise InputError(f"{bundle.folder} has other weights than the model")
    stored = bundle.weights()[::-1]
    for name, array in own.items():
        read = stored.pop()  # held by nobody else once it is compared
        if read.dtype != array.dtype or not mx.array_equal(read, array, equal_nan=True).item():
            raise InputError(f"{bundle.folder} has another {name} than the model")
    return list(own.values())


def _rounds(pair: Pair, cache: KVCache, token: int, trial: Trial) -> Iterator[Made]:
    """The package's rounds, one after the other."""
    suppressed = pair.text().suppress_tokens
    sampling = trial.sampling._replace(suppress_tokens=suppressed)
    decoder = Decoder(pair.target, pair.assistant, cache.layout, in_use([sampling]), accept)
    state = start(decoder, cache, [token], SEED)
    if not sampling.greedy:
        state = state._replace(rows=settings_of([sampling]))
    for drafts in _drafts(trial):
        (length,) = cache.lengths
        cache.reserve(length + drafts + 1)
        proposal = propose(decoder, state, cache.buffers, drafts, length)
        emitted, state = settle(decoder, state, proposal)
        cache.store(proposal.buffers, [length + drafts + 1])
        mx.eval(emitted, state[:3], proposal)
        accepted = cast(list[int], emitted.accepted.tolist())[0]
        made = cast(list[list[int]], emitted.tokens.tolist())[0][: accepted + 1]
        cache.append(0, [token, *made[:-1]])
        token = made[-1]
        yield Made(made, accepted, proposal.logits)


def _drafts(trial: Trial) -> Iterator[int]:
    """A text's first round drafts nothing: no hidden state is there to draft from."""
    yield 0
    yield from cycle(trial.drafts)


def _compare(
    trial: Trial, runner: Runner, theirs: Iterator[Made], dtype: mx.Dtype, tokens: int, findings: Findings
) -> None:
    settings = {name: array for name, array in settings_of([trial.sampling])._asdict().items() if name in DRAWN}
    way, made = (GREEDY, 0) if trial.sampling.greedy else (SAMPLED, 0)
    for drafts, expected in zip(_drafts(trial), theirs, strict=False):
        ours = runner.round(way, drafts, None if trial.sampling.greedy else settings)
        difference, allowed = _difference(ours, expected, dtype)
        where = f"{trial}, after {made} tokens"
        findings.difference = max(findings.difference, difference)
        if not difference <= allowed:
            raise InputError(
                f"the bundle's logits differ from the package's by {difference:.2g} of the largest ({where})"
            )
        if ours[:2] != expected[:2]:
            if dtype == mx.float32:
                raise InputError(f"the bundle gives {ours.tokens} where the package gives {expected.tokens} ({where})")
            findings.ties.append(where)
            return
        made += len(ours.tokens)
        findings.rounds += 1
        findings.tokens += len(ours.tokens)
        if made >= tokens:
            return


def _difference(ours: Made, theirs: Made, dtype: mx.Dtype) -> tuple[float, float]:
    """Between the logits of places that follow the same tokens, and how large it may be: parts of the largest logit."""
    same = next((i for i, pair in enumerate(zip(ours.tokens, theirs.tokens, strict=False)) if pair[0] != pair[1]), None)
    places = 1 + min(ours.accepted, theirs.accepted) if same is None else 1 + same
    a, b = (each.logits[:, :places].astype(mx.float32) for each in (ours, theirs))
    finite = mx.abs(b) < mx.inf
    largest = cast(float, mx.max(mx.where(finite, mx.abs(b), 0)).item())
    difference = mx.max(mx.where(a == b, 0, mx.abs(a - b)))  # -inf is equal to itself
    allowed = EXACT if dtype == mx.float32 else tie_tolerance(largest, dtype) / (largest or 1)
    return cast(float, difference.item()) / (largest or 1), allowed
