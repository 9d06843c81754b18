"""Answers, thoughts and calls of tools: told apart by ids, in a stream and in history."""

import json
import random
import shutil

import mlx.core as mx
import pytest
from support import checkpoints as helpers
from support.paths import ASSETS

from mlx_gemma4_assist import (
    InputError,
    Pair,
    Processor,
    generate,
    load,
    load_assistant,
    stream_generate,
)
from mlx_gemma4_assist.commands import generate as generate_module
from mlx_gemma4_assist.commands.generate import generate as command
from mlx_gemma4_assist.commands.screen import Screen
from mlx_gemma4_assist.text.stops import StopStrings

MARKERS = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>', "<|think|>")
# In the manner of Gemma 4's: an empty thought before an answer without thinking, no thoughts in history.
TEMPLATE = (
    "{%- macro answered(text) -%}{%- set ns = namespace(result='') -%}{%- for part in text.split('<channel|>') -%}"
    "{%- set ns.result = ns.result + part.split('<|channel>')[0] -%}{%- endfor -%}{{ ns.result | trim }}"
    "{%- endmacro -%}{{ bos_token }}"
    "{% if enable_thinking %}{{ '<|turn>system\n<|think|>\n<turn|>\n' }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<|turn>' + role + '\n' }}"
    "{{ answered(m.content if m.content is string else m.content | map(attribute='text') | join) if role == 'model' "
    "else m.content | trim }}{{ '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{% if not enable_thinking %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"
    "{# <|tool_response> #}"
)
CALL = 'call:f{a:<|"|>hi<|"|>,n:2}'
THOUGHT = "<|channel>thought\nhm, 2 + 2\n<channel|>"
WHOLE = f"{THOUGHT}It is 4.<|tool_call>{CALL}<tool_call|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return helpers.save_tokenizer(
        tmp_path_factory.mktemp("channels"), template=TEMPLATE, special=(*helpers.SPECIAL, *MARKERS)
    )


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


def channels(processor, text, prompt="", **options):
    """What a turn's text comes out as: (channel, text) without what is empty, neighbours joined."""
    stop = StopStrings(options.pop("stop", ()))
    turn = processor.turn(processor.tokenize(prompt), stop, **options)
    pieces = []
    for token in processor.tokenize(text):
        pieces.append(turn.add(token))
        if turn.stopped:
            break
    else:
        pieces.append(turn.finish())
    joined = []
    for text, channel in pieces:
        if text and joined and joined[-1][0] == channel:
            joined[-1] = (channel, joined[-1][1] + text)
        elif text:
            joined.append((str(channel), text))
    return joined


CASES = {
    "It is 4.": [("answer", "It is 4.")],
    WHOLE: [("thought", "hm, 2 + 2\n"), ("answer", "It is 4."), ("tool_call", CALL)],
    "<|channel>thought\n<channel|>Yes": [("answer", "Yes")],
    "<|channel>thought<channel|>Yes": [("answer", "Yes")],
    "<|channel>thought\nand then": [("thought", "and then")],
    "<|channel>thou": [],
    "<|channel>final\nYes<channel|> no": [("answer", "final\nYes no")],
    "<|channel>thoughtful\nYes": [("answer", "thoughtful\nYes")],
    "<|channel><channel|>Yes": [("answer", "Yes")],
    "<channel|>Yes<tool_call|>!": [("answer", "Yes!")],
    "a<|channel>thought\nb<channel|>c<|channel>thought\nd": [
        ("answer", "a"),
        ("thought", "b"),
        ("answer", "c"),
        ("thought", "d"),
    ],
    "<|channel>thought\nb<|tool_call>call:f{}<tool_call|>c": [
        ("thought", "b"),
        ("tool_call", "call:f{}"),
        ("answer", "c"),
    ],
    "<|tool_call>call:f{}<tool_call|><|tool_call>call:g{}<tool_call|>": [("tool_call", "call:f{}call:g{}")],
    f"a<|tool_call>{CALL}": [("answer", f"a<|tool_call>{CALL}")],
    "<|tool_call>f(2)<tool_call|>b": [("answer", "<|tool_call>f(2)<tool_call|>b")],
    "<|tool_call>call:f{<|tool_call>call:g{}<tool_call|>": [
        ("answer", "<|tool_call>call:f{"),
        ("tool_call", "call:g{}"),
    ],
    "<|channel>thought\né": [("thought", "é")],
}


@pytest.mark.parametrize("text", CASES)
def test_what_a_turn_is_made_of(processor, text):
    assert channels(processor, text) == CASES[text]


def test_text_that_spells_a_marker_is_text(processor):
    (newline,), (end_of_turn,) = processor.tokenize("\n"), processor.stop_ids(["<turn|>"])
    spelled = processor.encode([{"role": "user", "content": WHOLE}])
    inside = spelled[spelled.index(newline) + 1 : spelled.index(end_of_turn)]
    turn = processor.turn([], StopStrings())
    pieces = [*(turn.add(token) for token in inside), turn.finish()]
    assert {str(channel) for text, channel in pieces if text} == {"answer"}
    assert "".join(text for text, _ in pieces) == WHOLE


def test_a_prompt_may_have_opened_a_thought(processor):
    opened = "<bos><|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\n"
    assert channels(processor, "hm<channel|>Yes", opened) == [("thought", "hm"), ("answer", "Yes")]
    assert channels(processor, "hm", opened + "so ") == [("thought", "hm")]
    assert channels(processor, "Yes", opened + "<channel|>") == [("answer", "Yes")]
    assert channels(processor, "Yes", opened + "hm<turn|>\n<|turn>model\n") == [("answer", "Yes")]
    assert channels(processor, "Yes", opened, skip_special_tokens=False) == [("answer", "Yes")]


def test_stop_strings_are_for_answers(processor):
    assert channels(processor, WHOLE, stop=["2", "4"]) == [("thought", "hm, 2 + 2\n"), ("answer", "It is ")]
    assert channels(processor, "abc<|channel>thought\nd", stop=["cd"]) == [("answer", "abc"), ("thought", "d")]
    assert channels(processor, WHOLE, stop=["hm"], skip_special_tokens=False) == [("answer", "<|channel>thought\n")]


def test_raw_is_what_was_written(processor):
    for text in CASES:
        raw = channels(processor, text, skip_special_tokens=False)
        assert raw == [("answer", text)]


def test_any_order_of_markers_and_bytes_comes_out(processor):
    """Without channels nothing but markers is lost; with them every answer is in the text."""
    rng = random.Random(0)
    parts = [*MARKERS[:5], "thought\n", "hello ", "call:f{}", "é", "\n"]
    for _ in range(2000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(9)))
        found = channels(processor, text)
        assert channels(processor, text, skip_special_tokens=False) == ([("answer", text)] if text else [])
        assert {channel for channel, _ in found} <= {"answer", "thought", "tool_call"}
        if not any(marker in text for marker in MARKERS):
            assert found == ([("answer", text)] if text else [])
        assert "".join(text for _, text in found).count("hello") == text.count("hello")


# Generated


@pytest.fixture
def scripted(tiny, processor):
    """A target that writes what it is told, with drafts or without."""

    def run(text, function=stream_generate, drafts=0, **options):
        script = [*processor.tokenize(text), processor.tokenize("<turn|>")[0]]
        prompt = processor.encode("hello")

        def forced(tokens, logits):
            wanted = script[tokens.size - len(prompt)]
            return mx.where(mx.arange(logits.shape[-1]) == wanted, 0.0, -mx.inf)[None]

        assistant = tiny[2] if drafts else None
        options |= {"logits_processors": [forced], "num_assistant_tokens": drafts}
        return function(tiny[0], processor, prompt, assistant, **options)

    return run


@pytest.mark.parametrize("drafts", [0, 1])
def test_responses_tell_channels_apart(scripted, drafts):
    made = list(scripted(WHOLE, drafts=drafts))
    by_channel = {
        name: "".join(r.text for r in made if r.channel == name) for name in ("thought", "answer", "tool_call")
    }
    assert by_channel == {"thought": "hm, 2 + 2\n", "answer": "It is 4.", "tool_call": CALL}
    assert made[-1].finish_reason == "stop"
    assert scripted(WHOLE, generate, drafts) == "It is 4."
    assert scripted(WHOLE, generate, drafts, skip_special_tokens=False) == WHOLE
    cut = list(scripted(WHOLE, drafts=drafts, max_tokens=14))
    assert {str(r.channel) for r in cut if r.text} == {"thought"}
    assert cut[-1].finish_reason == "length"


def test_without_channel_tokens_all_is_answer(tiny):
    assert {str(r.channel) for r in stream_generate(tiny[0], tiny[1], "Hello.", max_tokens=12)} == {"answer"}


# History


@pytest.mark.parametrize("thinks", [False, True])
def test_thoughts_do_not_stay(processor, thinks):
    """Neither the model's nor the empty one of the template; a chat goes on from what the template would render."""
    messages = [{"role": "system", "content": "be brief"}]
    for message, written in (("hello", f"{THOUGHT}it is"), ("who", "no"), ("and", "<|channel>thought\nhm"), ("so", "")):
        messages.append({"role": "user", "content": message})
        prompt = processor.encode(messages, enable_thinking=thinks)
        history = processor.history(prompt, processor.tokenize(f"{written}<turn|>"))
        messages.append({"role": "assistant", "content": written})
        following = processor.encode([*messages, {"role": "user", "content": "next"}], enable_thinking=thinks)
        assert following[: len(history)] == history
        rest = processor.decode(following[len(history) :], skip_special_tokens=False)
        assert rest.removeprefix("<turn|>").startswith("\n<|turn>user\nnext")


@pytest.mark.parametrize("in_parts", [False, True])
def test_thoughts_in_messages_are_left_out(processor, in_parts):
    def turns(text):
        content = [{"type": "text", "text": text}] if in_parts else text
        return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]

    assert processor.encode(turns(f"{THOUGHT}it is")) == processor.encode(turns("it is"))
    assert processor.encode(turns("it is <|channel>thought\nhm")) == processor.encode(turns("it is"))
    user = processor.encode([{"role": "user", "content": THOUGHT}])
    assert processor.decode(user, skip_special_tokens=False).count(THOUGHT) == 1  # it is text of the user's


# The command


@pytest.fixture
def thinking(tmp_path):
    """The embedded target with a template that knows of thinking."""
    folder = shutil.copytree(ASSETS / "tiny", tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        template.replace("{{- bos_token -}}", "{{- bos_token -}}{%- if enable_thinking -%}think hard{%- endif -%}")
    )
    return folder


def test_the_command_lets_the_model_think(thinking, capsys):
    def run(**options):
        options = {"prompt": "Hello.", "max_tokens": 4, "as_json": True, "assistant_model": "none"} | options
        assert command(model=str(thinking), **options) == 0
        return json.loads(capsys.readouterr().out)

    assert run(enable_thinking=True)["prompt_tokens"] > run()["prompt_tokens"]
    shown = run(show_thinking=True)
    assert (shown["thought"], shown["tool_calls"], shown["text"]) == ("", [], run()["text"])
    with pytest.raises(InputError, match="--enable-thinking is for the chat template"):
        run(enable_thinking=True, ignore_chat_template=True)


@pytest.mark.parametrize(("everything", "printed"), [(False, "It is 4."), (True, f"hm, 2 + 2\n\nIt is 4.\n{CALL}")])
def test_what_the_command_prints(scripted, capsys, everything, printed):
    screen = Screen(everything)
    for response in scripted(WHOLE):
        screen.show(response)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(("shown", "printed"), [(False, "It is 4.\n"), (True, f"hm, 2 + 2\n\nIt is 4.\n{CALL}\n")])
def test_show_thinking_of_the_command(scripted, tiny, processor, monkeypatch, capsys, shown, printed):
    made, pair = list(scripted(WHOLE)), Pair(tiny[0], None, processor)
    monkeypatch.setattr("mlx_gemma4_assist.api.stream", lambda *_, **__: (each for each in made))
    monkeypatch.setattr(generate_module, "load_pair", lambda *_: pair)
    assert command(prompt="hello", assistant_model="none", show_thinking=shown, learned=False) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("drafts", [0, 1])
def test_a_text_ends_where_the_turn_is_the_tools(scripted, processor, drafts):
    """As the template says by naming the token; no file lists it among the stop ids."""
    made = list(scripted(f"{WHOLE}<|tool_response>and more", drafts=drafts))
    assert made[-1].finish_reason == "stop"
    assert [made[-1].token] == processor.tokenize("<|tool_response>")
    assert "".join(response.text for response in made if response.channel == "tool_call") == CALL
