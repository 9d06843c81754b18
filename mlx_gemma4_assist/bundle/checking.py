"""Is a bundle's text the package's? Both make the same rounds after the same prompt, and are compared round by round.

A bundle is run by the interpreter that is written in Python, then, where it can be built, by the C++ engine: that one
once the package's weights are let go of, since it reads its own.

The prompt is read in pieces of all lengths that programs differ for, and is so long that rings wrap; rounds go on to
where buffers grow and a bucket ends. In float32 all tokens have to be equal. Elsewhere two of them may part where
logits are as close as rounding goes: what is compared of that text ends there.

Drafts that fall leave no trace in a text. They are compared by the logits of the places behind them.
"""

from collections.abc import Iterable, Iterator, Sequence
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
from . import native
from .loading import Bundle
from .runner import Made, Runner
from .weights import Weights, named_networks

TOKENS = 40  # of a text, in whose middle a bucket ends
SEED = 7
EXACT = 2e-3  # of the largest logit, between two ways to sum in float32
MOSTLY = 0.8  # of rounds: drafts may part at near ties as well
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


@dataclass(frozen=True)
class Text:
    """The package's text of a trial.

    Attributes:
        trial: see there.
        prompt: token ids.
        rounds: the rounds of the package that were compared.
        dtype: of the keys and values.
    """

    trial: Trial
    prompt: list[int]
    rounds: list[Made]
    dtype: mx.Dtype


@dataclass
class Findings:
    """What was compared.

    Attributes:
        texts: the package's, to be compared with another engine's.
        rounds, tokens: in all.
        difference: the largest between two logits, in parts of the largest logit.
        ties: texts that parted at a near tie.
        drafted, same: rounds with drafts, and how many of these had the package's very drafts.
    """

    texts: list[Text] = field(default_factory=list)
    rounds: int = 0
    tokens: int = 0
    difference: float = 0.0
    ties: list[str] = field(default_factory=list)
    drafted: int = 0
    same: int = 0


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
        text = Text(trial, prompt, [], pair.dtype)
        theirs = _recorded(_rounds(pair, cache.take(0), prompt[-1], trial), text.rounds)
        _compare(text, _interpreted(copy(runner), trial), theirs, tokens, findings)
        findings.texts.append(text)
    _check_drafts(findings)
    return findings


def check_native(folder: Path, program: Path, texts: Sequence[Text]) -> Findings:
    """Compare what the C++ engine makes of a bundle with the package's texts.

    Args:
        folder: of the bundle.
        program: the engine's runner.
        texts: that the bundle's programs were found to make.

    Raises:
        InputError: they differ, or the engine fails; one sentence says where.
    """
    findings = Findings()
    stops = Bundle(folder).manifest["text"]["stops"]
    for text in texts:
        trial, made = text.trial, sum(len(each.tokens) for each in text.rounds)
        most = made + max(trial.drafts) + 2  # the last round that is compared is none that is cut short
        ours = native.rounds(program, folder, text.prompt, trial.drafts, trial.sampling, SEED, most)
        _compare(text, ours, _until_stop(text.rounds, stops), made, findings)
    _check_drafts(findings)
    return findings


def _until_stop(rounds: Iterable[Made], stops: Sequence[int]) -> Iterator[Made]:
    """Rounds as the engine tells of them, whose texts end with a stop token."""
    for each in rounds:
        end = next((place + 1 for place, token in enumerate(each.tokens) if token in stops), None)
        yield each if end is None else each._replace(tokens=each.tokens[:end], accepted=min(each.accepted, end))
        if end is not None:
            return


def _check_drafts(findings: Findings) -> None:
    if findings.same < MOSTLY * findings.drafted:
        told = f"{findings.drafted - findings.same} of {findings.drafted} rounds"
        raise InputError(f"the bundle's drafts are not the package's in {told}")


def _recorded(rounds: Iterable[Made], kept: list[Made]) -> Iterator[Made]:
    for each in rounds:
        kept.append(each)
        yield each


def _interpreted(runner: Runner, trial: Trial) -> Iterator[Made]:
    """The rounds of a bundle's programs."""
    settings = {name: array for name, array in settings_of([trial.sampling])._asdict().items() if name in DRAWN}
    greedy = trial.sampling.greedy
    for drafts in _drafts(trial):
        yield runner.round(GREEDY if greedy else SAMPLED, drafts, None if greedy else settings)


def piece_lengths(bundle: Bundle) -> list[int]:
    """The shortest and the longest piece of each program that reads."""
    return [length for each in reversed(bundle.reads) for length in (each.most, each.least)]


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


def _compare(text: Text, ours: Iterator[Made], theirs: Iterable[Made], tokens: int, findings: Findings) -> None:
    made = 0
    for expected in theirs:
        where = f"{text.trial}, after {made} tokens"
        found = next(ours)
        _compare_round(found, expected, text.dtype, where, findings)
        if found[:2] != expected[:2]:
            findings.ties.append(where)
            return
        made += len(found.tokens)
        findings.rounds += 1
        findings.tokens += len(found.tokens)
        if made >= tokens:
            return


def _compare_round(ours: Made, theirs: Made, dtype: mx.Dtype, where: str, findings: Findings) -> None:
    """Raises:
    InputError: they differ by more than rounding.
    """
    emitted = zip(ours.tokens, theirs.tokens, strict=False)
    parted = next((place for place, (one, other) in enumerate(emitted) if one != other), None)
    common = 1 + (min(ours.accepted, theirs.accepted) if parted is None else parted)  # places after the same tokens
    difference, allowed = _difference(ours.logits[:, :common], theirs.logits[:, :common], dtype)
    findings.difference = max(findings.difference, difference)
    if not difference <= allowed:
        raise InputError(f"the bundle's logits differ from the package's by {difference:.2g} of the largest ({where})")
    same_drafts = _difference(ours.logits, theirs.logits, dtype)[0] <= allowed
    if ours.logits.shape[1] > 1:
        findings.drafted += 1
        findings.same += same_drafts
    if dtype == mx.float32 and ours[:2] != theirs[:2]:
        raise InputError(f"the bundle gives {ours.tokens} where the package gives {theirs.tokens} ({where})")
    if dtype == mx.float32 and not same_drafts:
        raise InputError(f"the bundle's drafts are not the package's ({where})")


def _difference(ours: mx.array, theirs: mx.array, dtype: mx.Dtype) -> tuple[float, float]:
    """Between logits, and how large it may be where both follow the same tokens: in parts of the largest logit."""
    a, b = (each.astype(mx.float32) for each in (ours, theirs))
    largest = cast(float, mx.max(mx.where(mx.abs(b) < mx.inf, mx.abs(b), 0)).item()) or 1.0
    difference = mx.max(mx.where(a == b, 0, mx.abs(a - b)))  # -inf is equal to itself
    allowed = EXACT if dtype == mx.float32 else tie_tolerance(largest, dtype) / largest
    return cast(float, difference.item()) / largest, allowed
