"""generate and stream_generate: stops, budgets, the cache that is left, options that are refused."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import pytest
from support.decoding import random_pair, run
from support.generation import BUDGET, PROMPT, SEED, sampled
from support.oracles import OracleAssistant
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import (
    DraftMemory,
    InputError,
    Pair,
    Processor,
    generate,
    load,
    make_prompt_cache,
    stream_generate,
)
from mlx_gemma4_assist.drafts.memory import DraftKey
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.options import OptionValues
from mlx_gemma4_assist.rounds.sampling import Sampling


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


@pytest.fixture(scope="module")
def plain(pair):
    """Longer than any budget here: the script of the oracle."""
    tokens, _ = run(pair[0], None, PROMPT, BUDGET + 30, sampling=Sampling(temperature=1.0), seed=SEED)
    return tokens


@pytest.fixture(params=["plain", "own", "right", "half"])
def assistant(request, pair, plain):
    """None, the pair's own, and drafters that are always and half the time right: stops fall anywhere in a block."""
    script = PROMPT + plain
    oracle = {"right": lambda p: False, "half": lambda p: p % 3 == 0}
    if request.param in oracle:
        drafter = OracleAssistant(script, 64, oracle[request.param])
        drafter.config = pair[1].config
        return drafter
    return pair[1] if request.param == "own" else None


def test_one_response_per_token(pair, plain, assistant):
    made = sampled(pair, assistant)
    assert [r.token for r in made] == plain[:BUDGET]
    assert "".join(r.text for r in made) == LetterProcessor().decode(plain[:BUDGET])
    assert [r.generation_tokens for r in made] == list(range(1, BUDGET + 1))
    assert [r.finish_reason for r in made] == [None] * (BUDGET - 1) + ["length"]
    last = made[-1]
    assert last.prompt_tokens == len(PROMPT)
    assert last.prompt_tps > 0
    assert last.generation_tps > 0
    stats = last.stats
    assert sum(stats.accepted_at) == stats.accepted
    assert sum(stats.drafted_at) == stats.drafted
    # Drafts that stood count as accepted even if the budget cut them off.
    cut = stats.rounds + stats.accepted - BUDGET
    assert 0 <= cut <= 3
    assert stats.accepted - cut <= sum(r.from_draft for r in made) <= stats.accepted
    assert stats.accepted_at == sorted(stats.accepted_at, reverse=True)
    if assistant is None:
        assert stats.drafted == 0


@pytest.mark.parametrize("place", range(8))
def test_stop_token_anywhere_in_a_block(pair, plain, assistant, place):
    """The first token of its kind ends the text; it has no text itself, and the cache ends just before it."""
    end = plain.index(plain[place])
    cache = make_prompt_cache(pair[0], pair[1], 3)
    made = sampled(pair, assistant, processor=LetterProcessor([plain[place]]), prompt_cache=cache)
    assert [r.token for r in made] == plain[: end + 1]
    assert [r.finish_reason for r in made[-1:]] == ["stop"]
    assert "".join(r.text for r in made) == LetterProcessor().decode(plain[:end])
    assert cache.tokens == [PROMPT + plain[:end]]


@pytest.mark.parametrize(("first", "length"), [(0, 1), (3, 2), (5, 4), (6, 7)])
def test_stop_string_across_tokens(pair, plain, assistant, first, length):
    letters = LetterProcessor().decode(plain)
    stop = letters[first : first + length]
    begin = letters.find(stop)
    cache = make_prompt_cache(pair[0], pair[1], 3)
    made = sampled(pair, assistant, stop=["no such text", stop], prompt_cache=cache)
    assert "".join(r.text for r in made) == letters[:begin]
    assert made[-1].finish_reason == "stop"
    assert len(made) == begin + length
    assert cache.tokens == [PROMPT + plain[: len(made) - 1]]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 9])
def test_budget_anywhere_in_a_block(pair, plain, assistant, budget):
    cache = make_prompt_cache(pair[0], pair[1], 3)
    made = sampled(pair, assistant, max_tokens=budget, prompt_cache=cache)
    assert [r.token for r in made] == plain[:budget]
    assert made[-1].finish_reason == "length"
    assert cache.tokens == [PROMPT + plain[: budget - 1]]


def test_a_stream_that_is_left_leaves_the_cache_right(pair, plain, assistant):
    cache = make_prompt_cache(pair[0], pair[1], 3)
    options = {"max_tokens": BUDGET, "temperature": 1.0, "seed": SEED, "prompt_cache": cache}
    stream = stream_generate(pair[0], LetterProcessor(), PROMPT, assistant, **options)
    seen = [next(stream).token for _ in range(6)]
    stream.close()
    assert seen == plain[:6]
    assert cache.tokens == [PROMPT + plain[:5]]


def test_a_later_turn_goes_on_from_the_cache(pair, plain, assistant):
    """Five turns, past the window and stopped in the middle of blocks, against the same turns computed afresh."""
    cache = make_prompt_cache(pair[0], pair[1], 3)
    conversation = list(PROMPT)
    for turn in range(5):
        options = {"max_tokens": 11 + turn, "prompt": list(conversation), "seed": turn}
        kept = sampled(pair, assistant if turn % 2 else None, prompt_cache=cache, **options)
        afresh = sampled(pair, None, **options)
        assert [r.token for r in kept] == [r.token for r in afresh]
        assert kept[-1].prompt_tokens == len(conversation)
        conversation += [r.token for r in kept] + [turn, 7, 9]


def test_only_new_tokens_are_computed(pair):
    """A prompt's last token is left to the first round."""
    cache, progress = make_prompt_cache(pair[0]), []
    for prompt in (PROMPT, [*PROMPT, 1, 2, 3]):
        options = {"max_tokens": 1, "prompt_cache": cache}
        sampled(pair, None, prompt=prompt, prompt_progress_callback=lambda *p: progress.append(p), **options)
    assert progress == [(0, 18), (18, 18), (0, 2), (2, 2)]


def test_an_earlier_turn_taken_back_is_computed_again(pair):
    """Far behind the window nothing is left to rewind to: the cache starts anew instead of answering wrongly."""
    cache = make_prompt_cache(pair[0])
    sampled(pair, None, max_tokens=60, prompt_cache=cache)
    other = [*PROMPT[:12], 5, 5, 5]
    kept = sampled(pair, None, prompt=other, prompt_cache=cache)
    assert [r.token for r in kept] == [r.token for r in sampled(pair, None, prompt=other)]


def test_long_prompt_in_chunks(pair):
    mx.random.seed(3)
    prompt = mx.random.randint(0, 64, (150,)).tolist()
    whole = [r.token for r in sampled(pair, None, prompt=prompt)]
    for step in (1, 50, 128):
        assert [r.token for r in sampled(pair, pair[1], prompt=prompt, prefill_step_size=step)] == whole


def test_context_ends_the_text(pair):
    context = pair[0].config.max_position_embeddings
    prompt = PROMPT * (context // len(PROMPT) + 1)
    made = sampled(pair, pair[1], prompt=prompt[: context - 5])
    assert len(made) == 5
    assert made[-1].finish_reason == "length"
    with pytest.raises(InputError, match=f"{context} tokens, but the model's context is {context}"):
        sampled(pair, None, prompt=prompt[:context])


def test_suppressed_tokens(pair, plain):
    processor = LetterProcessor(suppress_tokens=tuple(set(plain[:10])))
    tokens = [r.token for r in sampled(pair, pair[1], processor=processor)]
    assert not set(tokens) & set(plain[:10])
    assert tokens == [r.token for r in sampled(pair, None, processor=processor)]


def test_processors_with_an_assistant(pair, assistant):
    def only_even(tokens, logits):
        return mx.where(mx.arange(64) % 2 == 0, logits, -mx.inf)

    made = sampled(pair, assistant, logits_processors=[only_even])
    assert all(r.token % 2 == 0 for r in made)
    assert [r.token for r in made] == [r.token for r in sampled(pair, None, logits_processors=[only_even])]


@pytest.mark.parametrize("draft_temperature", [0.5, 1.0])
def test_sampled_drafts_and_a_seed(pair, draft_temperature):
    """The same seed the same text; another seed another."""
    texts = [
        [r.token for r in sampled(pair, pair[1], draft_temperature=draft_temperature, seed=seed)] for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [64]}, "token id 64"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"prefill_step_size": 0}, "prefill_step_size is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 2.0}, "top_p is 2"),
        ({"num_assistant_tokens": -1}, "num_assistant_tokens is -1"),
        ({"num_assistant_tokens": 1000}, "num_assistant_tokens is 1000"),
        ({"stop": [""]}, "stop is .*, expected a string that is not empty"),
        ({"temperature": 0.0, "draft_temperature": 0.5}, "draft_temperature needs a temperature"),
    ],
)
def test_nonsense_is_refused_before_any_work(pair, options, message):
    options = {"temperature": 1.0} | options
    prompt = options.pop("prompt", PROMPT)
    with pytest.raises(InputError, match=message):
        stream_generate(pair[0], LetterProcessor(), prompt, pair[1], **options)


def test_a_learned_number_of_drafts_changes_nothing(pair, plain, assistant):
    made = sampled(pair, assistant, num_assistant_tokens=None)
    assert [r.token for r in made] == plain[:BUDGET]


def test_a_seed_repeats_drawn_drafts_without_a_number(pair):
    """What is learned from times must not show in the text."""
    texts = [[r.token for r in sampled(pair, pair[1], draft_temperature=1.0, num_assistant_tokens=None)] for _ in "ab"]
    assert texts[0] == texts[1]


def test_drafts_without_an_assistant_are_refused(pair):
    with pytest.raises(InputError, match="there is no assistant model"):
        generate(pair[0], LetterProcessor(), PROMPT, num_assistant_tokens=3)


def test_a_cache_with_too_little_slack_is_refused(pair):
    cache = make_prompt_cache(pair[0])
    with pytest.raises(InputError, match="prompt_cache was made for"):
        generate(pair[0], LetterProcessor(), PROMPT, pair[1], num_assistant_tokens=31, prompt_cache=cache)


def test_generate_is_the_whole_text(pair, plain):
    text = generate(pair[0], LetterProcessor(), PROMPT, pair[1], max_tokens=BUDGET, temperature=1.0, seed=SEED)
    assert text == LetterProcessor().decode(plain[:BUDGET])


def test_a_stop_string_that_is_a_special_token_stops_by_its_id():
    """Text has no special tokens, so this one would never be found there."""
    target, processor = load("tiny")
    endless = Processor(processor.tokenizer, eos_token_ids=())
    made = list(stream_generate(target, endless, "Hello.", max_tokens=60, stop=["no such text", "<turn|>"]))
    usual = list(stream_generate(target, processor, "Hello.", max_tokens=60))
    assert (made[-1].finish_reason, made[-1].text) == ("stop", usual[-1].text)
    assert [r.token for r in made] == [r.token for r in usual]
    assert processor.stop_ids(["<turn|>", "turn", "<eos>"]) == {5, 1}


# Arguments of another kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tiny"}, "the target is 'tiny', expected a model from load"),
        ({"model": None}, "the target is None, expected"),
        ({"processor": "tiny"}, "the processor is 'tiny', expected one from load"),
        ({"processor": object()}, "the processor is of type object, expected"),
        (
            {"assistant_model": "tiny-assistant"},
            "the assistant is 'tiny-assistant', expected a model from load_assistant",
        ),
        ({"assistant_model": True}, "the assistant is True, expected"),
        ({"prompt_cache": [1]}, "prompt_cache is of type list, expected what make_prompt_cache returns"),
        ({"prompt_progress_callback": 3}, "prompt_progress_callback is 3, expected a function"),
        ({"draft_memory": "/tmp/x"}, "draft_memory is '/tmp/x', expected None or DraftMemory(folder)"),
        ({"draft_memory": DraftMemory}, "draft_memory is the class DraftMemory, expected None or DraftMemory(folder)"),
        ({"chat": "no"}, "chat is 'no', expected True or False"),
    ],
)
@pytest.mark.parametrize("function", [generate, stream_generate])
def test_arguments_of_another_kind(pair, function, arguments, message):
    given = {"model": pair[0], "processor": LetterProcessor(), "prompt": PROMPT, "assistant_model": pair[1]}
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        function(**given | arguments)


def test_networks_in_the_wrong_place(pair):
    target, assistant = pair
    with pytest.raises(InputError, match="the target is of type Gemma4AssistantForCausalLM"):
        Pair(assistant)
    with pytest.raises(InputError, match="the assistant is of type Gemma4ForCausalLM"):
        Pair(target, target)
    with pytest.raises(InputError, match="the target is 'tiny'"):
        make_prompt_cache("tiny")
    with pytest.raises(InputError, match="the pair is of type Gemma4ForCausalLM, expected a Pair"):
        Engine(target)


@pytest.mark.parametrize("function", [generate, stream_generate])
@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("tempature", ". Did you mean 'temperature'?"),
        ("temp", ". Did you mean 'temperature'?"),
        ("max_new_tokens", ". Did you mean 'max_tokens'?"),
        ("draft_memories", ". Did you mean 'draft_memory'?"),
        ("xyzzy", ""),
    ],
)
def test_a_keyword_that_is_none(pair, function, keyword, meant):
    said = f"{function.__name__}() got an unexpected keyword argument {keyword!r}{meant}"
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        function(pair[0], LetterProcessor(), PROMPT, **{keyword: 0})


def test_signatures_say_what_is_taken():
    for function in (generate, stream_generate):
        shown = inspect.signature(function).parameters
        assert shown["stop"].annotation == str | Iterable[str] | None
        assert {name: shown[name].annotation for name in OptionValues.__annotations__} == OptionValues.__annotations__


def test_a_memory_by_the_name_of_its_folder(tmp_path):
    key = DraftKey("a", "b", "c", "d")
    assert DraftMemory(str(tmp_path)).path(key) == DraftMemory(tmp_path).path(key)
    assert DraftMemory("~/x").path(key).parent == Path.home() / "x"
