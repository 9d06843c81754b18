"""The chat in a real pseudo-terminal: what its window shows, from the first prompt to the last."""

import json
import re
import shutil
import signal
import termios
from xml.etree import ElementTree

import pytest
from chat_screen import CTRL_C, CTRL_D, CTRL_T, ENTER, ESCAPE, PASTE_BEGINS, PASTE_ENDS, Screen
from PIL import Image
from record_chat import COLOURS, svg
from support import media
from support.chat_server import write_model
from support.multimodal import VOCABULARY
from support.paths import ASSETS

from mlx_gemma4_assist import Processor

MORNING = "It was a fine morning, and"
ENDLESS = ("--logit-bias", '{"1": -99, "5": -99}')
DRAWN = ("--temp", "1", "--seed", "5", "--num-assistant-tokens", "2", "--no-learned")
FIGURES = re.compile(
    r"\[\d+ tokens, [\d.]+ per second, [\d.]+ per round, \d+% of drafts accepted; first token after [\d.]+ s; "
    r"\d+ of \d+ prompt tokens reused; cut off by --max-tokens\]"
)
WHO = [
    "The embedded tiny pair answers, from Jane Austen's novels.",
    "--model google/gemma-4-E2B-it is a real one.",
    "/help lists commands, Ctrl-D leaves.",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("chats")


@pytest.fixture(scope="module")
def running(data):
    with Screen("--max-tokens", "40", *ENDLESS, *DRAWN, data=data) as screen:
        yield screen


@pytest.fixture
def chat(running):
    """A chat at the beginning of a conversation."""
    running.say("/reset")
    running.wait_for("A new conversation.")
    running.wait_for_answer()
    running.say("/set max-tokens 40")
    running.wait_for_answer()
    return running


def stored(data):
    """The latest conversation, as it is on the disk."""
    latest = max((data / "sessions").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(latest.read_text())["session"]["messages"]


def behind(screen, line):
    """What stands behind the last line that has a text, up to the next prompt, or to the toolbar."""
    lines = screen.text.splitlines()
    at = max(i for i, each in enumerate(lines) if line in each)
    ends = (
        i for i, each in enumerate([*lines[at + 1 :], ">>"]) if re.match(r">>|(tiny|model)( \+ |, loading|$)", each)
    )
    return " ".join(" ".join(lines[at + 1 : at + 1 + next(ends)]).split())


def colours(cells):
    return {cell.fg for cell in cells if cell.data.strip()}


def test_the_first_prompt(running):
    running.wait(lambda: running.at_prompt and running.toolbar.startswith("tiny"), "the prompt")
    rows = running.rows
    assert rows[:4] == [*WHO, ">>"]
    assert [row for row in rows[4:] if row] == [running.toolbar]


def test_commands_are_listed_as_one_types(running):
    running.wait_for_answer()
    running.type("/th")
    running.wait_for("/thinking")
    assert "whether the model thinks first" in running.shown
    running.type(CTRL_C)
    running.wait(lambda: running.at_prompt, "the prompt")
    running.wait(lambda: "/thinking" not in running.shown, "the list being gone")


def test_an_answer_and_a_line_on_it(chat, data):
    chat.say(MORNING)
    chat.wait_for_answer()
    said = behind(chat, f">> {MORNING}")
    figures = FIGURES.search(said)
    assert figures is not None
    asked, answered = stored(data)
    assert asked == {"role": "user", "content": MORNING}
    assert said[: figures.start()].strip() == " ".join(answered["content"].split())
    assert all(cell.blink for cell in chat.styles("[40 tokens"))  # which stands for dim
    assert colours(chat.styles(f">> {MORNING}")) == {"default"}
    told = re.compile(r"tiny \+ tiny-assistant  \d+ of 4,096 tokens  [\d.]+ tokens per second")
    chat.wait(lambda: told.fullmatch(chat.toolbar) is not None, "the toolbar")


def test_drafts_are_coloured(chat):
    chat.say("/drafts on")
    chat.wait_for("second draft")
    chat.wait_for_answer()
    first, second = (colours(chat.styles(f"{name} draft")) for name in ("first", "second"))
    chat.say(MORNING)
    chat.wait_for_answer()
    rows = ["".join(cell.data for cell in row) for row in chat.cells]
    begin = max(i for i, row in enumerate(rows) if MORNING in row) + 1
    end = max(i for i, row in enumerate(rows) if row.startswith("["))
    shown = colours(cell for row in chat.cells[begin:end] for cell in row)
    assert shown >= {"default"} | first | second
    chat.say("/drafts off")
    chat.wait_for("not coloured any longer")


def test_ctrl_c_ends_an_answer_and_the_next_goes_on(chat, data):
    chat.say("/set max-tokens 3000")
    chat.wait_for_answer()
    chat.say(MORNING)
    chat.wait(lambda: len(behind(chat, MORNING)) > 40, "an answer's beginning")
    chat.type(CTRL_C)
    chat.wait_for("; stopped]")
    chat.wait_for_answer()
    kept = stored(data)[1]["content"]
    assert " ".join(kept.split())[:40] in behind(chat, MORNING)
    chat.say("/set max-tokens 8")
    chat.wait_for_answer()
    chat.say("And then?")
    chat.wait_for_answer()
    assert [message["role"] for message in stored(data)] == ["user", "assistant"] * 2
    assert stored(data)[1]["content"] == kept
    reused, of = re.findall(r"(\d+) of (\d+) prompt tokens reused", behind(chat, "And then?"))[0]
    assert int(of) - int(reused) < 40


def test_a_thousand_lines_are_pasted(chat, data):
    lines = "\n".join(f"{number}" for number in range(1000))
    chat.wait_for_answer()
    chat.type(PASTE_BEGINS + lines + PASTE_ENDS)
    chat.wait_for("999")
    assert "error" not in chat.shown
    chat.type(ENTER)
    chat.wait(lambda: chat.at_prompt, "an answer", 60)
    assert stored(data)[0]["content"] == lines


def test_lines_are_begun_and_written(chat, data):
    chat.wait_for_answer()
    chat.type(f"She{ESCAPE}{ENTER}was \\{ENTER}glad.")
    chat.wait_for(".. glad.")
    chat.type(ENTER)
    chat.wait_for_answer()
    assert stored(data)[0]["content"] == "She\nwas \nglad."


def test_undo_retry_save(chat, data):
    chat.say(MORNING)
    chat.wait_for_answer()
    first = stored(data)[1]["content"]
    chat.say("/set seed 6")
    chat.wait_for_answer()
    chat.say("/retry")
    chat.wait(lambda: chat.at_prompt and "tokens, " in behind(chat, "/retry"), "another answer")
    assert stored(data)[1]["content"] not in ("", first)
    chat.say("/branches")
    chat.wait_for("* 2  2 messages")
    chat.wait_for_answer()
    chat.say("/save mornings")
    chat.wait_for("Saved as mornings: --resume mornings goes on with it.")
    assert (data / "sessions" / "mornings.json").exists()
    chat.say("/undo")
    chat.wait_for("The last exchange is taken back.")
    chat.wait_for_answer()
    assert stored(data) == []
    chat.say("/set seed 5")
    chat.wait_for_answer()


def test_an_unknown_command_is_not_sent(chat):
    chat.say("/redo")
    chat.wait_for("error: there is no command /redo, perhaps /undo")
    chat.say("/context")
    chat.wait_for("Context: 0 of 4,096 tokens (0%)")


def test_the_last_answer_is_compared(chat):
    chat.say(MORNING)
    chat.wait_for_answer()
    chat.say("/compare")
    chat.wait_for("The same text. Drafts made it")
    assert "Without drafts:" in chat.shown


def test_the_window_is_resized(chat):
    chat.say(MORNING)
    chat.wait_for_answer()
    chat.resize(40, 16)
    chat.wait(lambda: chat.at_prompt, "the prompt in a smaller window")
    chat.say("And then?")
    chat.wait_for_answer()
    assert max(map(len, chat.rows)) <= 40
    assert FIGURES.search(behind(chat, "And then?"))
    chat.resize(80, 24)
    chat.wait(lambda: chat.at_prompt, "the prompt in a larger window")


def test_killed_and_resumed(tmp_path):
    """All but the answer under way is there, in a narrow window without colours too; Ctrl-C twice leaves."""
    with Screen("--max-tokens", "40", *ENDLESS, *DRAWN, data=tmp_path) as screen:
        screen.say(MORNING)
        screen.wait_for_answer()
        screen.say("/set max-tokens 3000")
        screen.wait_for_answer()
        screen.say("And then?")
        screen.wait(lambda: len(behind(screen, "And then?")) > 40, "an answer's beginning")
        screen.kill()
    asked = stored(tmp_path)
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    arguments = ("--resume", "--max-tokens", "8", *ENDLESS, *DRAWN)
    with Screen(*arguments, data=tmp_path, columns=20, lines=24, NO_COLOR="1") as screen:
        screen.wait(lambda: screen.at_prompt, "the prompt")
        assert "1 turn so far." in " ".join(screen.text.split())
        assert "That was not answered: /retry does it." in " ".join(screen.text.split())
        screen.say("/retry")
        screen.wait(lambda: screen.at_prompt and "--max-tokens]" in screen.text.replace("\n", ""), "an answer")
        assert max(map(len, screen.rows)) <= 20
        (reused,) = re.findall(r"(\d+) of \d+ prompt tokens reused", screen.text.replace("\n", " "))
        assert int(reused) > 40  # keys and values outlive the process, too
        assert re.search(rb"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7])m|\x1b\[2m", screen.raw) is None
        assert [message["role"] for message in stored(tmp_path)] == ["user", "assistant"] * 2
        screen.type(CTRL_C)
        screen.wait(lambda: "Ctrl-C again" in screen.text.replace("\n", " ") and screen.at_prompt, "how to leave")
        screen.type(CTRL_C)
        assert screen.ended() == 0
    assert b"Traceback" not in screen.raw


def test_a_model_that_cannot_be_loaded_ends_the_prompt(tmp_path):
    """In one line, and without a traceback."""
    model = shutil.copytree(ASSETS / "tiny", tmp_path / "model")
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with Screen("--model", str(model), "--assistant-model", "none", data=tmp_path / "data") as screen:
        assert screen.ended() == 2
    (line,) = [each for each in screen.text.splitlines() if each.startswith("error: ")]
    assert "the model could not be loaded" in line or "safetensors" in line
    assert "Traceback" not in screen.text


def test_what_is_recorded_is_a_picture(chat):
    """All that the window has shown, with its colours, as SVG."""
    chat.say("/drafts on")
    chat.wait_for("first draft")
    chat.wait_for_answer()
    picture = ElementTree.fromstring(svg(chat.cells))
    texts = list(picture.iter("{http://www.w3.org/2000/svg}tspan"))
    assert any((text.text or "").startswith(">> /drafts on") for text in texts)
    (first,) = {text.get("fill") for text in texts if text.text == "first draft"}
    assert first == COLOURS["green"]
    chat.say("/drafts off")
    chat.wait_for_answer()


def test_who_leaves_at_once_need_not_wait(tmp_path):
    with Screen(data=tmp_path) as screen:
        screen.wait(lambda: screen.at_prompt, "the prompt")
        screen.type(CTRL_D)
        assert screen.ended() == 0
    assert screen.text.splitlines()[-1].startswith(">>")
    assert not (tmp_path / "sessions").exists()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A model that thinks at once and takes pictures, its options, and a picture."""
    folder = tmp_path_factory.mktemp("thinker")
    model = write_model(folder / "model")
    picture = folder / "a tall one.png"
    Image.fromarray(media.picture(96, 64)).save(picture)
    letters = set(Processor.from_pretrained(model).tokenize("abcdefghijklmnopqrstuvwxyz"))
    biases = dict.fromkeys(set(range(VOCABULARY)) - letters, -99)  # neither thoughts nor answers end by themselves
    named = ("--model", str(model), "--assistant-model", f"{model}-assistant", "--logit-bias", json.dumps(biases))
    return (*named, *DRAWN), picture


def test_pictures_are_dropped_and_thoughts_are_folded(thinker, tmp_path):
    arguments, picture = thinker
    with Screen(*arguments, "--thinking", "24", "-m", "60", data=tmp_path) as screen:
        screen.wait(lambda: screen.at_prompt, "the prompt")
        dropped = str(picture).replace(" ", "\\ ")
        screen.type(f"{PASTE_BEGINS}{dropped} {PASTE_ENDS}What is it?{ENTER}")
        screen.wait_for("[picture 1: a tall one.png")
        screen.wait(lambda: "--max-tokens]" in screen.shown and screen.at_prompt, "an answer")
        asked, answered = stored(tmp_path)
        assert [part["type"] for part in asked["content"]] == ["image", "text"]
        assert asked["content"][1]["text"] == "What is it?"
        said = screen.text.splitlines()
        assert any(row.startswith("thought for ") for row in said)
        thought = answered["reasoning_content"].strip()
        assert len(thought) > 5
        assert thought[:12] not in screen.text
        assert thought[:12] in screen.written
        screen.say("/thinking on")
        screen.wait_for_answer()
        screen.say("/set max-tokens 2000")
        screen.wait_for_answer()
        screen.say("Why?")
        screen.wait(lambda: len(behind(screen, "Why?")) > 20, "a thought")
        folded = screen.text.count("thought for ")
        screen.type(CTRL_T)
        screen.wait(lambda: screen.text.count("thought for ") > folded, "the thought's end")
        screen.type(CTRL_C)
        screen.wait_for("; stopped]")
        screen.wait_for_answer()
        screen.type(CTRL_D)
        assert screen.ended() == 0


def test_the_end_is_seen_where_a_chat_has_left_its_terminal_before(tmp_path, monkeypatch):
    """There may be nothing more to read while it is still alive."""
    with Screen(data=tmp_path) as screen:
        alive = iter([True] * 5 + [False] * 2)
        monkeypatch.setattr(screen, "_take", lambda: False)
        screen.wait(lambda: not next(alive), "the end")
        assert list(alive) == [False]
        with pytest.raises(TimeoutError, match="no sight of what does not come"):
            screen.wait(lambda: False, "what does not come", 0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_is_left_as_it_was_found(tmp_path, number):
    """Where the chat is ended at its prompt, keys are lines again, and are shown."""
    with Screen(data=tmp_path) as screen:
        before = termios.tcgetattr(screen.process.child_fd)
        screen.wait(lambda: screen.at_prompt, "the prompt")
        assert termios.tcgetattr(screen.process.child_fd) != before
        screen.process.kill(number)
        screen.wait(lambda: not screen.process.isalive(), "the end")
        assert termios.tcgetattr(screen.process.child_fd) == before
        assert screen.ended() == -number
        assert screen.raw.rstrip().endswith(b"\x1b[0m")
        assert b"\x1b[?2004l" in screen.raw[screen.raw.rindex(b"\x1b[?2004h") :]
