"""Answers that a grammar holds are what token by token decoding gives, drafts or not, alone or not."""

import json
import random
import re
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support import checkpoints as helpers
from support.commands import runner
from support.paths import FAMILIES, GOLDENS
from support.stand_ins import Automaton
from support.statistics import CHI_SQUARE_P, chi_square_p
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mlx_gemma4_assist import (
    GenerationOptions,
    InputError,
    Pair,
    Processor,
    batch_generate,
    extras,
    generate,
    load,
    load_assistant,
    stream_generate,
)
from mlx_gemma4_assist.backend import can_compile
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.engine import loop
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.guiding import Guide, Held
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.adjust import masked
from mlx_gemma4_assist.rounds.round import certain
from mlx_gemma4_assist.rounds.sampling import DRAFT, Sampling, choose, log_probabilities, row_keys
from mlx_gemma4_assist.rounds.state import Drafts, RoundState
from mlx_gemma4_assist.rounds.steps import EagerSteps
from mlx_gemma4_assist.text.grammar import Grammar
from mlx_gemma4_assist.text.masks import allow, forbid, has, only, single

SCHEMA = {
    "type": "object",
    "properties": {
        "name_of_the_gentleman": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "is_a_single_man_in_possession_of_a_good_fortune": {"type": "boolean"},
        "daughters": {"type": "array", "items": {"enum": ["Jane", "Elizabeth", "Mary"]}, "maxItems": 3},
    },
    "required": ["name_of_the_gentleman", "age", "is_a_single_man_in_possession_of_a_good_fortune", "daughters"],
    "additionalProperties": False,
}
GRAMMARS: list[dict[str, Any]] = [
    {"json_schema": {"type": "object", "properties": {"b": {"type": "boolean"}, "a": {"enum": ["x", 1]}}}},
    {"regex": "(ab|cd){2,4}[0-9]{2,}e?"},
    {"lark": 'start: "let " NAME " = " NUMBER\nNAME: /[a-d]{1,4}/\nNUMBER: /[1-9][0-9]{0,3}/'},
]


def letter_processor() -> Processor:
    """128 ids: special tokens, the letters of ASCII, and a few longer tokens, in the manner of Gemma's."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    merges = [
        ('"', ":"),
        ("a", "b"),
        ("c", "d"),
        ("l", "e"),
        ("le", "t"),
        ("▁", "="),
        ("t", "r"),
        ("tr", "u"),
        ("0", "1"),
    ]
    names = [*special, *letters, *("".join(pair) for pair in merges)]
    names += [f"<unused{i}>" for i in range(128 - len(names))]
    tokenizer = Tokenizer(BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    return Processor(made, eos_token_ids={1, 5})


@pytest.fixture(scope="module")
def letters():
    return letter_processor()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    folder = GOLDENS / request.param
    return load_model(folder / "target"), load_assistant(folder / "assistant")


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


def one_by_one(processor: Processor, prompt: list[int], vocabulary: int, **grammar: Any):
    """A logits processor for a run without drafts: before each token the grammar is read anew, from the beginning."""
    begin = processor.grammar(GenerationOptions(**grammar), prompt, processor.eos_token_ids, vocabulary)

    def hold(tokens: mx.array, logits: mx.array) -> mx.array:
        state = begin()
        for token in np.array(tokens)[len(prompt) :].tolist():
            state.take(token)
        words = np.zeros(-(-vocabulary // 32), np.uint32)
        state.mask(words)
        assert state.error is None
        return masked(logits[:, None], mx.array(words)[None, None])[:, 0]

    return hold


def tokens_of(model, processor, prompt, assistant=None, **options: Any) -> list[int]:
    options = {"max_tokens": 40} | options
    return [response.token for response in stream_generate(model, processor, prompt, assistant, **options)]


PROMPT = [2, 40, 41, 60, 61, 62, 40, 70]


GREEDY, SEEDED = {}, {"temperature": 1.2, "seed": 5, "top_k": 50}


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: next(iter(grammar)))
def test_drafts_change_nothing(family, letters, grammar):
    model, assistant = family
    hold = one_by_one(letters, PROMPT, 128, **grammar)
    for drawn, drafts in ((GREEDY, (0, 3)), (SEEDED, (1, 8))):
        expected = tokens_of(model, letters, PROMPT, logits_processors=[hold], **drawn)
        for count in drafts:
            found = tokens_of(model, letters, PROMPT, assistant, num_assistant_tokens=count, **grammar, **drawn)
            assert found == expected, (drawn, count)
        assert tokens_of(model, letters, PROMPT, **grammar, **drawn) == expected


SETTINGS = [
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    {"logit_bias": {40: -np.inf, 45: 3.0}, "temperature": 0.8, "seed": 3},
    {"temperature": 1.0, "seed": 4, "top_p": 0.7, "min_p": 0.01, "presence_penalty": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: next(iter(settings)))
def test_with_other_settings(tiny, settings):
    """What changes logits before the grammar does it as ever."""
    model, processor, assistant = tiny
    prompt = processor.encode("Who is it?")
    hold = one_by_one(processor, prompt, model.config.vocab_size, json_schema=SCHEMA)
    expected = tokens_of(model, processor, prompt, logits_processors=[hold], **settings)
    for drafts in (2, 5):
        options = {"num_assistant_tokens": drafts, "json_schema": SCHEMA, "top_logprobs": 2} | settings
        assert tokens_of(model, processor, prompt, assistant, **options) == expected


@pytest.mark.skipif(not can_compile(), reason="the CPU backend compiles with g++")
@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 1, "draft_temperature": 0.7}])
def test_compiled_as_well(tiny, drawn):
    model, processor, assistant = tiny
    options = {"json_schema": SCHEMA, "num_assistant_tokens": 3, "max_tokens": 80} | drawn
    eager, compiled = (tokens_of(model, processor, "Who?", assistant, compile=c, **options) for c in (False, True))
    assert eager == compiled


def test_a_logits_processor_beside_a_grammar(tiny):
    model, processor, assistant = tiny
    banned = processor.tokenize("Elizabeth")[0]
    options = {"json_schema": SCHEMA, "max_tokens": 150}
    processors = [lambda tokens, logits: mx.where(mx.arange(logits.shape[-1]) == banned, -mx.inf, logits)]
    plain = tokens_of(model, processor, "Who?", logits_processors=processors, **options)
    assert tokens_of(model, processor, "Who?", assistant, logits_processors=processors, **options) == plain
    assert json.loads(processor.decode(plain))


def test_drawn_drafts_follow_the_target():
    """Under a mask, with drafts that were known in the places of drawn ones: chi-square over 10^4 draws, in both rules
    of acceptance."""
    rng = np.random.default_rng(5)
    rows, known = 10_000, mx.array([[-1, 2, -1]])
    words = np.full((1, 4, 1), 0b101110, np.uint32)  # ids 1, 2, 3 and 5 of 6
    logits = masked(mx.array(rng.normal(size=(1, 4, 6)).astype(np.float32)), mx.array(words))
    q_logits = mx.array(rng.normal(size=(1, 3, 6)).astype(np.float32))
    keys, positions = row_keys(7, rows), mx.broadcast_to(mx.array([5, 6, 7]), (rows, 3))
    state = RoundState(mx.full((rows,), 4, mx.int32), mx.zeros((rows, 1), mx.int32), mx.zeros((rows, 1, 1)), keys)
    expected = np.array(mx.softmax(logits[0], axis=-1), np.float64)
    for block in (False, True):
        sampling = Sampling(temperature=1.0, draft_temperature=1.0, block_verification=block)
        log_q = mx.broadcast_to(log_probabilities(q_logits, 1.0, sampling), (rows, 3, 6))
        drafts = mx.where(known < 0, choose(log_q, keys, positions, DRAFT), known)
        log_q = certain(log_q, mx.broadcast_to(known, (rows, 3)))
        found = accept(sampling, state, Drafts(drafts, log_q), mx.broadcast_to(logits, (rows, 4, 6)))
        tokens, accepted = np.array(found.tokens), np.array(found.accepted)
        assert set(accepted) == {0, 1, 2, 3}
        counts = np.bincount(tokens[:, 0], minlength=6)
        kept = expected[0] > 0
        assert counts[~kept].sum() == 0
        assert chi_square_p(counts[kept], expected[0][kept] * rows) > CHI_SQUARE_P


# JSON

SCHEMAS = [
    SCHEMA,
    {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 50}, "minItems": 2, "maxItems": 4},
    {
        "type": "object",
        "properties": {"z": {"const": "é\n"}, "a": {"type": ["null", "boolean"]}},
        "required": ["a", "z"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no"]}]},
    {
        "$defs": {
            "who": {
                "type": "object",
                "properties": {"n": {"type": "string", "maxLength": 5}},
                "required": ["n"],
                "additionalProperties": False,
            }
        },
        "type": "object",
        "additionalProperties": False,
        "properties": {"one": {"$ref": "#/$defs/who"}, "two": {"$ref": "#/$defs/who"}},
        "required": ["one", "two"],
    },
    {"type": "string", "pattern": "^[A-Z][a-z]{2,6}$"},
]


def check(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> None:
    """The few keywords of ``SCHEMAS``, by hand."""
    if "$ref" in schema:
        return check(value, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        assert isinstance(value, bool) or value in ("yes", "no")
        return None
    if "const" in schema:
        assert value == schema["const"]
    if "enum" in schema:
        assert value in schema["enum"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    if "type" in schema:
        allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert isinstance(value, tuple(kinds[kind] for kind in allowed))
    if isinstance(value, dict):
        order = list(schema["properties"])
        assert [key for key in value if key in order] == [key for key in order if key in value]
        assert set(schema.get("required", ())) <= set(value)
        for key in order:
            if key in value:
                check(value[key], schema["properties"][key], whole)
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
        for item in value:
            check(item, schema["items"], whole)
    if isinstance(value, str):
        assert len(value) <= schema.get("maxLength", 99)
        assert re.fullmatch(schema.get("pattern", ".*"), value, re.DOTALL)
    return None


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.3}], ids=["greedy", "drawn"])
def test_answers_are_json_of_the_schema(tiny, drawn):
    """All in one batch, with somebody beside them whom no grammar holds; the end of the grammar ends the text."""
    model, processor, assistant = tiny
    prompts = ["Who is Mr. Darcy?"] * len(SCHEMAS) + ["And who is she?"]
    schemas = [*SCHEMAS, None]
    found = batch_generate(model, processor, prompts, assistant, json_schema=schemas, max_tokens=200, **drawn)
    for text, last, schema in zip(found.texts, found.last, SCHEMAS, strict=False):
        assert last.finish_reason == "stop"
        value = json.loads(text)
        check(value, schema, schema)
        assert text == json.dumps(value, ensure_ascii=False) or "\\u" in text  # one line, no other white space
    if not drawn:
        assert found.texts[-1] == generate(model, processor, prompts[-1], assistant, max_tokens=200)


def test_a_schema_may_be_text(tiny):
    model, processor, assistant = tiny
    one, other = (
        generate(model, processor, "Who?", assistant, json_schema=schema, max_tokens=100)
        for schema in (SCHEMA, json.dumps(SCHEMA, indent=2))
    )
    assert one == other
    assert list(json.loads(one)) == list(SCHEMA["properties"])


def test_the_schema_says_how_white_space_is_written(tiny):
    schema = SCHEMA | {"x-guidance": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}}
    text = generate(*tiny[:2], "Who?", json_schema=schema, max_tokens=200)
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def test_what_is_forced_is_drafted(tiny, monkeypatch):
    """Long keys cost few rounds, with an assistant that knows nothing of JSON, and without any."""
    model, processor, assistant = tiny
    options = {"json_schema": SCHEMA, "num_assistant_tokens": 4, "max_tokens": 200}
    with_forced = list(stream_generate(model, processor, "Who?", assistant, **options))
    without = list(stream_generate(model, processor, "Who?", json_schema=SCHEMA, max_tokens=200))
    plain = list(stream_generate(model, processor, "Who?", regex="abcdefgh", num_assistant_tokens=0))
    assert plain[-1].stats.drafted == 0
    monkeypatch.setattr(Held, "known", lambda held, unread: [])
    drafted = list(stream_generate(model, processor, "Who?", assistant, **options))
    assert with_forced[-1].stats.rounds < 0.75 * drafted[-1].stats.rounds
    assert without[-1].stats.rounds < 0.6 * len(without)
    assert 0 < without[-1].stats.accepted == sum(response.from_draft for response in without)
    assert [r.token for r in with_forced] == [r.token for r in without] == [r.token for r in drafted]


# Company


def test_each_row_has_its_own_grammar(tiny):
    model, processor, assistant = tiny
    grammars = [{"json_schema": SCHEMA}, {}, {"regex": "(yes|no), (sir|madam)"}, {"lark": GRAMMARS[2]["lark"]}, {}]
    options = {name: [grammar.get(name) for grammar in grammars] for name in ("json_schema", "regex", "lark")}
    prompts = [f"Continue: {word}" for word in ("It", "was", "a", "fine", "morning")]
    common = {"temperature": [0, 1.0, 0.8, 0, 0], "seed": 3, "max_tokens": 60, "num_assistant_tokens": [3, 0, 5, 2, 1]}
    found = batch_generate(model, processor, prompts, assistant, **options, **common)
    for i, prompt in enumerate(prompts):
        one = {name: value[i] if isinstance(value, list) else value for name, value in common.items()}
        assert found.texts[i] == generate(model, processor, prompt, assistant, **grammars[i], **one)


def test_masks_of_a_batch():
    """Those of held rows as far as their drafts may come; all ones elsewhere."""
    rng = random.Random(3)
    for seed in range(40):
        held = Held(Automaton(seed, 70, [3], 12), 8)
        guide = Guide([None, held], 70)
        drafts = [[1] * 4, [rng.randrange(70) for _ in range(4)]]
        constraint = Automaton(seed, 70, [3], 12)
        expected = []
        for place in range(5):
            expected.append(constraint.allowed())
            if place == 3 or drafts[1][place] not in expected[-1]:
                break
            constraint.take(drafts[1][place])
        guide.limits = [4, 3]
        words = np.array(guide.masks(drafts))
        assert words.shape == (2, 5, 3)
        assert (words[0] == 0xFFFFFFFF).all()
        found = [[i for i in range(70) if has(words[1, place], i)] for place in range(len(expected))]
        assert found == expected
        assert (words[1, len(expected) :] == 0xFFFFFFFF).all()
        assert held.constraint.tokens == []


def test_what_follows_a_round_without_choice_is_known():
    """Before it is read: what each place emits, and what the grammar forces behind that."""
    known = 0
    for seed in range(400):
        rng = random.Random(seed)
        held, twin = Held(Automaton(seed, 70, [3], 30), 99), Automaton(seed, 70, [3], 30)
        first = held.known(unread=False)
        assert first == twin.forced()
        drafts = [*first[: rng.randint(0, 4)], *(rng.randrange(70) for _ in range(rng.randint(0, 2)))]
        held.mask(drafts, list(np.zeros((len(drafts) + 1, 3), np.uint32)))
        for place in range(len(drafts) + 1):
            allowed = twin.allowed()
            if len(allowed) > 1:
                break
            twin.take(allowed[0])
            if place == len(drafts) or allowed[0] != drafts[place]:
                assert held.known(unread=True) == twin.forced()
                known += bool(twin.forced())
                break
        else:
            pytest.fail("a round has an end")
        if len(allowed) > 1:
            assert held.known(unread=True) == []
    assert known > 20


def test_a_state_depends_on_its_tokens_alone(tiny):
    """Not on drafts that were tried and taken back: random walks, against states that came straight."""
    model, processor, _ = tiny
    rng = random.Random(8)
    for grammar in ({"json_schema": SCHEMA}, {"json_schema": {"type": "object"}}, *GRAMMARS):
        begin = processor.grammar(GenerationOptions(**grammar), [3], processor.eos_token_ids, model.config.vocab_size)
        state, tokens, words, straight = begin(), [], np.zeros(32, np.uint32), np.zeros(32, np.uint32)
        for _ in range(60):
            if rng.random() < 0.4:
                state.forced()
            one = begin()
            for token in tokens:
                one.take(token)
            assert state.mask(words) == one.mask(straight)
            assert (words == straight).all()
            allowed = [token for token in range(1024) if has(words, token)]
            if len(tokens) > 3 and rng.random() < 0.4:
                count = rng.randint(1, 3)
                state.back(count)
                del tokens[-count:]
            elif tokens and tokens[-1] in processor.eos_token_ids:
                break
            else:
                tokens.append(rng.choice(allowed))
                state.take(tokens[-1])


def test_masks_are_made_while_the_device_verifies(tiny, monkeypatch):
    """The first half of a round is submitted before the round before it is read, the second half after its drafts."""
    events = []

    def told(owner: Any, name: str, event: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (events.append(event), real(*args))[1])

    told(EagerSteps, "propose", "propose")
    told(EagerSteps, "settle", "settle")
    told(loop, "read", "read")
    told(loop, "read_drafts", "drafts")
    model, processor, assistant = tiny
    tokens_of(model, processor, "Who?", assistant, json_schema=SCHEMA, num_assistant_tokens=3, compile=False)
    assert events[:4] == ["propose", "drafts", "settle", "read"]
    begin = ["propose", "drafts", "settle"]
    cycle = ["propose", "read", "drafts", "settle"]
    rest = events[4:]
    assert rest[:3] == begin
    whole = (len(rest) - 3) // 4
    assert rest[3 : 3 + 4 * whole] == cycle * whole
    assert whole > 5


def test_words_of_bits():
    words = np.zeros(3, np.uint32)
    allow(words, [0, 31, 32, 69])
    assert [i for i in range(96) if has(words, i)] == [0, 31, 32, 69]
    forbid(words, [0, 5, 32, 69])
    assert single(words) == 31
    assert single(np.zeros(3, np.uint32)) is None
    assert only(words, 64) == 64 == single(words)
    allow(words, [65])
    assert single(words) is None


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_mask_goes_before_a_bias(dtype):
    """What it forbids never comes, even where all that it allows had been forbidden."""
    logits = mx.array([[[5.0, -mx.inf, 2.0, -mx.inf] * 10]]).astype(dtype)
    words = np.zeros((1, 1, 2), np.uint32)
    allow(words[0, 0], [1, 35])
    found = np.array(masked(logits, mx.array(words)).astype(mx.float32))[0, 0]
    assert np.flatnonzero(found > -np.inf).tolist() == [1, 35]
    allow(words[0, 0], [34])
    assert mx.argmax(masked(logits, mx.array(words))).item() == 34


# Thoughts

MARKERS = ("<|channel>", "<channel|>", "<|think|>", "<|tool_call>", "<tool_call|>")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A tokenizer with Gemma 4's markers."""
    template = (
        "{{ bos_token }}{% if enable_thinking %}{{ '<|turn>system\n<|think|>\n<turn|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|turn>' + m.role + '\n' + m.content + '<turn|>\n' }}{% endfor %}"
        "{{ '<|turn>model\n' }}{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"
    )
    special = (*helpers.SPECIAL, *MARKERS)
    folder = helpers.save_tokenizer(tmp_path_factory.mktemp("thinker"), template=template, special=special)
    return Processor.from_pretrained(folder)


def id_of(processor: Processor, text: str) -> int:
    (token,) = processor.tokenize(text)
    return token


@pytest.mark.parametrize("drafts", [0, 3])
def test_the_grammar_begins_behind_the_thought(tiny, thinker, drafts):
    """A thought is free, but for what would end the text, and may be left out; what it opens with is spelled right."""
    model, _, assistant = tiny
    opens, closes, ends = (id_of(thinker, text) for text in ("<|channel>", "<channel|>", "<turn|>"))
    prompt = thinker.encode([{"role": "user", "content": "hello"}], enable_thinking=True)

    def run(biases: dict[int, float], **options: Any):
        options = {"max_tokens": 60, "regex": "(yes|no)!", "logit_bias": biases} | options
        return list(stream_generate(model, thinker, prompt, assistant, num_assistant_tokens=drafts, **options))

    def said(made, channel: str) -> str:
        return "".join(response.text for response in made if response.channel == channel)

    straight = run({opens: -np.inf})
    assert said(straight, "answer") in ("yes!", "no!")
    forever = run({opens: 99.0, closes: -np.inf, ends: 99.0})
    assert said(forever, "answer") == ""
    assert forever[-1].finish_reason == "length"
    assert thinker.decode([r.token for r in forever], skip_special_tokens=False).startswith("<|channel>thought\n")
    thought = run({opens: 99.0, closes: 12.0, ends: 99.0}, temperature=1.0, seed=2, max_tokens=300)
    assert said(thought, "answer") in ("yes!", "no!")
    assert thought[-1].finish_reason == "stop"
    assert {opens, closes} < {r.token for r in thought}


def test_without_thinking_there_is_no_thought(tiny, thinker):
    """Also where a thought would be likelier; and one that the prompt has opened is finished first."""
    opens, closes = id_of(thinker, "<|channel>"), id_of(thinker, "<channel|>")
    options = {"regex": "(yes|no)!", "logit_bias": {opens: 99.0, closes: 99.0}, "max_tokens": 20}
    prompt = thinker.encode([{"role": "user", "content": "hello"}])
    assert generate(tiny[0], thinker, prompt, **options) in ("yes!", "no!")
    opened = thinker.tokenize("<bos><|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\n")
    made = list(stream_generate(tiny[0], thinker, opened, **options))
    assert made[0].token == closes
    assert "".join(r.text for r in made if r.channel == "answer") in ("yes!", "no!")


def test_text_never_becomes_a_marker(tiny, thinker):
    """Letters that spell one do; the token does not come, however likely."""
    markers = {id_of(thinker, marker): 99.0 for marker in MARKERS}
    prompt = thinker.encode([{"role": "user", "content": "hello"}])
    text = generate(tiny[0], thinker, prompt, regex="[^a]{30}", logit_bias=markers, max_tokens=90)
    assert len(text) == 30


# What is refused

REFUSED = [
    ({"json_schema": {"type": "object", "not": {"type": "string"}}}, "json_schema is not supported: .*not"),
    ({"json_schema": {"type": "string", "format": "no-such"}}, "json_schema is not supported: .*no-such"),
    ({"json_schema": {"$ref": "https://example.com/x"}}, "json_schema is not supported"),
    ({"json_schema": "{"}, "json_schema is '{', expected a JSON schema"),
    ({"json_schema": "[]"}, "json_schema is '\\[\\]', expected a JSON schema"),
    ({"json_schema": 5}, "json_schema is 5, expected a JSON schema"),
    ({"regex": "(a"}, "regex is not supported: "),
    ({"regex": "a(?=b)"}, "regex is not supported: "),
    ({"regex": ""}, "regex is '', expected a regular expression"),
    ({"lark": "start: nothing"}, "lark is not supported: .*nothing"),
    ({"lark": " "}, "lark is ' ', expected a grammar"),
    ({"regex": "a", "json_schema": {}}, "json_schema and regex exclude each other"),
    ({"lark": "a", "regex": "a"}, "regex and lark exclude each other"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_what_is_not_supported_is_refused_with_the_reason(tiny, options, message):
    with pytest.raises(InputError, match=message) as error:
        generate(tiny[0], tiny[1], "hello", **options)
    assert "\n" not in str(error.value)


def test_without_the_extra(tiny, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(InputError) as error:
        generate(tiny[0], tiny[1], "hello", json_schema=SCHEMA)
    assert str(error.value) == 'a JSON schema needs llguidance: pip install ".[grammar]" in the folder of this package'


def test_a_grammar_needs_an_end(tiny):
    endless = Processor(tiny[1].tokenizer, eos_token_ids=())
    with pytest.raises(InputError, match="a grammar needs a token that ends the text"):
        generate(tiny[0], endless, "hello", regex="a")


def test_the_engine_alone_refuses_what_it_cannot_hold(tiny):
    with pytest.raises(InputError, match="regex holds text, but the request has token ids only"):
        Engine(Pair(tiny[0])).run(Request(MediaPrompt([1]), GenerationOptions(regex="a"), frozenset([1])))


class Fragile:
    """A matcher that cannot bear one of the tokens that its grammar allows, as if it got too large by it."""

    def __init__(self, matcher: Any, hated: int):
        self._matcher, self._hated, self._broken = matcher, hated, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)

    def consume_token(self, token: int) -> bool:
        self._broken = self._broken or token == self._hated
        return not self._broken and self._matcher.consume_token(token)

    def consume_tokens(self, tokens: list[int]) -> bool:
        return all(self.consume_token(token) for token in tokens)

    def get_error(self) -> str:
        return "too many items" if self._broken else self._matcher.get_error()

    def is_stopped(self) -> bool:
        return self._broken or self._matcher.is_stopped()


@pytest.fixture
def fragile(tiny, monkeypatch):
    """Makes grammars hate the first token of a text."""
    real = Grammar.matcher
    return lambda text: monkeypatch.setattr(
        Grammar, "matcher", lambda grammar: Fragile(real(grammar), tiny[1].tokenize(text)[0])
    )


def test_a_grammar_that_breaks_ends_the_text_with_the_reason(tiny, fragile):
    """Such as one that gets too large on the way; whoever runs beside it hears of nothing."""
    model, processor, assistant = tiny
    fragile("b")
    for drafts in (0, 3):
        options = {"regex": "a{4}b{9}", "num_assistant_tokens": drafts}
        with pytest.raises(InputError, match="the grammar could not go on: too many items"):
            generate(model, processor, "hello", assistant, **options)
    engine, ends = Engine(Pair(*tiny[:1])), frozenset(processor.eos_token_ids)
    hold = processor.grammar(GenerationOptions(regex="a{4}b{9}"), [3], ends, 1024)
    broken = engine.run(Request(MediaPrompt([3]), GenerationOptions(), ends, constraint=hold))
    beside = engine.run(Request(MediaPrompt([4]), GenerationOptions(max_tokens=30)))
    for run in (broken, beside):
        run.begin()
    with pytest.raises(InputError, match="could not go on"):
        list(broken)
    alone = Engine(Pair(*tiny[:1])).run(Request(MediaPrompt([4]), GenerationOptions(max_tokens=30)))
    assert [event.tokens for event in beside] == [event.tokens for event in alone]


def test_a_draft_that_would_break_it_breaks_nothing(tiny, fragile):
    """It has not been accepted yet."""
    processor = tiny[1]
    fragile("b")
    state = processor.grammar(GenerationOptions(regex="[ab]{9}"), [3], {5}, 1024)()
    before, after = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    for text in "aa":
        state.take(processor.tokenize(text)[0])
    state.mask(before)
    for text in "aba":
        state.take(processor.tokenize(text)[0])
    assert state.error == "too many items"
    assert state.mask(after) == 5
    state.back(1)
    assert state.error == "too many items"
    state.back(2)
    assert state.error is None
    state.mask(after)
    assert (before == after).all()


# The command


@pytest.fixture
def command(monkeypatch, capsys):
    return partial(runner(monkeypatch, capsys), "generate", "--max-tokens", "100")


def test_the_command(command, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "grammar.lark").write_text(GRAMMARS[2]["lark"])
    done = command("--prompt", "Who?", "--json-schema", str(tmp_path / "schema.json"))
    assert list(json.loads(done.stdout)) == list(SCHEMA["properties"])
    done = command("--prompt", "Who?", "--json-schema", "-", "--json", stdin=json.dumps(SCHEMA).encode())
    assert json.loads(json.loads(done.stdout)["text"])
    assert json.loads(done.stdout)["finish_reason"] == "stop"
    assert command("--prompt", "Who?", "--regex", "(yes|no)").stdout.strip() in ("yes", "no")
    done = command("--prompt", "Who?", "--lark", str(tmp_path / "grammar.lark"))
    assert re.fullmatch(r"let [a-d]{1,4} = [1-9][0-9]{0,3}", done.stdout.strip())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--regex", "(a"), "--regex is not supported: "),
        (("--regex", "a", "--lark", "FILE"), "--regex and --lark exclude each other"),
        (("--lark", "FILE"), "--lark is not supported: "),
        (("--json-schema", "FILE"), "--json-schema is 'start: nothing', expected a JSON schema"),
        (("--json-schema", "no-such-file"), "no-such-file"),
    ],
)
def test_the_command_refuses_before_it_reads_weights(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("mlx_gemma4_assist.engine.pair.load_model", lambda *_, **__: pytest.fail("reads weights"))
    (tmp_path / "file").write_text("start: nothing")
    done = command("--prompt", "a", *(str(tmp_path / "file") if word == "FILE" else word for word in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
