"""Penalties, biases and log-probabilities, with drafts: as a loop over tokens in NumPy has them."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import random_pair
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import InputError, stream_generate
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.rounds.adjust import adjusted, counted
from mlx_gemma4_assist.rounds.sampling import Sampling, row_keys
from mlx_gemma4_assist.rounds.state import RoundState

PROMPT = [(7 * i * i + 3 * i) % 64 for i in range(20)]
SETTINGS = [
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"repetition_penalty": 0.8, "frequency_penalty": -0.1, "logit_bias": {5: 2.0, 7: -math.inf, 9: 1.0}},
    {"logit_bias": [(3, 4.0)]},
]


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


def generated(pair, drafts, **options):
    options = {"max_tokens": 30} | options
    assistant = pair[1] if drafts else None
    if drafts:
        options["num_assistant_tokens"] = drafts
    return list(stream_generate(pair[0], LetterProcessor(), PROMPT, assistant, **options))


def naive(
    repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=()
) -> Callable[[mx.array, mx.array], mx.array]:
    """The same as a logits processor, which is called once for each token."""

    def processor(tokens: mx.array, logits: mx.array) -> mx.array:
        ids, x = np.array(tokens).tolist(), np.array(logits[0], np.float32)
        for token in set(ids):
            x[token] = x[token] / repetition_penalty if x[token] > 0 else x[token] * repetition_penalty
        made = ids[len(PROMPT) :]
        for token in set(made):
            x[token] -= presence_penalty + frequency_penalty * made.count(token)
        for token, bias in dict(logit_bias).items():
            x[token] += bias
        return mx.array(x)[None]

    return processor


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_penalties_and_biases_are_exact_with_drafts(pair, settings, temperature):
    drawn = {"temperature": temperature, "seed": 3}
    expected = [r.token for r in generated(pair, 0, logits_processors=[naive(**settings)], **drawn)]
    assert expected != [r.token for r in generated(pair, 0, **drawn)]  # they change something
    for drafts in (0, 1, 4):
        assert [r.token for r in generated(pair, drafts, **settings, **drawn)] == expected


@pytest.mark.parametrize("penalty", [1.3, 0.5])
def test_the_repetition_penalty_is_transformers(penalty):
    """Once for each token that has been there, however often and however long ago."""
    logits = mx.random.normal((1, 1, 50), key=mx.random.key(0))
    tokens = [3, 7, 3, *range(20, 45), 44]
    expected = logits.tolist()[0][0]
    for token in set(tokens):
        expected[token] = expected[token] * penalty if expected[token] < 0 else expected[token] / penalty
    nothing = mx.zeros((1, 0), mx.int32)
    state = RoundState(mx.array([9]), mx.array([[44]]), mx.zeros((1, 1, 1)), row_keys(0, 1), counts=counted(tokens, 50))
    found = adjusted(logits, Sampling(repetition_penalty=penalty), state, nothing)
    np.testing.assert_allclose(np.array(found)[0, 0], expected, rtol=1e-6)


@pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")
def test_compiled_as_well(pair):
    settings = {"temperature": 1.0, "seed": 3, "top_logprobs": 2} | SETTINGS[2]
    eager, compiled = (generated(pair, 3, compile=compile, **settings) for compile in (False, True))
    assert [r.token for r in eager] == [r.token for r in compiled]
    np.testing.assert_allclose([r.logprob for r in eager], [r.logprob for r in compiled], atol=1e-4)


@pytest.mark.parametrize("settings", [{}, SETTINGS[2]])
def test_log_probabilities_are_the_targets(pair, settings):
    """Before temperature and filters, after penalties and biases; of drafts that stood as of others."""
    seen = []

    def watch(tokens: mx.array, logits: mx.array) -> mx.array:
        changed = naive(**settings)(tokens, logits)
        wide = np.array(changed[0], np.float64)
        seen.append(wide - np.log(np.exp(wide).sum()))
        return changed

    drawn = {"temperature": 0.7, "seed": 6, "top_k": 9, "max_tokens": 60}
    plain = generated(pair, 0, logits_processors=[watch], **drawn)
    found = generated(pair, 3, top_logprobs=5, **settings, **drawn)
    assert [r.token for r in found] == [r.token for r in plain]
    assert any(r.from_draft for r in found)
    for response, log_p in zip(found, seen, strict=True):
        assert response.logprob == pytest.approx(log_p[response.token], abs=1e-4)
        order = np.argsort(-log_p)[:5]
        assert [token for token, _ in response.top_logprobs] == order.tolist()
        np.testing.assert_allclose([value for _, value in response.top_logprobs], log_p[order], atol=1e-4)


def test_log_probabilities_only_where_asked_for(pair):
    assert {(r.logprob, r.top_logprobs) for r in generated(pair, 3, max_tokens=3)} == {(None, None)}
    only_own = generated(pair, 3, max_tokens=3, top_logprobs=0)
    assert all(r.logprob is not None and r.top_logprobs == [] for r in only_own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": math.nan}, "presence_penalty is nan"),
        ({"frequency_penalty": "a"}, "frequency_penalty is 'a'"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: math.inf}}, "logit_bias"),
        ({"logit_bias": 5}, "logit_bias is 5"),
        ({"logit_bias": {64: 1.0}}, "vocabulary ends at 63"),
        ({"top_logprobs": 21}, "top_logprobs is 21"),
    ],
)
def test_what_cannot_be_is_refused(pair, options, message):
    with pytest.raises(InputError, match=message):
        generated(pair, 3, **options)
