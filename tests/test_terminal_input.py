"""What a person types, pastes and drops on a terminal: messages, keys while an answer is made, files."""

import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
import unicodedata
import wave
from contextlib import contextmanager, suppress

import pyte
import pytest
from PIL import Image
from prompt_toolkit.application import create_app_session, get_app_or_none
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.output.vt100 import Vt100_Output

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.terminal import history as history_module
from mlx_gemma4_assist.terminal.completion import PATH, Completions
from mlx_gemma4_assist.terminal.dropped import dropped, show
from mlx_gemma4_assist.terminal.keys import Keys
from mlx_gemma4_assist.terminal.prompt import Prompt
from mlx_gemma4_assist.text.messages import Kind

UP, TAB, ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\033[A", "\t", "\r", "\033\r", "\x03", "\x04"
NOTHING = Completions({}, {})


class Screen:
    """Stands in for the terminal's facts."""

    def __init__(self, interactive=True):
        self.interactive, self.colour, self.notes = interactive, True, []

    def note(self, line):
        self.notes.append(line)


def pasted(text):
    return f"\033[200~{text}\033[201~"


@pytest.fixture
def words():
    return Completions(
        {"/help": "shows the commands", "/reset": "begins anew", "retry": "answers again"},
        {
            "/sessions": lambda: ["Berlin trip", "berries", "Paris"],
            "/set": lambda: ["temperature", "top_k"],
            "/set temperature": lambda: ["0", "1"],
            "/image": lambda: [PATH],
        },
    )


# The line editor


@pytest.fixture
def typing():
    """A function that makes a prompt whose person presses keys, and a pipe for these."""
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):

        def make(history=None, words=lambda: NOTHING, screen=None):
            return Prompt(screen or Screen(), history=history, words=words, toolbar=lambda: "model"), keyboard.send_text

        yield make


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("Hello\r", "Hello"),
        ("Hello\n", "Hello"),
        ("a\033\rb\r", "a\nb"),
        ("She \\\rwas \\\rglad\r", "She \nwas \nglad"),
        ('"""a\rb\\\r"c"\r"""\r', 'a\nb\\\n"c"'),
        ('"""one line"""\r', "one line"),
        ('""""""\r', ""),
        ("Hello\x03again\r", "again"),
        ("Hello\033\rmore\x03\x03", KeyboardInterrupt),
        ("a\\\033[D\r", "a\\"),  # the cursor is before the backslash
        ("\x03", KeyboardInterrupt),
        ("\x04", None),
        ("ab\033[D\033[D\x04\r", "b"),  # with text in the line it deletes
        ("\r", ""),
        ("gr\u00fc\u00df \U0001f600\r", "gr\u00fc\u00df \U0001f600"),
    ],
)
def test_keys_of_a_message(typing, keys, message):
    prompt, press = typing()
    press(keys)
    if message is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            prompt.read()
    else:
        assert prompt.read() == message


def test_a_thousand_pasted_lines_are_one_message(typing):
    """Their line ends send nothing; neither do backslashes at their ends, which stay."""
    prompt, press = typing()
    lines = [f"{number}: " + "word " * 12 + "\\" for number in range(1000)]
    for end in ("\n", "\r\n", "\r"):
        began = time.process_time()
        paste = threading.Thread(target=press, args=[pasted(end.join(lines)) + " and more" + ENTER])
        paste.start()  # it is longer than a pipe holds
        assert prompt.read() == "\n".join(lines) + " and more"
        paste.join()
        assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("paste", "message"),
    [
        ('"""What it does."""\nimport os', '"""What it does."""\nimport os'),
        ('"""\nWhat it does.\n"""\nimport os', '"""\nWhat it does.\n"""\nimport os'),
        ('"""\nWhat it does.\n"""\n', "What it does."),
        ('x = """a\nb"""', 'x = """a\nb"""'),
    ],
)
def test_pasted_programs_keep_their_quotes(typing, paste, message):
    prompt, press = typing()
    press(pasted(paste) + ENTER)
    assert prompt.read() == message


def test_a_default_may_be_edited(typing):
    prompt, press = typing()
    press(" too" + ENTER)
    assert prompt.read("Hello\nyou") == "Hello\nyou too"
    press(CTRL_C + "Bye" + ENTER)
    assert prompt.read("Hello\nyou") == "Bye"


def test_a_draft_survives_ctrl_c_in_a_search(typing):
    prompt, press = typing()
    press("first" + ENTER)
    assert prompt.read() == "first"
    press("dra\x12fi" + CTRL_C + "ft" + ENTER)  # Ctrl-R begins a search
    assert prompt.read() == "draft"


class Drawn:
    """A prompt on a screen, which tells where its cursor is.

    ``script`` holds what a person waits for, a few words that are on the screen together, and the keys pressed then.
    """

    def __init__(self, keyboard, script, columns=60, rows=24):
        self._send, self._script = keyboard.send_text, [*script]
        self.screen = pyte.Screen(columns, rows)
        self.screen.write_process_input = keyboard.send_text
        self.output = Vt100_Output(self, lambda: Size(rows, columns), term="xterm")
        self._stream = pyte.Stream(self.screen)
        self.seen, self.reverse = [], False

    def write(self, text):
        """Called by prompt_toolkit, whose lines end as the terminal's driver would end them."""
        self._stream.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
        self.seen.append([line.rstrip() for line in self.screen.display])
        self.reverse |= any(cell.reverse for cell in self.screen.buffer[self.screen.lines - 1].values())
        if self._script and all(words in "\n".join(self.seen[-1]) for words in self._script[0][0]):
            self._send(self._script.pop(0)[1])

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [60, 20])
def test_what_is_drawn(words, columns):
    """The toolbar is the screen's last line; it is cut where it does not fit, lists come and go."""
    toolbar = "tiny, context 3 of 4,096"
    script = [
        ([">>"], "one\033\rtwo"),
        ([".. two", toolbar[:columns]], "\x03/re"),
        ([">> /re", "/retry"], "set" + ENTER),
    ]
    with create_pipe_input() as keyboard:
        drawn = Drawn(keyboard, script, columns)
        with create_app_session(input=keyboard, output=drawn.output):
            prompt = Prompt(Screen(), history=None, words=lambda: words, toolbar=lambda: toolbar)
            assert prompt.read() == "/reset"
    assert [">> one", ".. two", *[""] * 21, toolbar[:columns]] in drawn.seen
    assert any("/retry" in screen[2] and screen[0] == ">> /re" for screen in drawn.seen)
    assert drawn.seen[-1] == [">> /reset", *[""] * 23]
    assert not drawn.reverse  # the toolbar is quiet


def test_a_dropped_path_moves_nothing(words):
    """For the list of commands lines are kept free, which scrolls the screen."""
    with create_pipe_input() as keyboard:
        drawn = Drawn(keyboard, [([">>"], pasted("/tmp/x.png")), (["x.png", "tiny"], ENTER)])
        drawn.write("\n" * 20)
        with create_app_session(input=keyboard, output=drawn.output):
            prompt = Prompt(Screen(), history=None, words=lambda: words, toolbar=lambda: "tiny")
            assert prompt.read() == "/tmp/x.png"
    assert [*[""] * 20, ">> /tmp/x.png", "", "", "tiny"] in drawn.seen


# The history


def test_history_is_kept_and_private(typing, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "history"
    modes = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda name, flags, mode=0o777, **to: modes.append(mode) or real(name, flags, mode, **to)
    )
    before = os.umask(0)
    try:
        prompt, press = typing(history=path)
        for message in ("first", "se\\\rcond"):
            press(message + ENTER)
            assert prompt.read() is not None
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert 0o600 in modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again, press = typing(history=path)
    press(UP * 2 + ENTER)  # the second line of "se\ncond"
    assert again.read() == "se\ncond"


def test_history_of_one_chat_is_not_lost_to_another(typing, tmp_path):
    (first, press), (second, _) = typing(history=tmp_path / "h"), typing(history=tmp_path / "h")
    for prompt, message in ((first, "a"), (second, "b"), (first, "c")):
        press(message + ENTER)
        prompt.read()
    assert [json.loads(line) for line in (tmp_path / "h").read_text().splitlines()] == ["a", "b", "c"]


def test_without_a_file_nothing_is_written(typing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompt, press = typing(history=None)
    press("first" + ENTER)
    prompt.read()
    press(UP + ENTER)
    assert prompt.read() == "first"
    assert list(tmp_path.iterdir()) == []


def in_a_file(path):
    path.write_text("a file")
    return path / "history"


def as_folder(path):
    path.mkdir()
    return path


def as_pipe(path):
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("place", [in_a_file, as_folder, as_pipe])
def test_a_history_that_cannot_be_is_one_line(typing, tmp_path, place):
    screen = Screen()
    prompt, press = typing(history=place(tmp_path / "history"), screen=screen)
    note, drawn = screen.note, []
    screen.note = lambda line: (drawn.append(get_app_or_none() is not None), note(line))
    for message in ("first", "second"):
        press(message + ENTER)
        assert prompt.read() == message
    assert drawn == [False]  # not in the middle of the prompt
    press(UP * 2 + ENTER)
    assert prompt.read() == "first"
    assert len(screen.notes) == 1
    assert "\n" not in screen.notes[0]


def test_a_damaged_history_is_read_as_far_as_it_goes(typing, tmp_path):
    path = tmp_path / "history"
    path.write_bytes(b'"first"\n\xff\xfe\x00\n{"a": 1}\n"second"\n"tor')
    path.chmod(0o644)
    screen = Screen()
    prompt, press = typing(history=path, screen=screen)
    press(UP + "!" + ENTER)
    assert prompt.read() == "second!"
    assert screen.notes == [f"3 lines of {path} are damaged, and left out"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again, press = typing(history=path, screen=screen)
    press(UP + ENTER)
    assert again.read() == "second!"  # not lost to the torn line before it


def test_a_long_history_is_halved(typing, tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "MOST", 1000)
    path = tmp_path / "history"
    path.write_text("".join(f'"message {number}"\n' for number in range(100)))
    screen = Screen()
    prompt, press = typing(history=path, screen=screen)
    press(UP + ENTER)
    assert prompt.read() == "message 99"
    assert path.stat().st_size <= 500
    assert screen.notes == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Completion


def names(completions, text, asked=True):
    return [candidate.text for candidate in completions.complete(text, asked)]


def test_commands_and_arguments(words):
    assert names(words, "/") == ["/help", "/reset", "/retry"]
    assert names(words, "/re", asked=False) == ["/reset", "/retry"]
    assert [each.help for each in words.complete("/h", False)] == ["shows the commands"]
    assert names(words, "/x") == names(words, "no /re") == names(words, "a\n/re") == names(words, "/reset ") == []
    assert names(words, "/sessions ber") == ["Berlin trip", "berries"]
    assert names(words, "/sessions Berlin t") == ["Berlin trip"]
    assert names(words, "/set t") == ["temperature", "top_k"]
    assert names(words, "/set temperature ") == ["0", "1"]
    assert names(words, "/set temperature 1 1") == []


def test_paths(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my pictures").mkdir()
    for name in ("cat.png", "cow's.png", ".hidden", unicodedata.normalize("NFD", "\u00fcber.png")):
        (tmp_path / "my pictures" / name).touch()
    inside = "/image my\\ pictures/"
    assert names(words, "/image m") == ["my\\ pictures/"]
    assert names(words, inside + "c") == ["my\\ pictures/cat.png", "my\\ pictures/cow\\'s.png"]
    assert names(words, inside + ".") == ["my\\ pictures/.hidden"]
    assert len(names(words, inside + "\u00fc")) == 1
    assert names(words, inside + "c", asked=False) == []  # no folder is read before somebody asks
    assert names(words, f"{tmp_path}/my") == [f"{tmp_path}/my\\ pictures/"]
    assert names(words, "see ~/my") == ["~/my\\ pictures/"]
    assert names(words, "see my") == names(words, "see ./nothing/x") == names(words, "see \0/x") == []


def test_tab_completes(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a cat.png").touch()
    scripts = {
        "/help": [([">>"], "/he"), (["/help"], TAB), ([">> /help"], ENTER)],
        "see ./a\\ cat.png": [([">>"], "see ./a"), (["see ./a"], TAB), (["cat.png"], ENTER)],
    }
    for message, script in scripts.items():
        with create_pipe_input() as keyboard:
            drawn = Drawn(keyboard, script)
            with create_app_session(input=keyboard, output=drawn.output):
                prompt = Prompt(Screen(), history=None, words=lambda: words, toolbar=lambda: "")
                assert prompt.read() == message


# Without a terminal


def lines_of(monkeypatch, content, default=""):
    """All messages of standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    prompt = Prompt(Screen(interactive=False), history=None, words=lambda: NOTHING, toolbar=lambda: "")
    messages = []
    while (message := prompt.read(default)) is not None:
        messages.append(message)
    return messages


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"Hello\nAnd?\n", ["Hello", "And?"]),
        (b"Hello\r\nno end", ["Hello", "no end"]),
        (b"", []),
        (b"\n\nHello\n", ["", "", "Hello"]),
        (b"She \\\nwas \\\nglad.\n", ["She \nwas \nglad."]),
        (b"She \\\n", ["She "]),
        (b'"""a\n  b\\\n"""\nnext\n', ["a\n  b\\", "next"]),
        (b'"""a\nb""" \nnext', ["a\nb", "next"]),
        (b'"""a"""\n"""\nb', ["a", "b"]),
        (b"\xef\xbb\xbfHello\n", ["Hello"]),
        (b"And \xff then\nx\n", ["And \udcff then", "x"]),
    ],
)
def test_lines_of_standard_input(monkeypatch, capsys, content, messages):
    assert lines_of(monkeypatch, content) == messages
    assert capsys.readouterr() == ("", "")  # nobody sees a prompt


def test_an_empty_line_stands_for_the_default(monkeypatch):
    assert lines_of(monkeypatch, b"\nother\n", default="before") == ["before", "other"]


def test_many_quoted_lines_are_read_fast(monkeypatch):
    began = time.process_time()
    [message] = lines_of(monkeypatch, b'"""' + b"word " * 10 + b"\n" * 50_000 + b'"""\n')
    assert message.startswith("word")
    assert time.process_time() - began < 5


def test_importing_the_prompt_takes_no_prompt_toolkit():
    """Neither does reading without a terminal; what has not been imported costs no start."""
    code = (
        "import sys; from mlx_gemma4_assist.terminal import completion, dropped, keys, prompt\n"
        "from types import SimpleNamespace as Names\n"
        "ask = prompt.Prompt(Names(interactive=False), history=None, words=dict, toolbar=str)\n"
        "assert ask.read() == 'x'\n"
        "print({'prompt_toolkit', 'mlx', 'transformers', 'numpy', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], input="x\n", capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


# In a pseudo-terminal


class Keyboard:
    """A pseudo-terminal: ``end`` is the person's, ``number`` the program's."""

    def __init__(self):
        self.end, self.number = pty.openpty()

    def type(self, text):
        """Type, and wait until the terminal has it."""
        os.write(self.end, text.encode())
        time.sleep(0.02)

    def hang_up(self):
        if self.end >= 0:
            os.close(self.end)
            self.end = -1


@pytest.fixture
def keyboard(monkeypatch):
    """A pseudo-terminal as standard input."""
    keyboard = Keyboard()
    with os.fdopen(keyboard.number, "r", encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keyboard
    keyboard.hang_up()


def test_a_dumb_terminal_reads_lines(keyboard, capsys):
    prompt = Prompt(Screen(interactive=False), history=None, words=lambda: NOTHING, toolbar=lambda: "")
    keyboard.type("a\\\nb\n")
    assert prompt.read() == "a\nb"
    assert capsys.readouterr() == ("", ">> .. ")
    keyboard.type("\x04")
    assert prompt.read() is None


class Interrupting(io.TextIOWrapper):
    """Standard input of which reading some lines is interrupted."""

    def readline(self):
        line = super().readline()
        if line == "^C\n":
            raise KeyboardInterrupt
        return line


def test_ctrl_c_drops_lines_that_have_begun(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Interrupting(io.BytesIO(b'"""a\n^C\nb\n^C\nc\n'), encoding="utf-8"))
    prompt = Prompt(Screen(interactive=False), history=None, words=lambda: NOTHING, toolbar=lambda: "")
    assert prompt.read() == "b"
    with pytest.raises(KeyboardInterrupt):
        prompt.read()
    assert prompt.read() == "c"


def keys_of(interactive=True):
    """Keys, and what they have brought about."""
    done = []
    keys = Keys(
        Screen(interactive), on_stop=lambda: done.append("stop"), on_end_thought=lambda: done.append("end thought")
    )
    return keys, done


@contextmanager
def unchanged(number):
    """A terminal's attributes, and handlers of signals, are afterwards what they were before."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
    before = termios.tcgetattr(number), [signal.getsignal(each) for each in signals]
    yield
    assert (termios.tcgetattr(number), [signal.getsignal(each) for each in signals]) == before


def test_ctrl_t_ends_a_thought_and_the_rest_is_kept(keyboard):
    keys, done = keys_of()
    with unchanged(keyboard.number), keys:
        keys.poll()
        assert done == []
        keyboard.type("Ne\x14xtt \x1b[A\x7f\x7f qu\u00e9")
        keys.poll()
        assert done == ["end thought"]
        keyboard.type("stion\r")
    assert keys.typed == "Next qu\u00e9stion"  # what is typed last is kept as well


def test_keys_come_one_by_one_and_unseen(keyboard):
    keys, _ = keys_of()
    with keys:
        local = termios.tcgetattr(keyboard.number)[3]
        assert not local & (termios.ICANON | termios.ECHO | termios.IEXTEN)
        assert local & termios.ISIG
        keyboard.type("secret")
        os.set_blocking(keyboard.end, False)
        with pytest.raises(BlockingIOError):
            os.read(keyboard.end, 100)


@pytest.mark.parametrize("interactive", [True, False])
def test_ctrl_c_stops_and_then_interrupts(keyboard, interactive):
    keys, done = keys_of(interactive)
    with unchanged(keyboard.number):
        with suppress(KeyboardInterrupt), keys:
            signal.raise_signal(signal.SIGINT)
            assert done == []  # not in the middle of whatever the program does
            keys.poll()
            keys.poll()
            assert done == ["stop"]
            signal.raise_signal(signal.SIGINT)
            pytest.fail("goes on")
        assert done == ["stop"]


def test_nothing_keeps_the_terminal_from_being_restored(keyboard, monkeypatch):
    """Ctrl-C, once more and again, in the moment in which it is."""
    real = termios.tcsetattr

    def pressing(*arguments):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        real(*arguments)

    keys, done = keys_of()
    with unchanged(keyboard.number), keys:
        monkeypatch.setattr(termios, "tcsetattr", pressing)
    assert done == []


def test_ctrl_c_stays_ignored(keyboard):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        keys, done = keys_of()
        with keys:
            signal.raise_signal(signal.SIGINT)
            keys.poll()
        assert done == []
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, SystemExit])
def test_errors_leave_the_terminal_as_it_was(keyboard, error):
    keys, _ = keys_of()
    with unchanged(keyboard.number), pytest.raises(error), keys:
        raise error("trouble")


def test_a_terminal_that_is_gone(keyboard):
    keys, done = keys_of()
    with keys:
        keyboard.hang_up()
        keys.poll()
        keys.poll()
    assert done == []


def test_without_a_terminal_only_ctrl_c_is_heard(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    keys, done = keys_of(interactive=False)
    with keys:
        signal.raise_signal(signal.SIGINT)
        keys.poll()
    assert done == ["stop"]
    assert keys.typed == ""


def test_a_process_that_is_ended_leaves_its_terminal_in_order(keyboard):
    """SIGTERM, to a child that shares the terminal."""
    before = termios.tcgetattr(keyboard.number)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with keys_of()[0]:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert termios.tcgetattr(keyboard.number) == before


def test_a_process_that_goes_on_takes_the_terminal_again(keyboard):
    keys, _ = keys_of()
    with keys:
        during = termios.tcgetattr(keyboard.number)
        ordinary = [*during]
        ordinary[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(keyboard.number, termios.TCSANOW, ordinary)  # a shell's, while the process was stopped
        signal.raise_signal(signal.SIGCONT)
        assert termios.tcgetattr(keyboard.number) == during


# Dropped files


@pytest.fixture
def files(tmp_path):
    """Files of all kinds, by name, in a folder whose name has a blank."""
    folder = tmp_path / "my files"
    folder.mkdir()
    for name in ("cat.png", "DOG.JPEG", "it's (1).png", "a b.png"):
        Image.new("RGB", (64, 48)).save(folder / name)
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * 8000 * 75))
    for name in ("broken.png", "notes.txt"):
        (folder / name).write_text("text")
    (folder / "folder.png").mkdir()
    return folder


def escaped(path):
    return "".join(f"\\{each}" if each in " '()" else each for each in str(path))


def taken(text, counts=None):
    rest, found = dropped(text, counts or {})
    return rest, [each.path.name for each in found]


def test_labels_count_on(files):
    text, found = dropped(f"'{files}/cat.png' '{files}/tone.wav' '{files}/DOG.JPEG'", {Kind.PICTURE: 2})
    assert text == ""
    assert [each.kind for each in found] == [Kind.PICTURE, Kind.SOUND, Kind.PICTURE]
    assert found[0].path == files / "cat.png"
    assert [each.label for each in found] == [
        "[picture 3: cat.png 64x48]",
        "[sound 1: tone.wav 1:15]",
        "[picture 4: DOG.JPEG 64x48]",
    ]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda path: f"'{path}'",
        lambda path: f'"{path}"',
        escaped,
        lambda path: f"file://{str(path).replace(' ', '%20')}",
        lambda path: f"file://localhost{str(path).replace(' ', '%20')}",
        lambda path: f"'file://{str(path).replace(' ', '%20')}'",
        lambda path: f"'{path}' ",
        lambda path: f"  {escaped(path)}\n",
        str,  # nobody has escaped the blanks
    ],
)
def test_paths_as_terminals_paste_them(files, spelling):
    assert taken(spelling(files / "cat.png")) == ("", ["cat.png"])
    rest = (f"What is {spelling(files / 'a b.png').strip()}, and why?", f"{spelling(files / 'cat.png')} Who?")
    assert taken(rest[0]) == ("What is, and why?", ["a b.png"])
    assert taken(rest[1]) == ("Who?", ["cat.png"])


def test_names_that_shells_quote(files):
    name = f"{files}/it's (1).png"
    spellings = ["'" + name.replace("'", "'\\''") + "'", f'"{name}"', escaped(name), name, f"'{name}'"]
    for spelling in spellings:
        assert taken(f"What's {spelling} for?") == ("What's for?", ["it's (1).png"]), spelling


def test_several_files(files):
    for between in (" ", "  ", "\n", ""):
        assert taken(f"'{files}/cat.png'{between}'{files}/a b.png'") == ("", ["cat.png", "a b.png"])
    assert taken(f"{escaped(files)}/cat.png {escaped(files)}/a\\ b.png\nCompare") == ("Compare", ["cat.png", "a b.png"])
    text = f"First '{files}/cat.png' then\n\n(see {escaped(files)}/DOG.JPEG)."
    assert taken(text) == ("First then\n\n(see).", ["cat.png", "DOG.JPEG"])


def test_paths_from_home_and_from_here(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    monkeypatch.chdir(files)
    assert taken("~/cat.png")[1] == taken("./cat.png")[1] == taken("'../my files/cat.png'")[1] == ["cat.png"]
    assert taken("Draw a cat.png like 'cat.png'") == ("Draw a cat.png like 'cat.png'", [])


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_with_accents(tmp_path, written, on_disk):
    name = "caf\u00e9 \u540d\u202fPM.png"  # with the narrow blank of macOS's screenshots
    Image.new("RGB", (8, 8)).save(tmp_path / unicodedata.normalize(on_disk, name))
    path = escaped(unicodedata.normalize(written, f"{tmp_path}/{name}"))
    assert len(taken(f"{path} \u4ec0\u4e48")[1]) == 1
    assert len(taken(f"{path}\u662f\u4ec0\u4e48?")[1]) == 1  # other scripts have no blanks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/help",
        "and/or ./x ../y ~/z file:///etc",
        "/etc/passwd",
        "/nowhere/cat.png",
        "https://example.org/cat.png",
        "file://elsewhere/cat.png",
        "'/nowhere/cat.png' \"/no where.png\" /no\\ where.png 'unclosed /x.png",
        "\0/x\0.png /\ud800.png /" + "x" * 5000 + ".png",
        "  text keeps its blanks \n",
    ],
)
def test_what_only_looks_like_a_path_stays_text(text):
    assert dropped(text, {}) == (text, [])


def test_other_files_stay_text(files):
    for name in ("notes.txt", "folder.png", "cat.png.bak", "cat.png/x", "missing.png"):
        text = f"'{files}/{name}' {escaped(files)}/{name} x"
        assert dropped(text, {}) == (text, [])


def test_broken_files_stay_text_and_are_told(files):
    told = []
    text = f"'{files}/broken.png' and '{files}/cat.png'"
    rest, found = dropped(text, {}, told.append)
    assert rest == f"'{files}/broken.png' and"
    assert [each.label for each in found] == ["[picture 1: cat.png 64x48]"]
    assert len(told) == 1
    assert "broken.png is no picture" in told[0]


def test_labels_hold_no_control_characters(tmp_path):
    path = tmp_path / f"a\033[31m{'x' * 80}.png"
    Image.new("RGB", (8, 8)).save(path)
    [found] = dropped(str(path), {})[1]
    assert found.label.isprintable()
    assert len(found.label) < 70
    assert found.label.endswith(".png 8x8]")


def test_files_that_are_named_for_a_kind(files, monkeypatch):
    monkeypatch.chdir(files)
    for text in ("a b.png", "a\\ b.png", "'a b.png'", f"{files}/a b.png", f"file://{escaped(files)}/a%20b.png"):
        assert [each.label for each in show(text, Kind.PICTURE, {})] == ["[picture 1: a b.png 64x48]"]
    labels = [each.label for each in show("cat.png 'a b.png'", Kind.PICTURE, {Kind.PICTURE: 1})]
    assert labels == ["[picture 2: cat.png 64x48]", "[picture 3: a b.png 64x48]"]
    with pytest.raises(InputError, match="there is no file none.png"):
        show("cat.png none.png", Kind.PICTURE, {})
    (files / "my pictures").mkdir()
    (files / "mine").mkdir()
    for text in (str(files), "my pictures", "'my pictures'", "cat.png mine"):
        with pytest.raises(InputError, match=" is a folder"):
            show(text, Kind.PICTURE, {})
    with pytest.raises(InputError, match="cat.png is a picture, expected a video"):
        show("cat.png", Kind.VIDEO, {})
    for text, kind in (("broken.png", Kind.PICTURE), ("notes.txt", Kind.SOUND), ("notes.txt", Kind.VIDEO)):
        with pytest.raises(InputError, match=text):
            show(text, kind, {})


def test_a_video_says_how_long_it_is(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    [found] = dropped(f"{tmp_path}/clip.mp4", {})[1]
    assert found.label == "[video 1: clip.mp4 2.0 s]"


def test_long_texts_are_searched_fast(files):
    began = time.process_time()
    for text in (
        f"/usr/lib/x.png '/a b.png' (~/c.wav {files}/cat.png, " * 1000,
        "'/" * 5_000,
        "/" + "x" * 200_000 + ".png",
        " /a.png" * 500,
    ):
        assert dropped(text, {}) == (text, [])
    assert time.process_time() - began < 5
