"""Quantized keys and values: the text depends on the bits alone, not on drafts, blocks, neighbours or files."""

import os
import random

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import filled, random_pair
from support.paths import ASSETS, FAMILIES, GOLDENS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import (
    GenerationOptions,
    InputError,
    Pair,
    batch_generate,
    load_assistant,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    stream_generate,
)
from mlx_gemma4_assist.backend import branches, can_compile
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.quantization import OVERLAP, KVQuantization, kv_quantization
from mlx_gemma4_assist.cache.rows import KVCache, join
from mlx_gemma4_assist.cache.store import empty, positions_of, with_positions
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.evaluation.acceptance import Acceptance, Passage, measure_acceptance
from mlx_gemma4_assist.machine.memory import context_bytes
from mlx_gemma4_assist.models.attention import attend
from mlx_gemma4_assist.models.config import FULL
from mlx_gemma4_assist.models.quantized_attention import FEW_QUERIES, QuantizedKeysValues

PROMPT = [(5 * i * i + 3 * i) % 64 for i in range(90)]
FOUR = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 0}
SCHEDULES = int(os.environ.get("QUANTIZED_SCHEDULES", "4"))
SEEDED = {"temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    folder = GOLDENS / request.param
    return load_model(folder / "target"), load_assistant(folder / "assistant")


def answer(pair, prompt, drafts=3, **options):
    options = {"max_tokens": 24, "num_assistant_tokens": drafts} | options
    made = stream_generate(pair[0], LetterProcessor(), prompt, pair[1] if drafts else None, **options)
    return [response.token for response in made]


def quantized(start: int, bits: int = 4) -> dict[str, int]:
    return {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": start}


# The text


@pytest.mark.parametrize(("bits", "start", "length"), [(4, 0, 9), (8, 97, 85), (4, 20, 85)])
def test_a_text_is_plain_decodings(family, bits, start, length):
    """Whatever drafts do, behind prompts shorter and longer than what stays dense, and into it."""
    prompt = [(5 * i * i + 3 * i + length) % 100 for i in range(length)]
    for drawn in ({}, SEEDED):
        options = quantized(start, bits) | drawn
        assert answer(family, prompt, 4, **options) == answer(family, prompt, 0, **options)


def test_it_is_another_text_than_with_dense_keys(pair):
    """Or all of this would hold of a cache that quantizes nothing."""
    texts = [answer(pair, PROMPT, 0, **SEEDED, **options) for options in ({}, FOUR, quantized(60), quantized(5000))]
    assert texts[0] == texts[3]
    assert len({tuple(text) for text in texts}) == 3


@pytest.mark.parametrize("start", [0, 30, 70])
def test_blocks_of_any_size_give_one_text(pair, start):
    """A token at a time, chunks that cross where quantizing begins, all at once."""
    options = quantized(start) | SEEDED | {"max_tokens": 12}
    texts = [answer(pair, PROMPT, 2, prefill_step_size=step, **options) for step in (1, 7, 2048)]
    assert texts == texts[:1] * 3


def test_what_is_dense_and_what_is_not(pair):
    """Dense before the start, to the bit; later keys within a step of their group, of 255."""
    start, layout = 40, CacheLayout(pair[0].config, 8, mx.float32)
    whole = filled(pair[0], layout, PROMPT)
    how = KVQuantization(8, 32, start)
    cache = filled(pair[0], CacheLayout(pair[0].config, 8, mx.float32, how), PROMPT)
    layer = layout.kinds.index(FULL)  # the first: nothing before it reads what is quantized
    keys, (dense, _, words, scales, biases, *_) = whole.buffers[layer][0], cache.buffers[layer]
    assert mx.array_equal(dense[:, :, :start], keys[:, :, :start])
    later = slice(start - how.first, len(PROMPT) - 1 - how.first)
    found = mx.dequantize(words, scales, biases, group_size=32, bits=8)[:, :, later]
    error = mx.abs(found - keys[:, :, start : len(PROMPT) - 1])
    assert mx.all(error <= mx.abs(scales[:, :, later]))
    assert mx.mean(error) > mx.mean(mx.abs(scales[:, :, later])) / 8


@pytest.mark.parametrize("start", [0, 40])
def test_a_batchs_rows_are_as_alone(pair, start):
    """Rows shorter and longer than what stays dense, each with its own bits or none."""
    prompts = [PROMPT[:length] for length in (3, 38, 60, 90)] * 2
    options = {"kv_bits": [4] * 6 + [8, None], "kv_group_size": [32] * 7 + [64], "num_assistant_tokens": 3}
    options |= {"quantized_kv_start": [start] * 7 + [5000], "temperature": [0.0, 1.0] * 4, "seed": list(range(8))}
    together = batch_generate(pair[0], LetterProcessor(), prompts, pair[1], max_tokens=12, **options).texts
    each = [{name: value[i] if isinstance(value, list) else value for name, value in options.items()} for i in range(8)]
    for text, prompt, own in zip(together, prompts, each, strict=True):
        own.pop("num_assistant_tokens")
        assert text == LetterProcessor().decode(answer(pair, prompt, 0, max_tokens=12, **own))


@pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")
@pytest.mark.parametrize("start", [0, 100])
def test_compiled_rounds_give_the_same(pair, start):
    options = quantized(start) | SEEDED
    expected = answer(pair, PROMPT, 3, compile=False, **options)
    assert answer(pair, PROMPT, 3, compile=True, **options) == expected


@pytest.mark.parametrize("start", [0, 80])
def test_a_conversation_goes_on_and_goes_back(pair, start):
    """What is rewound past the start is dense again, and the next turn is that of a new cache."""
    cache = make_prompt_cache(*pair, 3, **quantized(start))
    prompt = PROMPT[:60]
    for turn in range(4):
        made = answer(pair, prompt, 3, prompt_cache=cache, max_tokens=14)
        assert made == answer(pair, prompt, 0, **quantized(start), max_tokens=14), turn
        cut = len(prompt) + 4 if turn % 2 else len(prompt) + len(made) - 1
        prompt = [*[*prompt, *made][:cut], turn, 7, 9]
    assert cache.lengths[0] > 80 + OVERLAP // 4


def test_a_given_caches_keys_stay_as_they_are(pair):
    """Saying it again is fine; saying otherwise is refused."""
    cache = make_prompt_cache(*pair, 3, **FOUR)
    expected = answer(pair, PROMPT, **FOUR)
    assert answer(pair, PROMPT, prompt_cache=cache) == answer(pair, PROMPT, prompt_cache=cache, **FOUR) == expected
    with pytest.raises(InputError, match="kv_bits asks for 8 bits .* the prompt_cache has 4 bits"):
        answer(pair, PROMPT, prompt_cache=cache, **quantized(0, 8))
    with pytest.raises(InputError, match="kv_bits asks for 4 bits .* the prompt_cache is dense"):
        answer(pair, PROMPT, prompt_cache=make_prompt_cache(*pair, 3), **FOUR)


# Attention


@pytest.mark.parametrize("dense", [0, 5])
@pytest.mark.parametrize("queries", [1, 4, FEW_QUERIES + 1])
def test_attention_is_that_over_what_was_packed(dense, queries):
    """Rows of other lengths, heads that share keys, all forms of a mask; with a GPU's functions too."""
    mx.random.seed(0)
    B, N, G, S, D = 2, 4, 2, 90, 32
    how = {"group_size": 32, "bits": 4}
    rows = mx.random.normal((B, N, queries, D)) / 4
    first = tuple(mx.random.normal((B, G, dense, D)) for _ in range(2))
    packed = [mx.quantize(mx.random.normal((B, G, S - dense, D)), **how) for _ in range(2)]
    view = QuantizedKeysValues(first if dense else None, *packed, **how)
    whole = tuple(
        mx.concatenate([part, mx.dequantize(*each, **how)], axis=2) for part, each in zip(first, packed, strict=True)
    )
    lengths = mx.array([70, 12])[:, None, None, None]
    ragged = mx.arange(S) <= lengths + mx.arange(queries)[:, None]
    for mask in (ragged, "causal", None):
        keys, values = (np.repeat(np.array(each, np.float64), N // G, axis=1) for each in whole)
        scores = np.array(rows, np.float64) @ keys.swapaxes(-1, -2)
        shown = np.tril(np.ones((queries, S), bool), S - queries) if mask == "causal" else mask
        scores = scores if shown is None else np.where(np.array(shown), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True) @ values
        for choice in ("cpu", "gpu"):
            with branches(choice):
                np.testing.assert_allclose(np.array(attend(rows, view, mask)), expected, atol=1e-5)


# Memory


@pytest.mark.parametrize(("bits", "share"), [(8, 8 / 32 + 2 / 32), (4, 4 / 32 + 2 / 32)])
def test_bytes(pair, bits, share):
    """In float32: words, and a scale and a bias for 32 numbers; rings are as they were."""
    config = pair[0].config

    def nbytes(how):
        cache = KVCache(CacheLayout(config, 32, mx.float32, how))
        cache.reserve(10_000)
        return cache.nbytes - context_bytes(config, cache.size, how, mx.float32).sliding, cache.size

    dense, size = nbytes(None)
    packed, _ = nbytes(KVQuantization(bits, 32, 0))
    assert packed == dense * share
    how = KVQuantization(bits, 32, 5000)
    mixed, _ = nbytes(how)
    assert (
        mixed
        == context_bytes(config, size, how, mx.float32).keys_values
        - context_bytes(config, size, how, mx.float32).sliding
    )
    assert mixed == dense // size * 5064 + packed // size * (size - 4936)


# Rows apart, on disk


@pytest.mark.parametrize("how", [None, KVQuantization(4, 32, 0), KVQuantization(8, 32, 30), KVQuantization(4, 32, 100)])
@pytest.mark.parametrize(("begin", "end"), [(0, 50), (10, 30), (70, 89), (37, 37), (88, 89)])
def test_positions_are_taken_and_put_back(pair, how, begin, end):
    """Into empty buffers: what is seen of these positions is what was taken."""
    cache = filled(pair[0], CacheLayout(pair[0].config, 8, mx.float32, how), PROMPT)
    others = empty(cache.layout, 1, cache.size)
    first = begin
    for layer, arrays in enumerate(cache.buffers):
        begin = first
        if cache.layout.kinds[layer] != FULL:
            begin = max(begin, end - cache.layout.ring)
        which = cache.layout, layer
        part = positions_of(*which, arrays, begin, end)
        put = with_positions(*which, others[layer], begin, end, part)
        again = positions_of(*which, put, begin, end)
        assert [array.shape for array in again] == [array.shape for array in part]
        for one, other, empty_one in zip(part, again, others[layer], strict=True):
            assert mx.array_equal(one, other)
            assert empty_one.size == 0 or not mx.any(empty_one)
        if how is None or len(part) == 2:
            assert part[0].shape[2] == end - begin
        else:
            assert part[0].shape[2] == max(0, min(end, how.start) - begin)
            assert part[2].shape[2] == end - begin - part[0].shape[2]


@pytest.mark.parametrize("start", [0, 40])
def test_a_file_holds_it(pair, tmp_path, start):
    """Several rows; what is loaded goes on as what was saved."""
    path, rows = tmp_path / "rows", []
    for length in (90, 12, 50):
        rows.append(make_prompt_cache(*pair, 3, **quantized(start)))
        answer(pair, PROMPT[:length], prompt_cache=rows[-1])
    whole = join(rows)
    save_prompt_cache(path, whole)
    found = load_prompt_cache(path, pair[0], assistant_model=pair[1], num_assistant_tokens=3)
    assert found.layout == whole.layout
    assert found.tokens == whole.tokens
    for row in range(3):
        prompt = [*whole.tokens[row], 1, 2, 3]
        again = found.take(row)
        assert again.reuse(0, prompt) == len(prompt) - 3
        assert answer(pair, prompt, prompt_cache=again) == answer(pair, prompt, 0, **quantized(start))
    dense = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, prompt_cache=dense)
    save_prompt_cache(tmp_path / "dense", dense)
    save_prompt_cache(path, found.take(0))
    smaller = path.stat().st_size < (tmp_path / "dense").stat().st_size
    assert smaller == (start == 0)


# Refusals


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kv_bits": 3}, "kv_bits is 3, expected 4 or 8"),
        ({"kv_bits": 4, "kv_group_size": 48}, "kv_group_size is 48, expected 32, 64 or 128"),
        ({"kv_bits": 4, "quantized_kv_start": -1}, "quantized_kv_start is -1, expected 0 to 2"),
        ({"kv_group_size": 32}, "kv_group_size is for quantized keys and values, and there is no kv_bits"),
        ({"quantized_kv_start": 0}, "quantized_kv_start is for quantized keys and values, and there is no kv_bits"),
        (
            {"kv_bits": 4},
            "kv_bits quantizes in groups of 64 numbers, and 64 does not divide the head dimension 32 of this",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(pair, options, expected):
    for call in (lambda: answer(pair, [1, 2], **options), lambda: make_prompt_cache(pair[0], **options)):
        with pytest.raises(InputError, match=expected):
            call()


def test_a_model_without_full_layers_is_refused(pair):
    config = type(pair[0].config).from_dict(
        vars(pair[0].config) | {"layer_types": ["sliding_attention"] * 5, "num_kv_shared_layers": 0}
    )
    with pytest.raises(InputError, match="kv_bits is for layers with full attention, and this model has none"):
        kv_quantization(GenerationOptions(**FOUR), config)


# What it costs


def test_acceptance_of_the_embedded_pair():
    """The issue's term: with 4 bits it falls by at most 3 points; rounds from every token of text nobody trained on."""
    tiny = Pair.load("tiny")
    texts = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8").strip().split("\n\n")[:14]
    passages = [Passage(tiny.text().encode(text, chat=False)[:32], 8) for text in texts]
    rates = []
    for how in (None, KVQuantization(4, 32, 0)):
        found = measure_acceptance(tiny, passages, 3, quantization=how)
        assert isinstance(found, Acceptance)
        assert found.rounds > 300
        rates.append(sum(found.rates) / 3)
    assert rates[0] > 0.3
    assert rates[1] >= rates[0] - 0.03


def test_random_schedules(pair):
    """Lengths, starts, drafts and steps at random: a draft changes nothing."""
    chosen = random.Random(0)
    for _ in range(SCHEDULES):
        prompt = [chosen.randrange(64) for _ in range(chosen.randint(1, 120))]
        options = quantized(chosen.choice((0, 1, 33, 64, 65, 100, 128)), chosen.choice((4, 8)))
        options |= {"temperature": chosen.choice((0.0, 1.0)), "seed": chosen.randrange(100), "max_tokens": 30}
        step = {"prefill_step_size": chosen.choice((1, 16, 50, 2048))}
        assert answer(pair, prompt, chosen.randint(1, 8), **options | step) == answer(pair, prompt, 0, **options)
