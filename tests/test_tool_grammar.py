"""What holds turns: calls by their schemas, how many of them, grammars beside them, and how long a thought may be."""

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from support.chat_format import chat_processor
from support.checkpoints import save_tokenizer

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, Processor, load, load_assistant
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.text.masks import has
from mlx_gemma4_assist.text.renderer import Renderer
from mlx_gemma4_assist.text.thoughts import Limit, TextState
from mlx_gemma4_assist.text.turn_constraint import TurnWishes, turn_constraint
from mlx_gemma4_assist.text.turn_reader import TurnReader

USER = "<bos><|turn>user\nhi<turn|>\n<|turn>model\n"
THINKING = f"<bos><|turn>system\n<|think|>\n<turn|>\n{USER.removeprefix('<bos>')}"
NO_OPTIONS = GenerationOptions()


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return chat_processor(tmp_path_factory.mktemp("tools"))


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def size(processor: Processor) -> int:
    return processor.tokenizer.backend_tokenizer.get_vocab_size()


def constraint(
    processor: Processor, prompt: str = USER, options: GenerationOptions = NO_OPTIONS, **wishes: Any
) -> Callable[[], TextState] | None:
    ids = processor.tokenize(prompt)
    return turn_constraint(processor, options, ids, processor.eos_token_ids, size(processor), TurnWishes(**wishes))


def allowed(state: TextState, vocabulary: int) -> list[int]:
    words = np.zeros(-(-vocabulary // 32), np.uint32)
    only = state.mask(words)
    found = [token for token in range(vocabulary) if has(words, token)]
    assert found
    assert only is None or found == [only]
    return found


def follow(processor: Processor, state: TextState, text: str) -> None:
    """Take a text's tokens, each of which may come."""
    for token in processor.tokenize(text):
        assert token in allowed(state, size(processor)), (text, processor.tokenizer.convert_ids_to_tokens(token))
        state.take(token)


def may_come(processor: Processor, state: TextState, *texts: str) -> list[bool]:
    found = allowed(state, size(processor))
    return [processor.tokenize(text)[0] in found for text in texts]


def walk(processor: Processor, state: TextState, rng: random.Random, most: int = 3000) -> list[int]:
    """A random turn; what may end does so soon."""
    tokens: list[int] = []
    while len(tokens) < most:
        found = allowed(state, size(processor))
        assert state.error is None
        short = [token for token in found if token in closing(processor)]
        tokens.append(rng.choice(short if short and rng.random() < 0.4 else found))
        state.take(tokens[-1])
        if tokens[-1] in processor.eos_token_ids:
            return tokens
    raise AssertionError("the turn has no end")


def closing(processor: Processor) -> set[int]:
    texts = ('<|"|>', ":", "}", "]", "<tool_call|>", "<turn|>", "<channel|>")
    return {processor.tokenize(text)[0] for text in texts}


def called(processor: Processor, tokens: list[int], prompt: str = USER) -> list[tuple[str, Any]]:
    turn = TurnReader(processor, processor.tokenize(prompt))
    turn.add(tokens)
    assert turn.issued is not None
    assert len(turn.issued.calls) == turn.calls
    return [(call.name, json.loads(call.arguments)) for call in turn.issued.calls]


# Schemas

DEFS = {"node": {"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}, "v": {"type": "boolean"}}}}
SCHEMAS: dict[str, Any] = {
    "strings": {"type": "string", "minLength": 1, "maxLength": 4},
    "empty strings": {"type": "string", "maxLength": 2},
    "patterns": {"type": "string", "pattern": "^[a-z]{2}/[0-9]+$"},
    "odd patterns": {"type": "string", "pattern": "^[$/^]\\\\/(a|b)\\$$"},
    "patterns and lengths": {"type": "string", "pattern": "b", "maxLength": 5},
    "any string": {"type": "string", "format": "uri", "default": "x"},
    "integers": {"type": "integer", "minimum": -3, "maximum": 12},
    "numbers": {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
    "any number": {"type": "number"},
    "any integer": {"type": "integer"},
    "booleans": {"type": "boolean"},
    "null": {"type": "null"},
    "enumerations": {"enum": ["a", "b<c>", "", 3, -1.5, None, True, ["x", 1], {"k": "v", "a": []}]},
    "typed enumerations": {"type": "string", "enum": ["a", 1, "b"]},
    "constants": {"const": {"a-b": "x y"}},
    "types": {"type": ["integer", "null"], "minimum": 3, "maximum": 5},
    "unions": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "maximum": 5}, {"type": "null"}]},
    "unions beside": {"type": "string", "oneOf": [{"maxLength": 1}, {"minLength": 3, "maxLength": 4}]},
    "lists": {"type": "array", "items": {"enum": ["p", "q"]}, "minItems": 1, "maxItems": 3},
    "no lists": {"type": "array", "maxItems": 0},
    "any list": {"type": "array", "maxItems": 2},
    "lists of lists": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
    "objects": {
        "type": "object",
        "properties": {
            "b": {"type": "boolean"},
            "A": {"type": "null"},
            "c": {"type": "boolean"},
            "D": {"type": "null"},
        },
        "required": ["c"],
    },
    "optional": {"type": "object", "properties": {key: {"type": "boolean"} for key in "abc"}},
    "undeclared": {"type": "object", "required": ["x"], "properties": {"y": {"type": "null"}}},
    "odd keys": {
        "type": "object",
        "properties": {"a:b": {"type": "null"}, "": {"type": "null"}},
        "required": ["a:b", ""],
    },
    "closed": {"type": "object", "additionalProperties": False},
    "maps": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "any object": {"type": "object"},
    "anything": {},
    "all": {
        "allOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
        "type": "object",
    },
    "references": {"$ref": "#/$defs/node"},
    "nullable": {"type": "boolean", "nullable": True},
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_calls_follow_their_schema(processor, kind):
    """Random tokens among those that may come: each call validates, under the schema's own words."""
    parameters = {"type": "object", "properties": {"p": SCHEMAS[kind]}, "required": ["p"], "$defs": DEFS}
    make = constraint(processor, tools=[tool("f", parameters)], tool_choice="required", parallel_tool_calls=False)
    nullable = {"properties": {"p": {"type": ["boolean", "null"]}}}
    for seed in range(5):
        ((name, arguments),) = called(processor, walk(processor, make(), random.Random(seed)))
        assert name == "f"
        jsonschema.validate(arguments, nullable if kind == "nullable" else parameters)


REFUSED = [
    ({"not": {"type": "string"}}, "cannot be held to its parameters: not is not supported"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems is not supported"),
    ({"type": "string", "pattern": "a(?=b)"}, "cannot be held to the parameters of tools: "),
    ({"type": "string", "pattern": "^a|b$"}, "a pattern with anchors in alternatives"),
    ({"type": "string", "pattern": "a^b"}, "a pattern with anchors inside"),
    ({"type": "array", "minItems": "3"}, "minItems is no count"),
    ({"type": "nothing"}, "the type 'nothing'"),
    ({"type": None}, "f, one of the tools, cannot be held to its parameters: the type null"),
    ({"type": ["string", [True]]}, r"the type \[true\]"),
    ({"$ref": "#/nowhere"}, "the reference '#/nowhere'"),
    ({"$ref": "https://example.com/x"}, "the reference"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "two of type that both hold"),
    ({"type": "string", "enum": [1]}, "an enumeration that nothing satisfies"),
    (False, "a schema that nothing satisfies"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=str)
def test_what_cannot_be_held_is_refused_with_the_reason(processor, schema, message):
    with pytest.raises(InputError, match=message) as error:
        constraint(processor, tools=[tool("f", {"properties": {"p": schema}})], tool_choice="required")
    assert error.value.option == "tools"
    assert "\n" not in str(error.value)
    assert constraint(processor, tools=[tool("f", {"properties": {"p": schema}})]) is None


def test_arguments_are_objects(processor):
    with pytest.raises(InputError, match="they are no object"):
        constraint(processor, tools=[tool("f", {"type": "string"})], tool_choice="required")
    for parameters in (None, {}, {"type": "object", "properties": {}, "additionalProperties": False}):
        make = constraint(processor, tools=[tool("f", parameters)], tool_choice="required")
        follow(processor, make(), "<|tool_call>call:f{}<tool_call|><turn|>")


# Which calls


TOOLS = [
    tool("get", {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}),
    tool("get-all", {"type": "object", "properties": {"b": {"type": "boolean"}}}),
]


def test_a_tool_must_be_called(processor):
    """Nothing else comes, before calls or between them; what ends the turn is the model's choice."""
    state = constraint(processor, tools=TOOLS, tool_choice="required")()
    assert processor.decode(state.forced(), False) == "<|tool_call>call:get"
    follow(processor, state, "<|tool_call>call:get-all{b:true}<tool_call|>")
    ends = may_come(processor, state, "<turn|>", "<|tool_response>", "<eos>", "<|tool_call>", "a", "\n")
    assert ends == [True, True, True, True, False, False]
    assert state.forced() == []
    follow(processor, state, "<|tool_call>call:get{n:22}<tool_call|><|tool_response>")
    assert len(allowed(state, size(processor))) == size(processor)


def test_one_tool_must_be_called_once(processor):
    options = {"tools": TOOLS, "tool_choice": "named", "named_tool": "get", "parallel_tool_calls": False}
    state = constraint(processor, **options)()
    assert processor.decode(state.forced(), False) == "<|tool_call>call:get{n:"
    follow(processor, state, "<|tool_call>call:get{n:1}<tool_call|>")
    assert set(allowed(state, size(processor))) == set(processor.eos_token_ids)
    for more, message in (({"named_tool": "no"}, "none with the name 'no'"), ({"tools": []}, "a tool must be called")):
        with pytest.raises(InputError, match=message):
            constraint(processor, **options | more)
    with pytest.raises(InputError, match="a tool must be called, but the request has none"):
        constraint(processor, tool_choice="required")


def test_strict_tools_are_held_where_the_model_calls_them(processor):
    """All else is free: text, thoughts, and calls of the others."""
    strict = [tool("get", TOOLS[0]["function"]["parameters"], strict=True), TOOLS[1]]
    make = constraint(processor, tools=strict)
    state = make()
    assert state.forced() == []
    assert len(allowed(state, size(processor))) == size(processor)
    follow(processor, state, "hello <|tool_call>call:get")
    assert may_come(processor, state, "{", "-", "x") == [True, True, False]
    follow(
        processor,
        state,
        '{n:1}<tool_call|> and <|tool_call>call:get-all{any_key:[<|"|>x<|"|>]}<tool_call|>hello<turn|>',
    )
    assert constraint(processor, tools=TOOLS) is None


def test_calls_one_at_a_time(processor):
    state = constraint(processor, tools=TOOLS, parallel_tool_calls=False)()
    follow(processor, state, "hello<|tool_call>call:anything{<tool_call|>")
    assert set(allowed(state, size(processor))) == set(processor.eos_token_ids)


def test_no_calls(processor):
    state = constraint(processor, tools=TOOLS, tool_choice="none")()
    follow(processor, state, "hello")
    assert may_come(processor, state, "<|tool_call>", "<turn|>", "a") == [False, True, True]
    assert constraint(processor, tool_choice="none") is None


def test_a_schema_beside_tools(processor):
    """The turn is JSON of the schema, or calls."""
    options = GenerationOptions(json_schema={"enum": ["yes", "no"]})
    make = constraint(processor, options=options, tools=TOOLS)
    state = make()
    assert may_come(processor, state, '"', "<|tool_call>", "<turn|>", "a") == [True, True, False, False]
    assert state.forced() == []
    follow(processor, state, '"yes"')
    assert set(allowed(state, size(processor))) & set(processor.tokenize("<|tool_call>")) == set()
    follow(processor, state, "<turn|>")
    state = make()
    follow(processor, state, "<|tool_call>call:x{}<tool_call|>")
    assert may_come(processor, state, '"', "<|tool_call>", "<turn|>") == [False, True, True]
    alone = constraint(processor, options=options)()
    assert may_come(processor, alone, "<|tool_call>", '"') == [False, True]
    must = constraint(processor, options=options, tools=TOOLS, tool_choice="required")()
    assert may_come(processor, must, "<|tool_call>", '"') == [True, False]


def test_checkpoints_without_tokens_for_calls(tmp_path):
    plain = Processor.from_pretrained(save_tokenizer(tmp_path))
    with pytest.raises(InputError, match="the checkpoint has no tokens for calls of tools"):
        constraint(plain, "hello", tools=TOOLS, tool_choice="required")


# Thoughts


def test_a_budget_closes_the_thought(processor):
    """Tokens behind its beginning count; then the answer is free, but for more thoughts."""
    make = constraint(processor, THINKING, limit=Limit(tokens=4))
    state = make()
    follow(processor, state, "<|channel>thought\nabcd")
    assert [processor.decode([token], False) for token in allowed(state, size(processor))] == ["<channel|>"]
    assert processor.decode(state.forced(), False) == "<channel|>"
    follow(processor, state, "<channel|>hello")
    assert may_come(processor, state, "<|channel>", "<|tool_call>", "<turn|>", "a") == [False, True, True, True]
    state = make()
    follow(processor, state, "<|channel>thought\nab")
    assert may_come(processor, state, "<channel|>", "c", "<turn|>", "<|channel>", "<|tool_call>") == [
        True,
        True,
        *[False] * 3,
    ]
    follow(processor, state, "<channel|>hello<|channel>thought\nab")
    assert processor.decode(state.forced(), False) == "<channel|>"


def test_a_thought_that_the_prompt_has_opened_is_counted_from_there(processor):
    state = constraint(processor, f"{USER}<|channel>thought\nso ", limit=Limit(tokens=2))()
    follow(processor, state, "ab")
    assert processor.decode(state.forced(), False) == "<channel|>"
    none = constraint(processor, THINKING, limit=Limit(tokens=0))()
    assert may_come(processor, none, "<|channel>", "a", "<turn|>") == [False, True, True]


def test_enough_is_enough(processor):
    """Somebody says so while the model thinks: the thought is closed next. Before it, none begins."""
    told = [False]
    make = constraint(processor, THINKING, limit=Limit(enough=lambda: told[0]))
    state, before = make(), make()
    follow(processor, state, "<|channel>thought\nhm")
    assert state.forced() == []
    told[0] = True
    assert processor.decode(state.forced(), False) == "<channel|>"
    assert [processor.decode([token], False) for token in allowed(state, size(processor))] == ["<channel|>"]
    assert may_come(processor, before, "<|channel>", "a") == [False, True]


def test_limits_hold_thoughts_only(processor):
    """Without thoughts there is nothing to hold."""
    assert constraint(processor, USER, limit=Limit(tokens=3)) is None
    assert constraint(processor, f"{USER}<|channel>thought\n<channel|>", limit=Limit(tokens=3)) is None
    assert constraint(processor, THINKING) is None


def test_grammars_begin_behind_the_thought(processor):
    """Of calls, and of JSON; the thought may be left out."""
    for wishes, text in (
        ({"tools": TOOLS[:1], "tool_choice": "required"}, "<|tool_call>call:get{n:1}<tool_call|>"),
        ({"options": GenerationOptions(json_schema={"enum": ["yes"]})}, '"yes"'),
    ):
        make = constraint(processor, THINKING, limit=Limit(tokens=3), **wishes)
        state = make()
        follow(processor, state, "<|channel>thought\nabc")
        forced = processor.decode(state.forced(), False)
        assert forced.startswith(f"<channel|>{text[:20]}")
        assert text.startswith(forced.removeprefix("<channel|>").removesuffix("<turn|>"))
        follow(processor, state, f"<channel|>{text}")
        assert may_come(processor, state, "<|channel>", "<turn|>") == [False, True]
        follow(processor, make(), f"{text}<turn|>")


# States


STATES: list[dict[str, Any]] = [
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": "required", "prompt": THINKING, "limit": Limit(tokens=3)},
    {"tools": [tool("f", TOOLS[0]["function"]["parameters"], strict=True)], "parallel_tool_calls": False},
    {"tools": TOOLS, "options": GenerationOptions(json_schema={"type": "array", "items": {"type": "boolean"}})},
    {"prompt": THINKING, "limit": Limit(tokens=5)},
    {"tools": TOOLS, "tool_choice": "none", "options": GenerationOptions(regex="[ab]{3,9}")},
]


@pytest.mark.parametrize("wishes", STATES, ids=lambda wishes: ",".join(wishes))
def test_a_state_depends_on_its_tokens_alone(processor, wishes):
    """Not on what was tried and taken back; and what is forced is the only token in each place."""
    make, markers = constraint(processor, **wishes), processor.markers
    likely = [markers.open, markers.close, markers.call, markers.end_of_call, *processor.eos_token_ids]
    for seed in range(6):
        rng, state, tokens = random.Random(seed), make(), []
        for _ in range(50):
            straight = make()
            for token in tokens:
                straight.take(token)
            found = allowed(straight, size(processor))
            assert allowed(state, size(processor)) == found
            forced = state.forced()
            assert forced == straight.forced()
            for token in forced:
                assert allowed(straight, size(processor)) == [token]
                straight.take(token)
            if len(tokens) > 3 and rng.random() < 0.35:
                count = rng.randint(1, 3)
                state.back(count)
                del tokens[-count:]
            else:
                marked = [token for token in found if token in likely]
                tokens.append(rng.choice(marked if marked and rng.random() < 0.5 else found))
                state.take(tokens[-1])


# In an engine


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.3, "seed": 4}], ids=["greedy", "drawn"])
def test_drafts_change_nothing(processor, drawn):
    """A thought of a few tokens, then calls: the same turn with drafts and without, beside somebody who is free."""
    model, assistant = load("tiny")[0], load_assistant("tiny-assistant")
    prompt, found = processor.tokenize(THINKING), []
    opening = {processor.markers.open: 99.0}
    for count in (0, 3):
        engine = Engine(Pair(model, assistant), prefix_cache_bytes=0)
        options = GenerationOptions(max_tokens=200, num_assistant_tokens=count, logit_bias=opening, **drawn)
        wishes = TurnWishes(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, limit=Limit(tokens=5))
        ends, vocabulary = processor.eos_token_ids, model.config.vocab_size
        held = turn_constraint(processor, options, prompt, ends, vocabulary, wishes)
        run = engine.run(Request(MediaPrompt(prompt), options, ends, constraint=held))
        free = engine.run(Request(MediaPrompt([3, 4]), GenerationOptions(max_tokens=8)))
        for each in (run, free):
            each.begin()
        found.append([token for event in run for token in event.tokens])
    assert found[0] == found[1]
    turn = TurnReader(processor, prompt)
    turn.add(found[0])
    assert (turn.thought_tokens, turn.calls, turn.ended) == (5, 1, True)


# Whatever a client sends


def scrambled(schema: Any, rng: random.Random) -> Any:
    """A schema in which some values are others."""
    if rng.random() < 0.08:
        return rng.choice(
            [None, True, False, -1, 2.5, "x", "object", [], ["a", 1], {}, {"type": "string"}, {"$ref": "#"}]
        )
    if isinstance(schema, dict):
        return {key: scrambled(value, rng) for key, value in schema.items()}
    return [scrambled(value, rng) for value in schema] if isinstance(schema, list) else schema


def test_schemas_that_are_none_are_refused_or_taken(processor):
    """Nothing but InputError comes of them, neither where tools are declared nor where calls are held."""
    rng, renderer, outcomes = random.Random(2), Renderer(processor), [0, 0]
    whole = {"type": "object", "$defs": DEFS, "properties": SCHEMAS, "required": list(SCHEMAS)}
    for _ in range(60):
        tools = [tool("f", scrambled(whole, rng))]
        for act in (
            lambda tools=tools: renderer.render([{"role": "user", "content": ""}], tools=tools),
            lambda tools=tools: constraint(processor, tools=tools, tool_choice="required"),
        ):
            try:
                act()
                outcomes[0] += 1
            except InputError:
                outcomes[1] += 1
    assert min(outcomes) > 5
