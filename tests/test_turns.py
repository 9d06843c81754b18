"""Turns read while they are written: answers, thoughts, calls of tools; whatever comes, in whatever pieces."""

import itertools
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from support.chat_format import CONTROL, Conversations, chat_processor
from transformers.utils.chat_parsing.response_parser import parse_response

from mlx_gemma4_assist.text.arguments import Arguments
from mlx_gemma4_assist.text.deltas import (
    AnswerDelta,
    CallArguments,
    CallBegun,
    CallEnded,
    Delta,
    ThoughtDelta,
)
from mlx_gemma4_assist.text.renderer import Renderer
from mlx_gemma4_assist.text.turn_reader import TurnReader

CALL = '<|tool_call>call:f{a:<|"|>hi<|"|>,n:2}<tool_call|>'
OPENED = "<bos><|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\n"


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return chat_processor(tmp_path_factory.mktemp("turns"))


def reader(processor, prompt: str = "", **options: Any) -> TurnReader:
    numbers = itertools.count(1)
    options = {"call_id": lambda: str(next(numbers))} | options
    return TurnReader(processor, processor.tokenize(prompt), **options)


def read(turn: TurnReader, tokens: list[int], sizes: Iterable[int] = itertools.repeat(1)) -> list[Delta]:
    found: list[Delta] = []
    place = 0
    for size in sizes:
        if place >= len(tokens):
            break
        found += turn.add(tokens[place : place + size])
        place += size
    return found + turn.finish()


def told(deltas: Iterable[Delta]) -> list[Any]:
    """Pieces put together: ["answer", text], ["thought", text], [name, id, JSON, whether it has ended]."""
    found: list[Any] = []
    calls: list[list[Any]] = []
    for delta in deltas:
        match delta:
            case AnswerDelta(text) | ThoughtDelta(text):
                kind = "answer" if isinstance(delta, AnswerDelta) else "thought"
                assert text
                if found and found[-1][0] == kind and found[-1] not in calls:
                    found[-1][1] += text
                else:
                    found.append([kind, text])
            case CallBegun(index, identity, name):
                assert index == len(calls)
                calls.append([name, identity, "", False])
                found.append(calls[-1])
            case CallArguments(index, text):
                assert text
                assert index == len(calls) - 1
                assert not calls[index][3]
                calls[index][2] += text
            case CallEnded(index):
                assert index == len(calls) - 1
                calls[index][3] = True
    return found


def turn_of(processor, text: str, prompt: str = "", **options: Any) -> list[Any]:
    return told(read(reader(processor, prompt, **options), processor.tokenize(text)))


HI = ["f", "1", '{"a":"hi","n":2}', True]
CASES = {
    "It is 4.": [["answer", "It is 4."]],
    f"<|channel>thought\nhm\n<channel|>It is 4.{CALL}": [["thought", "hm"], ["answer", "It is 4."], HI],
    "<|channel>thought\n<channel|>Yes": [["answer", "Yes"]],
    "<|channel>thought\n \n\n<channel|>Yes": [["answer", "Yes"]],
    "<|channel>thought<channel|>Yes": [["answer", "Yes"]],
    "<|channel>thought\na\n\nb\n\n<channel|>Yes": [["thought", "a\n\nb\n"], ["answer", "Yes"]],
    "<|channel>thought\nand then\n": [["thought", "and then\n"]],
    "<|channel>thou": [],
    "<|channel>final\nYes<channel|> no": [["answer", "final\nYes no"]],
    "<|channel>thought\nhm<turn|>Yes": [["thought", "hm"]],
    f"{CALL}{CALL}<|tool_response>x": [HI, ["f", "2", HI[2], True]],
    f"{CALL}\n{CALL}": [HI, ["answer", "\n"], ["f", "2", HI[2], True]],
    "<|channel>thought\nhm<|tool_call>call:f{}<tool_call|>": [["thought", "hm"], ["f", "1", "{}", True]],
    "<channel|>Yes<tool_call|>!<turn|>no": [["answer", "Yes!"]],
    # Calls that are none, or not yet: text.
    "<|tool_call>call:f": [["answer", "<|tool_call>call:f"]],
    "<|tool_call>call:f{a": [["answer", "<|tool_call>call:f{a"]],
    '<|tool_call>call:<|"|>f<|"|>{}<tool_call|>': [["answer", '<|tool_call>call:<|"|>f<|"|>{}<tool_call|>']],
    "a<|tool_call>f(2)<tool_call|>b": [["answer", "a<|tool_call>f(2)<tool_call|>b"]],
    "<|tool_call>call:{}<tool_call|>": [["answer", "<|tool_call>call:{}<tool_call|>"]],
    "<|tool_call>call:f{a}<tool_call|>": [["answer", "<|tool_call>call:f{a}<tool_call|>"]],
    "<|tool_call>call:f{,a:1}<tool_call|>": [["answer", "<|tool_call>call:f{,a:1}<tool_call|>"]],
    "<|tool_call>call:f<|tool_call>call:g{}<tool_call|>": [["answer", "<|tool_call>call:f"], ["g", "1", "{}", True]],
    # Calls that break off.
    '<|tool_call>call:f{a:<|"|>hal': [["f", "1", '{"a":"hal', False]],
    "<|tool_call>call:f{a:[1,{b:2<turn|>": [["f", "1", '{"a":[1,{"b":', False]],
    "<|tool_call>call:f{a:1}": [["f", "1", '{"a":1}', False]],
    "<|tool_call>call:f{a:1}<turn|>": [["f", "1", '{"a":1}', True]],
    "<|tool_call>call:f{a:1<tool_call|>": [["f", "1", '{"a":1}', True]],
    f"<|tool_call>call:f{{a:[1{CALL}": [["f", "1", '{"a":[1]}', True], ["f", "2", HI[2], True]],
}


@pytest.mark.parametrize("text", CASES)
def test_what_a_turn_is_made_of(processor, text):
    """However its tokens are divided."""
    assert turn_of(processor, text) == CASES[text]
    tokens, rng = processor.tokenize(text), random.Random(text)
    for _ in range(3):
        sizes = (rng.randint(1, 6) for _ in itertools.count())
        assert told(read(reader(processor), tokens, sizes)) == CASES[text]


ARGUMENTS = {
    'a-b.c:<|"|>x<|"|>, d : -1.5e3 ,e:true,f:null': {"a-b.c": "x", "d": -1500.0, "e": True, "f": None},
    "a:{b:{},c:[[],[1,2],{d:false}]}": {"a": {"b": {}, "c": [[], [1, 2], {"d": False}]}},
    'a:<|"|>}],{:<|"|>': {"a": "}],{:"},
    'a:<|"|>"\\\n\t<|"|>': {"a": '"\\\n\t'},
    '<|"|>a:b}<|"|>:<|"|><|"|>': {"a:b}": ""},
    # As other models write.
    'a:"x, \\"y\\"","b":\'z\'': {"a": 'x, "y"', "b": "'z'"},
    "a:Paris, France,t:10:30": {"a": "Paris", "France": None, "t": "10:30"},
    "a:True,b:None,c:007,d:.5,e:NaN,f:1e999": {"a": True, "b": None, "c": "007", "d": ".5", "e": "NaN", "f": "1e999"},
    f"a:{'9' * 400}": {"a": "9" * 400},
    # Mended.
    "a:,b:1": {"a": None, "b": 1},
    "a:[1,,2,],b:2": {"a": [1, 2], "b": 2},
    "a:1,,b:2,": {"a": 1, "b": 2},
    "a:[1},b:2": {"a": [1]},
    "a:1],b:[{c:2],d:3": {"a": 1, "b": [{"c": 2}], "d": 3},
    'a:<|"|>x<|"|><|"|>b<|"|>:2 c:3': {"a": "x", "b": "2 c:3"},
    'z:1,a<|"|>x<|"|>': {"z": 1, "a": "x"},
    'a:[<|"|>x<|"|><|"|>y<|"|>]': {"a": ["x", "y"]},
    'a:12<|"|>b<|"|>:1': {"a": 12, "b": 1},
    'a:"x<|"|>y"': {"a": 'x<|"|>y'},
    'a:"\\ud800"': {"a": "\ud800"},
    'a:"x\\q"': {"a": "x\\q"},
    "a:1,b": {"a": 1, "b": None},
}


@pytest.mark.parametrize("written", ARGUMENTS)
def test_arguments_become_json(processor, written):
    """Also what is written otherwise than it should be."""
    ((name, _, text, ended),) = turn_of(processor, f"<|tool_call>call:a-b.c{{{written}}}<tool_call|>")
    assert (name, ended) == ("a-b.c", True)
    assert json.loads(text) == ARGUMENTS[written]


def test_arguments_stream(processor):
    """A string's pieces come with their tokens."""
    turn = reader(processor)
    pieces = [turn.add([token]) for token in processor.tokenize('<|tool_call>call:f{a:<|"|>hi<|"|>')]
    flat = [delta for each in pieces for delta in each]
    assert flat[0] == CallBegun(0, "1", "f")
    assert [delta.json for delta in flat[1:]] == ['{"a":"', "h", "i", '"']


def test_values_come_back(processor):
    """From values to Gemma's syntax, to tokens, to JSON, to the same values; and to the same tokens."""
    renderer = Renderer(processor)
    for seed in range(300):
        made = Conversations(seed)
        arguments, name = made.arguments(3), made.name()
        call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
        text = renderer.render([{"role": "assistant", "tool_calls": [call]}]).text
        tokens = processor.tokenize(text)
        place = tokens.index(processor.markers.call)
        turn = reader(processor)
        ((found, _, json_text, ended),) = told(read(turn, tokens[place:-1]))
        assert (found, json.loads(json_text), ended) == (name, arguments, True)
        assert turn.issued is not None
        assert list(turn.issued.tokens) == tokens[place:-1]


def test_a_string_may_spell_anything(processor):
    """The token that quotes ends a string, its letters do not."""
    evil = 'x<|"|>,b:<tool_call|><|tool_call>call:g{}<turn|>"\\'
    call = {"id": "1", "function": {"name": "f", "arguments": {"a": evil}}}
    tokens = processor.tokenize(Renderer(processor).render([{"role": "assistant", "tool_calls": [call]}]).text)
    ((_, _, text, ended),) = told(read(reader(processor), tokens[tokens.index(processor.markers.call) : -1]))
    assert (json.loads(text), ended) == ({"a": evil}, True)


RESPONSE_TEMPLATE = {  # as transformers has it for Gemma 4
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>", "<|tool_response>", "<eos>"], "content": "text"},
    },
}


def test_as_transformers_reads_them(processor):
    """Where it can: keys and names of letters, one thought, one text, calls that are whole."""
    rng, compared = random.Random(4), 0
    syntax = Renderer(processor)
    for seed in range(150):
        made = Conversations(seed)
        arguments = {key: value for key, value in made.arguments(0).items() if key.isalpha()}
        call = {"id": "1", "function": {"name": "get_weather", "arguments": arguments}}
        rendered = syntax.shown(syntax.render([{"role": "assistant", "tool_calls": [call]}]).text)
        text = rng.choice(("", "It is. ")) + rendered.partition("model\n")[2]
        thought = rng.choice(("", "<|channel>thought\nhm, so\n<channel|>"))
        expected = parse_response(f"{thought}{text}", RESPONSE_TEMPLATE, prefix="")
        found = turn_of(processor, f"{thought}{text}")
        assert [each[1] for each in found if each[0] == "thought"] == (
            [expected["reasoning_content"]] if thought else []
        )
        assert "".join(each[1] for each in found if each[0] == "answer").strip() == expected.get("content", "")
        (theirs,) = expected["tool_calls"]
        assert [(each[0], json.loads(each[2])) for each in found if len(each) == 4] == [
            (theirs["function"]["name"], theirs["function"]["arguments"])
        ]
        compared += bool(arguments)
    assert compared > 50


# Where it ends


def test_stop_strings_are_for_answers(processor):
    text = f"<|channel>thought\n2 + 2\n<channel|>It is 4.{CALL}"
    turn = reader(processor, stop=["2", "4", "hi"])
    assert told(read(turn, processor.tokenize(text))) == [["thought", "2 + 2"], ["answer", "It is "]]
    assert (turn.stop, turn.ended, turn.calls) == ("4", True, 0)
    turn = reader(processor, stop=["is", "hi"])
    assert told(read(turn, processor.tokenize(CALL))) == [HI]
    assert (turn.stop, turn.calls) == (None, 1)
    assert turn_of(processor, f"abc{CALL}d", stop=["cd"]) == [["answer", "abc"], HI, ["answer", "d"]]


def test_nothing_comes_behind_a_stop(processor):
    for stop in ("<|tool_response>", "<turn|>", "<eos>"):
        turn = reader(processor)
        turn.add(processor.tokenize(f"a{stop}"))
        assert (turn.ended, turn.stop) == (stop != "<|tool_response>", None) or stop == "<|tool_response>"
    turn = reader(processor, stop=["<|image|>"])
    assert turn.add(processor.tokenize("ab<|image|>c")) == [AnswerDelta("ab")]
    assert (turn.ended, turn.stop) == (True, "<|image|>")
    assert turn.add(processor.tokenize("d")) == turn.finish() == []


def test_ends_are_the_engines(processor):
    (eos,) = processor.tokenize("<eos>")
    assert turn_of(processor, "a<turn|>b", ends={eos}) == [["answer", "ab"]]
    assert turn_of(processor, "a<eos>b", ends={eos}) == [["answer", "a"]]


def test_a_prompt_may_have_opened_a_thought(processor):
    assert turn_of(processor, "hm\n<channel|>Yes", OPENED) == [["thought", "hm"], ["answer", "Yes"]]
    assert turn_of(processor, "hm<channel|>Yes", f"{OPENED}so ") == [["thought", "hm"], ["answer", "Yes"]]
    assert turn_of(processor, "Yes", f"{OPENED}<channel|>") == [["answer", "Yes"]]
    turn = reader(processor, OPENED)
    read(turn, processor.tokenize(f"hm<channel|>Yes{CALL}"))
    assert processor.decode(turn.issued.tokens, False) == f"<|channel>thought\nhm<channel|>Yes{CALL}"
    assert turn.issued.text == "Yes"


def test_thoughts_are_counted(processor):
    """Without markers and names; so are those of the prompt not."""
    turn = reader(processor, f"{OPENED}so ")
    thought, answer = processor.tokenize("hm, so"), processor.tokenize("<channel|>Yes")
    read(turn, [*thought, *answer])
    assert turn.thought_tokens == len(thought)
    turn = reader(processor)
    read(turn, [*processor.tokenize("<|channel>thought\n"), *thought, *answer])
    assert turn.thought_tokens == len(thought)


def test_raw_text_has_no_channels(processor):
    text = f"<|channel>thought\nhm<channel|>{CALL}"
    assert turn_of(processor, text, channels=False) == [["answer", "thought\nhmcall:f{a:hi,n:2}"]]
    assert turn_of(processor, text, channels=False, skip_special_tokens=False) == [["answer", text]]


def test_what_is_issued(processor):
    """Up to the last call's end; nothing that was mended, nor with tokens that no history may have."""

    def issued(text: str) -> Any:
        turn = reader(processor)
        read(turn, processor.tokenize(text))
        return turn.issued

    found = issued(f"a{CALL}b{CALL}c<turn|>")
    assert processor.decode(found.tokens, False) == f"a{CALL}b{CALL}"
    assert found.text == "ab"
    assert [(call.id, call.name, call.arguments) for call in found.calls] == [("1", "f", HI[2]), ("2", "f", HI[2])]
    for text in ("a", "<|tool_call>call:f{a:[1}<tool_call|>", f"<|image|>{CALL}", f"<|tool_call>call:f{{a:[1{CALL}"):
        assert issued(text) is None


# Whatever comes


def test_any_tokens_come_out(processor):
    """Random tokens, markers above all: no exception, the same however divided, JSON whole where a call has ended."""
    rng, parts = random.Random(0), [processor.tokenize(control) for control in CONTROL[:4] * 2 + ('<|"|>',) * 6]
    parts += [
        processor.tokenize(text) for text in ("thought\n", "call:f{", "call:g{}", "a:", ",", "{", "}", "[", "]", "é")
    ]
    parts += [
        processor.tokenize(text) for text in ("call:f{a:1,", '"', "\\", "true", "1.5", " ", "hello ", "<turn|>", ":")
    ]
    parts += [[token] for token in (0, 3, 7, 200, 9999)]
    ended = 0
    for _ in range(3000):
        tokens = [token for _ in range(rng.randrange(25)) for token in rng.choice(parts)]
        one, other = reader(processor, stop=["llo"]), reader(processor, stop=["llo"])
        found = told(read(one, tokens))
        assert found == told(read(other, tokens, (rng.randint(1, 9) for _ in itertools.count())))
        assert one.issued == other.issued
        calls = [each for each in found if len(each) == 4]
        assert one.calls == sum(call[3] for call in calls)
        for _, _, text, has_ended in calls:
            ended += has_ended
            if has_ended:
                assert isinstance(json.loads(text), dict)
    assert ended > 30


def test_any_arguments_can_be_ended():
    """Pieces of syntax in any order, broken off anywhere: an object of JSON, unless it never was a call."""
    rng = random.Random(1)
    parts = [
        "a",
        ":",
        ",",
        "{",
        "}",
        "[",
        "]",
        " ",
        '"',
        "\\",
        "1",
        "-",
        "true",
        "é",
        "\n",
        None,
        None,
        "b:",
        "c:[",
        "{d:",
    ]
    given = 0
    for _ in range(5000):
        arguments, text = Arguments(), ""
        for part in rng.choices(parts, k=rng.randrange(20)):
            text += arguments.quote() if part is None else arguments.feed(part)
        assert not (arguments.malformed and text)
        if arguments.sure:
            given += 1
            assert isinstance(json.loads(text + arguments.end()), dict)
    assert given > 500


def test_depth_has_an_end(processor):
    ((_, _, text, ended),) = turn_of(processor, f"<|tool_call>call:f{{a:{'[' * 3000}<tool_call|>")
    assert ended
    assert isinstance(json.loads(text), dict)
