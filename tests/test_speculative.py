"""Rounds: assisted equals plain, whatever is drafted; nothing is read too early; nothing grows.

Sampled tokens depend on seed and position only, so at temperature 1 a random pair gives varied text that plain and
assisted decoding must agree on token for token.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest
from support.decoding import GREEDY, filled, layout_for, random_pair, run
from support.oracles import OracleAssistant
from support.paths import GOLDENS

from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache, join
from mlx_gemma4_assist.checkpoints.loading import load_assistant, load_model
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine import loop
from mlx_gemma4_assist.engine.batch import Member, _state_of
from mlx_gemma4_assist.engine.loop import Plan, rounds, start
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.host_accept import HostAcceptor
from mlx_gemma4_assist.rounds.round import draft, speculate
from mlx_gemma4_assist.rounds.sampling import CHOOSE, Sampling, choose, log_probabilities, row_keys
from mlx_gemma4_assist.rounds.state import Decoder
from mlx_gemma4_assist.rounds.steps import EagerSteps

SAMPLED = Sampling(temperature=1.0, top_k=40)
BUDGET = 32  # past the wrap of a window of 16 in a ring of 16 + slack


@pytest.fixture(scope="module")
def pair():
    return random_pair()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    mx.random.seed(seed + length)
    return mx.random.randint(0, 64, (length,)).tolist()


@pytest.fixture(scope="module")
def plain(pair):
    """Plain decoding's tokens by prompt length, made once."""
    made = {}

    def of(length: int, more: int = 0) -> list[int]:
        if length not in made:
            made[length], _ = run(pair[0], None, prompt_of(length), BUDGET + 20, sampling=SAMPLED)
        return made[length][: BUDGET + more]

    return of


def naive(target, prompt, budget):
    """Sampled decoding without a cache: every token from a forward over all tokens before it."""
    tokens = list(prompt)
    layout = CacheLayout(target.config, 8, mx.float32)
    for _ in range(budget):
        cache = KVCache(layout)
        cache.reserve(len(tokens))
        block = Block(layout, cache.buffers, mx.array([0]), len(tokens), 0, exact=True)
        logits = target.logits(target(mx.array([tokens]), block)[:, -1:])
        log_p = log_probabilities(logits, SAMPLED.temperature, SAMPLED)
        tokens.append(choose(log_p, row_keys(0, 1), mx.array([[len(tokens)]]), CHOOSE).item())
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [1, 12, 40])
def test_plain_equals_its_naive_twin(pair, plain, length):
    assert len(set(plain(length))) > 15
    assert plain(length)[:30] == naive(pair[0], prompt_of(length), 30)


@pytest.mark.parametrize(
    ("length", "drafts"), [(17, drafts) for drafts in range(1, 9)] + [(length, 3) for length in (1, 15, 16, 75)]
)
def test_assisted_equals_plain(pair, plain, length, drafts):
    tokens, _ = run(*pair, prompt_of(length), BUDGET, drafts, sampling=SAMPLED)
    assert tokens == plain(length)


@pytest.mark.parametrize("step_size", [1, 7, 30])
def test_prefill_in_chunks(pair, plain, step_size):
    tokens, _ = run(*pair, prompt_of(75), BUDGET, 3, sampling=SAMPLED, step_size=step_size)
    assert tokens == plain(75)


@pytest.mark.parametrize("drafts", [1, 3, 8])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("always", lambda p: False), ("half", lambda p: p * 7919 % 13 > 6), ("never", lambda p: True)],
)
def test_assistants_that_are_right(pair, plain, name, wrong, drafts):
    prompt = prompt_of(17)
    oracle = OracleAssistant(prompt + plain(17, more=20), 64, wrong)
    tokens, made = run(pair[0], oracle, prompt, BUDGET, drafts, sampling=SAMPLED)
    assert tokens == plain(17)
    accepted, drafted = sum(r.accepted[0] for r in made), sum(r.drafted for r in made)
    if name == "always":
        assert accepted == drafted
        assert len(made) == 1 + -(-(BUDGET - 1) // (drafts + 1))
    elif name == "never":
        assert accepted == 0
        assert len(made) == BUDGET
    else:
        assert 0.1 < accepted / drafted < 0.8


def test_look_ahead_changes_nothing(pair, plain):
    for ahead in (0, 2):  # the other runs look ahead by one
        tokens, _ = run(*pair, prompt_of(17), BUDGET, 3, sampling=SAMPLED, ahead=ahead)
        assert tokens == plain(17)


@pytest.mark.parametrize("drafts", [0, 3])
def test_rows_are_independent(pair, drafts):
    """Three rows of different lengths and acceptance emit what each emits alone, with its own noise."""
    target, assistant = pair
    prompts = [prompt_of(5), prompt_of(17), prompt_of(50)]
    layout = layout_for(target, drafts)
    decoder = Decoder(target, assistant if drafts else None, layout, SAMPLED, accept)
    plan = Plan(BUDGET, FixedDraftLength(drafts), 1, 5)
    cache = join([filled(target, layout, prompt) for prompt in prompts])
    made = list(rounds(decoder, cache, [p[-1] for p in prompts], plan))
    together = [[t for r in made for t in r.tokens[row]][:BUDGET] for row in range(3)]
    for row, prompt in enumerate(prompts):
        alone = rounds_of_row(decoder, filled(target, layout, prompt), prompt, plan, row)
        assert together[row] == alone[:BUDGET]
    assert [len(p) - 1 + sum(len(r.tokens[i]) for r in made) for i, p in enumerate(prompts)] == cache.lengths


def rounds_of_row(decoder, cache, prompt, plan, row):
    """One row by itself, with the random key that it has as row ``row`` of a batch."""
    state = start(decoder, cache, [prompt[-1]], plan.seed)._replace(keys=row_keys(plan.seed, row + 1)[row:])
    tokens, count, bound, buffers = [], 0, len(prompt) - 1, cache.buffers
    while len(tokens) < plan.budget:
        emitted, state, buffers = speculate(decoder, state, buffers, count, bound)
        tokens += emitted.tokens[0, : emitted.accepted.item() + 1].tolist()
        count, bound = plan.draft_length.choose(), state.length.item()
    return tokens


@pytest.mark.parametrize("draft_temperature", [0, 0.5, 1])
@pytest.mark.parametrize("drafts", [1, 4])
def test_processors_do_not_change_what_they_leave_alone(pair, draft_temperature, drafts):
    # On the host drafts are decided one by one: the same draws as on the device only without block verification.
    sampling = Sampling(temperature=1.0, draft_temperature=draft_temperature, block_verification=False)
    prompt = prompt_of(17)
    device, _ = run(*pair, prompt, BUDGET, drafts, sampling=sampling, ahead=0)  # else the last round has fewer drafts
    host = HostAcceptor([lambda tokens, logits: logits], prompt)
    assert run(*pair, prompt, BUDGET, drafts, sampling=sampling, ahead=0, acceptor=host)[0] == device


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_processors_see_the_same_calls_with_and_without_drafts(pair, sampling):
    """One that counts its calls and bans what came last: it would notice any call for a rejected draft."""
    prompt = prompt_of(20)
    calls = {}

    def record(drafts):
        calls[drafts] = []

        def processor(tokens, logits):
            calls[drafts].append(tokens.tolist())
            banned = mx.arange(64) == tokens[-1]
            odd = len(calls[drafts]) % 2 == 1
            return mx.where(banned | ((mx.arange(64) % 2 == 0) & odd), -mx.inf, logits)

        host = HostAcceptor([processor], prompt)
        return run(*pair, prompt, 40, drafts, sampling=sampling, ahead=0, acceptor=host)[0]

    plain_tokens = record(0)
    assert record(3) == plain_tokens
    assert calls[3][:40] == calls[0][:40]
    assert calls[0][0] == prompt
    assert len(calls[0]) == 40
    assert all(token % 2 == 1 for token in plain_tokens[::2])


FORMATS = [None, "bfloat16", ("affine", 4, 32), ("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0] if isinstance(form, tuple) else form or "float32")
@pytest.mark.parametrize("drafts", [0, 3])
def test_a_round_returns_the_types_it_takes(form, drafts):
    """The first round too, whose state no round has made; with mxfp4 weights norms are wider than embeddings."""
    target, assistant = random_pair()
    if form == "bfloat16":
        for network in (target, assistant):
            network.set_dtype(mx.bfloat16)
    elif form is not None:
        mode, bits, group_size = form
        nn.quantize(target, group_size, bits, mode=mode)
    layout = replace(layout_for(target, 3), dtype=target.embed(mx.array([[0]])).dtype)
    cache = filled(target, layout, prompt_of(9))
    decoder = Decoder(target, assistant, layout, SAMPLED, accept)
    state = start(decoder, cache, [3], 0)
    _, after, buffers = speculate(decoder, state, cache.buffers, drafts, 8)
    for name, before, now in zip(state._fields[:4], state[:4], after[:4], strict=True):
        assert (before.dtype, before.shape) == (now.dtype, now.shape), name
    for before, now in zip(cache.buffers, buffers, strict=True):
        assert [(a.dtype, a.shape) for a in before] == [(a.dtype, a.shape) for a in now]


def test_the_next_round_is_submitted_before_one_is_read(pair, monkeypatch):
    """Order of events, and that nothing else waits: during a round's making no array is evaluated.

    The prompt's own round, which gives the first token and has no drafts, is read before the next one is made: that
    token would have to wait for it.
    """
    events = []
    real_submit, real_read = mx.async_eval, loop.read
    monkeypatch.setattr(mx, "async_eval", lambda *a: (events.append("submit"), real_submit(*a))[1])
    monkeypatch.setattr(loop, "read", lambda r: (events.append("read"), real_read(r))[1])

    class Watched(EagerSteps):
        def round(self, *args):
            events.append("make")
            with monkeypatch.context() as m:
                m.setattr(mx, "eval", lambda *a: pytest.fail("a round evaluates"))
                m.setattr(mx, "async_eval", lambda *a: pytest.fail("a round evaluates"))
                return super().round(*args)

    run(*pair, prompt_of(9), 20, 3, sampling=SAMPLED, steps=Watched())
    assert events.count("make") == events.count("submit") == events.count("read") > 5
    assert events[:9] == ["make", "submit", "read", "make", "submit", "make", "submit", "read", "make"]
    last_made = len(events) - 1 - events[::-1].index("make")
    in_flight = 0
    for place, event in enumerate(events):
        in_flight += {"submit": 1, "read": -1, "make": 0}[event]
        # But for the prompt's own, a round is read only while the next one is under way, as long as there is a next.
        assert event != "read" or place < 3 or place > last_made or in_flight == 1


def test_memory_stays_flat_over_a_thousand_tokens():
    """After the buffers have their size, 1,000 tokens add nothing to what is allocated at rest, and to the peak what
    one layer's attention takes to see them."""
    folder = GOLDENS / "e2b"
    target, assistant = load_model(folder / "target"), load_assistant(folder / "assistant")
    layout = layout_for(target, 3)
    cache = filled(target, layout, prompt_of(20))
    cache.reserve(1100)
    decoder = Decoder(target, assistant, layout, GREEDY, accept)
    at_rest, peaks, made = [], [], 0
    for emitted in rounds(decoder, cache, [1], Plan(1000, FixedDraftLength(3), 1, 0)):
        made += len(emitted.tokens[0])
        if made // 125 > len(at_rest):
            mx.synchronize()  # the round in flight has memory of its own
            at_rest.append(mx.get_active_memory())
            peaks.append(mx.get_peak_memory())
            mx.reset_peak_memory()
    assert len(at_rest) == 8
    assert max(at_rest[1:]) - min(at_rest[1:]) < 50_000, at_rest
    scores = 4 * target.config.num_attention_heads * mx.float32.size  # of a block and one position more
    # Products, masked, their softmax, and less than one more for the mask; of one layer and one round at a time.
    assert peaks[-1] - peaks[1] < 4 * scores * 125 * 6, peaks


class Damaged:
    """An assistant some of whose logits are no numbers."""

    def __init__(self, assistant, number: float, every: int):
        self._assistant = assistant
        self._number, self._every = number, every

    def __call__(self, *arguments):
        return self._assistant(*arguments)

    def logits(self, hidden: mx.array) -> mx.array:
        logits = self._assistant.logits(hidden)
        return mx.where(mx.arange(logits.shape[-1]) % self._every == 0, self._number, logits).astype(mx.bfloat16)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_drafts_are_drawn_from_a_distribution(pair, number, every):
    """Whatever the assistant computes; what a centroid head leaves out stays impossible."""
    target, assistant = pair
    sampling, layout = Sampling(temperature=1.0, draft_temperature=1.0), layout_for(target, 2)
    decoder = Decoder(target, Damaged(assistant, number, every), layout, sampling, accept)
    cache = filled(target, layout, prompt_of(9))
    made = draft(decoder, start(decoder, cache, [5], 0), cache.buffers, 2, 8)
    assert mx.allclose(mx.exp(made.log_q).sum(axis=-1), mx.ones((1, 2)), atol=1e-5)
    assert mx.isinf(made.log_q).any().item() == (every == 3 and number < 0)
    drawn = mx.take_along_axis(made.log_q, made.tokens[..., None], axis=-1)
    assert mx.isfinite(drawn).all()


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_a_row_of_a_batch_begins_with_the_types_that_rounds_return(mode):
    target, assistant = random_pair()
    nn.quantize(target, 16 if mode == "nvfp4" else 32, 8 if mode == "mxfp8" else 4, mode=mode)
    layout = replace(layout_for(target, 3), dtype=target.embed(mx.array([[0]])).dtype)
    cache = filled(target, layout, prompt_of(9))
    decoder = Decoder(target, assistant, layout, SAMPLED, accept)
    state = _state_of(Member(cache, 3, None, row_keys(0, 1), SAMPLED), decoder)
    _, after, _ = speculate(decoder, state, cache.buffers, 3, 8)
    assert [array.dtype for array in state[:4]] == [array.dtype for array in after[:4]]
