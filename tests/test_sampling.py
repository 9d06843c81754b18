"""Filters against a naive loop; speculative sampling by exact enumeration and by chi-square."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from support.statistics import CHI_SQUARE_P, chi_square_p

from mlx_gemma4_assist.rounds import accept as acceptance
from mlx_gemma4_assist.rounds.accept import accept, accept_block, accept_matching, accept_tokens
from mlx_gemma4_assist.rounds.sampling import (
    CHOOSE,
    DRAFT,
    Sampling,
    choose,
    in_use,
    log_probabilities,
    row_keys,
    settings_of,
    suppress,
    uniform,
)
from mlx_gemma4_assist.rounds.state import Drafts, RoundState

VOCABULARY = 5


def naive_probabilities(logits: np.ndarray, temperature: float, sampling: Sampling) -> np.ndarray:
    """One row of logits through transformers' warpers, written as their documentation says."""
    x = logits.astype(np.float64) / temperature
    keep = np.ones_like(x, bool)
    if sampling.top_k:
        keep &= x >= np.sort(x)[-min(sampling.top_k, len(x))]
    p = np.where(keep, np.exp(x - x.max()), 0)
    p /= p.sum()
    if 0 < sampling.top_p < 1:
        total = 0.0
        for token in np.argsort(-p):
            keep[token] &= total < sampling.top_p
            total += p[token]
        p = np.where(keep, p, 0)
        p /= p.sum()
    p = np.where(p >= sampling.min_p * p.max(), p, 0)
    return p / p.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"top_k": 1},
        {"top_p": 1e-6},
        {"top_k": 1000},
    ],
)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_filters_agree_with_a_naive_loop(settings, temperature):
    sampling = Sampling(temperature=temperature, **settings)
    logits = np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float32) * 3
    found = np.exp(np.array(log_probabilities(mx.array(logits), temperature, sampling)))
    for row in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(found[row], naive_probabilities(logits[row], temperature, sampling), atol=1e-6)


def test_suppressed_tokens_are_never_drawn():
    sampling = Sampling(temperature=1.0, suppress_tokens=(1, 3))
    p = mx.exp(log_probabilities(suppress(mx.zeros((2, 4, 5)), sampling), 1.0, sampling))
    np.testing.assert_allclose(np.array(p)[1, 2], [1 / 3, 0, 1 / 3, 0, 1 / 3], atol=1e-6)


def test_rows_suppress_their_own_tokens():
    rows = [Sampling(), Sampling(suppress_tokens=(1, 3, 0)), Sampling(suppress_tokens=(4,))]
    found = suppress(mx.zeros((3, 2, 5)), in_use(rows), settings_of(rows))
    for row, sampling in enumerate(rows):
        expected = suppress(mx.zeros((2, 5)), sampling)
        assert mx.array_equal(found[row], expected)
    alike = [Sampling(suppress_tokens=(2,), temperature=float(i)) for i in range(3)]
    assert in_use(alike).suppress_tokens == (2,)
    assert settings_of(alike).suppressed.shape == (3, 0)


def test_noise_belongs_to_row_and_position():
    positions = mx.array([[4, 5, 6], [9, 10, 11]])
    whole = uniform(row_keys(7, 2), positions, CHOOSE)
    parts = mx.concatenate([uniform(row_keys(7, 2), positions[:, i : i + 1], CHOOSE) for i in range(3)], axis=1)
    assert mx.array_equal(whole, parts)
    assert mx.array_equal(uniform(row_keys(7, 1), positions[:1], CHOOSE), whole[:1])
    many = np.array(uniform(row_keys(0, 3), mx.broadcast_to(mx.arange(300), (3, 300)), CHOOSE)).ravel()
    assert len(set(many.tolist())) == many.size
    assert abs(many.mean() - 0.5) < 0.03


class Tables:
    """A target and a drafter over five tokens whose distributions depend on all tokens before."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        shape = (VOCABULARY,) * 3
        # Some tokens are impossible for one side only: the corners of the rule.
        self.p = [self._table(rng, (*shape[:n], VOCABULARY)) for n in range(3)]
        self.q = [self._table(rng, (*shape[:n], VOCABULARY)) for n in range(2)]

    @staticmethod
    def _table(rng, shape):
        p = rng.gamma(0.7, size=shape) * (rng.random(shape) > 0.2) + 1e-9 * (np.arange(shape[-1]) == 0)
        return p / p.sum(-1, keepdims=True)

    def joint(self) -> np.ndarray:
        """P of the first three tokens, from the target alone."""
        return self.p[0][:, None, None] * self.p[1][:, :, None] * self.p[2]


def token_thresholds(p: np.ndarray, q: np.ndarray, drafts: tuple[int, int]) -> list[float]:
    """Leviathan et al.: below which number each draft stands."""
    return [min(1.0, p[i, t] / q[i, t]) for i, t in enumerate(drafts)]


def block_thresholds(p: np.ndarray, q: np.ndarray, drafts: tuple[int, int]) -> list[float]:
    """Sun et al., algorithm 2, as written there for two drafts."""
    first = min(p[0, drafts[0]] / q[0, drafts[0]], 1)
    both = min(first * p[1, drafts[1]] / q[1, drafts[1]], 1)
    excess = np.maximum(first * p[1] - q[1], 0).sum()
    return [excess / (excess + 1 - first) if excess + 1 - first > 0 else 1.0, both]


RULES = {"tokens": (accept_tokens, token_thresholds), "block": (accept_block, block_thresholds)}


def enumerated_joint(tables: Tables, rule: str, monkeypatch, drawn_from=None) -> tuple[np.ndarray, float]:
    """P of the first three tokens over all drafts, decisions and residual draws; and how many drafts stand."""
    accept_drafts, thresholds = RULES[rule]
    joint, stood = np.zeros((VOCABULARY,) * 3), 0.0
    drawn_from = tables.q if drawn_from is None else drawn_from
    for drafted in itertools.product(range(VOCABULARY), repeat=2):
        first, second = drafted
        weight = drawn_from[0][first] * drawn_from[1][first, second]
        if weight == 0:
            continue
        p = np.stack([tables.p[0], tables.p[1][first], tables.p[2][first, second]])
        q = np.stack([tables.q[0], tables.q[1][first]])
        limits = thresholds(p, q, drafted)
        for decisions in itertools.product((True, False), repeat=2):
            chance = np.prod([s if d else 1 - s for s, d in zip(limits, decisions, strict=True)])
            if chance < 1e-12:
                continue
            # Any number on the right side of the threshold stands for the whole side.
            u = [s / 2 if d else (1 + s) / 2 for s, d in zip(limits, decisions, strict=True)]
            monkeypatch.setattr(acceptance, "uniform", lambda *_, u=u: mx.array([u], mx.float32))
            for drawn in range(VOCABULARY):
                seen = []

                def scripted(log_p, *_, drawn=drawn, seen=seen):
                    seen.append(np.exp(np.array(log_p, np.float64))[0, 0])
                    return mx.array([[drawn]], mx.int32)

                monkeypatch.setattr(acceptance, "choose", scripted)
                drafts = Drafts(mx.array([drafted]), mx.log(mx.array(q[None].astype(np.float32))))
                log_p = mx.log(mx.array(p[None].astype(np.float32)))
                result = accept_drafts(*drafts, log_p, row_keys(0, 1), mx.array([[1, 2, 3]]))
                residual = seen[0] / seen[0].sum()
                at = tuple(result.tokens[0, : result.accepted.item() + 1].tolist())
                stood += weight * chance * residual[drawn] * result.accepted.item()
                # What a shorter round leaves open, the next one fills by the target's distribution.
                later = tables.joint()[at] / max(tables.joint()[at].sum(), 1e-300)
                joint[at] += weight * chance * residual[drawn] * later
    return joint, stood


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_two_drafts_over_five_tokens_enumerated(seed, rule, monkeypatch):
    """Whatever is drafted, decided and drawn, weighted by its probability, adds up to the target's distribution."""
    tables = Tables(seed)
    joint, _ = enumerated_joint(tables, rule, monkeypatch)
    np.testing.assert_allclose(joint, tables.joint(), atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_block_verification_accepts_no_less(seed, monkeypatch):
    stood = [enumerated_joint(Tables(seed), rule, monkeypatch)[1] for rule in ("block", "tokens")]
    assert stood[0] >= stood[1] - 1e-6
    assert 0 < stood[1] < 2


def test_enumeration_sees_an_inexact_rule(monkeypatch):
    """transformers takes the argmax as draft and accepts it by p / q of the full q: not exact, and found out here."""
    tables = Tables(0)
    argmax = [np.eye(VOCABULARY)[q.argmax(-1)] for q in tables.q]
    joint, _ = enumerated_joint(tables, "tokens", monkeypatch, drawn_from=argmax)
    assert np.abs(joint - tables.joint()).max() > 0.01


@pytest.mark.parametrize(("draft_temperature", "block"), [(0, True), (0.5, True), (1, True), (1, False)])
def test_real_noise_gives_the_targets_distribution(draft_temperature, block):
    """Chi-square over 2,000 rows of real drawing and accepting, two drafts over five tokens."""
    rows = 2000
    rng = np.random.default_rng(3)
    p_logits = rng.normal(size=(3, VOCABULARY)).astype(np.float32) * 1.5
    q_logits = p_logits[:2] + rng.normal(size=(2, VOCABULARY)).astype(np.float32) * 0.7
    sampling = Sampling(temperature=1.0, draft_temperature=draft_temperature, block_verification=block)
    keys = row_keys(11, rows)
    if draft_temperature == 0:
        drafts = Drafts(mx.broadcast_to(mx.argmax(mx.array(q_logits), -1).astype(mx.int32), (rows, 2)), None)
    else:
        log_q = mx.broadcast_to(
            log_probabilities(mx.array(q_logits), draft_temperature, sampling), (rows, 2, VOCABULARY)
        )
        positions = mx.broadcast_to(mx.array([5, 6]), (rows, 2))
        drafts = Drafts(choose(log_q, keys, positions, DRAFT), log_q)
    state = RoundState(mx.full((rows,), 4, mx.int32), mx.zeros((rows, 1), mx.int32), mx.zeros((rows, 1, 1)), keys)
    result = accept(sampling, state, drafts, mx.broadcast_to(mx.array(p_logits), (rows, 3, VOCABULARY)))
    tokens, accepted = np.array(result.tokens), np.array(result.accepted)
    p = np.exp(np.array(log_probabilities(mx.array(p_logits), 1.0, sampling), np.float64))
    # A token that is emitted, given that the ones before it were drafts that stood; a block is decided as a whole.
    for place in range(1 if block and draft_temperature else 3):
        emitted = accepted >= place
        reached = emitted.sum()
        counts = np.bincount(tokens[emitted, place], minlength=VOCABULARY)
        assert reached > 100
        assert chi_square_p(counts, p[place] * reached) > CHI_SQUARE_P
    assert 0 < accepted.sum() < 2 * rows


def test_matching_accepts_the_longest_prefix():
    drafts = mx.array([[1, 2, 3], [1, 9, 3], [9, 2, 3]])
    choices = mx.array([[1, 2, 3, 4]] * 3)
    assert accept_matching(drafts, choices).accepted.tolist() == [3, 1, 0]
    nothing = accept_matching(mx.zeros((2, 0), mx.int32), mx.array([[5], [6]]))
    assert nothing.accepted.tolist() == [0, 0]
    assert nothing.tokens.tolist() == [[5], [6]]


@pytest.mark.parametrize("top_p", [0.0, 1.0])
@pytest.mark.parametrize("others", [{}, {"top_k": 7}, {"min_p": 0.1}])
def test_a_nucleus_of_0_or_1_keeps_all(top_p, others):
    """By itself, and beside a row that has a nucleus."""
    logits = mx.array(np.random.default_rng(0).normal(size=(2, 1, 50)).astype(np.float32) * 3)
    expected = log_probabilities(logits[:1], 1.0, Sampling(temperature=1.0, **others))
    rows = [Sampling(temperature=1.0, top_p=p, **others) for p in (top_p, 0.5)]
    assert mx.array_equal(log_probabilities(logits[:1], 1.0, rows[0]), expected)
    settings = settings_of(rows)
    beside = log_probabilities(logits, settings.temperature, in_use(rows), settings)
    assert mx.allclose(mx.exp(beside[:1]), mx.exp(expected), atol=1e-6)
