"""Commands of the chat, on a backend that answers as it was told to."""

import io
import json

import pytest
from support.paths import PHOTO
from support.scripted_backend import ScriptedBackend, said

from mlx_gemma4_assist import ChatSession, GenerationOptions, InputError
from mlx_gemma4_assist.server.exchange import (
    Finished,
    FinishReason,
    Model,
    Piece,
    RequestError,
    Started,
    TokenInfo,
    Usage,
)
from mlx_gemma4_assist.terminal import slash, slash_stored
from mlx_gemma4_assist.terminal.compare import pace, verdict
from mlx_gemma4_assist.terminal.keeping import Keeping
from mlx_gemma4_assist.terminal.setting import SETTABLE, option_named
from mlx_gemma4_assist.terminal.store import Store
from mlx_gemma4_assist.terminal.style import Terminal
from mlx_gemma4_assist.terminal.talk import Look, Talk
from mlx_gemma4_assist.text.deltas import AnswerDelta
from mlx_gemma4_assist.text.messages import Kind


class Scene:
    """A conversation whose answers are written, and what is shown of it."""

    def __init__(self, folder, *scripts, automatic=True, **facts):
        self.backend = ScriptedBackend(*scripts)
        given = {"context": 100, "max_tokens": 50, "pictures": True, "thinking": True, "assistant": "drafter"} | facts
        self.backend.model = Model(id="someone/gemma", **given)
        self.out, self.notes = io.StringIO(), io.StringIO()
        terminal = Terminal(self.out, self.notes, {}, None)
        self.keeping = Keeping(Store(folder), terminal.note, automatic=automatic)
        self.keeping.model = "someone/gemma"
        self.keeping.anew()
        self.session = ChatSession(self.backend)
        self.talk = Talk(self.session, self.backend, terminal, self.keeping, Look())

    def do(self, line):
        """What is noted of a line."""
        self.notes.truncate(self.notes.seek(0))
        command = slash.typed(line)
        if command is None:
            self.talk.message(line)
        else:
            slash.run(self.talk, command)
        return self.notes.getvalue()

    @property
    def contents(self):
        return [message["content"] for message in self.session.messages]


@pytest.fixture
def scene(tmp_path):
    return lambda *scripts, **facts: Scene(tmp_path / "data", *scripts, **facts)


def drafted(*words, seconds=1.0, drafted=4):
    """An answer of words that took so long, with drafts or without."""
    tokens = len(words)
    usage = Usage(completion_tokens=tokens, drafted=drafted, accepted=drafted // 2, rounds=tokens if not drafted else 2)
    pieces = [Piece(0, (AnswerDelta(word),), (TokenInfo(i, word),)) for i, word in enumerate(words)]
    return [Started(7, 3), *pieces, Finished(0, FinishReason.STOP, None, usage, 0.0, 0.1, seconds)]


# Which lines are commands


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("q", ("quit", "")),
        (" h ", ("help", "")),
        ("r", ("reset", "")),
        ("/set top-k 5", ("set", "top-k 5")),
        ("/SYSTEM  Be brief.\nAlways.", ("system", "Be brief.\nAlways.")),
        ("/undo\n", ("undo", "")),
        ("quit", None),
        ("q?", None),
        ("// a comment", None),
        ("a /undo", None),
        ("", None),
    ],
)
def test_commands_are_told_from_text(line, expected):
    assert slash.typed(line) == expected


def test_paths_are_text(tmp_path):
    (tmp_path / "a file.txt").write_text("")
    assert slash.typed(f"{PHOTO} Who?") is None
    assert slash.typed(f"{tmp_path}/a file.txt") is None
    with pytest.raises(InputError, match="there is no command"):
        slash.typed(f"{tmp_path}/nothing")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/redo", "no command /redo, perhaps /undo: /help lists them, // begins text with a slash"),
        ("/xylophone", "no command /xylophone: /help"),
        ("/", "no command /: /help"),
    ],
)
def test_unknown_commands_name_the_nearest(line, message):
    with pytest.raises(InputError, match=message):
        slash.typed(line)


def test_what_a_command_does_not_heed_is_refused(scene):
    there = scene(said("One."))
    there.do("Hi")
    for line in ("/undo 2", "/reset the router", "/retry hotter", "/branches 1", "/compare 2", "/copy all", "/stats x"):
        with pytest.raises(InputError, match="takes nothing behind it"):
            there.do(line)
    assert there.contents == ["Hi", "One."]


def test_help_names_every_command():
    told = slash.help_text()
    for name in slash.COMMANDS:
        assert f"/{name}" in told
    assert max(map(len, told.splitlines())) < 80


def test_help_and_leaving(scene):
    there = scene()

    def at_once(line):
        there.notes.truncate(there.notes.seek(0))
        return slash.at_once(there.talk.terminal, slash.typed(line)), there.notes.getvalue()

    assert at_once("/help") == (False, f"{slash.help_text()}\n")
    assert at_once("/help undo") == (False, "/undo  take back files that wait, else the last exchange\n")
    assert at_once("/help /SET") == (False, "/set [NAME VALUE]  list the options of generation, or set one\n")
    assert at_once("/quit") == (True, "")
    for line, message in (("/help redo", "no command /redo, perhaps /undo"), ("/quit now", "takes nothing behind it")):
        with pytest.raises(InputError, match=message):
            at_once(line)


def test_completion(scene):
    there = scene()
    words = slash.completions(lambda: there.talk)

    def completed(text):
        return [found.text for found in words.complete(text, asked=True)]

    assert completed("/re") == ["/reset", "/retry"]
    assert completed("/thinking o") == ["off", "on"]
    assert completed("/set temp") == ["temp"]
    assert completed("/set num") == ["num-assistant-tokens"]
    assert completed("/set temp de") == ["default"]
    assert list(slash.completions(lambda: None).complete("/load ", asked=True)) == []
    there.keeping.store.folder.mkdir()
    (there.keeping.store.folder / "sessions").write_text("")  # which is no folder
    assert completed("/load ") == []


# What was said


def test_undo_retry_branches_switch(scene):
    there = scene(said("One."), said("Two."), said("Three."))
    there.do("Count.")
    assert "reused" in there.do("/retry")
    assert there.contents == ["Count.", "Two."]
    told = there.do("/branches")
    assert "  1  2 messages  Count." in told
    assert "* 2  2 messages  Count." in told
    assert "It ends: One." in there.do("/switch 1")
    assert there.contents == ["Count.", "One."]
    assert there.do("/undo") == "The last exchange is taken back.\n"
    assert there.contents == []
    assert there.talk.used == 0
    assert there.do("/undo") == "There is nothing to take back.\n"
    for line in ("/retry", "/switch 9", "/switch x", "/edit", "/compare", "/copy"):
        with pytest.raises(InputError):
            there.do(line)


def test_a_message_is_edited(scene):
    there = scene(said("One."), said("Two."), said("Three."), said("Four."))
    there.do(f"Who? {PHOTO}")
    there.do("And?")
    assert there.do("/edit 1").startswith("What is sent next takes the place of message 1; an empty line")
    assert there.talk.draft == "Who?"
    there.do("Where?")
    shown, text = there.session.messages[0]["content"]
    assert (shown["type"], text["text"]) == ("image", "Where?")
    assert there.contents[1:] == ["Three."]
    there.do("/edit When?")
    assert there.session.messages[0]["content"][-1]["text"] == "When?"
    assert "the place of message 1;" in there.do("/edit")
    there.do("/context")
    assert there.talk.edited is not None
    there.do("/undo")
    assert there.talk.edited is None
    with pytest.raises(InputError, match="nothing has been said"):
        there.do("/edit 5")


def test_the_system_prompt(scene):
    there = scene(said("One."))
    assert there.do("/system") == "There is no system prompt.\n"
    there.do("/system Be brief.")
    there.do("Hi")
    assert there.backend.requests[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert there.do("/system") == "Be brief.\n"
    there.do("/system none")
    assert there.contents == ["Hi", "One."]


def test_what_fails_is_told_and_can_be_sent_again(scene):
    there = scene(RequestError(400, "too long"), said("One."))
    with pytest.raises(InputError, match="too long"):
        there.do("Hi")
    assert there.contents == []
    there.do("Hi")
    assert there.contents == ["Hi", "One."]


def test_pictures_go_with_the_next_message(scene):
    there = scene(said("One."), said("Two."))
    label = there.do(f"/image {PHOTO}")
    assert label.startswith("[picture 1: grace_hopper.jpg ")
    assert there.do(f"'{PHOTO}'").startswith("[picture 2: ")
    assert there.backend.requests == []
    there.do("Who?")
    assert [part["type"] for part in there.session.messages[0]["content"]] == ["image", "image", "text"]
    assert there.do(f"And {PHOTO}?").startswith("[picture 3: ")
    for line, message in (
        ("/image", "takes the path"),
        ("/image no.png", "no file"),
        (f"/image {PHOTO.parent}", "is a folder, expected a picture"),
        ("/image '", "names no file"),
        ("/audio a.wav", "takes no sound"),
    ):
        with pytest.raises(InputError, match=message):
            there.do(line)


def test_pictures_that_wait_are_taken_back_first(scene):
    """One that cannot be had would fail every message."""
    there = scene(said("One."))
    there.do("Hi")
    there.do("/image http://127.0.0.1:1/x.png")
    assert there.do("/undo") == "Nothing goes with the next message any longer.\n"
    assert (there.talk.attached, there.contents) == ([], ["Hi", "One."])
    there.do("/undo")
    assert there.contents == []


def test_a_text_model_is_shown_nothing(scene):
    there = scene(pictures=False)
    with pytest.raises(InputError, match="someone/gemma takes no picture"):
        there.do(f"Who? {PHOTO}")
    assert there.talk.attached == []


# Options


def test_what_another_option_needs_stays(scene):
    there = scene()
    there.do("/set kv-bits 8")
    there.do("/set kv-group-size 32")
    with pytest.raises(InputError, match="^kv-group-size is for quantized keys and values, and there is no kv-bits"):
        there.do("/set kv-bits default")
    assert there.session.options == {"kv_bits": 8, "kv_group_size": 32}
    there.do("/set kv-group-size default")
    there.do("/set kv-bits default")
    assert there.session.options == {}


def test_options_are_set_and_listed(scene):
    there = scene(said("One."), said("Two."))
    assert there.do("/set top-k 5") == "top-k is 5 from now on.\n"
    there.do("/set temp 0.5")
    there.do('/set stop ["a", "b"]')
    there.do("/set logit_bias 5=-100")
    there.do("Hi")
    options = GenerationOptions(**there.backend.requests[0].options)
    assert (options.top_k, options.temperature, options.stop) == (5, 0.5, ("a", "b"))
    assert options.logit_bias == ((5, -100.0),)
    listed = there.do("/set")
    assert "* top-k                 5" in listed
    assert "  min-p                 0.0" in listed
    assert there.do("/set top_k default") == "top-k is as without it.\n"
    assert there.do(f"/set regex {'a' * 500}") == f"regex is {'a' * 60} from now on.\n"
    assert "top_k" not in there.session.options


def test_every_option_has_its_names():
    for name in SETTABLE:
        assert option_named(name) == option_named(name.replace("_", "-")) == name
    assert option_named("temp") == "temperature"
    assert option_named("--max-tokens") == option_named("m") == "max_tokens"


def test_grammars_may_be_files(scene, tmp_path):
    there = scene(said("One."))
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    there.do(f"/set json-schema {tmp_path}/schema.json")
    there.do("Hi")
    assert json.loads(there.backend.requests[0].options["json_schema"]) == {"type": "object"}
    there.do("/set json-schema default")
    (tmp_path / "a grammar.lark").write_text("start: /a/")
    for written in (f"{tmp_path}/a grammar.lark", f"{tmp_path}/a\\ grammar.lark", f"'{tmp_path}/a grammar.lark'"):
        there.do(f"/set lark {written}")  # the second is what Tab makes of it
        assert there.session.options["lark"] == "start: /a/"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set tempo 1", "there is no option 'tempo'"),
        pytest.param(f"/set {'x' * 99} 1", "no option 'x{39}: /set", id="a long name"),
        ("/set top-k", "needs a value"),
        ("/set top-k many", "^top-k is 'many', expected 0 or a positive integer"),
        ("/set top_k many", "^top-k is 'many'"),
        ("/set temp -1", "^temp is -1"),
        ("/set temperature -1", "^temp is -1"),
        ("/set draft-temperature 1", "^draft-temperature needs a temp above 0"),
        ("/set json-schema {", "^json-schema is"),
        ('/set json-schema {"type": 5}', "^json-schema is not supported: "),
        ("/set regex (", "^regex is not supported: "),
        ("/set lark start: (", "^lark is not supported: "),
        ("/set kv-bits 3", "^kv-bits is 3"),
        ("/thinking maybe", "thinking is 'maybe', expected off, on"),
        ("/drafts maybe", "switched on or off"),
        pytest.param(
            "/set top-k " + "[" * 100_000, r"^top-k is '\[{99}, expected 0 or a positive integer", id="nested"
        ),
        pytest.param("/set json-schema " + "[" * 9999, r"^json-schema is '\[{99}, expected", id="longer than any name"),
        pytest.param("/thinking " + "9" * 5000, "expected off, on", id="thousands of digits"),
        pytest.param("/switch " + "9" * 5000, "takes the number of a branch", id="a branch of thousands of digits"),
    ],
)
def test_what_is_no_value(scene, line, message):
    there = scene()
    with pytest.raises(InputError, match=message):
        there.do(line)
    assert there.session.options == {}


def test_thinking(scene):
    there = scene(said("One."), said("Two."))
    assert there.do("/thinking") == "Thinking is off.\n"
    assert there.do("/thinking ON") == "Thinking is on from now on.\n"
    assert there.do("/thinking 64") == "Thinking is on, with 64 tokens at most from now on.\n"
    there.do("Hi")
    there.do("/thinking off")
    there.do("Hi")
    asked = [(request.thinking, request.thinking_budget) for request in there.backend.requests]
    assert asked == [(True, 64), (False, None)]
    with pytest.raises(InputError, match="knows no thinking"):
        scene(thinking=False).do("/thinking on")


def test_the_assistant_is_switched(scene):
    there = scene(said("One."), said("Two."))
    there.do("/assistant off")
    there.do("Hi")
    there.do("/assistant on")
    there.do("Hi")
    assert [request.options for request in there.backend.requests] == [{"num_assistant_tokens": 0}, {}]
    drawn = {"temperature": 1.0, "num_assistant_tokens": 2, "draft_temperature": 0.7}
    for name, value in drawn.items():
        there.session.set_option(name, value)
    there.do("/assistant on")
    assert there.session.options == drawn
    for line in ("/assistant off", "/assistant off"):
        there.do(line)
        assert there.session.options == {"temperature": 1.0, "num_assistant_tokens": 0}
    there.do("/assistant")
    assert there.session.options == drawn
    with pytest.raises(InputError, match="no assistant"):
        scene(assistant=None).do("/assistant off")


def test_what_it_took(scene):
    there = scene(drafted("a", "b", "c", "d", seconds=2.0), drafted("e", "f", seconds=1.0))
    there.do("Hi")
    there.do("Hi")
    assert "2 answers, 6 tokens, 1.50 per round, 50% of drafts accepted, 2.0 per second" in there.do("/stats")
    assert there.do("/context") == "Context: 1 of 100 tokens (1%)\n"


def test_figures_of_a_server_that_is_gone_are_one_line(scene, monkeypatch):
    def gone():
        raise RequestError(503, "nobody answers at http://127.0.0.1:1")

    there = scene(said("One."))
    there.do("Hi")
    monkeypatch.setattr(there.backend, "health", gone)
    with pytest.raises(InputError, match="nobody answers at"):
        there.do("/stats")


# Comparing


def test_an_answer_is_compared(scene):
    there = scene(drafted("a", "b", "c", seconds=1.0), drafted("a", "b", "c", seconds=3.0, drafted=0))
    there.do("Hi")
    told = there.do("/compare")
    assert "Without drafts:" in told
    assert "The same text. Drafts made it 3.00 times as fast: 2.0 tokens per second with them, 0.7 without." in told
    assert there.backend.requests[1].options["num_assistant_tokens"] == 0
    assert list(there.backend.requests[1].messages) == [{"role": "user", "content": "Hi"}]
    assert there.contents == ["Hi", "abc"]


def test_texts_are_judged_by_how_the_answer_was_drawn(scene):
    """Whatever is set since."""
    there = scene(drafted("a", "b"), drafted("a", "c", drafted=0), drafted("d", "e"), drafted("d", "f", drafted=0))
    there.do("/set temp 1")
    there.do("Hi")
    there.do("/set temp 0")
    assert "Drawn texts may differ" in there.do("/compare")
    there.do("And?")
    there.do("/set temp 1")
    assert "Greedy texts are the same" in there.do("/compare")


def test_without_drafts_there_is_nothing_to_compare(scene):
    there = scene(drafted("a", "b", drafted=0))
    there.do("Hi")
    with pytest.raises(InputError, match="made without drafts"):
        there.do("/compare")


def test_verdicts():
    assert verdict("abc", "abc", False, False) == "The same text."
    assert verdict("ab", "abc", True, False).startswith("The same text, as far as")
    greedy = verdict("abd", "abc", False, False)
    assert greedy.startswith("Another text from character 3 on: 'abd' with drafts, 'abc' without.")
    assert "parity" in greedy
    assert "Drawn texts may differ" in verdict("ab", "abc", False, True)
    assert pace(None, None) == ""


# Where conversations go


def test_conversations_are_kept_as_they_go_on(scene, tmp_path):
    there = scene(said("One."), said("Two."), said("Three."))
    there.do("Count to ten.")
    (saved,) = there.keeping.store.list()
    assert (saved.title, saved.turns, saved.model) == ("Count to ten.", 1, "someone/gemma")
    assert "Saved as numbers: --resume numbers goes on" in there.do("/save numbers")
    there.do("/reset")
    there.do("Hello.")
    assert {each.title for each in there.keeping.store.list()} == {"Count to ten.", "Hello."}
    told = there.do("/load numb")
    assert "numbers: 1 turn so far." in told
    assert ">> Count to ten." in told
    there.do("Go on.")
    assert there.contents == ["Count to ten.", "One.", "Go on.", "Three."]
    assert "numbers  (2)  Count to ten." in there.do("/sessions")
    assert slash_stored.names(there.talk)[0] == "numbers"


def test_the_message_is_saved_before_its_answer(scene):
    class Looking(list):
        def pop(self, number):
            titles.extend(each.title for each in there.keeping.store.list())
            return super().pop(number)

    titles = []
    there = scene()
    there.backend._scripts = Looking([said("One."), said("Two.")])
    there.do("First.")
    there.do("Second.")
    stored = json.loads(next((there.keeping.store.folder / "sessions").iterdir()).read_text())
    assert titles == ["First."]
    assert "Two." in json.dumps(stored)


def test_no_history_keeps_nothing_unless_asked_to(scene):
    there = scene(said("One."), said("Two."), automatic=False)
    there.do("Hi")
    assert there.do("/sessions") == "No conversation is saved.\n"
    there.do("/save mine")
    there.do("And?")
    (saved,) = there.keeping.store.list()
    assert (saved.name, saved.turns) == ("mine", 2)


def test_what_cannot_be_saved_is_said_once(scene, tmp_path):
    (tmp_path / "data").write_text("a file")
    there = scene(said("One."), said("Two."))
    assert there.do("Hi").count("The conversation is not saved: ") == 1
    assert "not saved" not in there.do("Hi")
    assert there.contents == ["Hi", "One.", "Hi", "Two."]


def test_of_nothing_nothing_is_kept(scene, tmp_path):
    there = scene()
    there.do("/system Be brief.")
    for line in ("/save", "/save mine", f"/export {tmp_path}/talk.md", f"/export {tmp_path}/talk.json"):
        with pytest.raises(InputError, match="nothing has been said yet"):
            there.do(line)
    assert there.do("/sessions") == "No conversation is saved.\n"
    assert [path.name for path in tmp_path.rglob("talk*")] == []


def test_export_and_copy(scene, tmp_path, monkeypatch):
    there = scene(said("One."))
    there.do("Hi")
    there.do(f"/export {tmp_path}/talk.md")
    assert "One." in (tmp_path / "talk.md").read_text()
    there.do(f"/export '{tmp_path}/a talk.md'")
    there.do(f"/export {tmp_path}/another\\ talk.md")
    assert sorted(path.name for path in tmp_path.glob("*.md")) == ["a talk.md", "another talk.md", "talk.md"]
    assert there.do("/save a talk") == "Saved as a talk: --resume 'a talk' goes on with it.\n"
    copied = []
    monkeypatch.setattr(slash_stored, "copy", lambda text: copied.append(text) or "a test")
    assert there.do("/copy") == "Copied, by a test.\n"
    monkeypatch.setattr(slash_stored, "copy", lambda text: None)
    for line, message in (("/copy", "no clipboard"), ("/export", "takes a file"), ("/load", "takes a name")):
        with pytest.raises(InputError, match=message):
            there.do(line)
    assert copied == ["One."]
    assert there.talk.counts()[Kind.PICTURE] == 0
