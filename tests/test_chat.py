"""The chat: what of a conversation is computed, what Ctrl-C leaves, and how it behaves in a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from support import checkpoints as helpers
from support.interrupts import hear_ctrl_c, ignoring_ctrl_c

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, Processor, load, load_assistant, stream_generate
from mlx_gemma4_assist.commands import repl as chat_module
from mlx_gemma4_assist.commands import screen
from mlx_gemma4_assist.commands.chat import chat as command
from mlx_gemma4_assist.commands.repl import Chat
from mlx_gemma4_assist.commands.run import run_one
from mlx_gemma4_assist.engine.session import Conversation

EOS, END_OF_TURN = 1, 5  # of the helpers' tokenizer and of the embedded one


# Ids


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return Processor.from_pretrained(helpers.save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def ids(processor, text):
    return processor.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def shown(processor, tokens):
    return processor.decode(tokens, skip_special_tokens=False)


@pytest.mark.parametrize("end", [[END_OF_TURN], [EOS], []], ids=["its turn", "the text", "cut off"])
def test_turns_follow_each_other_as_the_template_has_them(processor, end):
    """However an answer ended, its turn is closed exactly once."""
    talk = Conversation(processor, "be brief")
    first = talk.prompt("hello")
    assert first == processor.encode([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}])
    talk.record(first, [*ids(processor, "who is it"), *end])
    second = talk.prompt("it is a llama")
    assert shown(processor, second) == (
        "<bos><|turn>system\nbe brief<turn|>\n<|turn>user\nhello<turn|>\n<|turn>model\n"
        "who is it<turn|>\n<|turn>user\nit is a llama<turn|>\n<|turn>model\n"
    )


def test_what_the_model_wrote_stays_as_it_wrote_it(processor):
    """Ids that the tokenizer would not have chosen: "hello" in letters."""
    talk = Conversation(processor)
    first = talk.prompt("hello")
    letters = [i for letter in "hello" for i in ids(processor, letter)]
    assert letters != ids(processor, "hello")
    talk.record(first, [*letters, END_OF_TURN])
    assert talk.prompt("and")[: len(first) + 6] == [*first, *letters, END_OF_TURN]


def test_taking_back_and_beginning_anew(processor):
    talk = Conversation(processor)
    assert not talk.undo()
    beginnings = []
    for message in ("hello", "to who", "it is"):
        prompt = talk.prompt(message)
        beginnings.append(prompt)
        talk.record(prompt, [*ids(processor, "no"), END_OF_TURN])
    assert talk.exchanges == 3
    assert talk.undo()
    assert talk.prompt("it is") == beginnings[2]
    assert talk.undo()
    assert talk.prompt("to who") == beginnings[1]
    talk.reset()
    assert talk.prompt("hello") == beginnings[0]
    assert not talk.undo()


def test_what_cannot_be_said(processor, tmp_path):
    talk = Conversation(processor)
    with pytest.raises(InputError, match="the message is empty"):
        talk.prompt("  ")
    bare = Processor.from_pretrained(helpers.save_tokenizer(tmp_path, template=None))
    with pytest.raises(InputError, match="has no chat template"):
        Conversation(bare)


# A conversation with the embedded pair


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


@pytest.fixture
def talk(tiny, monkeypatch, capsys):
    """Lets a chat run over lines; returns it, its standard output and its standard error."""

    def run(lines, **options):
        queue = iter(lines)

        def read(_):
            line = next(queue, None)
            if line is None:
                raise EOFError
            if isinstance(line, BaseException):
                raise line
            return line

        options = {"max_tokens": 24} | options
        chat = Chat(Pair(tiny[0], tiny[2], tiny[1]), GenerationOptions(**options), Conversation(tiny[1]), read=read)
        chat.run()
        return chat, *capsys.readouterr()

    return run


def alone(tiny, conversation, message, **options):
    """The answer that a fresh cache gives."""
    options = {"max_tokens": 24} | options
    return [r.token for r in stream_generate(tiny[0], tiny[1], conversation.prompt(message), **options)]


def test_later_turns_compute_only_what_is_new(tiny, talk):
    """Five turns, past the sliding window of 64: each answer is that of a fresh cache, and few tokens are computed."""
    messages = ["It was a fine morning, and", "What did she say?", "Who came?", "And then?", "Is that all?"]
    chat, out, err = talk(messages)
    again = Conversation(tiny[1])
    for message in messages:
        prompt = again.prompt(message)
        again.record(prompt, alone(tiny, again, message))
    assert chat.conversation.tokens == again.tokens
    assert len(again.tokens) > 100
    lines = [line for line in err.splitlines() if "prompt tokens computed" in line]
    counted = [line.split("; ")[1].split() for line in lines]
    computed, of = zip(*((int(words[0]), int(words[2])) for words in counted), strict=True)
    assert computed[0] == of[0]
    assert max(computed[1:]) < 25 < of[1]
    assert len(out.strip().splitlines()) == 5
    assert chat.totals.answers == 5


class Thinking(Conversation):
    """Takes the first tokens of every answer for thoughts, which the next prompt leaves out."""

    def record(self, prompt, answer):
        super().record(prompt, answer[40:])


@pytest.mark.parametrize("idle", [False, True])
def test_thoughts_cost_no_second_reading_of_the_conversation(tiny, capsys, idle):
    """Past the window, and farther than a ring goes back: a turn computes the answer before it, or not even that."""
    pair = Pair(tiny[0], tiny[2], tiny[1])
    messages = iter(["It was a fine morning, and she was glad to see him. " * 3, "Who came?", "And then?", None])

    def read(_):
        if idle and chat.conversation.exchanges:
            chat.work_ahead(lambda: False)
        message = next(messages)
        if message is None:
            raise EOFError
        return message

    options = GenerationOptions(max_tokens=80, num_assistant_tokens=1)
    chat = Chat(pair, options, Thinking(tiny[1]), read=read)
    chat.run()
    err = capsys.readouterr().err
    computed = [line.split("; ")[1].split() for line in err.splitlines() if "prompt tokens computed" in line]
    assert len(computed) == 3
    for words in computed[1:]:
        assert int(words[0]) < (25 if idle else 65) < int(words[2])
    again = Thinking(tiny[1])
    for message in ("It was a fine morning, and she was glad to see him. " * 3, "Who came?", "And then?"):
        again.record(again.prompt(message), alone(tiny, again, message, max_tokens=80))
    assert again.tokens == chat.conversation.tokens


def test_commands(tiny, talk):
    chat, out, err = talk(["h", "/undo", "Hello", "/stats", "/undo", "/stats", "Hello", "r", "Hello", "", "q", "more"])
    assert "There is nothing to take back." in err
    assert "The last exchange is taken back." in err
    assert "A new conversation." in err
    assert "1 answers, " in err
    assert "Context: 0 of 4,096" in err
    answers = out.strip().splitlines()
    assert len(answers) == 3
    assert len(set(answers)) == 1  # greedy, from the same beginning
    assert chat.totals.answers == 3
    assert err.count("Ctrl-C stops an answer.") == 2


def test_lines_that_go_on(tiny, talk):
    chat, _, _ = talk(["She \\", "was \\", "glad."])
    assert chat.conversation.exchanges == 1
    assert "She \nwas \nglad." in shown(tiny[1], chat.conversation.tokens)
    chat, _, _ = talk(["She \\"])  # the end of the input ends the message
    assert chat.conversation.exchanges == 1


def test_ctrl_c_at_the_prompt_drops_the_line(talk):
    chat, _, err = talk(["She \\", KeyboardInterrupt(), "Hello"])
    assert chat.conversation.exchanges == 1
    assert "q or Ctrl-D leaves." in err


class PressingCtrlC:
    """Stands in for ``print`` in the chat: presses Ctrl-C as a few pieces of text have been shown."""

    def __init__(self, after, times=1):
        self.after = after
        self.times = times

    def __call__(self, text="", **options):
        print(text, **options)
        if options.get("end") == "":
            self.after -= 1
            if self.after == 0:
                for _ in range(self.times):
                    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(tiny, talk, monkeypatch, times):
    monkeypatch.setattr(screen, "print", PressingCtrlC(after=5, times=times), raising=False)
    before = signal.getsignal(signal.SIGINT)
    chat, _, err = talk(["It was a fine morning, and", "What did she say?"])
    assert signal.getsignal(signal.SIGINT) is before
    assert chat.conversation.exchanges == 2
    assert "; stopped]" in err
    again = Conversation(tiny[1])
    prompt = again.prompt("It was a fine morning, and")
    again.record(prompt, alone(tiny, again, "It was a fine morning, and")[:5])
    prompt = again.prompt("What did she say?")
    again.record(prompt, alone(tiny, again, "What did she say?"))
    assert chat.conversation.tokens == again.tokens


def test_ctrl_c_while_a_prompt_is_read(talk, monkeypatch):
    class Pressed(chat_module.CtrlC):
        def __enter__(self):
            self.pressed = True
            return super().__enter__()

    monkeypatch.setattr(chat_module, "CtrlC", Pressed)
    chat, out, err = talk(["Hello"])
    assert out == ""
    assert "Nothing was answered" in err
    assert chat.conversation.exchanges == 0


def test_a_conversation_beyond_the_context(talk):
    chat, _, err = talk(["Hello", "word " * 5000, "Hello"])
    assert "error: the prompt has" in err
    assert "the model's context is 4096" in err
    assert chat.conversation.exchanges == 2


def test_sampling_with_a_seed(talk):
    texts = [talk(["Hello", "And?"], temperature=1.0, seed=seed, max_tokens=8)[1] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temp", "-1"], "--temp is -1"),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--prefill-step-size", "0"], "--prefill-step-size is 0"),
        (["--draft-temperature", "1"], "--draft-temperature needs a --temp above 0"),
        (["--num-assistant-tokens", "99"], "--num-assistant-tokens is 99"),
        (["--model", "nowhere"], "no folder 'nowhere'"),
    ],
)
def test_command_refuses_nonsense(options, message, monkeypatch, capsys):
    """In the words that were typed, and before anything is loaded."""
    monkeypatch.setattr(sys, "argv", ["chat", *options])
    if "nowhere" not in options:
        monkeypatch.setattr("mlx_gemma4_assist.commands.chat.load_pair", lambda *_: pytest.fail("loads"))
    with pytest.raises(SystemExit) as ended:
        run_one(command)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# In a terminal


class Terminal:
    """``python -m mlx_gemma4_assist.chat`` in a pseudo-terminal of its own."""

    def __init__(self, *arguments):
        self._master, slave = pty.openpty()
        code = [sys.executable, "-m", "mlx_gemma4_assist.chat", *arguments]
        # A session of its own with this terminal in control, so that its Ctrl-C becomes a signal.
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        with ignoring_ctrl_c():
            self.process = subprocess.Popen(
                [sys.executable, "-c", take, *code],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                preexec_fn=hear_ctrl_c,
            )
        os.close(slave)
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def wait_for(self, text, again="", seconds=60):
        """All that appeared up to ``text``, which is then behind us; ``again`` is typed now and then meanwhile."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], 1)
            if ready:
                self.seen += os.read(self._master, 4096).decode(errors="replace")
            else:
                self.type(again)
            assert time.monotonic() < deadline, self.seen
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text):
        os.write(self._master, text.encode())


def test_in_a_terminal():
    """Ctrl-C at the prompt and, if the answer is still being made by then, in its middle; a second message; Ctrl-D."""
    with Terminal("--max-tokens", "60", "--temp", "1", "--seed", "5", "--num-assistant-tokens", "1") as terminal:
        terminal.wait_for(">> ")
        # input() misses a signal that comes just as it has shown its prompt.
        terminal.wait_for("q or Ctrl-D leaves.", again="\x03")
        terminal.wait_for(">> ")
        terminal.type("It was a fine morning, and\r")
        terminal.wait_for("and\r\n")
        terminal.wait_for(" ")
        terminal.type("\x03")
        terminal.wait_for("prompt tokens computed")
        terminal.wait_for(">> ")
        terminal.type("Hello \\\r")
        terminal.wait_for(".. ")
        terminal.type("again\r")
        assert "\033[2m[" in terminal.wait_for(" prompt tokens computed")
        terminal.wait_for(">> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0


def test_standard_input_as_messages():
    command = [sys.executable, "-m", "mlx_gemma4_assist", "chat", "--max-tokens", "8"]
    run = subprocess.run(command, input=b"Hello\nAnd \xff then\nAnd?\n", capture_output=True, check=False)
    assert run.returncode == 0
    assert len(run.stdout.strip().splitlines()) == 2
    assert b"error: the prompt is not valid Unicode" in run.stderr
    assert b"Traceback" not in run.stderr
    assert b"\033" not in run.stderr
