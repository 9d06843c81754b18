"""Rounds: assisted equals plain, whatever is drafted; nothing is read too early; nothing grows.

Sampled tokens depend on seed and position only, so at temperature 1 a random pair gives varied text that plain and
assisted decoding must agree on token for token.
"""

import ast
from pathlib import Path

import mlx.core as mx
import pytest
from support.decoding import GREEDY, OracleAssistant, filled, layout_for, random_pair, run

import mlx_gemma4_assist
from mlx_gemma4_assist.cache.layout import Block, CacheLayout, KVCache, stack
from mlx_gemma4_assist.checkpoints.loading import load_assistant, load_model
from mlx_gemma4_assist.drafts.draft_length import FixedDraftLength
from mlx_gemma4_assist.rounds import round as speculative
from mlx_gemma4_assist.rounds.host_accept import HostAcceptor
from mlx_gemma4_assist.rounds.round import Engine, Plan, accept, rounds, speculate, start
from mlx_gemma4_assist.rounds.sampling import CHOOSE, Sampling, choose, log_probabilities, row_keys

SAMPLED = Sampling(temperature=1.0, top_k=40)
BUDGET = 48  # past the wrap of a window of 16 in a ring of 16 + slack


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
    for ahead in (0, 1, 2):
        tokens, _ = run(*pair, prompt_of(17), BUDGET, 3, sampling=SAMPLED, ahead=ahead)
        assert tokens == plain(17)


@pytest.mark.parametrize("drafts", [0, 3])
def test_rows_are_independent(pair, drafts):
    """Three rows of different lengths and acceptance emit what each emits alone, with its own noise."""
    target, assistant = pair
    prompts = [prompt_of(5), prompt_of(17), prompt_of(50)]
    layout = layout_for(target, drafts)
    engine = Engine(target, assistant if drafts else None, layout, SAMPLED, accept)
    plan = Plan(BUDGET, FixedDraftLength(drafts), 1, 5)
    cache = stack([filled(target, layout, prompt) for prompt in prompts])
    made = list(rounds(engine, cache, [p[-1] for p in prompts], plan))
    together = [[t for r in made for t in r.tokens[row]][:BUDGET] for row in range(3)]
    for row, prompt in enumerate(prompts):
        alone = rounds_of_row(engine, filled(target, layout, prompt), prompt, plan, row)
        assert together[row] == alone[:BUDGET]
    assert [len(p) - 1 + sum(len(r.tokens[i]) for r in made) for i, p in enumerate(prompts)] == cache.lengths


def rounds_of_row(engine, cache, prompt, plan, row):
    """One row by itself, with the random key that it has as row ``row`` of a batch."""
    state = start(engine, cache, [prompt[-1]], plan.seed)._replace(keys=row_keys(plan.seed, row + 1)[row:])
    tokens, count, bound = [], 0, len(prompt) - 1
    while len(tokens) < plan.budget:
        emitted, state = speculate(engine, state, count, bound)
        tokens += emitted.tokens[0, : emitted.accepted.item() + 1].tolist()
        count, bound = plan.draft_length.choose(), state.length.item()
    return tokens


@pytest.mark.parametrize("draft_temperature", [0, 0.5, 1])
@pytest.mark.parametrize("drafts", [1, 4])
def test_processors_do_not_change_what_they_leave_alone(pair, draft_temperature, drafts):
    # On the host drafts are decided one by one: the same draws as on the device only without block verification.
    sampling = Sampling(temperature=1.0, draft_temperature=draft_temperature, block_verification=False)
    prompt = prompt_of(17)
    device, _ = run(*pair, prompt, BUDGET, drafts, sampling=sampling)
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


def test_a_round_returns_the_types_it_takes(pair):
    target, assistant = pair
    layout = layout_for(target, 3)
    cache = filled(target, layout, prompt_of(9))
    engine = Engine(target, assistant, layout, SAMPLED, accept)
    state = start(engine, cache, [3], 0)
    _, after = speculate(engine, state, 3, 8)
    for name, before, now in zip(state._fields, state, after, strict=True):
        if name != "buffers":
            assert (before.dtype, before.shape) == (now.dtype, now.shape), name
    for before, now in zip(state.buffers, after.buffers, strict=True):
        assert [(a.dtype, a.shape) for a in before] == [(a.dtype, a.shape) for a in now]


READS = {"item", "tolist", "eval", "async_eval", "synchronize"}
ALLOWED = {("round.py", "read"), ("round.py", "rounds")}
ON_THE_HOST = {"host_accept.py"}  # acceptance on the host is what it is for


def host_reads(path: Path) -> list[str]:
    """Calls that read an array back, by their syntax: ``.item()``, ``.tolist()``, ``eval``, ``int()``, ``np.array``."""
    found = []
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef) or (path.name, function.name) in ALLOWED:
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            from_numpy = isinstance(called, ast.Attribute) and ast.unparse(called.value) == "np"
            reads = name in READS or (from_numpy and name in ("array", "asarray"))
            if reads or (isinstance(called, ast.Name) and name in ("int", "float", "bool") and node.args):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    return found


def test_no_host_read_in_networks_and_rounds():
    root = Path(mlx_gemma4_assist.__file__).parent
    rooms = ("models", "cache", "rounds")
    files = [p for room in rooms for p in (root / room).glob("*.py") if p.name not in ON_THE_HOST]
    # Numbers from a config or an option are no arrays.
    harmless = ("int(parameters", "float(parameters", "int(index)", "int(match", "int(sampling", "int(self.top_k")
    found = [read for p in files for read in host_reads(p) if not any(h in read for h in harmless)]
    assert found == []
    assert host_reads(root / "rounds" / "host_accept.py")  # the search does find some where there are some


def test_the_next_round_is_submitted_before_one_is_read(pair, monkeypatch):
    """Order of events, and that nothing else waits: during a round's making no array is evaluated.

    The prompt's own round, which gives the first token and has no drafts, is read before the next one is made: that
    token would have to wait for it.
    """
    events = []
    real_submit, real_read, real_speculate = mx.async_eval, speculative.read, speculative.speculate
    monkeypatch.setattr(mx, "async_eval", lambda *a: (events.append("submit"), real_submit(*a))[1])
    monkeypatch.setattr(speculative, "read", lambda r: (events.append("read"), real_read(r))[1])

    def making(*args):
        with monkeypatch.context() as m:
            m.setattr(mx, "eval", lambda *a: pytest.fail("a round evaluates"))
            m.setattr(mx, "async_eval", lambda *a: pytest.fail("a round evaluates"))
            return real_speculate(*args)

    monkeypatch.setattr(speculative, "speculate", making)
    run(*pair, prompt_of(9), 20, 3, sampling=SAMPLED)
    submits, reads = [0], [0]
    for event in events:
        submits.append(submits[-1] + (event == "submit"))
        reads.append(reads[-1] + (event == "read"))
        if event == "read" and 1 < submits[-1] < events.count("submit"):
            assert submits[-1] > reads[-1], events
    assert events.count("submit") == events.count("read") > 5
    assert events[:6] == ["submit", "read", "submit", "submit", "read", "submit"]


def test_memory_stays_flat_over_two_thousand_tokens():
    """After the buffers have their size, 2,000 tokens add nothing to what is allocated at rest, and to the peak what
    one layer's attention takes to see them."""
    folder = Path(__file__).parent / "goldens" / "e2b"
    target, assistant = load_model(folder / "target"), load_assistant(folder / "assistant")
    layout = layout_for(target, 3)
    cache = filled(target, layout, prompt_of(20))
    cache.reserve(2100)
    engine = Engine(target, assistant, layout, GREEDY, accept)
    at_rest, peaks, made = [], [], 0
    for emitted in rounds(engine, cache, [1], Plan(2000, FixedDraftLength(3), 1, 0)):
        made += len(emitted.tokens[0])
        if made // 250 > len(at_rest):
            at_rest.append(mx.get_active_memory())
            peaks.append(mx.get_peak_memory())
            mx.reset_peak_memory()
    assert len(at_rest) == 8
    assert max(at_rest[1:]) - min(at_rest[1:]) < 100_000, at_rest
    scores = 4 * target.config.num_attention_heads * mx.float32.size  # of a block and one position more
    # Products, masked, their softmax, and less than one more for the mask; of one layer and one round at a time.
    assert peaks[-1] - peaks[1] < 4 * scores * 250 * 6, peaks
