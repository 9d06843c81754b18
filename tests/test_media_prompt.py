"""Soft tokens in a prompt: masks against a loop over positions, chunks, assisted against plain, kept caches."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from support.decoding import GREEDY, random_pair
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import InputError, make_prompt_cache, stream_generate
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt, SoftTokens, chunk_end
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.models.config import FULL, SLIDING
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.chunk import Chunk, merged
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.state import Decoder

WINDOW = 16


@pytest.fixture(scope="module")
def pair():
    return random_pair(3)


@pytest.fixture(params=[False, True], ids=["as E2B", "as 12B"])
def target(request, pair):
    """Pictures that are seen mutually in sliding layers only, or everywhere; all layers own keys and values, so that
    what any of them attends to is seen in the end."""
    mx.random.seed(8)
    model_type = "gemma4_unified_text" if request.param else "gemma4_text"
    model = Gemma4ForCausalLM(replace(pair[0].config, model_type=model_type, num_kv_shared_layers=0))
    mx.eval(model.parameters())
    return model


def media(*spans: tuple[int, int], mutual: bool = True, seed: int = 0) -> list[SoftTokens]:
    """Pictures of random soft tokens at first position and length."""
    made = []
    for i, (first, count) in enumerate(spans):
        embeddings = mx.random.normal((count, 64), key=mx.random.key(seed + i))
        made.append(SoftTokens(first, embeddings, -1 - seed - i, mutual))
    return made


def prompt(length: int, soft: list[SoftTokens]) -> MediaPrompt:
    tokens = [3 + 7 * i % 50 for i in range(length)]
    for each in soft:
        tokens[each.start : each.end] = [60] * (each.end - each.start)
    return MediaPrompt(tokens, soft)


class NaiveCache:
    """Everything at once, with a mask made one pair of positions at a time."""

    def __init__(self, length: int, soft: list[SoftTokens], everywhere: bool):
        self.offset = mx.array([0])
        group = [next((i for i, s in enumerate(soft) if s.mutual and s.start <= p < s.end), -1) for p in range(length)]
        sees = {FULL: np.zeros((length, length), bool), SLIDING: np.zeros((length, length), bool)}
        for query in range(length):
            for key in range(length):
                together = group[query] == group[key] >= 0
                earlier, near = key <= query, key > query - WINDOW
                sees[FULL][query, key] = earlier or (together and everywhere)
                seen = (earlier and near) or together if everywhere else near and (earlier or together)
                sees[SLIDING][query, key] = seen
        self.masks = {kind: mx.array(mask)[None, None] for kind, mask in sees.items()}

    def update(self, layer, keys, values):
        return keys, values


CASES = {
    "one picture": [(5, 9)],
    "at the beginning": [(0, 6)],
    "two side by side": [(4, 5), (9, 5)],
    "longer than the window": [(10, 30)],
    "one of each": [(2, 3), (20, 18), (45, 1)],
}


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("spans", CASES.values(), ids=CASES)
@pytest.mark.parametrize("step_size", [2048, 12, 5])
def test_a_prompt_in_chunks_equals_one_naive_forward(target, spans, mutual, step_size):
    whole = prompt(60, media(*spans, mutual=mutual))
    length = len(whole.tokens)
    ids = mx.array([[0 if key < 0 else key for key in whole.keys]])
    chunk = Chunk(ids, mx.array([0]), (), 0, whole.media)
    naive = target(ids, NaiveCache(length, list(whole.media), target.config.mutual_everywhere), merged(target, chunk))

    cache = KVCache(CacheLayout(target.config, 8, mx.float32))
    prefill(target, cache, whole.keys[:-1], step_size, media=whole.media)
    assert cache.tokens == [whole.keys[:-1]]
    decoder = Decoder(target, None, cache.layout, GREEDY, accept)
    hidden = propose(decoder, start(decoder, cache, whole.keys[-1:], 0), cache.buffers, 0, length - 1).hidden
    assert mx.abs(hidden[0, 0] - naive[0, -1]).max().item() < 1e-4


def test_what_soft_tokens_see_matters(pair):
    """The comparison above would not notice otherwise."""
    ends = []
    for mutual in (True, False):
        whole = prompt(60, media((20, 18), mutual=mutual))
        cache = KVCache(CacheLayout(pair[0].config, 8, mx.float32))
        prefill(pair[0], cache, whole.keys[:-1], media=whole.media)
        ends.append(cache.buffers[1][0])
    assert mx.abs(ends[0] - ends[1]).max().item() > 1e-2


def generated(pair, whole, drafts, max_tokens=30, **options):
    assistant = pair[1] if drafts else None
    responses = stream_generate(
        pair[0],
        LetterProcessor(),
        whole,
        assistant,
        max_tokens=max_tokens,
        temperature=1.0,
        seed=4,
        num_assistant_tokens=drafts or None,
        **options,
    )
    return [r.token for r in responses]


@pytest.fixture(scope="module")
def plain(pair):
    return generated(pair, prompt(50, media((3, 9), (30, 19))), 0)


@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_assisted_equals_plain(pair, plain, drafts):
    whole = prompt(50, media((3, 9), (30, 19)))
    assert generated(pair, whole, drafts) == plain
    assert generated(pair, whole, drafts, prefill_step_size=7) == plain


def test_other_pictures_give_another_text(pair, plain):
    assert generated(pair, prompt(50, media((3, 9), (30, 19), seed=9)), 0) != plain


def test_a_kept_cache_knows_pictures_apart(pair):
    """The same text with another picture is another text; with the same picture it is not computed again."""
    cache = make_prompt_cache(pair[0], pair[1], 3)
    first, second = prompt(50, media((30, 9))), prompt(50, media((30, 9), seed=5))
    plain = [generated(pair, whole, 0, 6) for whole in (first, second)]
    computed = []
    for whole in (first, first, second):
        keep = {"prompt_cache": cache, "prompt_progress_callback": lambda done, total: computed.append(total)}
        assert generated(pair, whole, 3, 6, **keep) == plain[whole is second]
    assert list(dict.fromkeys(computed)) == [49, 0, 19]  # all; only the last token; all from the second picture on


def test_chunks_never_end_within_soft_tokens():
    soft = media((3, 4), (7, 2), (20, 30))
    for step in range(1, 40):
        ends = [chunk_end(0, 60, step, soft)]
        while ends[-1] < 60:
            ends.append(chunk_end(ends[-1], 60, step, soft))
        assert ends == sorted(set(ends))
        assert not any(each.start < end < each.end for each in soft for end in ends)
        begins = [0, *ends[:-1]]
        assert all(
            end - begin <= step or (begin, end) in [(s.start, s.end) for s in soft]
            for begin, end in zip(begins, ends, strict=True)
        )


@pytest.mark.parametrize("spans", [[(0, 50)], [(45, 6)], [(5, 5), (8, 2)]])
def test_soft_tokens_that_do_not_fit_are_refused(pair, spans):
    with pytest.raises(InputError, match="soft tokens"):
        generated(pair, prompt(50, media(*spans))._replace(tokens=[3] * 50), 0)
